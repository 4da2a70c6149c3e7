"""Whether what a policy targets exists."""

from __future__ import annotations

import re
from typing import Any

import pytest

from policyctl.plan.references import unknown_targets

MODELS = frozenset({"virtual-model/google/gemini-2.0-flash", "watsonx/built-in", "virtual-model/x/a"})
POLICIES = frozenset({"virtual-policy/other", "virtual-policy/virtual-model/odd"})


def document(*targets: Any) -> dict[str, Any]:
    return {"name": "virtual-policy/p", "policy": {"strategy": {"mode": "fallback"}, "targets": list(targets)}}


def leaf(name: str) -> dict[str, Any]:
    return {"model_name": name}


def group(*targets: Any) -> dict[str, Any]:
    return {"strategy": {"mode": "single"}, "targets": list(targets)}


@pytest.mark.parametrize("name", [*sorted(MODELS), "other", "virtual-policy/other"])
def test_a_known_model_or_policy_in_either_spelling_is_not_reported(name: str) -> None:
    assert list(unknown_targets(document(leaf(name), group(group(leaf(name)))), MODELS, POLICIES)) == []


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("virtual-model/google/gemini-2.0-flsh", "no model .*did you mean virtual-model/google/gemini-2.0-flash"),
        ("virtual-model/zzz", r"no model \"virtual-model/zzz\" \(add it there first, or correct the name\)"),
        ("zzz", r"no model \"zzz\" \(add it there first, or correct the name\)"),
        ("virtual-policy/othr", "there is no policy .*did you mean virtual-policy/other"),
        ("virtual-model/odd", "no model .*"),  # a live policy may be called so, and a target is plainly a model
        ("Virtual-Model/x/a", "no model .*did you mean virtual-model/x/a"),
    ],
)
def test_an_unknown_target_is_a_complaint_at_its_name(name: str, said: str) -> None:
    (complaint,) = unknown_targets(document(leaf("other"), group(leaf("other"), group(leaf(name)))), MODELS, POLICIES)
    assert complaint.path == ("policy", "targets", 1, "targets", 1, "targets", 0, "model_name")
    assert (complaint.code, complaint.severity) == ("P204", "error")
    assert re.search(said, complaint.message)


def test_every_unknown_target_is_reported() -> None:
    found = list(unknown_targets(document(leaf("a1"), leaf("b2"), leaf("a1")), MODELS, POLICIES))
    assert [complaint.path[2] for complaint in found] == [0, 1, 2]


def test_policies_are_looked_for_where_no_model_is_known() -> None:
    targets = (leaf("virtual-model/x/b"), leaf("virtual-policy/othr"), leaf("virtual-policy/other"), leaf("x/b"))
    (complaint,) = unknown_targets(document(*targets), frozenset(), POLICIES)
    assert complaint.message == 'there is no policy "virtual-policy/othr" (did you mean virtual-policy/other?)'


def test_a_policy_that_may_be_where_none_were_read_is_not_reported() -> None:
    found = unknown_targets(document(leaf("virtual-policy/theirs")), MODELS, POLICIES, lambda name: name.endswith("theirs"))
    assert list(found) == []
