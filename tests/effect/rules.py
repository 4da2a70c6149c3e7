"""The rules of the profile, case by case, for the engine and for all that drives it."""

from __future__ import annotations

from typing import Any

from policyctl.effect.gateway import Answer, RetryAfter


def single(**retry: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"strategy": {"mode": "single"}, "targets": [{"model_name": "a"}]}
    return {**body, "retry": retry} if retry else body


def fallback(*codes: int, listed: bool = True, targets: tuple[Any, ...] = ("a", "b"), **more: Any) -> dict[str, Any]:
    strategy = {"mode": "fallback", **({"on_status_codes": list(codes)} if listed else {})}
    return {"strategy": strategy, "targets": [{"model_name": t} if isinstance(t, str) else t for t in targets], **more}


# The body of a policy, the answers of a, and the status and the calls that follow.
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
    "a mode that is not text": ({"strategy": {"mode": ["single"]}, "targets": [LEAF]}, 400),
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

# The retry, the answers of a, the waits before its calls, and all waits together.
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
