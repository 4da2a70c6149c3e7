"""What a request costs: the joint distribution of the calls made and the seconds waited, for each final status.

Exact, and as large as the number of different sums: for n targets with a repeats each at most (calls × seconds) pairs, which
is polynomial in n. A pair is kept as one integer, so that adding two of them is one addition.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from policyctl.effect.evaluate import Ending, leaf_outcomes
from policyctl.effect.gateway import NO_ANSWER, Answers, moves_on, status_of
from policyctl.effect.tree import Balance, Fixed, Leaf, Node, Tree

_BITS = 32  # for the calls; the seconds are above them


class Cost(NamedTuple):
    """The calls of one request, and the seconds that it waited between them."""

    calls: int
    seconds: int


def costs(tree: Tree, answers: Mapping[str, Answers]) -> dict[int | None, dict[Cost, float]]:
    """Per final status (None: no answer) the chance of each cost. All chances together sum to 1."""
    at = [_packed(endings) for endings in leaf_outcomes(tree.leaves, answers)]
    found: dict[int | None, dict[Cost, float]] = {}
    for outcome, spread in _spread(tree.root, at).items():
        of_status = found.setdefault(status_of(outcome), {})
        for packed, chance in spread.items():
            cost = Cost(packed & ((1 << _BITS) - 1), packed >> _BITS)
            of_status[cost] = of_status.get(cost, 0.0) + chance
    return found


_Costs = Mapping[int, float]  # packed cost → chance
_Spread = Mapping[int, _Costs]  # outcome → its costs


def _packed(endings: Mapping[Ending, float]) -> _Spread:
    found: dict[int, dict[int, float]] = {}
    for ending, chance in endings.items():
        found.setdefault(ending.outcome, {})[ending.calls | ending.seconds << _BITS] = chance
    return found


def _spread(node: Node, at: Sequence[_Spread]) -> _Spread:
    if isinstance(node, Leaf):
        return at[node.number]
    if isinstance(node, Fixed):
        return {node.outcome: {0: 1.0}}
    found: defaultdict[int, defaultdict[int, float]] = defaultdict(lambda: defaultdict(float))
    if isinstance(node, Balance):
        if node.nobody:
            found[NO_ANSWER][0] = node.nobody
        for target, share in zip(node.targets, node.shares, strict=True):
            for outcome, own in _spread(target, at).items():
                _add(found[outcome], {0: share}, own)
        return found
    going: _Costs = {0: 1.0}
    last = len(node.targets) - 1
    for position, target in enumerate(node.targets):
        on: defaultdict[int, float] = defaultdict(float)
        for outcome, own in _spread(target, at).items():
            if position < last and moves_on(outcome, node.codes):
                _add(on, {0: 1.0}, own)
            else:
                _add(found[outcome], going, own)
        after: defaultdict[int, float] = defaultdict(float)
        _add(after, going, on)
        going = after
    return found


def _add(into: defaultdict[int, float], one: _Costs, other: _Costs) -> None:
    """Add what it costs to do one thing and then the other."""
    for cost, chance in one.items():
        for more, share in other.items():
            into[cost + more] += chance * share
