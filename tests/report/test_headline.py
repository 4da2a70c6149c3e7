"""A plan's verdict: the counts, the worst that it does to traffic, and what the rules say."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.plan.effects import Tier, worst_of
from policyctl.plan.plan import Desired
from policyctl.plan.settings import Settings
from policyctl.report.format import Style
from policyctl.report.headline import describe_risk, headline, plan_summary
from policyctl.report.plan_html import plan_html
from policyctl.report.plan_json import plan_data
from policyctl.report.plan_markdown import plan_markdown
from policyctl.report.plan_text import plan_text
from policyctl.report.plan_view import PlanView
from tests import strategies as some
from tests.builders import body, model, model_row, policy, row
from tests.examples import examples
from tests.report.plans import PLANS, balanced, reviewed


def worst(before: dict[str, Any], after: dict[str, Any]) -> str | None:
    """What the verdict shows of one policy that changes so."""
    rows = [{"id": "1", "name": "p", "policy": before}]
    risks = plan_summary(reviewed([policy("p", **after)], rows)).risks
    return describe_risk(risks[0]) if risks else None


@pytest.mark.parametrize(
    ("case", "counts", "rules", "passed"),
    [
        ("empty", "no changes", "safety rules passed, no guards configured", True),
        ("update", "1 to update", "safety rules passed, no guards configured", True),
        ("mixed", "1 to add, 1 to update, 1 to remove", "2 policies blocked by rows on the remote", False),
        ("refused", "1 to add, 7 to remove", "refused by 2 safety rules", False),
        ("stale", "1 to add, 1 to update", "stale, 1 policy changed since the plan was made", False),
        pytest.param(
            *("thousand", "334 to add, 333 to update, 333 to remove", "safety rules passed, no guards configured", True),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_it_counts_what_changes_and_shows_what_the_rules_decide(case: str, counts: str, rules: str, passed: bool) -> None:
    said = plan_summary(PLANS[case])
    assert (said.counts, said.rules, said.passed) == (counts, rules, passed)


C = "virtual-model/z/c"
LIST = {"mode": "fallback", "on_status_codes": [429, 503]}


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        # Who serves, before an outage that is not survived any more.
        (body("x/a"), body("y/b"), "y/b 0% → 100%, x/a 100% → 0%"),
        (body("x/a", "y/b"), body("y/b", "x/a"), "y/b 0% → 100%, x/a 100% → 0%"),
        (balanced(0.5), balanced(1), "openai/gpt-4o 66.67% → 50%, anthropic/claude-sonnet-4 33.33% → 50%"),
        # An outage that was survived, and is not any more, before the model that is new.
        (
            body("x/a", "x/b"),
            body("x/a", "y/c", mode="single"),
            "served 100% → 0% while x/a is down with any failure but a broken body",
        ),
        # The usual failures before the exotic ones, whatever their order in the lists.
        (
            body("x/a", "x/b"),
            {**body("x/a", "x/b"), "strategy": {"mode": "fallback", "on_status_codes": [*range(400, 500), 502]}},
            "served 100% → 0% while x/a is down with any failure but 502, 4xx, a broken body",
        ),
        # What only a part of the calls shows.
        (
            {**body(C), "retry": {"attempts": 2}},
            {**body(C), "retry": {"attempts": 1}},
            "served 99.9% → 99% while a tenth of the calls to z/c fail with 429, 500, 502 to 504, connection failures",
        ),
        # Two models at once.
        (body("x/a", "y/b", "z/c"), body("x/a", "y/b"), "served 100% → 0% while x/a is down with 500 and y/b is down with 500"),
        (body("x/a"), body("x/a", "y/b"), "y/b newly reachable when a fails"),
        (body("x/a"), {**body("x/a"), "retry": {"attempts": 3}}, "most calls per request: 1 → 4"),
        (body("x/a"), {**body("x/a"), "retry": {"attempts": 0}}, None),
        (body("x/a", "x/b", mode="single"), body("x/a", mode="single"), None),
    ],
)
def test_the_riskiest_effect_is_the_one_that_takes_most(
    before: dict[str, Any], after: dict[str, Any], said: str | None
) -> None:
    assert worst(before, after) == said


GPT, CLAUDE, FLASH = "virtual-model/openai/gpt-4o", "virtual-model/anthropic/claude-sonnet-4", "virtual-model/google/flash"
A_DOWN = "is down with any failure but a broken body"


def first(*models: str, codes: list[int] | None = None) -> dict[str, Any]:
    strategy: dict[str, Any] = {"mode": "fallback"} if codes is None else {"mode": "fallback", "on_status_codes": codes}
    return {"strategy": strategy, "targets": [{"model_name": model} for model in models]}


def drawn(*targets: tuple[dict[str, Any], float]) -> dict[str, Any]:
    return {"strategy": {"mode": "loadbalance"}, "targets": [{**target, "weight": weight} for target, weight in targets]}


def asked(model: str, attempts: int = 0) -> dict[str, Any]:
    return {"model_name": model, "retry": {"attempts": attempts}}


ASKED_AGAIN = "429, 500, 502 to 504, connection failures"
MISSING = {"model_name": "virtual-policy/missing"}

SEVERAL: dict[str, tuple[dict[str, Any], dict[str, Any], tuple[str, ...]]] = {
    "a small shift does not hide an outage that takes all": (
        drawn((first(GPT, CLAUDE), 0.9999), (asked(FLASH), 0.0001)),
        drawn((first(GPT), 0.9998), (asked(FLASH), 0.0002)),
        (f"served 100% → 0.02% while openai/gpt-4o {A_DOWN}", "google/flash 0.01% → 0.02%, openai/gpt-4o 99.99% → 99.98%"),
    ),
    "a large shift comes before an unusual outage that takes more": (
        drawn((first(GPT, CLAUDE, codes=[418, 503]), 0.9), (asked(FLASH), 0.1)),
        drawn((first(GPT, CLAUDE, codes=[503]), 0.6), (asked(FLASH), 0.4)),
        ("google/flash 10% → 40%, openai/gpt-4o 90% → 60%", "served 100% → 40% while openai/gpt-4o is down with 418"),
    ),
    "an outage that takes more than the shift moves comes before it": (
        drawn((first(GPT, CLAUDE), 0.1), (asked(FLASH), 0.9)),
        drawn((first(GPT), 0.4), (asked(FLASH), 0.6)),
        (f"served 100% → 60% while openai/gpt-4o {A_DOWN}", "google/flash 90% → 60%, openai/gpt-4o 10% → 40%"),
    ),
    "an outage that takes less than the shift moves is left to the rows": (
        drawn((first(GPT, CLAUDE), 0.5), (asked(FLASH), 0.5)),
        drawn((first(GPT), 0.1), (asked(FLASH), 0.9)),
        ("google/flash 50% → 90%, openai/gpt-4o 50% → 10%",),
    ),
    "few requests that fail while nothing is broken do not hide many": (
        drawn((first(GPT, CLAUDE), 0.9999), (asked(FLASH), 0.0001)),
        drawn((first(GPT), 0.9999), (MISSING, 0.0001)),
        ("served 100% → 99.99% while nothing fails", f"served 100% → 0% while openai/gpt-4o {A_DOWN}"),
    ),
    "a small outage does not hide what a share of the calls takes": (
        drawn((asked(GPT, 3), 0.999), (first(GPT, CLAUDE), 0.001)),
        drawn((asked(GPT), 0.999), (asked(GPT), 0.001)),
        (f"served 99.99% → 90% while a tenth of the calls to openai/gpt-4o fail with {ASKED_AGAIN}",),
    ),
}


@pytest.mark.parametrize("case", SEVERAL)
def test_no_risk_of_a_policy_hides_another_that_takes_more_requests(case: str) -> None:
    before, after, said = SEVERAL[case]
    rows = [{"id": "1", "name": "p", "policy": before}]
    review = reviewed([policy("p", **after)], rows)
    assert headline(plan_summary(review)) == [(("p",), said)]
    page = plan_markdown(PlanView(review, "local")).replace("`", "")
    assert f"| update | p | {'; '.join(said)} |" in page
    assert f"Riskiest:** p: {'; '.join(said)}." in page
    assert all(one in plan_text(review, "local", Style()) and one in plan_html(PlanView(review, "local")) for one in said)
    riskiest = plan_data(review)["verdict"]["riskiest"]
    assert [(one["name"], one["text"]) for one in riskiest] == [("virtual-policy/p", one) for one in said]


def test_what_is_lost_in_an_outage_though_only_weights_moved_is_shown_in_every_format() -> None:
    """A model that lost shares costs more while it is down, since the group that survived that lost its weight."""
    parts = (first(GPT, FLASH), asked(GPT), asked(CLAUDE))
    before, after = (drawn(*zip(parts, weights, strict=True)) for weights in ((0.9, 0.09, 0.01), (0.01, 0.97, 0.02)))
    review = reviewed([policy("p", **after)], [{"id": "1", "name": "p", "policy": before}])
    said, subject = f"served 91% → 3% while openai/gpt-4o {A_DOWN}", PlanView(review, "local")
    pages = (plan_text(review, "local", Style()), plan_markdown(subject).replace("`", ""), plan_html(subject))
    assert [page.count(said) >= 2 for page in pages] == [True, True, True]
    assert not any("only weights change" in page for page in pages)
    assert ">▼</span>1</b> worse" in pages[2]
    effect = plan_data(review)["changes"][0]["effect"]
    assert "only_weights" not in effect
    assert {(one["down"], one["before"], one["after"]) for one in effect["worse"]} >= {(GPT, 0.91, 0.03)}


@pytest.mark.parametrize("weight", [0.501, 0.7, 0.999])
@pytest.mark.parametrize(("codes", "failure"), [([408, 503], "408"), ([418, 503], "418")])
def test_the_shifts_of_many_policies_do_not_hide_what_another_one_loses(weight: float, codes: list[int], failure: str) -> None:
    """However much these move, and however unusual the outage is."""
    before, after = (drawn((asked(FLASH), share), (asked(GPT), 1 - share)) for share in (0.5, weight))
    names = [f"a{number}" for number in range(5)]
    desired = [policy(name, **after) for name in names] + [policy("z", **first(GPT, CLAUDE, codes=[503]))]
    rows = [row(name, **before) for name in names] + [row("z", **first(GPT, CLAUDE, codes=codes))]
    named = {name: words for some, words in headline(plan_summary(reviewed(desired, rows))) for name in some}
    assert named["z"][0] == f"served 100% → 0% while openai/gpt-4o is down with {failure}"


def test_a_removal_that_nothing_uses_comes_after_an_outage_that_is_no_longer_survived() -> None:
    said = plan_summary(reviewed([policy("a", "x/a")], [row("a", "x/a", "x/b"), row("b")]))
    assert [risk.policy for risk in said.risks] == ["virtual-policy/a"]


def test_a_removal_of_what_another_policy_targets_comes_first() -> None:
    said = plan_summary(reviewed([policy("a", "virtual-policy/b")], [row("a", "virtual-policy/b"), row("b")]))
    assert [(risk.policy, describe_risk(risk)) for risk in said.risks] == [
        ("virtual-policy/b", "removed, but a remaining policy targets it"),
        ("virtual-policy/a", "served 100% → 0% while nothing fails"),
    ]


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (row("c"), "removed; no policy targets it"),
        ({**row("c"), "id": None}, "removed; no policy targets it"),
        ({**row("c"), "policy": None}, "removed; no policy that could be read targets it"),
        ("not a row", "removed; no policy that could be read targets it"),
    ],
)
def test_a_removal_claims_that_nothing_targets_it_only_where_every_row_could_be_read(other: Any, said: str) -> None:
    found = plan_summary(reviewed([policy("a")], [row("a"), row("b"), other], Settings(scope=("a", "b"))))
    assert [(risk.policy, describe_risk(risk)) for risk in found.risks] == [("virtual-policy/b", said)]


def test_what_is_not_known_is_not_less_than_requests_that_fail() -> None:
    risk = worst_of("virtual-policy/a", "update", None)
    assert risk is not None
    assert (risk.tier, describe_risk(risk)) == (Tier.NORMAL, "the effect on traffic is not known")


def test_others_that_are_as_bad_are_named_or_counted() -> None:
    for case, named, more in (("refused", 3, 4), ("update", 1, 0)):
        said = plan_summary(PLANS[case])
        assert (len(said.risks), said.more) == (named, more)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            body("x/a"),
            {**body("x/a"), "retry": {"attempts": 0}},
            "Nothing changes for requests: every change is metadata only or equivalent.",
        ),
        (
            {**body("x/a", "y/b"), "strategy": LIST},
            {**body("x/a", "y/b"), "strategy": {**LIST, "on_status_codes": [429, 500, 503]}},
            "Nothing here makes traffic worse.",
        ),
        (
            {**body("x/a"), "cache": {"mode": "simple"}},
            {**body("x/a"), "cache": {"mode": "semantic"}},
            "No outage or partial failure of one model or provider gets worse.",
        ),
    ],
)
def test_where_nothing_is_a_risk_only_what_was_compared_is_claimed(
    before: dict[str, Any], after: dict[str, Any], said: str
) -> None:
    found = plan_summary(reviewed([policy("p", **after)], [{"id": "1", "name": "p", "policy": before}]))
    assert (found.risks, found.traffic) == ((), said)


@pytest.mark.parametrize("tags", [[], ["default"], False, "default", None])
def test_a_removed_model_that_new_agents_get_is_noted(tags: Any) -> None:
    review = reviewed([], [model_row("x/a", tags=tags)], Settings(models=True))
    note = "virtual-model/x/a is removed, which has the tag default: the platform chooses another model for new agents"
    assert [one for one in review.notes if "default" in one] == ([note] if tags == ["default"] else [])


@pytest.mark.parametrize(
    ("desired", "rows", "counts", "traffic"),
    [
        ([model("x/a")], [], "1 model to add", "Only new models: no live policy changes."),
        (
            [model("x/a", tags=["default"])],
            [],
            "1 model to add",
            "Only new models: no live policy changes; new agents without a model of their own get x/a.",
        ),
        (
            [model("x/a"), policy("p", "virtual-model/x/a")],
            [],
            "1 policy and 1 model to add",
            "Only new policies and models: no live policy changes.",
        ),
        ([policy("p"), policy("q")], [], "2 to add", "Only new policies: no live policy changes."),
        (
            [model("x/a"), policy("q", "x/a")],
            [row("q", "x/a")],
            "1 model to add",
            "Only new models, but live policies already target 1 new model: requests that reach them are answered from now on.",
        ),
        (
            [model("x/a"), model("x/b", description="new"), policy("q", "x/a")],
            [row("q", "x/a"), model_row("x/b")],
            "1 model to add, 1 model to update",
            "Live policies already target 1 new model: requests that reach them are answered from now on.",
        ),
        (
            [model("x/a", tags=["default"]), model("x/b", description="new")],
            [model_row("x/b")],
            "1 model to add, 1 model to update",
            (
                "Nothing changes for requests: every change is metadata only or equivalent; new agents without a model of "
                "their own get x/a."
            ),
        ),
        (
            [model("x/a", description="new")],
            [model_row("x/a")],
            "1 model to update",
            "Nothing changes for requests: every change is metadata only or equivalent.",
        ),
    ],
)
def test_new_models_are_counted_and_claimed_beside_policies(
    desired: list[Desired], rows: list[Any], counts: str, traffic: str
) -> None:
    said = plan_summary(reviewed(desired, rows, Settings(models=True)))
    assert (said.counts, said.traffic) == (counts, traffic)


def test_a_new_model_that_a_live_policy_targets_is_named_so_beside_any_risk() -> None:
    desired: list[Desired] = [model("x/a"), model("x/b", config={"top_p": 1}), policy("q", "x/a")]
    review = reviewed(desired, [row("q", "x/a"), model_row("x/b")], Settings(models=True))
    assert plan_summary(review).risks
    assert "    live policies already target it\n" in plan_text(review, "local", Style())
    assert "live policies already target it" in plan_markdown(PlanView(review, "local"))


@given(st.permutations(["a", "b", "c"]))
def test_of_equal_risks_it_is_always_the_same_that_is_named(names: list[str]) -> None:
    said = plan_summary(reviewed([policy("z")], [row("z"), *map(row, names)]))
    assert [risk.policy for risk in said.risks] == ["virtual-policy/a", "virtual-policy/b", "virtual-policy/c"]


@given(some.documents(), some.documents())
@settings(max_examples=examples(20))
def test_without_a_risk_no_outage_share_or_reach_gets_worse(before: dict[str, Any], after: dict[str, Any]) -> None:
    rows = [{"id": "1", "name": "p", "policy": before["policy"]}]
    review = reviewed([policy("p", **after["policy"])], rows)
    for change in review.plan.changes:
        effect = review.effects[change.name]
        risk = worst_of(change.name, change.action, effect)
        assert (risk is None) <= (not (effect.worse or effect.together or effect.added or effect.refused or effect.traffic))
        assert risk is None or effect.kind == "effective"
