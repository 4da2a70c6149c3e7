"""The draw of a load balance.

The gateway takes a random point from 0 to the sum of the weights, goes through the targets in order and takes the first
whose weight is above the point, lowering the point by each weight that it passes. For weights of 0 and more that is the share
that one expects; negative weights are accepted, and distort it.

Shares are made of the weights *as written*, scaled to whole numbers (0.7, 0.2, 0.1 are 7, 2, 1 parts of 10), so that two
ways to write one draw are the same draw and not nearly the same. The gateway itself adds binary floats; the difference is
below one request in 10^15.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from fractions import Fraction
from functools import cached_property, lru_cache
from itertools import accumulate
from math import lcm


class WeightedChoice:
    """The parts of `total` that each target is drawn for; where they sum to less, no target may be drawn."""

    def __init__(self, parts: tuple[int, ...], total: int) -> None:
        self.parts = parts
        self.total = total

    @cached_property
    def edges(self) -> list[float]:
        """Where each target's part of the points from 0 to 1 ends."""
        return [passed / self.total for passed in accumulate(self.parts)]

    def position(self, point: float) -> int | None:
        """The position that a point from 0 to 1 (less than 1) draws, or None when it draws none."""
        position = bisect_right(self.edges, point)
        return position if position < len(self.parts) else None


def weighted_choice(weights: Sequence[float]) -> WeightedChoice:
    """The draw that these weights make."""
    whole = _whole(weights)
    total = sum(whole)
    if total > 0 and min(whole) >= 0:
        return WeightedChoice(tuple(whole), total)
    return _interval_choice(whole, total) if total else _point_choice(whole)


def _whole(weights: Sequence[float]) -> list[int]:
    exact = [_as_written(weight) for weight in weights]
    scale = lcm(*[weight.denominator for weight in exact])
    return [weight.numerator * (scale // weight.denominator) for weight in exact]


@lru_cache(maxsize=4096)
def _as_written(weight: float) -> Fraction:
    return Fraction(repr(weight))


def _point_choice(weights: Sequence[int]) -> WeightedChoice:
    """Weights that sum to 0: the point is 0, so there is nothing to draw."""
    parts, point = [0] * len(weights), 0
    for position, weight in enumerate(weights):
        if point < weight:
            parts[position] = 1
            break
        point -= weight
    return WeightedChoice(tuple(parts), 1)


def _interval_choice(weights: Sequence[int], total: int) -> WeightedChoice:
    """The points still to be had are always one interval; a target takes the part of it below its weight."""
    low, high = min(total, 0), max(total, 0)
    parts = []
    for weight in weights:
        cut = min(max(weight, low), high)
        parts.append(cut - low)
        low, high = cut - weight, high - weight
    return WeightedChoice(tuple(parts), abs(total))
