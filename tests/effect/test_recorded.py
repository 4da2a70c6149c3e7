"""The engine does what the real gateway was recorded doing."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from policyctl.effect.course import simulate
from policyctl.effect.evaluate import evaluate
from policyctl.effect.tree import read_tree
from tests.effect.recorded import BACKOFF, CASES, SHARES


def test_status_and_calls_are_as_recorded() -> None:
    for case, one in CASES.items():
        walked = simulate(read_tree({"policy": one["policy"]}), one["script"], Random(1).random)
        assert (walked.status, walked.models) == (one["expect"]["status"], one["expect"]["calls"]), case


def test_the_evaluator_is_certain_of_what_was_recorded() -> None:
    certain = {case: one for case, one in CASES.items() if all(len(answers) == 1 for answers in one["script"].values())}
    assert len(certain) > 100
    for case, one in certain.items():
        policy, script, expect = (one[key] for key in ("policy", "script", "expect"))
        evaluation = evaluate(read_tree({"policy": policy}), {model: answers[0] for model, answers in script.items()})
        assert evaluation.statuses == {expect["status"]: 1.0}, case
        called = {model: number for model, number in evaluation.calls.items() if number}
        assert called == {model: expect["calls"].count(model) for model in expect["calls"]}, case


@pytest.mark.parametrize("case", BACKOFF)
def test_waits_are_as_recorded(case: str) -> None:
    policy, script, expect, seen = (BACKOFF[case][key] for key in ("policy", "script", "expect", "seen"))
    walked = simulate(read_tree({"policy": policy}), script, Random(1).random)
    assert (walked.status, walked.models) == (expect["status"], expect["calls"])
    assert [call.wait for call in walked.calls] == pytest.approx([0, *seen["gaps_s"]], abs=0.1)


# Intervals of 95% miss the truth now and then; these two misses are the recording's (2.5 were to be expected).
MISSED = {"w-all-missing-3", "w-independent"}


@pytest.mark.parametrize("case", SHARES)
def test_shares_are_within_the_recorded_intervals(case: str) -> None:
    recorded = SHARES[case]
    for answer, row in recorded["answers"]["table"].items():
        share = _share(recorded["policy"], recorded["script"], answer)
        assert share == pytest.approx(row["rule"], abs=1e-6)
        low, high = row["ci95"]
        assert low <= share <= high or (case in MISSED and not row["inside"])


def _share(policy: dict[str, Any], script: dict[str, list[Any]], answer: str) -> float:
    evaluation = evaluate(read_tree({"policy": policy}), {model: answers[0] for model, answers in script.items()})
    status, _, model = answer.partition(":")
    return evaluation.serves.get(model, 0.0) if model else evaluation.statuses[int(status)]
