"""The extreme ways through a policy: the one with the most calls, the longest wait, the fewest failures to get somewhere.

Models may answer anything here, so the question is not how likely a walk is but whether it exists. There are endlessly many
scripts of answers, yet a policy can tell only a few answers apart: two statuses that are on the same lists lead to the same
walk. So the statuses fall into **classes**: the listed codes by the lists that they are on, all other successes, all other
failures. With `NO_ANSWER` and `ENDED` (see `profile`) that makes a handful, and a set of outcomes is a handful of bits.

A **route** is a sequence of targets that one request asks, each with the set of outcomes that it may end with there; the last
outcome of the route is the request's. `heaviest(node, wanted)` is the route through `node` that ends with an outcome of the
set `wanted` and has the greatest weight, the sum of the weights of its steps:

* a leaf can end with any status, if it is one of `wanted`, and with all its repeats made before: a connection that is refused
  is asked again whatever the list says. (It cannot end with a 204 that it asks again after, nor without an answer.)
* a load balance goes through one of its targets;
* a fallback that stops at its n-th target went through each one before with an outcome that moves it on, and through the n-th
  with one of `wanted` that does not (the last target may end with any).

That is a sum of maxima: no sequence of answers is ever enumerated, and the route found is always attained by some script.
A 421 is not among the answers here: the HTTP client below the gateway sends such a call twice, and no provider answers so.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from policyctl.effect.profile import ENDED, NO_ANSWER, is_served, moves_on
from policyctl.effect.tree import Balance, Fallback, Fixed, Leaf, Node, Tree

Bits = int  # a set of outcomes, one bit for each class

# What may stand for the successes and the failures that are on no list: the first of each that is not.
_SPARE = (200, *range(201, 204)), (500, *range(408, 600))


class Class(NamedTuple):
    """Outcomes that the policy cannot tell apart: one that stands for them, and the listed codes (none: all the others)."""

    stands: int
    codes: tuple[int, ...] = ()


class Step(NamedTuple):
    """A target on a route, and the outcomes that it may end with there."""

    leaf: Leaf
    outcomes: Bits


class Route(NamedTuple):
    """The targets that one request asks, in order, and their weight."""

    weight: float = 0
    steps: tuple[Step, ...] = ()


class Routes:
    """The routes through one tree."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        lists = {codes for codes in tree.lists if codes is not None}
        self.classes = (Class(NO_ANSWER), Class(ENDED), *_classes(lists))
        self.healthy = self._bits(lambda one: 200 in (one.codes or (one.stands,)))
        self._any_status = self._bits(lambda one: one.stands > 0)
        self._moving: dict[frozenset[int] | None, Bits] = {}

    def members(self, outcomes: Bits) -> list[Class]:
        """The classes in a set."""
        return [one for place, one in enumerate(self.classes) if outcomes >> place & 1]

    def moving(self, node: Fallback) -> Bits:
        """The outcomes that move a fallback on."""
        if node.codes not in self._moving:
            self._moving[node.codes] = self._bits(lambda one: moves_on(one.stands, node.codes))
        return self._moving[node.codes]

    def heaviest(self, node: Node, wanted: Bits, weights: Sequence[float], free: Bits = 0) -> Route | None:
        """The heaviest route through `node` to an outcome of `wanted`, or None when there is none.

        `weights` are those of the leaves, by their number; a step that may end with an outcome of `free` weighs nothing.
        """
        if isinstance(node, Leaf):
            possible = wanted & self._possible(node)
            return Route(0 if possible & free else weights[node.number], (Step(node, possible),)) if possible else None
        if isinstance(node, Fixed):
            return Route() if wanted & self._bits(lambda one: one.stands == node.outcome) else None
        if isinstance(node, Balance):
            best = Route() if node.nobody and wanted & 1 else None
            for target in node.targets:
                best = _heavier(best, self.heaviest(target, wanted, weights, free))
            return best
        moving, before, best = self.moving(node), Route(), None
        for target in node.targets[:-1]:
            best = _heavier(best, _joined(before, self.heaviest(target, wanted & ~moving, weights, free)))
            on = _joined(before, self.heaviest(target, moving, weights, free))
            if on is None:
                return best
            before = on
        return _heavier(best, _joined(before, self.heaviest(node.targets[-1], wanted, weights, free)))

    def arrivals(self, weights: Sequence[float], free: Bits = 0) -> list[Route | None]:
        """For each leaf the heaviest route that leads to it (without it), or None when no request comes there."""
        found: list[Route | None] = [None] * len(self.tree.leaves)
        self._arrive(self.tree.root, Route(), weights, free, found)
        return found

    def _arrive(self, node: Node, before: Route, weights: Sequence[float], free: Bits, found: list[Route | None]) -> None:
        if isinstance(node, Leaf):
            found[node.number] = before
        elif isinstance(node, Balance):
            for target in node.targets:
                self._arrive(target, before, weights, free, found)
        elif isinstance(node, Fallback):
            for target in node.targets[:-1]:
                self._arrive(target, before, weights, free, found)
                on = _joined(before, self.heaviest(target, self.moving(node), weights, free))
                if on is None:
                    return
                before = on
            self._arrive(node.targets[-1], before, weights, free, found)

    def _possible(self, leaf: Leaf) -> Bits:
        if 204 not in leaf.retry.codes:
            return self._any_status | 2
        return self._bits(lambda one: one.stands != NO_ANSWER and one.codes != (204,))

    def _bits(self, has: Callable[[Class], bool]) -> Bits:
        return sum([1 << place for place, one in enumerate(self.classes) if has(one)])


def _classes(lists: set[frozenset[int]]) -> list[Class]:
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
