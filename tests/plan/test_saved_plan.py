"""A plan as text and back."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.plan.saved_plan import BadPlan, read_plan, write_plan
from policyctl.policy.document import policy_from_file
from tests.builders import plan, policy, row
from tests.strategies import documents, json_values, loose_documents


def saved() -> dict[str, Any]:
    data: dict[str, Any] = json.loads(write_plan(plan([policy("a"), policy("b", "new")], [row("b", "old"), row("c")])))
    return data


@pytest.mark.slow
@given(st.lists(documents(), max_size=4), st.lists(loose_documents, max_size=4))
def test_lossless(desired: list[dict[str, Any]], live: list[dict[str, Any]]) -> None:
    policies = {one.name: one for one in (policy_from_file(data, "f.yaml") for data in desired)}
    made = plan(list(policies.values()), [{**doc, "id": str(number)} for number, doc in enumerate(live)])
    again = read_plan(write_plan(made), "plan.json")
    assert again.changes == made.changes
    assert (again.digest, again.counts, again.remote) == (made.digest, made.counts, made.remote)
    assert write_plan(again) == write_plan(made)


def _edited(change: dict[str, Any]) -> str:
    return json.dumps({**saved(), **change})


def complaint_about(text: str) -> str:
    try:
        read_plan(text, "plan.json")
    except BadPlan as error:
        return str(error)
    return ""


BAD = {
    "empty": ("", "incomplete JSON"),
    "truncated": (json.dumps(saved())[:-20], "incomplete JSON"),
    "no object": ("[]", "its format is not policyctl/saved-plan"),
    "another JSON": ('{"format": "policyctl/plan", "version": 1}', "its format is not policyctl/saved-plan"),
    "a newer version": (_edited({"version": 2}), "version 2; this policyctl reads 1"),
    "another environment written in": (_edited({"environment": "prod"}), "changed after it was made"),
    "a change taken out": (_edited({"changes": saved()["changes"][1:]}), "changed after it was made"),
    "no checksum": (json.dumps({key: value for key, value in saved().items() if key != "checksum"}), "changed after"),
    "nested without end": ("[" * 100_000, "incomplete JSON"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_plan_files(case: str) -> None:
    text, expected = BAD[case]
    with pytest.raises(BadPlan, match=expected):
        read_plan(text, "plan.json")


@given(st.sampled_from(["name", "id", "after", "before", "fields", "action"]), json_values)
def test_no_edit_of_a_change_goes_unnoticed(key: str, value: Any) -> None:
    data = saved()
    index = next(index for index, change in enumerate(data["changes"]) if change["action"] == "update")
    if data["changes"][index].get(key) == value:
        return
    data["changes"][index][key] = value
    with pytest.raises(BadPlan):
        read_plan(json.dumps(data), "plan.json")


@given(json_values | st.dictionaries(st.sampled_from(list(saved())), json_values))
def test_whatever_the_json_is_the_reader_says_so_in_one_line(value: Any) -> None:
    if isinstance(value, dict):
        value = {**saved(), **value}
    complaint = complaint_about(json.dumps(value))
    assert "\n" not in complaint
    assert bool(complaint) == (value != saved())
