"""Apply's rules: what a look at the remote means, and what may run when."""

from __future__ import annotations

from typing import Any

import pytest

from policyctl.plan.plan import Change, LiveState, Outcome, Schedule, drifted_fields, live_state
from policyctl.policy.live import LivePolicy
from tests.builders import live, plan, policy, row


def change(desired: Any, rows: Any) -> Change:
    (only,) = plan(desired, rows).changes
    return only


ADD = change([policy("a", "new")], [])
UPDATE = change([policy("a", "new")], [row("a", "old")])
REMOVE = next(one for one in plan([policy("b")], [row("a", "old"), row("b")]).changes)
RECREATED = live("a", "old")
RECREATED.id = "another-id"

VERDICTS: dict[str, tuple[Change, LivePolicy | None, LiveState]] = {
    "add, nothing there": (ADD, None, LiveState.DO),
    "add, there as wanted": (ADD, live("a", "new"), LiveState.ALREADY),
    "add, there otherwise": (ADD, live("a", "other"), LiveState.STALE),
    "update, as it was": (UPDATE, live("a", "old"), LiveState.DO),
    "update, as wanted": (UPDATE, live("a", "new"), LiveState.ALREADY),
    "update, otherwise": (UPDATE, live("a", "other"), LiveState.STALE),
    "update, gone": (UPDATE, None, LiveState.STALE),
    "update, as it was under another id": (UPDATE, RECREATED, LiveState.STALE),
    "remove, as it was": (REMOVE, live("a", "old"), LiveState.DO),
    "remove, gone": (REMOVE, None, LiveState.ALREADY),
    "remove, otherwise": (REMOVE, live("a", "other"), LiveState.STALE),
}


@pytest.mark.parametrize("case", VERDICTS)
def test_judge(case: str) -> None:
    one, found, expected = VERDICTS[case]
    assert live_state(one, found) is expected


MOVED = {
    "another field": (UPDATE, live("a", "other"), ["policy.targets[old]", "policy.targets[other]"]),
    "gone": (UPDATE, None, ["policy"]),
    "another id": (UPDATE, RECREATED, ["id"]),
    "there meanwhile": (ADD, live("a", "other"), ["policy"]),
}


@pytest.mark.parametrize("case", MOVED)
def test_moved_names_the_fields(case: str) -> None:
    one, found, expected = MOVED[case]
    assert [field.path for field in drifted_fields(one, found)] == expected


def run(schedule: Schedule, size: int, bad: str = "") -> list[list[str]]:
    """Run a schedule to its end; the batches that it gave, `!` before a change that it said to skip."""
    batches = []
    while batch := schedule.batch(size):
        said = []
        for one in batch:
            name = one.name.removeprefix("virtual-policy/")
            skip = schedule.why_skip(one)
            schedule.finish(Outcome(one, "skipped" if skip else "failed" if name == bad else "applied"))
            said.append(f"!{name}" if skip else name)
        batches.append(said)
    return batches


CHAIN = [policy("a", "virtual-policy/b"), policy("b", "virtual-policy/c"), policy("c"), policy("d")]


def test_a_change_waits_for_what_it_needs() -> None:
    assert run(Schedule(plan(CHAIN, []).changes), 10) == [["c", "d"], ["b"], ["a"]]


def test_batches_have_at_most_the_size() -> None:
    assert run(Schedule(plan(CHAIN, []).changes), 1) == [["c"], ["d"], ["b"], ["a"]]


def test_what_needs_a_failed_change_is_skipped_and_the_rest_goes_on() -> None:
    assert run(Schedule(plan(CHAIN, []).changes), 10, bad="b") == [["c", "d"], ["b"], ["!a"]]
    assert run(Schedule(plan(CHAIN, []).changes), 10, bad="c") == [["c", "d"], ["!b"], ["!a"]]


def test_a_policy_is_not_removed_when_its_user_could_not_let_go_of_it() -> None:
    found = plan([policy("user", "m")], [row("user", "virtual-policy/old"), row("old")])
    assert run(Schedule(found.changes), 10, bad="user") == [["user"], ["!old"]]


def test_a_circle_of_removes_comes_to_an_end() -> None:
    found = plan([policy("k")], [row("a", "virtual-policy/b"), row("b", "virtual-policy/a"), row("k")])
    assert sorted(name for batch in run(Schedule(found.changes), 10) for name in batch) == ["a", "b"]
