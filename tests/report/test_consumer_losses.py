"""What a plan claims that consumers lose: what the effect proves, for those whose own calls have it, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from policyctl.effect.analysis import Effect
from policyctl.plan.consumers import Consumer, ConsumerUse, FoundConsumers
from policyctl.plan.plan import Desired
from policyctl.plan.safety import Review
from policyctl.plan.settings import Settings
from policyctl.report.headline import affected_first, losses_by, losses_text
from tests.builders import model, model_row, policy, row
from tests.report.plans import reviewed

FALLBACK = {"mode": "fallback", "on_status_codes": [429, 503]}
GPT, CLAUDE, NEW = (f"virtual-model/{name}" for name in ("openai/gpt", "anthropic/claude", "openai/new"))
P = "virtual-policy/p"
A, B = (ConsumerUse(Consumer("agent", name), "llm") for name in "ab")
Case = tuple[Sequence[Desired], list[Any], tuple[ConsumerUse, ...], str]
LESS = {**FALLBACK, "on_status_codes": [429]}
CASES: dict[str, Case] = {
    "failover": (
        [policy("p", GPT, CLAUDE, strategy=LESS)],
        [row("p", GPT, CLAUDE, strategy=FALLBACK)],
        (A, B),
        "2 agents lose failover while openai/gpt is down with 503, connect timeout",
    ),
    "one agent": (
        [policy("p", GPT, CLAUDE, strategy=LESS)],
        [row("p", GPT, CLAUDE, strategy=FALLBACK)],
        (A,),
        "1 agent loses failover while openai/gpt is down with 503, connect timeout",
    ),
    "a part of the requests, by a model that had none": (
        [policy("p", GPT, CLAUDE, strategy={"mode": "loadbalance"})],
        [row("p", GPT, CLAUDE, strategy={"mode": "fallback"})],
        (A,),
        "1 agent loses requests while anthropic/claude is down with any failure (served 100% → 50%), and in 1 more case",
    ),
    "another model, which had no failover to lose": (
        [policy("p", NEW)],
        [row("p", GPT)],
        (A,),
        "1 agent loses requests while openai/new is down with any failure",
    ),
    "a name that reads like a template": (
        [policy("p", "virtual-model/x/{who}")],
        [row("p", GPT)],
        (A,),
        '1 agent loses requests while "x/{who}" is down with any failure',
    ),
    "nothing gets worse": ([policy("p", GPT, CLAUDE, strategy=FALLBACK)], [row("p", GPT)], (A,), ""),
    "only texts": ([policy("p", GPT)], [{**row("p", GPT), "description": "old"}], (A,), ""),
    "an effect that is not known": (
        [policy("p", GPT)],
        [{**row("p", GPT), "policy": {"strategy": {"mode": "conditional"}, "targets": [{"name": "x"}]}}],
        (A, B),
        "it is not known what changes for 2 agents",
    ),
    "a policy that goes": ([], [row("p", GPT)], (A,), "1 agent would name a policy that no longer exists"),
    "a policy that comes": ([policy("p", GPT)], [], (A,), ""),
    "only what makes no calls, and what comes by another policy": (
        [policy("p", GPT)],
        [row("p", GPT, CLAUDE, strategy=FALLBACK)],
        (
            ConsumerUse(Consumer("denylist", "llm_denylist"), "llm_denylist"),
            ConsumerUse(Consumer("tenant default", "default_llm"), "default_llm"),
            ConsumerUse(Consumer("policy", "virtual-policy/q"), "policy.targets"),
            ConsumerUse(Consumer("agent", "c"), "llm", ("virtual-policy/q",)),
        ),
        "",
    ),
    "an agent whose collaborator is affected, and names where others are not": (
        [policy("p", GPT, CLAUDE, strategy=LESS)],
        [row("p", GPT, CLAUDE, strategy=FALLBACK)],
        (
            A,
            ConsumerUse(Consumer("agent", "front"), "collaborators", ("a",)),
            ConsumerUse(Consumer("control", "guard"), "model_ids"),
        ),
        "2 agents (a, front) lose failover while openai/gpt is down with 503, connect timeout",
    ),
    "an agent in a file that is live": (
        [policy("p", GPT, CLAUDE, strategy=LESS)],
        [row("p", GPT, CLAUDE, strategy=FALLBACK)],
        (A, ConsumerUse(Consumer("agent", "a", file="agents/a.yaml:4"), "llm")),
        "1 agent loses failover while openai/gpt is down with 503, connect timeout",
    ),
}


def using(review: Review, name: str, uses: tuple[ConsumerUse, ...], **unread: str) -> Review:
    return review._replace(consumers=FoundConsumers({name: uses}, unread))


@pytest.mark.parametrize("case", CASES)
def test_a_plan_claims_what_the_effect_proves(case: str) -> None:
    desired, rows, uses, expected = CASES[case]
    review = using(reviewed(desired, rows), P, uses)
    [change] = review.plan.changes
    assert losses_text(P, change.action, review.effects.get(P), review) == expected


def test_a_model_whose_calls_change_may_cost_its_users_anything() -> None:
    before, after = ({"custom_host": f"https://{host}.example"} for host in ("old", "new"))
    review = reviewed(
        [model("openai/gpt", provider_config=after)], [model_row("openai/gpt", provider_config=before)], Settings(models=True)
    )
    review = using(review, GPT, (A,))
    assert losses_text(GPT, "update", review.effects[GPT], review) == "it is not known what changes for 1 agent"
    assert losses_text(GPT, "update", Effect("metadata", sure=True, of_model=True), review) == ""


def test_where_a_list_could_not_be_read_there_may_be_more() -> None:
    review = using(reviewed([], [row("p", GPT)]), P, (A,), tools="403")
    assert losses_text(P, "remove", None, review) == "at least 1 agent would name a policy that no longer exists"
    assert losses_text(P, "remove", None, review._replace(consumers=None)) == ""


def test_those_that_lose_come_first() -> None:
    guard, late = ConsumerUse(Consumer("control", "guard"), "model_ids"), ConsumerUse(Consumer("agent", "z"), "llm")
    review = using(reviewed([], [row("p", GPT)]), P, (guard, late))
    lost = losses_by(P, "remove", None, review)
    assert affected_first((guard, late), lost) == [late, guard]
    assert affected_first((guard, late), None) == [guard, late]
