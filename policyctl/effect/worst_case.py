"""The worst that one request can meet: most calls, longest waits, and what must fail before a model is reached."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import add
from typing import NamedTuple

from policyctl.effect.gateway import NO_ANSWER, is_served, most_waits
from policyctl.effect.routes import Bits, Outcomes, Route, Routes, Weights
from policyctl.effect.tree import Balance, Fallback, Fixed, Leaf, Node, TargetPath


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
    """The most upstream calls. A 421, which the HTTP client sends twice, counts where the policy lists it (see `routes`)."""
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


_Step = tuple[str, int]  # a model, and the outcomes (bits of `routes`) that it fails with
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
    return _shortest([_joined(one, other) for one in before for other in then])


def _joined(before: _Steps, then: _Steps) -> _Steps:
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
