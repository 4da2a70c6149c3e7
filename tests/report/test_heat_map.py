"""The heat map shows what the two outage matrices show, cell by cell, however few columns it has."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from policyctl.effect.outages import outages, served, told_apart
from policyctl.effect.tree import Tree, read_tree
from policyctl.report.effect_rows import Heat, heat_map, model, percent
from tests.builders import body
from tests.effect.policies import bodies, document


@pytest.mark.slow
@given(old=bodies, new=bodies)
def test_the_cells_of_a_row_are_all_that_failures_lead_to(old: dict[str, Any], new: dict[str, Any]) -> None:
    trees = read_tree(document(old)), read_tree(document(new))
    classes = told_apart(trees)
    before, after = (outages(tree, classes) for tree in trees)
    shown = heat_map(*trees)
    names = [model(name) for name in dict.fromkeys([*after.models, *before.models])]
    assert [name for name, _ in shown.rows if not name.startswith("all of ")] == names
    for name, cells in shown.rows:
        kind = "provider" if name.startswith("all of ") else "model"
        key = name.removeprefix("all of ") if kind == "provider" else f"virtual-model/{name}"
        lost = zip(before.row(kind, key), after.row(kind, key), strict=True)
        assert {(cell.before or cell.after, cell.after) for cell in cells} == {
            (percent(served(one)), percent(served(other))) for one, other in lost
        }
        assert len(cells) == len(shown.columns) == len(set(shown.columns))


@pytest.mark.parametrize(
    ("targets", "rows"),
    [
        (["virtual-model/x/a"], ["x/a"]),
        (["virtual-model/x/a", "virtual-model/y/b"], ["x/a", "y/b"]),
        (["virtual-model/x/a", "virtual-model/x/b"], ["x/a", "x/b", "all of x"]),
        (["a", "virtual-model/a"], ["a"]),
    ],
)
def test_a_provider_has_a_row_when_it_has_several_models(targets: list[str], rows: list[str]) -> None:
    assert [name for name, _ in heat_map(None, read_tree(document(body(*targets)))).rows] == rows


def test_columns_are_the_classes_that_the_lists_make_the_rarer_first() -> None:
    listed = body("virtual-model/x/a", "virtual-model/y/b") | {"strategy": {"mode": "fallback", "on_status_codes": [429, 503]}}
    seen = read_tree(document(listed))
    assert heat_map(seen, seen).columns == ("429, 503, connect timeout", "any failure but 429, 503, connect timeout")


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
    def served_without_a(share: float) -> Tree:
        weights = {"virtual-model/x/a": 1 - share, "virtual-model/y/b": share}
        targets = [{"model_name": name, "weight": weight} for name, weight in weights.items() if weight]
        return read_tree(document({"strategy": {"mode": "loadbalance"}, "targets": targets}))

    rows = dict(heat_map(served_without_a(before), served_without_a(after)).rows)
    assert rows["x/a"] == (cell,)
