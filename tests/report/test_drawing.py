"""A policy drawn: everything is in the picture, nothing lies on anything else, and every arrow goes from box to box."""

from __future__ import annotations

import re
from itertools import combinations
from typing import Any

from hypothesis import given

from policyctl.report.effect_rows import Arrow, Box, Drawing, DrawnBox, as_one, chart, drawing, percent
from tests.builders import body
from tests.effect.policies import bodies, document


def overlap(one: DrawnBox, other: DrawnBox) -> bool:
    apart = one.x + one.width <= other.x or other.x + other.width <= one.x
    return not (apart or one.y + one.height <= other.y or other.y + other.height <= one.y)


def ends(seen: Drawing) -> list[tuple[int, int, int, int]]:
    """Where each arrow begins and ends."""
    found = re.findall(r"M(\d+) (\d+)C[\d ]+ (\d+) (\d+)(?=M|$)", f"{seen.busy}{seen.idle}")
    return [(int(x), int(y), int(to_x), int(to_y)) for x, y, to_x, to_y in found]


@given(policy=bodies)
def test_boxes_are_apart_and_inside_the_picture_and_arrows_join_them(policy: dict[str, Any]) -> None:
    seen = drawing(document(policy))
    parts = list(chart([document(policy)]))
    assert [node.kind for node in seen.nodes] == [part.kind for part in parts if isinstance(part, Box)]
    assert not any(overlap(one, other) for one, other in combinations(seen.nodes, 2))
    for node in seen.nodes:
        assert 0 < node.x < node.x + node.width < seen.width
        assert 0 < node.y < node.y + node.height < seen.height
        assert all(node.y < y < node.y + node.height for y, _ in node.lines)
    arrows = [part for part in parts if isinstance(part, Arrow)]
    assert [share for _, _, share in seen.shares] == [percent(arrow.share) for arrow in arrows]
    rights = {(node.x + node.width, node.y + node.height // 2) for node in seen.nodes}
    lefts = {(node.x, node.y + node.height // 2) for node in seen.nodes}
    assert len(ends(seen)) == len(arrows)
    for x, y, to_x, to_y in ends(seen):
        assert (x, y) in rights
        assert (to_x, to_y) in lefts
        assert x < to_x


@given(policy=bodies)
def test_a_policy_that_stays_is_one_drawing(policy: dict[str, Any]) -> None:
    seen = drawing(document(policy))
    both = as_one(seen, drawing(document(policy)))
    assert both is not None
    assert both.shares == seen.shares


def weighted(*weights: float, mode: str = "loadbalance") -> Drawing:
    targets = [{"model_name": f"m{place}", "weight": weight} for place, weight in enumerate(weights)]
    return drawing(document({"strategy": {"mode": mode}, "targets": targets}))


def test_shares_that_move_are_drawn_as_one_with_both() -> None:
    both = as_one(weighted(0.75, 0.25), weighted(0.5, 0.5))
    assert both is not None
    assert [share for _, _, share in both.shares] == ["75% → 50%", "25% → 50%"]


def test_policies_of_different_shape_are_not_drawn_as_one() -> None:
    assert as_one(weighted(1, 1), weighted(1, 1, 1)) is None
    assert as_one(weighted(1, 1), weighted(1, 1, mode="fallback")) is None


def test_a_policy_that_asks_itself_is_drawn() -> None:
    seen = drawing(document(body("p", "x")))
    assert [node.lines[0][1] for node in seen.nodes] == ["virtual-policy/p", "x"]


def test_a_long_name_is_cut_in_its_middle_and_there_whole() -> None:
    name = "google/" + "a" * 40 + "-lite"
    model = drawing(document(body(name))).nodes[1]
    assert model.lines[0][1].startswith("google/")
    assert "…" in model.lines[0][1]
    assert model.lines[0][1].endswith("-lite")
    assert len(model.lines[0][1]) == 36
    assert model.whole == name


def test_wide_letters_have_room() -> None:
    latin, wide = (drawing(document(body(name))).nodes[1].width for name in ("abcdefgh", "模型模型模型模型"))
    assert wide > latin
