"""The worst that one request can meet: most calls, longest waits, and what must fail before a model is reached.

Models may answer anything here: the question is whether a route exists, not how likely it is. There are endlessly many
sequences of answers, but a policy distinguishes only a few: two statuses that are on the same lists lead to the same route. So
statuses fall into **classes**: listed codes by the lists that they are on, all other successes, all other failures. With
`NO_ANSWER` and `ENDED` (see `gateway`) there are few classes, and a set of outcomes is a few bits.

A **route** is a sequence of targets that one request asks, each with the set of outcomes that it may end with there; the last
outcome of the route is the request's. `heaviest(node, wanted)` is the route through `node` that ends with an outcome of the
set `wanted` and has the greatest weight, the sum of the weights of its steps:

* a leaf can end with any status of `wanted`, after all its retries: a refused connection is retried whatever the list
  contains. (It cannot end with a 204 that it retries, nor without an answer.)
* a load balance goes through one of its targets;
* a fallback that stops at its n-th target went through each earlier target with an outcome that moves it on, and through the
  n-th with one of `wanted` that does not (the last target may end with any of `wanted`).

That is a sum of maxima: no sequence of answers is enumerated, and some sequence always attains the route that is found. The
result for each group and set is kept. On the way down, a set either becomes what moves a fallback on, or loses that. So a
group has no more sets than there are groups around it, and the work is the size of the policy times its depth.

Any attempt may get a 421, after which the HTTP client below the gateway sends the request a second time. No provider is known
to answer 421, and counting it would double the calls of every policy. So it counts only where one of the policy's own lists
has 421, see `attempt_calls`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from operator import add
from typing import NamedTuple

from policyctl.effect.equivalence import canonical_form, tells_apart
from policyctl.effect.gateway import ENDED, NO_ANSWER, is_served, most_waits, moves_on
from policyctl.effect.tree import Balance, Fallback, Fixed, Leaf, Node, TargetPath, Tree


class Leg(NamedTuple):
    """One target on the way: how often it is called, the seconds waited between and after these calls, what it ends with.

    `status` is the status of its last call; any other code of its class would do as well.
    """

    model: str
    path: TargetPath
    calls: int
    seconds: int
    status: int


@dataclass(frozen=True, slots=True)
class Bound:
    """The greatest value that a request can reach, and the route on which it does."""

    route: Route
    routes: Routes = field(repr=False, compare=False)

    @property
    def value(self) -> float:
        """The value itself: calls, or seconds."""
        return self.route.weight

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The targets that the request then asks, in order."""
        return tuple([_leg(self.routes, *step) for step in self.route.steps])


def max_calls(routes: Routes) -> Bound:
    """The most upstream calls. A 421, which the HTTP client sends twice, counts where the policy lists it (see above)."""
    return Bound(routes.heaviest(Weights(tuple([_calls(routes, leaf) for leaf in routes.tree.leaves]))), routes)


def max_waits(routes: Routes) -> Bound:
    """The most seconds of back-off, all together."""
    return Bound(routes.heaviest(_waits(routes)), routes)


def max_failover(routes: Routes) -> Bound:
    """The most seconds of back-off before the last target of a request is asked; 0 without a failover.

    The legs are the targets before that one.
    """
    arrivals = [route for route in routes.arrivals(_waits(routes)) if route is not None]
    return Bound(max(arrivals, key=lambda route: route.weight, default=Route()), routes)


def max_latency(routes: Routes, timeouts: Mapping[str, float]) -> Bound | None:
    """The most seconds when every call takes its model's whole timeout; None where a model that may be asked has none.

    `timeouts` are the models' own, in seconds, as far as they are known.
    """
    if any(leaf.model not in timeouts for leaf in routes.reached):
        return None
    calls = [_calls(routes, leaf) * timeouts.get(leaf.model, 0) for leaf in routes.tree.leaves]
    waits = _waits(routes)
    usual, special = (tuple(map(add, calls, seconds)) for seconds in (waits.usual, waits.special))
    return Bound(routes.heaviest(Weights(usual, waits.outcomes, special)), routes)


