"""The rules, one by one: what is asked again, what moves a fallback on, what ends the walk. Facts: gateway portkey-1.15.2."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from policyctl.effect.course import Simulation, simulate
from policyctl.effect.gateway import FAILURES, MAX_REPEATS, Answer, RetryAfter, answer_text, answer_value, read_answer
from policyctl.effect.tree import read_tree
from tests.effect.rules import FALLS, NOT_WHOLE, RETRY, WAITS, fallback, single


def ask(body: Any, **script: list[Answer]) -> tuple[int | None, str]:
    """The status, and the calls as one word."""
    walked = simulate(read_tree({"policy": body}), script, Random(0).random)
    return walked.status, "".join(walked.models)


@pytest.mark.parametrize("rule", RETRY)
def test_what_is_asked_again(rule: str) -> None:
    body, answers, expected = RETRY[rule]
    assert ask(body, a=answers) == expected


@pytest.mark.parametrize("rule", FALLS)
def test_what_moves_a_fallback_on(rule: str) -> None:
    body, answer, expected = FALLS[rule]
    assert ask(body, a=[answer]) == expected


@pytest.mark.parametrize("case", NOT_WHOLE)
def test_what_is_not_whole_calls_no_model(case: str) -> None:
    body, status = NOT_WHOLE[case]
    tree = read_tree({"policy": body})
    assert simulate(tree, {}, Random(0).random) == Simulation(status, ())
    assert (tree.refused is not None) == (status == 400)


def test_a_refusal_shows_where() -> None:
    body = fallback(targets=("a", fallback(targets=("b", {"model_name": "c", "retry": {}}))))
    assert read_tree({"policy": body}).refused == "policy.targets[1].targets[1] has a retry without attempts"


def test_a_target_has_its_own_retry_or_the_nearest_one_whole() -> None:
    """A nested retry takes nothing of the outer one's list; a target may have its own; siblings keep the outer one."""
    inner = fallback(targets=("b", {"model_name": "c", "retry": {"attempts": 0}}), listed=False, retry={"attempts": 2})
    body = fallback(targets=("a", inner, "d"), listed=False, retry={"attempts": 1, "on_status_codes": [418]})
    assert ask(body, a=[418], b=[500], c=[500], d=[418]) == (418, "aabbbcdd")
    assert ask(body, b=[418], a=[500], c=[418], d=[500]) == (500, "abcd")


def test_a_target_without_a_model_is_asked_for_the_model_of_the_request() -> None:
    assert ask({"strategy": {"mode": "fallback"}, "targets": [{"weight": 1}, {}]}) == (200, "")
    assert (
        len(simulate(read_tree({"policy": {"strategy": {"mode": "fallback"}, "targets": [{}]}}), {}, Random(0).random).calls)
        == 1
    )


def test_waits_double_and_stop_at_the_next_target() -> None:
    walked = simulate(read_tree({"policy": fallback(listed=False, retry={"attempts": 4})}), {"a": [500]}, Random(0).random)
    assert [(call.model, call.wait) for call in walked.calls] == [("a", 0), ("a", 1), ("a", 2), ("a", 4), ("a", 8), ("b", 0)]
    assert walked.waited == 15


@pytest.mark.parametrize("rule", WAITS)
def test_a_retry_after_is_waited_for(rule: str) -> None:
    retry, answers, before_calls, together = WAITS[rule]
    switch = {} if rule.startswith("not without") else {"use_retry_after_header": True}
    walked = simulate(read_tree({"policy": single(**retry, **switch)}), {"a": answers}, Random(0).random)
    assert ([call.wait for call in walked.calls], walked.waited) == (before_calls, together)


def test_the_wait_after_the_last_attempt_is_the_next_targets_delay() -> None:
    """Measured: an upstream that asks for 7 s holds the failover back for 14 s, with one repeat."""
    retry = {"attempts": 1, "use_retry_after_header": True}
    tree = read_tree({"policy": fallback(listed=False, retry=retry)})
    walked = simulate(tree, {"a": [RetryAfter(7)]}, Random(0).random)
    assert [(call.model, call.wait) for call in walked.calls] == [("a", 0), ("a", 7), ("b", 7)]
    assert (walked.status, walked.waited, walked.wait) == (200, 14, 0)


def test_attempts_without_end_are_cut() -> None:
    walked = simulate(read_tree({"policy": single(attempts=1e300)}), {"a": [500]}, Random(0).random)
    assert len(walked.calls) == MAX_REPEATS + 1


@pytest.mark.parametrize("answer", [*FAILURES, "cut-stream", 200, 999, RetryAfter(0), RetryAfter(5), RetryAfter(3600)])
def test_an_answer_is_read_as_it_is_written(answer: Answer) -> None:
    assert read_answer(str(answer)) == answer


@pytest.mark.parametrize("answer", [*FAILURES, "cut-stream", 200, RetryAfter(5)])
def test_what_a_report_gives_to_machines_can_be_read_again(answer: Answer) -> None:
    assert read_answer(str(answer_value(answer))) == answer


def test_a_connect_that_hangs_is_called_a_connect_timeout() -> None:
    """People take a hang for a model that is slow, which is another failure."""
    assert read_answer("connect-timeout") == read_answer("hang") == "hang"
    assert (answer_text("hang"), answer_value("hang")) == ("connect timeout", "connect-timeout")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "20",
        "1000",
        "199",
        "٢٠٠",
        "refuse",
        "-200",
        "2e2",
        "200 ",
        "429 after",
        "429 after s",
        "429 after -1s",
        "503 after 5s",
    ],
)
def test_what_is_not_an_answer_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is not an answer; write a status from 200 to 999"):
        read_answer(text)
