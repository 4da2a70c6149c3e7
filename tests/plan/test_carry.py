"""What an update writes: the file's own fields, the row's unknown ones, the row's spelling of the name."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given

from policyctl.plan.diff import keep_unknown_fields
from policyctl.policy.document import canonical_text, normal_form, policy_from_file
from policyctl.policy.live import read_row
from tests.strategies import documents, loose_documents


def test_unknown_fields_survive_at_every_level_that_is_still_there() -> None:
    row = {
        "name": "x",
        "labels": ["a"],
        "policy": {
            "hooks": 1,
            "strategy": {"mode": "loadbalance", "sticky": True},
            "retry": {"attempts": 1, "use_retry_after_header": True},
            "cache": {"mode": "simple", "max_age": 5},
            "targets": [
                {"model_name": "a", "weight": 0.5, "override": {"t": 1}},
                {"model_name": "gone", "override": {"t": 2}},
                {"strategy": {"mode": "single", "note": "n"}, "targets": [{"model_name": "b", "override": {"t": 3}}]},
            ],
        },
    }
    desired = {
        "name": "virtual-policy/x",
        "policy": {
            "strategy": {"mode": "fallback"},
            "cache": {"mode": "semantic"},
            "targets": [
                {"strategy": {"mode": "single"}, "targets": [{"model_name": "b"}]},
                {"model_name": "a", "weight": 0.25},
            ],
        },
    }
    assert keep_unknown_fields(row, desired) == {
        "name": "x",
        "labels": ["a"],
        "policy": {
            "hooks": 1,
            "strategy": {"mode": "fallback", "sticky": True},
            "cache": {"mode": "semantic", "max_age": 5},
            "targets": [
                {"strategy": {"mode": "single", "note": "n"}, "targets": [{"model_name": "b", "override": {"t": 3}}]},
                {"model_name": "a", "weight": 0.25, "override": {"t": 1}},
            ],
        },
    }


@pytest.mark.slow
@given(loose_documents, documents())
def test_what_is_written_has_what_the_file_has(row: dict[str, Any], data: dict[str, Any]) -> None:
    """Whatever the row held, writing over it makes the two equal: after apply, plan is empty."""
    row, data = {**row, "name": "x"}, {**data, "name": "x"}
    before = copy.deepcopy(row)
    desired = policy_from_file(data, "f.yaml").document
    written = keep_unknown_fields(row, desired)
    assert canonical_text(normal_form(written)) == canonical_text(normal_form(desired))
    assert repr(row) == repr(before)
    live = read_row({**written, "id": "1"})
    assert live.name == "virtual-policy/x"