def _calls(routes: Routes, leaf: Leaf) -> int:
    return leaf.times * (leaf.retry.repeats + 1) * routes.attempt_calls


def _waits_of_leaf(leaf: Leaf, ends_with_429: bool) -> int:
    return leaf.times * most_waits(leaf.retry, ends_with_429) + leaf.pause


def _waits(routes: Routes) -> Weights:
    """The seconds of back-off at each leaf; more where it may end with a 429, whose `Retry-After` it waits for."""
    usual = tuple([_waits_of_leaf(leaf, False) for leaf in routes.tree.leaves])
    if not any(retry.obeys for retry in routes.tree.retries):
        return Weights(usual)
    return Weights(usual, routes.outcomes.limited, tuple([_waits_of_leaf(leaf, True) for leaf in routes.tree.leaves]))


def _leg(routes: Routes, leaf: Leaf, outcomes: Bits) -> Leg:
    limited = bool(outcomes & routes.outcomes.limited)
    samples = [one.sample for one in routes.outcomes.members(outcomes)]
    # A 421 only where no other status will do: it is sent twice, and these calls may not count that.
    status = 429 if limited and leaf.retry.obeys else max(samples, key=lambda one: (one > 0 and one != 421, one))
    return Leg(leaf.model, leaf.path, _calls(routes, leaf), _waits_of_leaf(leaf, limited), status)


class Outage(NamedTuple):
    """A model that must fail. `answers` are the statuses that do it; with `but` it is every failure except these."""

    model: str
    answers: tuple[int, ...] = ()
    but: tuple[int, ...] = ()


Way = tuple[Outage, ...]


class Condition(NamedTuple):
    """What must fail before a model is asked: every shortest way, each in the order of the calls.

    A model that gets healthy traffic has one way, in which nothing fails.
    """

    ways: tuple[Way, ...] = ((),)

    @property
    def least(self) -> int:
        """How many models must fail."""
        return len({failure.model for failure in self.ways[0]})

    def said(self, names: Mapping[str, str]) -> str:
        """`when gemini-2.0-flash answers 429 or 503`, or an empty text; `names` are the models' short names."""
        if not self.ways[0]:
            return ""
        return f"when {', or when '.join([_describe_way(way, names) for way in self.ways])}"


def reach(routes: Routes) -> dict[str, Condition]:
    """For every model that a request can come to, every shortest way there: with the fewest failures, as written."""
    search = _CutSearch(routes.outcomes)
    search.arrive(routes.tree.root, [()])
    known: dict[tuple[str, int], Outage] = {}
    found: dict[str, Condition] = {}
    for model, steps in search.arrivals.items():
        least = min(map(_length, steps))
        ways = [tuple([_known(routes.outcomes, step, known) for step in way]) for way in steps if _length(way) == least]
        found[model] = Condition(tuple(dict.fromkeys(ways)))
    return found


_Step = tuple[str, int]  # a model, and the outcomes (`Bits`) that it fails with
_Steps = tuple[_Step, ...]
_MOST = 16  # ways that are followed at each place; more of them would not be readable


