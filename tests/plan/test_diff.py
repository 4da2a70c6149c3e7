"""What differs, field by field. The law: a difference has a field, and no difference has none."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.plan.diff import FieldChange, differs, fields_between, pair_targets
from tests.strategies import MODELS, ODD_MODELS, documents, loose_documents


def m(name: str, **more: Any) -> dict[str, Any]:
    return {"model_name": f"virtual-model/google/{name}", **more}


def g(mode: str, *targets: Any, **more: Any) -> dict[str, Any]:
    return {"strategy": {"mode": mode}, "targets": list(targets), **more}


def doc(mode: str, *targets: Any, **more: Any) -> dict[str, Any]:
    return {"name": "x", "policy": g(mode, *targets, **more)}


CASES: dict[str, tuple[Any, Any, list[FieldChange]]] = {
    "one weight, targets written in another order": (
        doc("loadbalance", m("a"), m("b", weight=0.25)),
        doc("loadbalance", m("b", weight=0.4), m("a", weight=1.0)),
        [FieldChange("policy.targets[google/b].weight", 0.25, 0.4)],
    ),
    "two fallback targets swapped": (
        doc("fallback", m("a"), m("b")),
        doc("fallback", m("b"), m("a")),
        [FieldChange("policy.targets order", "google/a, google/b", "google/b, google/a")],
    ),
    "targets whose order matters only now": (
        doc("loadbalance", m("a"), m("b")),
        doc("fallback", m("b"), m("a")),
        [
            FieldChange("policy.strategy.mode", "loadbalance", "fallback"),
            FieldChange("policy.targets order", None, "google/b, google/a"),
        ],
    ),
    "keys of a model's settings that read like others": (
        {"name": "virtual-model/x/a", "config": {"a": {"b": 1}, "a.b": 1, "__x": 1}},
        {"name": "virtual-model/x/a", "config": {"a": {"b": 2}, "a.b": 3, "c: 1, d": 1, "__x": 2}},
        [
            FieldChange("config.__x", 1, 2),
            FieldChange("config.a.b", 1, 2),
            FieldChange('config."a.b"', 1, 3),
            FieldChange('config."c: 1, d"', None, 1),
        ],
    ),
    "what is equal only to Python, within a list": (
        {"name": "virtual-model/x/a", "config": {"flags": [1, 0]}, "provider_config": {"metadata": {"on": [True]}}},
        {"name": "virtual-model/x/a", "config": {"flags": [True, False]}, "provider_config": {"metadata": {"on": [1]}}},
        [
            FieldChange("provider_config.metadata.on", [True], [1]),
            FieldChange("config.flags", [1, 0], [True, False]),
        ],
    ),
    "two groups swapped": (
        doc("fallback", g("loadbalance", m("a"), m("b")), g("single", m("c"))),
        doc("fallback", g("single", m("c")), g("loadbalance", m("b"), m("a"))),
        [FieldChange("policy.targets order", "2nd target, 1st target", "1st target, 2nd target")],
    ),
    "the same model twice, swapped": (
        doc("fallback", m("a", weight=0.1), m("a", weight=0.2)),
        doc("fallback", m("a", weight=0.2), m("a", weight=0.1)),
        [FieldChange("policy.targets order", "google/a#2, google/a", "google/a, google/a#2")],
    ),
    "a target added last needs no order": (
        doc("fallback", m("a")),
        doc("fallback", m("a"), m("b")),
        [FieldChange("policy.targets[google/b]", None, {"model_name": "virtual-model/google/b", "weight": 1})],
    ),
    "two targets added last do": (
        doc("fallback", m("a")),
        doc("fallback", m("a"), m("c"), m("b")),
        [
            FieldChange("policy.targets[google/b]", None, {"model_name": "virtual-model/google/b", "weight": 1}),
            FieldChange("policy.targets[google/c]", None, {"model_name": "virtual-model/google/c", "weight": 1}),
            FieldChange("policy.targets order", "google/a", "google/a, google/c, google/b"),
        ],
    ),
    "a target added first does": (
        doc("fallback", m("a")),
        doc("fallback", m("b"), m("a")),
        [
            FieldChange("policy.targets[google/b]", None, {"model_name": "virtual-model/google/b", "weight": 1}),
            FieldChange("policy.targets order", "google/a", "google/b, google/a"),
        ],
    ),
    "the second of two equal models": (
        doc("loadbalance", m("a", weight=0.5), m("a", weight=0.2)),
        doc("loadbalance", m("a", weight=0.5), m("a", weight=0.3)),
        [FieldChange("policy.targets[google/a#2].weight", 0.2, 0.3)],
    ),
    "a model whose name is the label of another": (
        doc("loadbalance", m("a", weight=0.5), m("a", weight=0.2), m("a#2")),
        doc("loadbalance", m("a", weight=0.5), m("a", weight=0.3), m("a#2")),
        [FieldChange("policy.targets[google/a#2].weight", 0.2, 0.3)],
    ),
    "a model whose name is the position of a group": (
        doc("fallback", g("single", m("a")), {"model_name": "virtual-model/0"}),
        doc("fallback", g("single", m("b")), {"model_name": "virtual-model/0", "weight": 0.5}),
        [
            FieldChange('policy.targets["0"].weight', 1, 0.5),
            FieldChange("policy.targets[0].targets[google/a]", {**m("a"), "weight": 1}, None),
            FieldChange("policy.targets[0].targets[google/b]", None, {**m("b"), "weight": 1}),
        ],
    ),
    "a model whose name begins like that of a private variable": (
        doc("fallback", m("a")),
        doc("fallback", m("a", weight=0.5), {"model_name": "__x/a"}),
        [
            FieldChange("policy.targets[__x/a]", None, {"model_name": "__x/a", "weight": 1}),
            FieldChange("policy.targets[google/a].weight", 1, 0.5),
        ],
    ),
    "a model whose name reads like several": (
        doc("fallback", m("a"), {"model_name": "x, y"}),
        doc("fallback", {"model_name": "x, y"}, m("a")),
        [FieldChange("policy.targets order", 'google/a, "x, y"', '"x, y", google/a')],
    ),
    "inside the group that is most alike": (
        doc("loadbalance", g("fallback", m("a"), m("b")), g("fallback", m("c"), m("d"))),
        doc("loadbalance", g("fallback", m("c"), m("d"), retry={"attempts": 1}), g("fallback", m("a"), m("b"))),
        [FieldChange("policy.targets[0].retry", None, {"attempts": 1})],
    ),
    "codes are one value": (
        {"name": "x", "policy": {"strategy": {"mode": "fallback", "on_status_codes": [503, 429]}}},
        {"name": "x", "policy": {"strategy": {"mode": "fallback", "on_status_codes": [500, 503]}}},
        [FieldChange("policy.strategy.on_status_codes", [429, 503], [500, 503])],
    ),
    "several things, in the format's order": (
        {**doc("loadbalance", m("a")), "description": "old"},
        {**doc("fallback", m("a"), retry={"attempts": 1}, cache={"mode": "simple"}), "description": "new"},
        [
            FieldChange("description", "old", "new"),
            FieldChange("policy.strategy.mode", "loadbalance", "fallback"),
            FieldChange("policy.retry", None, {"attempts": 1}),
            FieldChange("policy.cache", None, {"mode": "simple"}),
        ],
    ),
    "weight true in a live row is repaired": (
        doc("loadbalance", m("a", weight=True)),
        doc("loadbalance", m("a")),
        [FieldChange("policy.targets[google/a].weight", True, 1)],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_fields(case: str) -> None:
    before, after, expected = CASES[case]
    assert list(fields_between(before, after)) == expected


@given(loose_documents | documents(), loose_documents | documents())
def test_a_difference_has_a_field_and_no_difference_has_none(before: dict[str, Any], after: dict[str, Any]) -> None:
    after = {**after, "name": before["name"]}
    assert bool(fields_between(before, after)) == differs(before, after)


@given(st.lists(st.sampled_from([*MODELS, *ODD_MODELS]) | st.none(), min_size=1, max_size=12))
def test_each_target_that_changes_has_a_field(names: list[str | None]) -> None:
    """Whatever the targets are called. None is a group."""
    groups = [g("single", {"model_name": f"virtual-model/x/in-{place}"}) for place in range(len(names))]
    targets = [groups[place] if name is None else {"model_name": name} for place, name in enumerate(names)]
    before, after = ([{**one, "weight": weight} for one in targets] for weight in (0.25, 0.5))
    assert len(fields_between(doc("fallback", *before), doc("fallback", *after))) == len(names)
    assert len(fields_between(doc("loadbalance"), doc("loadbalance", *after))) == len(names)


@given(loose_documents)
def test_nothing_differs_from_itself(document: dict[str, Any]) -> None:
    assert fields_between(document, document) == ()


@given(documents(), documents())
def test_every_target_is_paired_once_and_labels_are_unique(one: dict[str, Any], two: dict[str, Any]) -> None:
    before, after = one["policy"]["targets"], two["policy"]["targets"]
    pairs = pair_targets(before, after)
    assert sorted(p.before for p in pairs if p.before is not None) == list(range(len(before)))
    assert sorted(p.after for p in pairs if p.after is not None) == list(range(len(after)))
    assert len({p.label for p in pairs}) == len(pairs)
