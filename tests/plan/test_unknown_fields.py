"""Fields of a live policy that the format does not know: each is named, and so is what becomes of it."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given

from policyctl.plan.diff import UnknownField, keep_unknown_fields, unknown_field_notes, unknown_fields
from policyctl.policy.document import canonical_text, normal_form, policy_from_file
from tests.builders import body, policy
from tests.strategies import documents, loose_documents

A, B = "virtual-model/x/a", "virtual-model/y/b"
ROW: dict[str, Any] = {
    "name": "x",
    "labels": ["a"],
    "nothing": None,
    "policy": {
        "strategy": {"mode": "fallback", "sticky": True},
        "retry": {"attempts": 1, "jitter": 0.5},
        "cache": {"mode": "simple", "max_age": 60},
        "request_timeout": 5000,
        "targets": [
            {"model_name": A, "override_params": {"temperature": 0}},
            {"strategy": {"mode": "single"}, "request_timeout": 1, "targets": [{"model_name": B, "weight": None, "hook": 1}]},
        ],
    },
}
PATHS = {
    "policy.strategy.sticky",
    "policy.retry.jitter",
    "policy.cache.max_age",
    "policy.request_timeout",
    "policy.targets[x/a].override_params",
    "policy.targets[1].request_timeout",
    "policy.targets[1].targets[y/b].hook",
}


def test_every_field_is_found_at_every_level() -> None:
    found = unknown_fields(ROW)
    assert {one.path for one in found} == PATHS
    assert all(one.kept for one in found)
    assert UnknownField("policy.cache.max_age", 60) in found


def test_a_policy_without_such_fields_has_none() -> None:
    assert unknown_fields(policy("x", A, B).document) == ()


def test_what_goes_with_the_part_around_it_is_not_kept() -> None:
    lost = {one.path for one in unknown_fields(ROW, policy("x", A, retry={"attempts": 2}).document) if not one.kept}
    assert lost == {
        "policy.cache.max_age",
        "policy.targets[1 before].request_timeout",
        "policy.targets[1 before].targets[y/b].hook",
    }


# A target that is neither a model nor a group, with a part that only the whole policy may have; a group takes its place.
CACHE_IN_A_TARGET = {"policy": {"targets": [{"strategy": {}, "cache": {"attempts": 0}}]}}
A_GROUP = {"policy": {"strategy": {"mode": "single"}, "targets": [body(A)]}}


@example(CACHE_IN_A_TARGET, A_GROUP)
@given(loose_documents, documents())
def test_what_is_called_kept_is_what_an_update_writes(row: dict[str, Any], data: dict[str, Any]) -> None:
    row, data = {**row, "name": "x"}, {**data, "name": "x"}
    desired = policy_from_file(data, "f.yaml").document
    kept = sorted(canonical_text(one.value) for one in unknown_fields(row, desired) if one.kept)
    assert kept == sorted(canonical_text(one.value) for one in unknown_fields(keep_unknown_fields(row, desired)))


@given(loose_documents)
def test_without_its_unknown_fields_a_policy_is_what_the_format_knows_of_it(row: dict[str, Any]) -> None:
    """None is passed over, at any depth."""
    normal = normal_form({**row, "name": "x"}, sort=False)
    assert unknown_fields(normal) == ()
    if unknown_fields(row) == ():
        assert _keys(row["policy"]) == _keys(normal["policy"])


def _keys(group: Any) -> Any:
    """The keys of a group at every depth; a weight is one that the normal form adds."""
    if not isinstance(group, dict):
        return None
    parts = {key: _keys(value) for key, value in group.items() if value is not None and key != "weight"}
    targets = group.get("targets")
    return {**parts, "targets": [_keys(target) for target in targets]} if isinstance(targets, list) else parts


AGE, LIMIT = UnknownField("policy.cache.max_age", 60), UnknownField("policy.request_timeout", 1)
ONE = "policy.cache.max_age; it is kept, and effects on traffic ignore it"
TWO = "policy.cache.max_age, policy.request_timeout; they are kept, and effects on traffic ignore them"
LOST = "policy.cache.max_age; it goes with what is removed around it, and effects on traffic ignore it"


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ({"a": (AGE,)}, [f"policy a also has {ONE}"]),
        ({"b": (AGE, LIMIT), "a": (AGE, LIMIT)}, [f"policies a, b also have {TWO}"]),
        (dict.fromkeys("fedcba", (AGE,)), [f"policies a, b, c and 3 more also have {ONE}"]),
        ({"a": (AGE, AGE._replace(kept=False))}, [f"policy a also has {ONE}", f"policy a also has {LOST}"]),
        ({}, []),
    ],
)
def test_policies_with_the_same_fields_are_one_note(found: dict[str, tuple[UnknownField, ...]], said: list[str]) -> None:
    assert list(unknown_field_notes(found)) == [f"the live {line}" for line in said]


def test_a_note_names_the_first_ones_of_many_fields_that_are_kept_and_each_that_is_not() -> None:
    """A page that cuts a note approves nothing, and it is to approve what leaves them as they are."""
    paths = [f"policy.targets[{number}].x" for number in range(40)]
    (kept,) = unknown_field_notes({"a": tuple(UnknownField(path, 1) for path in paths)})
    (lost,) = unknown_field_notes({"a": tuple(UnknownField(path, 1, kept=False) for path in paths)})
    assert kept.startswith(f"the live policy a also has {', '.join(paths[:5])} and 35 more; they are kept")
    assert lost.startswith(f"the live policy a also has {', '.join(paths)}; they go")


def test_a_group_that_only_moves_keeps_its_fields() -> None:
    group = {"strategy": {"mode": "single"}, "targets": [{"model_name": B}]}
    moved = {"name": "x", "policy": {**body(), "targets": [group, {"model_name": A}]}}
    found = [one for one in unknown_fields(ROW, moved) if one.path.startswith("policy.targets")]
    assert all(one.kept for one in found)
    assert len(found) == 3