class _CutSearch:
    """All ways through a tree in which models fail for good, the shortest kept."""

    def __init__(self, outcomes: Outcomes) -> None:
        self.outcomes = outcomes
        self.arrivals: dict[str, list[_Steps]] = {}
        self.found: dict[tuple[int, int], list[_Steps]] = {}

    def arrive(self, node: Node, before: list[_Steps]) -> None:
        """Note for the models of `node` how a request comes to them, when `before` are the ways to `node`."""
        if isinstance(node, Leaf):
            self.arrivals.setdefault(node.model, []).extend(before)
        elif isinstance(node, Balance):
            for target in node.targets:
                self.arrive(target, before)
        elif isinstance(node, Fallback):
            for target in node.targets[:-1]:
                self.arrive(target, before)
                before = _both(before, self.ending(target, self.outcomes.moving(node.codes)))
                if not before:
                    return
            self.arrive(node.targets[-1], before)

    def ending(self, node: Node, wanted: int) -> list[_Steps]:
        """The ways in which `node` ends with an outcome of `wanted`."""
        if isinstance(node, Leaf):
            possible = wanted & self.outcomes.possible(node)
            return [() if possible & self.outcomes.healthy else ((node.model, possible),)] if possible else []
        if isinstance(node, Fixed):
            return [()] if wanted & self.outcomes.of(node.outcome) else []
        key = (id(node), wanted)  # the tree outlives the search
        if key not in self.found:
            self.found[key] = self._drawn(node, wanted) if isinstance(node, Balance) else self._fallen(node, wanted)
        return self.found[key]

    def _drawn(self, node: Balance, wanted: int) -> list[_Steps]:
        nothing: list[_Steps] = [()] if node.nothing and wanted & self.outcomes.of(NO_ANSWER) else []
        return _shortest([*nothing, *(way for target in node.targets for way in self.ending(target, wanted))])

    def _fallen(self, node: Fallback, wanted: int) -> list[_Steps]:
        moving, found = self.outcomes.moving(node.codes), list[_Steps]()
        before: list[_Steps] = [()]
        for target in node.targets[:-1]:
            found += _both(before, self.ending(target, wanted & ~moving))
            before = _both(before, self.ending(target, moving))
            if not before:
                return _shortest(found)
        return _shortest([*found, *_both(before, self.ending(node.targets[-1], wanted))])


def _both(before: list[_Steps], then: list[_Steps]) -> list[_Steps]:
    """One way and then another. A model that fails in both fails once, with what fits both where there is such."""
    if before == [()]:
        return then
    return _shortest([_failing_too(one, other) for one in before for other in then])


def _failing_too(before: _Steps, then: _Steps) -> _Steps:
    steps = list(before)
    for model, outcomes in then:
        place = next((at for at, (known, own) in enumerate(steps) if known == model and own & outcomes), None)
        if place is None:
            steps.append((model, outcomes))
        else:
            steps[place] = (model, steps[place][1] & outcomes)
    return tuple(steps)


def _shortest(ways: list[_Steps]) -> list[_Steps]:
    return ways if len(ways) < 2 else sorted(dict.fromkeys(ways), key=_length)[:_MOST]


def _length(way: _Steps) -> tuple[int, int]:
    """How many models fail, and in how many ways."""
    return len({model for model, _ in way}), len(way)


def _known(classes: Outcomes, step: _Step, known: dict[_Step, Outage]) -> Outage:
    if step not in known:
        known[step] = _failure(classes, *step)
    return known[step]


def _failure(classes: Outcomes, model: str, outcomes: int) -> Outage:
    taken = classes.members(outcomes)
    if any(not one.codes and not is_served(one.sample) for one in taken):
        left = [one.codes for one in classes.classes if one not in taken and one.codes and not is_served(one.sample)]
        return Outage(model, but=_sorted(left))
    return Outage(model, answers=_sorted(one.codes for one in taken))


def _sorted(codes: Iterable[tuple[int, ...]]) -> tuple[int, ...]:
    return tuple(sorted(code for some in codes for code in some))


def _describe_way(way: Way, names: Mapping[str, str]) -> str:
    alike: dict[tuple[tuple[int, ...], tuple[int, ...]], list[str]] = {}
    for model, answers, but in way:
        alike.setdefault((answers, but), []).append(names.get(model, model))
    return _listed([_describe(who, *how) for how, who in alike.items()], "and")


def _describe(models: list[str], answers: tuple[int, ...], but: tuple[int, ...]) -> str:
    who, ending = _listed(models, "and"), "s" if len(models) == 1 else ""
    if answers:
        return f"{who} answer{ending} {_listed(list(map(str, answers)), 'or')}"
    return f"{who} fail{ending}" + (f" with anything but {_listed(list(map(str, but)), 'or')}" if but else "")


def _listed(words: list[str], last: str) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} {last} {words[-1]}"


Bits = int  # a set of outcomes, one bit for each class

# What represents the successes and the failures that are on no list: the first of each.
_SPARE = (200, *range(201, 204)), (500, *range(408, 600))


