"""The rules, one by one: what is asked again, what moves a fallback on, what ends the walk. Facts: gateway portkey-1.15.2."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest

from policyctl.effect.gateway import FAILURES, MAX_REPEATS, Answer, RetryAfter, answer_text, answer_value, read_answer
from policyctl.effect.simulate import Simulation, simulate
from policyctl.effect.tree import read_tree


def single(**retry: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"strategy": {"mode": "single"}, "targets": [{"model_name": "a"}]}
    return {**body, "retry": retry} if retry else body


def fallback(*codes: int, listed: bool = True, targets: tuple[Any, ...] = ("a", "b"), **more: Any) -> dict[str, Any]:
    strategy = {"mode": "fallback", **({"on_status_codes": list(codes)} if listed else {})}
    return {"strategy": strategy, "targets": [{"model_name": t} if isinstance(t, str) else t for t in targets], **more}


def ask(body: Any, **script: list[Answer]) -> tuple[int | None, str]:
    """The status, and the calls as one word."""
    walked = simulate(read_tree({"policy": body}), script, Random(0).random)
    return walked.status, "".join(walked.models)


RETRY: dict[str, tuple[Any, list[Answer], tuple[int, str]]] = {
    "refused is 500": (single(), ["refused"], (500, "a")),
    "refused is asked again whatever the list": (single(attempts=1, on_status_codes=[429]), ["refused", 200], (200, "aa")),
    "refused is asked again with an empty list": (single(attempts=2, on_status_codes=[]), ["refused"], (500, "aaa")),
    "refused is not asked again without attempts": (single(attempts=0), ["refused", 200], (500, "a")),
    "a hang is 503": (single(), ["hang"], (503, "a")),
    "a hang is asked again whatever the list": (single(attempts=1, on_status_codes=[429]), ["hang", 200], (200, "aa")),
    "407 is as refused": (single(attempts=1, on_status_codes=[]), [407, 407], (500, "aa")),
    "408 is not asked again by default": (single(attempts=1), [408, 200], (408, "a")),
    "408 is asked again when listed": (single(attempts=1, on_status_codes=[408]), [408, 200], (200, "aa")),
    "529 is not asked again by default": (single(attempts=1), [529, 200], (529, "a")),
    "a broken body is not asked again": (single(attempts=2), ["broken-body", 200], (500, "a")),
    "a broken body is a 200 to a list": (single(attempts=1, on_status_codes=[200]), ["broken-body", 200], (200, "aa")),
    "a cut stream is not asked again": (single(attempts=2), ["cut-stream", 200], (200, "a")),
    "a cut stream is not asked again with 200 listed": (
        single(attempts=1, on_status_codes=[200]),
        ["cut-stream", 200],
        (200, "a"),
    ),
    "205 is 500": (single(), [205], (500, "a")),
    "304 is 500": (single(), [304], (500, "a")),
    "304 is asked again when listed": (single(attempts=1, on_status_codes=[304]), [304, 200], (200, "aa")),
    "204 is a success": (single(), [204], (204, "a")),
    "a listed 204 that stays is 500": (single(attempts=1, on_status_codes=[204]), [204], (500, "aa")),
    "above 599 is 500": (single(), [700], (500, "a")),
    "421 is sent twice": (single(), [421, 200], (200, "aa")),
    "421 stays 421": (single(), [421], (421, "aa")),
    "421 is sent twice in every attempt": (single(attempts=1, on_status_codes=[421]), [421], (421, "aaaa")),
    "negative attempts are none": (single(attempts=-2), [500, 200], (500, "a")),
    "a fraction of an attempt is one": (single(attempts=1.5), [500], (500, "aaa")),
    "a listed success is asked again": (single(attempts=1, on_status_codes=[200]), [200, 201], (201, "aa")),
    "an unlisted answer ends it": (single(attempts=3), [500, 404, 200], (404, "aa")),
}


@pytest.mark.parametrize("rule", RETRY)
def test_what_is_asked_again(rule: str) -> None:
    body, answers, expected = RETRY[rule]
    assert ask(body, a=answers) == expected


INNER = fallback(targets=("a", "b"), listed=False)
EMPTY_FALLBACK = fallback(targets=(), listed=False)
EMPTY_SINGLE = {"strategy": {"mode": "single"}, "targets": []}
ALL_ZERO = {"strategy": {"mode": "loadbalance"}, "targets": [{"model_name": "a", "weight": 0}]}
FALLS: dict[str, tuple[Any, Answer, tuple[int | None, str]]] = {
    "a refused connection falls": (fallback(listed=False), "refused", (200, "ab")),
    "a refused connection is a 500 to a list": (fallback(500), "refused", (200, "ab")),
    "a refused connection does not fall on 503": (fallback(503), "refused", (500, "a")),
    "a hang is a 503 to a list": (fallback(503), "hang", (200, "ab")),
    "a hang does not fall on 500": (fallback(500), "hang", (503, "a")),
    "407 is a 500 to a list": (fallback(500), 407, (200, "ab")),
    "407 is no 407 to a list": (fallback(407), 407, (500, "a")),
    "a broken body ends the walk": (fallback(listed=False), "broken-body", (500, "a")),
    "a broken body ends the walk with 500 listed": (fallback(500), "broken-body", (500, "a")),
    "a broken body ends outer walks too": (fallback(targets=(INNER, "c"), listed=False), "broken-body", (500, "a")),
    "205 ends the walk": (fallback(205), 205, (500, "a")),
    "304 ends the walk": (fallback(listed=False), 304, (500, "a")),
    "above 599 ends the walk": (fallback(600), 600, (500, "a")),
    "a cut stream does not fall": (fallback(listed=False), "cut-stream", (200, "a")),
    "a cut stream does not fall with 200 listed": (fallback(200), "cut-stream", (200, "a")),
    "a cut stream does not fall in an outer walk": (fallback(targets=(INNER, "c"), listed=False), "cut-stream", (200, "a")),
    "204 does not fall": (fallback(listed=False), 204, (204, "a")),
    "226 does not fall": (fallback(listed=False), 226, (226, "a")),
    "300 falls": (fallback(listed=False), 300, (200, "ab")),
    "401 falls": (fallback(listed=False), 401, (200, "ab")),
    "an empty list never falls": (fallback(), 500, (500, "a")),
    "a listed success falls": (fallback(200), 200, (200, "ab")),
    "an empty fallback is passed over": (fallback(targets=(EMPTY_FALLBACK, "b"), listed=False), 200, (200, "b")),
    "an empty fallback ends one with a list": (fallback(500, targets=(EMPTY_FALLBACK, "b")), 200, (None, "")),
    "an empty single ends the request": (fallback(targets=(EMPTY_SINGLE, "b"), listed=False), 200, (500, "")),
    "all weights 0 are passed over": (fallback(targets=(ALL_ZERO, "b"), listed=False), 200, (200, "b")),
    "all weights 0 end one with a list": (fallback(500, targets=(ALL_ZERO, "b")), 200, (None, "")),
    "a last group without an answer has the last word": (fallback(targets=("a", ALL_ZERO), listed=False), 500, (None, "a")),
}


@pytest.mark.parametrize("rule", FALLS)
def test_what_moves_a_fallback_on(rule: str) -> None:
    body, answer, expected = FALLS[rule]
    assert ask(body, a=[answer]) == expected


LEAF = {"model_name": "a"}
NOT_WHOLE: dict[str, tuple[Any, int | None]] = {
    "no mapping": (["a"], 400),
    "nothing": (None, 400),
    "no targets": ({"strategy": {"mode": "fallback"}}, 400),
    "targets null": ({"strategy": {"mode": "fallback"}, "targets": None}, 400),
    "targets no list": ({"strategy": {"mode": "fallback"}, "targets": {"a": 1}}, 400),
    "a target that is no mapping": ({"strategy": {"mode": "fallback"}, "targets": [LEAF, "a"]}, 400),
    "no strategy": ({"targets": [LEAF]}, 400),
    "no strategy but retry": ({"retry": {"attempts": 1}, "targets": [LEAF]}, 500),
    "no strategy but cache": ({"cache": {"mode": "simple"}, "targets": [LEAF]}, 500),
    "no strategy, no targets, but retry": ({"retry": {"attempts": 1}}, 400),
    "strategy null": ({"strategy": None, "targets": [LEAF]}, 400),
    "no mode": ({"strategy": {}, "targets": [LEAF]}, 400),
    "another spelling": ({"strategy": {"mode": "Fallback"}, "targets": [LEAF]}, 400),
    "an unknown mode": ({"strategy": {"mode": "fastest"}, "targets": [LEAF]}, 400),
    "a mode that is no text": ({"strategy": {"mode": ["single"]}, "targets": [LEAF]}, 400),
    "codes null": ({"strategy": {"mode": "fallback", "on_status_codes": None}, "targets": [LEAF]}, 400),
    "codes as texts": ({"strategy": {"mode": "fallback", "on_status_codes": ["500"]}, "targets": [LEAF]}, 400),
    "codes as one number": ({"strategy": {"mode": "fallback", "on_status_codes": 500}, "targets": [LEAF]}, 400),
    "an empty retry": ({**single(), "retry": {}}, 400),
    "retry null": ({**single(), "retry": None}, 400),
    "retry without attempts": (single(on_status_codes=[500]), 400),
    "attempts null": (single(attempts=None), 400),
    "attempts true": (single(attempts=True), 400),
    "attempts as text": (single(attempts="2"), 400),
    "retry codes null": (single(attempts=1, on_status_codes=None), 400),
    "retry codes as texts": (single(attempts=1, on_status_codes=["500"]), 400),
    "a switch as text": (single(attempts=1, use_retry_after_header="true"), 400),
    "a switch null": (single(attempts=1, use_retry_after_header=None), 400),
    "a weight null": ({"strategy": {"mode": "single"}, "targets": [{**LEAF, "weight": None}]}, 400),
    "a weight as text": ({"strategy": {"mode": "single"}, "targets": [{**LEAF, "weight": "1"}]}, 400),
    "a weight that is infinite": ({"strategy": {"mode": "single"}, "targets": [{**LEAF, "weight": float("inf")}]}, 400),
    "a mistake in a target never asked": ({**single(), "targets": [LEAF, {**LEAF, "weight": "1"}]}, 400),
    "a mistake deep down": (fallback(targets=("a", fallback(targets=("a", {"strategy": {}, "targets": []})))), 400),
    "a nested group without strategy": (fallback(targets=({"targets": [LEAF]}, "b"), listed=False), 400),
    "an empty single": (EMPTY_SINGLE, 500),
    "an empty fallback": (EMPTY_FALLBACK, None),
    "an empty load balance": ({"strategy": {"mode": "loadbalance"}, "targets": []}, None),
    "all weights 0": (ALL_ZERO, None),
}


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


WAITS: dict[str, tuple[dict[str, Any], list[Answer], list[int], int]] = {
    "not without the switch": ({"attempts": 2}, [RetryAfter(9)], [0, 1, 2], 3),
    "and once more after the last attempt": ({"attempts": 1}, [RetryAfter(7)], [0, 7], 14),
    "later repeats wait no more by themselves": ({"attempts": 3}, [500, RetryAfter(5), 500, 500], [0, 1, 5, 0], 6),
    "a 200 ends it": ({"attempts": 3}, [RetryAfter(5), 200], [0, 5], 5),
    "60 s ends the attempts": ({"attempts": 3}, [RetryAfter(60)], [0], 0),
    "59 s does not": ({"attempts": 1}, [RetryAfter(59), 200], [0, 59], 59),
    "60 s in sum is waited": ({"attempts": 3}, [RetryAfter(30), RetryAfter(30), 200], [0, 30, 30], 60),
    "more than 60 s in sum ends the attempts": ({"attempts": 3}, [RetryAfter(30), RetryAfter(31)], [0, 30], 30),
    "0 means the usual wait": ({"attempts": 2}, [RetryAfter(0)], [0, 1, 2], 3),
    "a 429 that the list lacks is not asked again": ({"attempts": 2, "on_status_codes": [503]}, [RetryAfter(7)], [0], 0),
    "no attempts": ({"attempts": 0}, [RetryAfter(7)], [0], 0),
}


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
