"""The heat map says what the two outage matrices say, cell by cell, however few columns it has."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from policyctl.effect.outages import Outages, outages
from policyctl.effect.profile import FAILURES
from policyctl.effect.tree import read_tree
from policyctl.report.effect_views import model, percent, said_failures
from policyctl.report.heat_map import Heat, heat_map
from tests.builders import body
from tests.effect.policies import bodies, document


@given(old=bodies, new=bodies)
def test_every_failure_is_in_one_column_which_says_what_is_served(old: dict[str, Any], new: dict[str, Any]) -> None:
    before, after = outages(read_tree(document(old))), outages(read_tree(document(new)))
    shown = heat_map(before, after)
    names = [model(name) for name in dict.fromkeys([*after.models, *before.models])]
    assert [name for name, _ in shown.rows if not name.startswith("all of ")] == names
    for name, cells in shown.rows:
        kind = "provider" if name.startswith("all of ") else "model"
        key = name.removeprefix("all of ") if kind == "provider" else f"virtual-model/{name}"
        served = [tuple(map(percent, pair)) for pair in zip(before.row(kind, key), after.row(kind, key), strict=True)]
        said = [(cell.before or cell.after, cell.after) for cell in cells]
        columns = [[FAILURES[place] for place, pair in enumerate(served) if pair == one] for one in said]
        assert all(columns), "a cell that no failure has"
        assert set(served) == set(said)
    for head in shown.columns:
        assert head == "any failure" or head.startswith("any failure but") or set(head.split(", ")) <= set(map(str, FAILURES))


@pytest.mark.parametrize(
    ("targets", "rows"),
    [
        (["virtual-model/x/a"], ["x/a"]),
        (["virtual-model/x/a", "virtual-model/y/b"], ["x/a", "y/b"]),
        (["virtual-model/x/a", "virtual-model/x/b"], ["x/a", "x/b", "all of x"]),
        (["a", "virtual-model/a"], ["a", "a"]),
    ],
)
def test_a_provider_has_a_row_when_it_has_several_models(targets: list[str], rows: list[str]) -> None:
    seen = outages(read_tree(document(body(*targets))))
    assert [name for name, _ in heat_map(None, seen).rows] == rows


def test_columns_are_the_classes_that_the_lists_make_the_rarer_first() -> None:
    listed = body("virtual-model/x/a", "virtual-model/y/b") | {"strategy": {"mode": "fallback", "on_status_codes": [429, 503]}}
    seen = outages(read_tree(document(listed)))
    columns = heat_map(seen, seen).columns
    assert columns == ("429, 503, hang", said_failures([one for one in FAILURES if one not in (429, 503, "hang")]))


@pytest.mark.parametrize(
    ("before", "after", "cell"),
    [
        (0.9, 0.9, Heat(1, "90%")),
        (0.5, 0.75, Heat(1, "75%", "50%", "better")),
        (0.75, 0.5, Heat(2, "50%", "75%", "worse")),
        (1.0, 0.3, Heat(3, "30%", "100%", "worse")),
        (0.1, 0.1, Heat(4, "10%")),
        (1.0, 0.0, Heat(5, "0%", "100%", "worse")),
        (0.0, 1.0, Heat(0, "100%", "0%", "better")),
    ],
)
def test_a_cell_is_as_hot_as_what_is_lost_after_the_change(before: float, after: float, cell: Heat) -> None:
    def served_without_a(share: float) -> Outages:
        weights = {"virtual-model/x/a": 1 - share, "virtual-model/y/b": share}
        targets = [{"model_name": name, "weight": weight} for name, weight in weights.items() if weight]
        return outages(read_tree(document({"strategy": {"mode": "loadbalance"}, "targets": targets})))

    rows = dict(heat_map(served_without_a(before), served_without_a(after)).rows)
    assert rows["x/a"] == (cell,)