class Class(NamedTuple):
    """Outcomes that the policy treats alike: one that represents them, and the listed codes (none: all that are not listed)."""

    sample: int
    codes: tuple[int, ...] = ()


class Step(NamedTuple):
    """A target on a route, and the outcomes that it may end with there."""

    leaf: Leaf
    outcomes: Bits


class Route(NamedTuple):
    """The targets that one request asks, in order, and their weight."""

    weight: float = 0
    steps: tuple[Step, ...] = ()


class Weights(NamedTuple):
    """What the steps weigh, by the numbers of their leaves: `usual`, or `special` where they may end with one of `outcomes`."""

    usual: tuple[float, ...]
    outcomes: Bits = 0
    special: tuple[float, ...] = ()


class Outcomes:
    """The classes of outcomes that some code lists make, and sets of them.

    `limited` is the class of 429, `healthy` that of 200.
    """

    def __init__(self, lists: frozenset[frozenset[int]]) -> None:
        self.classes = (Class(NO_ANSWER), Class(ENDED), *_classes(lists))
        self._of: dict[int, Bits] = {}
        self._moving: dict[frozenset[int] | None, Bits] = {}
        self.healthy = self.of(200)
        self.limited = self.of(429)
        self._any_status = self._bits(lambda one: one.sample > 0)
        self._not_204 = self._bits(lambda one: one.sample != NO_ANSWER and one.codes != (204,))

    def members(self, outcomes: Bits) -> list[Class]:
        """The classes in a set."""
        return [one for place, one in enumerate(self.classes) if outcomes >> place & 1]

    def moving(self, codes: frozenset[int] | None) -> Bits:
        """The outcomes that move a fallback with this list on."""
        if codes not in self._moving:
            self._moving[codes] = self._bits(lambda one: moves_on(one.sample, codes))
        return self._moving[codes]

    def possible(self, leaf: Leaf) -> Bits:
        """The outcomes that a leaf can end with."""
        return self._not_204 if 204 in leaf.retry.codes else self._any_status | self.of(ENDED)

    def of(self, outcome: int) -> Bits:
        """The class that an outcome is in."""
        if outcome not in self._of:
            self._of[outcome] = self._class_of(outcome)
        return self._of[outcome]

    def _class_of(self, outcome: int) -> Bits:
        if outcome <= 0:
            return self._bits(lambda one: one.sample == outcome)
        return self._bits(lambda one: outcome in one.codes) or self._bits(
            lambda one: not one.codes and one.sample > 0 and is_served(one.sample) == is_served(outcome)
        )

    def _bits(self, has: Callable[[Class], bool]) -> Bits:
        return sum([1 << place for place, one in enumerate(self.classes) if has(one)])


_outcomes = lru_cache(maxsize=512)(Outcomes)  # the policies of one directory mostly have the same lists


class Routes:
    """The routes through one tree, and the classes of `outcomes` that it distinguishes.

    `attempt_calls` are the most calls that one attempt may take: two where a list that decides something has 421.
    """

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        lists = frozenset([codes for codes in tree.lists if codes is not None])
        self.outcomes = _outcomes(lists)
        retried = (retry.codes for leaf in tree.leaves for retry in (leaf.retry, *leaf.around))
        listed = any(421 in codes for codes in (*lists, *retried)) and tells_apart(canonical_form(tree), 421)
        self.attempt_calls = 2 if listed else 1
        self._searches: dict[Weights, _Search] = {}
        self._arrivals: dict[Weights, list[Route | None]] = {}

    def heaviest(self, weights: Weights) -> Route:
        """The heaviest route that a request may take."""
        anything = (1 << len(self.outcomes.classes)) - 1
        return self._search(weights).heaviest(self.tree.root, anything) or Route()

    def arrivals(self, weights: Weights | None = None) -> list[Route | None]:
        """For each leaf the heaviest route that leads to it (without it), or None when no request reaches it."""
        weights = weights or Weights((0,) * len(self.tree.leaves))
        if weights not in self._arrivals:
            self._arrivals[weights] = self._search(weights).arrivals()
        return self._arrivals[weights]

    @property
    def reached(self) -> list[Leaf]:
        """The leaves that requests may reach, whatever the weights."""
        known = next(iter(self._arrivals.values()), None)
        arrivals = self.arrivals() if known is None else known
        return [leaf for leaf, route in zip(self.tree.leaves, arrivals, strict=True) if route is not None]

    def _search(self, weights: Weights) -> _Search:
        """The search with these weights, shared by all questions, since it keeps its results."""
        if weights not in self._searches:
            self._searches[weights] = _Search(self, weights)
        return self._searches[weights]


