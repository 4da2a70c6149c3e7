"""The safety rules: each refusal names the value, the limit, and what overrides it."""

from __future__ import annotations

from typing import Any

import pytest

from policyctl.plan.safety import review
from policyctl.plan.settings import Limits, Settings
from policyctl.policy.live import observe_rows
from tests.builders import model, model_row, plan, policy, row

TEN = [f"p{number:02}" for number in range(10)]


def refusals(desired: Any, rows: Any, settings: Settings = Settings()) -> list[str]:
    return list(review(plan(desired, rows, settings), observe_rows(rows), settings).refusals)


def test_adds_never_count() -> None:
    assert refusals([policy(f"n{number}") for number in range(100)], []) == []


def test_six_removals_are_more_than_five() -> None:
    rows = [row(name) for name in TEN[:7]]
    assert refusals([policy(TEN[0])], rows) == [
        "6 policies would be removed, more than max_removes 5 (allow it with --max-removes 6)"
    ]
    assert refusals([policy(TEN[0])], rows, Settings(limits=Limits(max_removes=6))) == []


def test_models_count_beside_policies_and_are_named() -> None:
    rows = [*map(row, TEN[:9]), *(model_row(f"x/{number}") for number in range(3))]
    kept = [*map(policy, TEN[:6]), model("x/0")]
    assert refusals(kept, rows, Settings(limits=Limits(4, 10))) == [
        "3 policies and 2 models would be removed, more than max_removes 4 (allow it with --max-removes 5)",
        (
            "5 of 12 live policies and models would change, 41.67% and more than max_change_percent 10 "
            "(allow it with --max-change-percent 42)"
        ),
    ]


PERCENT = {
    "nine live, all changed: a percentage refuses nothing": (9, 9, ""),
    "ten live, three changed: exactly the limit": (10, 3, ""),
    "ten live, four changed": (10, 4, "40.00%"),
    "eleven live, four changed": (11, 4, "36.36%"),
}


@pytest.mark.parametrize("case", PERCENT)
def test_percent(case: str) -> None:
    live, changed, expected = PERCENT[case]
    pool = [f"p{number:02}" for number in range(live)]
    desired = [policy(name, "new" if number < changed else "old") for number, name in enumerate(pool)]
    found = refusals(desired, [row(name, "old") for name in pool])
    assert [expected in line for line in found] == ([True] if expected else [])


def test_the_percentage_that_a_refusal_names_is_enough() -> None:
    desired = [policy(name, "new" if number < 4 else "old") for number, name in enumerate([*TEN, "p10"])]
    rows = [row(name, "old") for name in [*TEN, "p10"]]
    (line,) = refusals(desired, rows)
    named = float(line.split("--max-change-percent ")[1].rstrip(")"))
    assert refusals(desired, rows, Settings(limits=Limits(max_change_percent=named))) == []


def test_protected_policies_are_not_removed_unless_named() -> None:
    rows = [row("prod-a"), row("prod-b"), row("x")]
    settings = Settings(protect=("prod-*",))
    assert len(refusals([policy("x")], rows, settings)) == 2
    allowed = Settings(protect=("prod-*",), allow_remove=("prod-a", "virtual-policy/prod-b"))
    assert refusals([policy("x")], rows, allowed) == []


def test_protected_policies_may_be_updated() -> None:
    assert refusals([policy("prod-a", "new")], [row("prod-a", "old")], Settings(protect=("*",))) == []


def test_emptying_the_scope_is_refused_whatever_is_allowed() -> None:
    settings = Settings(scope=("team-*",), limits=Limits(100, 100.0), allow_remove=("team-a",))
    assert refusals([policy("other")], [row("team-a"), row("other")], settings) == [
        "the only live policy in scope would be removed; policyctl never empties a scope"
    ]


def test_a_rename_does_not_empty_the_scope() -> None:
    assert refusals([policy("b")], [row("a")]) == []


TARGETED = {
    "by one that stays": ([policy("user", "virtual-policy/old")], Settings(), 1),
    "by one out of scope": ([policy("a")], Settings(scope=("a", "old")), 1),
    "by one that lets go": ([policy("user", "m"), policy("out", "m")], Settings(), 0),
    "by one that is removed too": ([policy("a")], Settings(), 0),
}


@pytest.mark.parametrize("case", TARGETED)
def test_a_removed_policy_must_not_be_targeted(case: str) -> None:
    desired, settings, expected = TARGETED[case]
    rows = [row("old"), row("user", "virtual-policy/old"), row("a")]
    assert len([line for line in refusals(desired, rows, settings) if "still targets it" in line]) == expected


def test_twins_count_as_users_of_what_they_target() -> None:
    rows = [row("old"), row("t", "virtual-policy/old"), row("virtual-policy/t"), row("a")]
    assert refusals([policy("a")], rows) == [
        "virtual-policy/old would be removed, but virtual-policy/t still targets it (change or remove that one too)"
    ]


UNWRITABLE: dict[str, tuple[dict[str, Any], str]] = {
    "a row without an id": ({**row("t", "virtual-policy/old"), "id": None}, "virtual-policy/t"),
    "a row without a name": ({**row("t", "virtual-policy/old"), "name": None}, "a row without a name"),
    "a row with neither": ({**row("t", "virtual-policy/old"), "name": None, "id": None}, "a row without a name"),
    "a second row of a removed policy": ({**row("other", "virtual-policy/old"), "id": None}, "virtual-policy/other"),
}


@pytest.mark.parametrize("case", UNWRITABLE)
def test_a_row_that_cannot_be_written_counts_as_a_user_of_what_it_targets(case: str) -> None:
    unwritable, user = UNWRITABLE[case]
    rows = [row("old"), row("other"), row("a"), unwritable]
    assert refusals([policy("a")], rows) == [
        f"virtual-policy/old would be removed, but {user} still targets it (change or remove that one too)"
    ]


def test_notes_tell_of_unreadable_rows() -> None:
    rows = [row("a"), {"id": "7"}]
    notes = review(plan([policy("a")], rows), observe_rows(rows), Settings()).left_alone
    assert notes == ("a row of the remote is left alone: the row has no usable name (name unknown, id 7)",)
