"""A plan's verdict: the counts, the worst that it does to traffic, and what the rules say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.report.verdict import risk_of, verdict
from tests import strategies as some
from tests.builders import body, policy, row
from tests.report.plans import PLANS, balanced, reviewed


def worst(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """What the verdict says of one policy that changes so."""
    rows = [{"id": "1", "name": "p", "policy": before}]
    risk = verdict(reviewed([policy("p", **after)], rows)).risk
    return None if risk is None else risk.said


@pytest.mark.parametrize(
    ("case", "counts", "rules", "passed"),
    [
        ("empty", "no changes", "safety rules and guards passed", True),
        ("update", "1 to update", "safety rules and guards passed", True),
        ("mixed", "1 to add, 1 to update, 1 to remove", "2 policies blocked by rows on the remote", False),
        ("refused", "1 to add, 7 to remove", "refused by 2 safety rules", False),
        ("stale", "1 to add, 1 to update", "stale, 1 policy moved since the plan was made", False),
        ("thousand", "334 to add, 333 to update, 333 to remove", "safety rules and guards passed", True),
    ],
)
def test_it_counts_what_changes_and_says_what_the_rules_say(case: str, counts: str, rules: str, passed: bool) -> None:
    said = verdict(PLANS[case])
    assert (said.counts, said.rules, said.passed) == (counts, rules, passed)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        # An outage that was survived, and is not any more, before the model that is new.
        (body("x/a", "x/b"), body("x/a", "y/c", mode="single"), "x/a down with any failure but broken-body: served 100% → 0%"),
        (body("x/a"), body("y/b"), "y/b newly reachable by 100% of the requests"),
        (body("x/a"), body("x/a", "y/b"), "y/b newly reachable when a fails"),
        (balanced(0.5), balanced(1), "anthropic/claude-sonnet-4 down with any failure: served 66.67% → 50%"),
        (body("x/a"), {**body("x/a"), "retry": {"attempts": 3}}, "most calls of a request: 1 → 4"),
        (body("x/a"), {**body("x/a"), "retry": {"attempts": 0}}, None),
        (body("x/a", "x/b", mode="single"), body("x/a", mode="single"), None),
    ],
)
def test_the_riskiest_effect_is_the_one_that_takes_most(
    before: dict[str, Any], after: dict[str, Any], said: str | None
) -> None:
    assert worst(before, after) == said


def test_a_removed_policy_is_worse_than_an_outage_that_is_no_longer_survived() -> None:
    said = verdict(reviewed([policy("a", "x/a")], [row("a", "x/a", "x/b"), row("b")]))
    assert said.risk is not None
    assert (said.risk.policy, said.risk.said) == ("virtual-policy/b", "removed; requests that name it fail")


def test_what_cannot_be_told_is_no_less_than_an_outage() -> None:
    plan = PLANS["update"].plan
    risk = risk_of(plan.changes[0], None)
    assert risk is not None
    assert risk.rank > (3, 1.0)
    assert risk.said == "what this does to traffic cannot be told"


def test_others_that_do_the_same_are_counted() -> None:
    assert verdict(PLANS["refused"]).alike == 6
    assert verdict(PLANS["update"]).alike == 0
    assert verdict(PLANS["empty"]).alike == 0


@given(st.permutations(["a", "b", "c"]))
def test_of_equal_risks_it_is_always_the_same_that_is_named(names: list[str]) -> None:
    risk = verdict(reviewed([policy("z")], [row("z"), *map(row, names)])).risk
    assert risk is not None
    assert risk.policy == "virtual-policy/a"


@given(some.documents(), some.documents())
@settings(max_examples=30)
def test_nothing_is_worse_only_when_no_outage_share_or_reach_is(before: dict[str, Any], after: dict[str, Any]) -> None:
    rows = [{"id": "1", "name": "p", "policy": before["policy"]}]
    review = reviewed([policy("p", **after["policy"])], rows)
    for change in review.plan.changes:
        effect = review.effects[change.name]
        risk = risk_of(change, effect)
        assert (risk is None) <= (not (effect.worse or effect.added or effect.refused or effect.traffic))
        assert risk is None or effect.kind == "effective"