class _Search:
    """A search for the heaviest routes by some weights, which keeps the result for each group and set."""

    def __init__(self, routes: Routes, weights: Weights) -> None:
        self.tree, self.outcomes = routes.tree, routes.outcomes
        self.weights = weights
        self.found: dict[tuple[int, Bits], Route | None] = {}

    def heaviest(self, node: Node, wanted: Bits) -> Route | None:
        """The heaviest route through `node` to an outcome of `wanted`, or None when there is none."""
        if isinstance(node, Leaf):
            possible = wanted & self.outcomes.possible(node)
            weights = self.weights.special if possible & self.weights.outcomes else self.weights.usual
            return Route(weights[node.number], (Step(node, possible),)) if possible else None
        if isinstance(node, Fixed):
            return Route() if wanted & self.outcomes.of(node.outcome) else None
        key = (id(node), wanted)  # the tree outlives the search
        if key not in self.found:
            self.found[key] = self._drawn(node, wanted) if isinstance(node, Balance) else self._fallen(node, wanted)
        return self.found[key]

    def _drawn(self, node: Balance, wanted: Bits) -> Route | None:
        best = Route() if node.nothing and wanted & self.outcomes.of(NO_ANSWER) else None
        for target in node.targets:
            best = _heavier(best, self.heaviest(target, wanted))
        return best

    def _fallen(self, node: Fallback, wanted: Bits) -> Route | None:
        moving, before, best = self.outcomes.moving(node.codes), Route(), None
        for target in node.targets[:-1]:
            best = _heavier(best, _joined(before, self.heaviest(target, wanted & ~moving)))
            on = _joined(before, self.heaviest(target, moving))
            if on is None:
                return best
            before = on
        return _heavier(best, _joined(before, self.heaviest(node.targets[-1], wanted)))

    def arrivals(self) -> list[Route | None]:
        """For each leaf the heaviest route to it."""
        found: list[Route | None] = [None] * len(self.tree.leaves)
        self._arrive(self.tree.root, Route(), found)
        return found

    def _arrive(self, node: Node, before: Route, found: list[Route | None]) -> None:
        """Record the heaviest route to every leaf of `node`; `before` is the route to `node`."""
        if isinstance(node, Leaf):
            found[node.number] = before
        elif isinstance(node, Balance):
            for target in node.targets:
                self._arrive(target, before, found)
        elif isinstance(node, Fallback):
            for target in node.targets[:-1]:
                self._arrive(target, before, found)
                on = _joined(before, self.heaviest(target, self.outcomes.moving(node.codes)))
                if on is None:
                    return
                before = on
            self._arrive(node.targets[-1], before, found)


def _classes(lists: frozenset[frozenset[int]]) -> list[Class]:
    """The classes that these code lists make."""
    together: dict[tuple[bool, frozenset[frozenset[int]]], list[int]] = {}
    listed = sorted(frozenset().union(*lists))
    for code in listed:
        on = frozenset([codes for codes in lists if code in codes])
        together.setdefault((is_served(code), on), []).append(code)
    rest = [next((code for code in spare if code not in listed), None) for spare in _SPARE]
    return [*(Class(codes[0], tuple(codes)) for codes in together.values()), *(Class(code) for code in rest if code)]


def _joined(before: Route, then: Route | None) -> Route | None:
    return None if then is None else Route(before.weight + then.weight, before.steps + then.steps)


def _heavier(one: Route | None, other: Route | None) -> Route | None:
    """The heavier of two routes; the first when they weigh the same."""
    return other if one is None or (other is not None and other.weight > one.weight) else one
