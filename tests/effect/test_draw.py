"""The draw of a load balance, against the gateway's own arithmetic done point by point."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from policyctl.effect.tree import weighted_choice


def _drawn(weights: Sequence[float], point: float) -> int | None:
    """As the gateway does it: the point goes down by each weight that is passed."""
    left = point * sum(weights)
    for position, weight in enumerate(weights):
        if left < weight:
            return position
        left -= weight
    return None


@given(st.lists(st.integers(-4, 4), min_size=1, max_size=5))
def test_shares_are_those_of_many_evenly_spread_points(weights: list[int]) -> None:
    """Negative weights included: 997 points, so each border costs at most one of them."""
    points = [(number + 0.5) / 997 for number in range(997)]
    counted = Counter(_drawn(weights, point) for point in points)
    draw = weighted_choice(weights)
    for position, part in enumerate(draw.parts):
        assert part / draw.total == pytest.approx(counted[position] / 997, abs=len(weights) / 997)


@given(st.lists(st.sampled_from([0, 1, 0.1, 0.7, 3, 250]), min_size=1, max_size=5), st.integers(0, 996))
def test_a_point_draws_what_the_gateway_draws(weights: list[float], number: int) -> None:
    assume(sum(weights) > 0)
    point = (number + 0.5) / 997
    assert weighted_choice(weights).position(point) == _drawn(weights, point)


@pytest.mark.parametrize(
    ("one", "other"),
    [([0.7, 0.2, 0.1], [7, 2, 1]), ([0.1] * 3, [1] * 3), ([1e-7, 3e-7], [1, 3]), ([0.75, 0.25], [3, 1.0])],
)
def test_ways_to_write_one_draw_are_equal(one: list[float], other: list[float]) -> None:
    left, right = weighted_choice(one), weighted_choice(other)
    assert [part * right.total for part in left.parts] == [part * left.total for part in right.parts]


def test_huge_weights_are_only_weights() -> None:
    draw = weighted_choice([1e308, 10**400, 1e-300])
    assert draw.position(0.5) == 1
