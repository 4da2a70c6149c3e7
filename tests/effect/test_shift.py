"""When a comparison claims that only weights change, and with them what an outage costs."""

from __future__ import annotations

from typing import Any

import pytest

from policyctl.effect.analysis import Effect, compare
from policyctl.plan.effects import loses
from policyctl.report.effect_rows import effect_rows
from tests.effect.policies import document

GPT, GEMINI, CLAUDE, MINI = ("openai/gpt-4o", "google/gemini", "anthropic/claude", "openai/gpt-4o-mini")
SENTENCE = "only weights change: worse only while a model that gains is down, better only while one that loses is"
Body = dict[str, Any]


def target(one: str | Body, weight: float) -> Body:
    return {**(one if isinstance(one, dict) else {"model_name": f"virtual-model/{one}"}), "weight": weight}


def drawn(*targets: tuple[str | Body, float], **more: Any) -> Body:
    return {"strategy": {"mode": "loadbalance"}, "targets": [target(*one) for one in targets], **more}


def first(*targets: str | Body) -> Body:
    return {"strategy": {"mode": "fallback"}, "targets": [target(one, 1) for one in targets]}


def asked(model: str, attempts: int) -> Body:
    return {"model_name": f"virtual-model/{model}", "retry": {"attempts": attempts}}


def weighed(parts: tuple[str | Body, ...], weights: tuple[float, ...]) -> Body:
    return drawn(*zip(parts, weights, strict=True))


def compared(before: Body, after: Body) -> Effect:
    return compare(document(before), document(after))


PROVEN: dict[str, tuple[Body, Body]] = {
    "two models": (drawn((GPT, 0.95), (GEMINI, 0.05)), drawn((GPT, 0.8), (GEMINI, 0.2))),
    "a load balance before a fallback": (
        first(drawn((GPT, 0.5), (GEMINI, 0.5)), CLAUDE),
        first(drawn((GPT, 0.9), (GEMINI, 0.1)), CLAUDE),
    ),
    "models with retries": (
        drawn((asked(GPT, 2), 0.5), (asked(GEMINI, 2), 0.5)),
        drawn((asked(GPT, 2), 0.6), (asked(GEMINI, 2), 0.4)),
    ),
}


@pytest.mark.parametrize("case", PROVEN)
def test_a_shift_that_costs_what_the_shares_are_is_reported_in_one_sentence(case: str) -> None:
    effect = compared(*PROVEN[case])
    assert effect.shift
    assert not loses(effect)
    rows = list(effect_rows(effect))
    assert SENTENCE in rows
    assert not any(row.startswith("worse:") for row in rows)


GUARDED = (first(GPT, GEMINI), GPT, CLAUDE)
REPEATED = "429, 500, 502 to 504, connection failures"
ALONE = (asked(GPT, 0), asked(GPT, 3), CLAUDE)

OTHERS: dict[str, tuple[Body, Body, str]] = {
    "a model loses shares, and its outage costs more, since what serves instead lost its weight": (
        weighed(GUARDED, (0.9, 0.09, 0.01)),
        weighed(GUARDED, (0.01, 0.97, 0.02)),
        "worse: served 91% → 3% while openai/gpt-4o is down with any failure but a broken body",
    ),
    "a model gains less than its outage costs": (
        weighed(GUARDED, (0.5, 0.3, 0.2)),
        weighed(GUARDED, (0.1, 0.8, 0.1)),
        "worse: served 70% → 20% while openai/gpt-4o is down with any failure but a broken body",
    ),
    "a model keeps its share": (
        weighed((*GUARDED, MINI), (0.5, 0.3, 0.1, 0.1)),
        weighed((*GUARDED, MINI), (0.3, 0.5, 0.05, 0.15)),
        "worse: served 70% → 50% while openai/gpt-4o is down with any failure but a broken body",
    ),
    "a provider keeps its share, and only some of its models have another one behind them": (
        weighed((first(MINI, CLAUDE), GPT, GEMINI, CLAUDE), (0.4, 0.2, 0.3, 0.1)),
        weighed((first(MINI, CLAUDE), GPT, GEMINI, CLAUDE), (0.1, 0.5, 0.29, 0.11)),
        "worse: served 80% → 50% while provider openai is down with any failure but a broken body",
    ),
    "retries are lost, which shows in a partial failure only": (
        weighed(ALONE, (0.1, 0.89, 0.01)),
        weighed(ALONE, (0.89, 0.09, 0.02)),
        f"worse: served 98.99% → 91.1% while a tenth of the calls to openai/gpt-4o fail with {REPEATED}",
    ),
    "the cache changes besides": (
        drawn((GPT, 0.95), (GEMINI, 0.05), cache={"mode": "simple"}),
        drawn((GPT, 0.8), (GEMINI, 0.2)),
        "worse: served 95% → 80% while google/gemini is down with any failure",
    ),
}


@pytest.mark.parametrize("case", OTHERS)
def test_what_does_not_follow_from_the_shares_is_shown_and_counts_as_worse(case: str) -> None:
    before, after, row = OTHERS[case]
    effect = compared(before, after)
    assert not effect.shift
    assert loses(effect)
    rows = list(effect_rows(effect))
    assert row in rows
    assert SENTENCE not in rows


def test_a_partial_failure_does_not_hide_behind_an_outage_that_costs_less() -> None:
    before = drawn((asked(GPT, 3), 0.999), (first(GPT, CLAUDE), 0.001))
    after = drawn((asked(GPT, 0), 0.999), (GPT, 0.001))
    worse = [row for row in effect_rows(compared(before, after)) if row.startswith("worse:")]
    assert any("→ 90% while a tenth of the calls to openai/gpt-4o fail" in row for row in worse), worse
    assert any("0.1% → 0% while openai/gpt-4o is down" in row for row in worse), worse
