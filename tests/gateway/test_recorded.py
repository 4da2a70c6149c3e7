"""Over real HTTP the gateway does what the real one was recorded doing: statuses, the order of calls, waits, shares."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from policyctl.effect.course import simulate
from policyctl.effect.tree import read_tree
from tests.effect.recorded import BACKOFF, CASES, SHARES
from tests.gateway.live import EVENTS, Running, answer_of, chunk, event, sends

MODELS = ("a", "b", "c", "d", "e", "f")
# A client of the recorded gateway waits forever where no target is asked; this one answers.
NO_TARGET = {case for case, one in CASES.items() if one["expect"]["status"] is None}


@pytest.mark.slow
def test_status_and_calls_are_as_recorded(gateway: Running) -> None:
    for case, one in CASES.items():
        policy, script, expect = (one[key] for key in ("policy", "script", "expect"))
        gateway.take({"p": policy}, *MODELS)
        gateway.upstream.play(script)
        seen = gateway.chat().status_code, gateway.upstream.calls
        assert seen == (503 if case in NO_TARGET else expect["status"], expect["calls"]), case
        # The simulator, which is driven by the same course, sees the same.
        walked = simulate(read_tree({"policy": policy}), script, lambda: 0.0)
        waited = sum(call.wait for call in walked.calls)
        assert (walked.models, waited) == (gateway.upstream.calls, sum(gateway.waits)), case


@pytest.mark.parametrize("case", BACKOFF)
def test_waits_are_as_recorded(gateway: Running, case: str) -> None:
    policy, script, expect, seen = (BACKOFF[case][key] for key in ("policy", "script", "expect", "seen"))
    gateway.take({"p": policy}, *MODELS)
    gateway.upstream.play(script)
    assert (gateway.chat().status_code, gateway.upstream.calls) == (expect["status"], expect["calls"])
    assert gateway.waits == pytest.approx(seen["gaps_s"], abs=0.1)


FALLBACK = {"strategy": {"mode": "fallback"}, "targets": [{"model_name": "a"}, {"model_name": "b"}]}
EMPTY, FAILED = EVENTS + chunk(b""), EVENTS + event({"error": {"message": "no"}}) + chunk(b"")
# What was recorded of bodies: what a client gets, and which models are called.
BODIES: dict[str, tuple[bytes, int, str, list[str]]] = {
    "a 204 that names a type of content ends the walk": (
        b"HTTP/1.1 204 X\r\ncontent-type: application/json\r\n\r\n",
        500,
        "upstream_broken_answer",
        ["a"],
    ),
    "a 204 alone is a success": (answer_of(204, "a"), 204, "", ["a"]),
    "a page is a success": (b"HTTP/1.1 200 X\r\ncontent-type: text/html\r\ncontent-length: 3\r\n\r\n<p>", 200, "<p>", ["a"]),
    "a page with a 503 is a 503": (
        b"HTTP/1.1 503 X\r\ncontent-type: text/html\r\ncontent-length: 3\r\nconnection: close\r\n\r\n<p>",
        200,
        "b-200",
        ["a", "b"],
    ),
    "an error within a 200 is a success": (answer_of(200, "a", body={"error": "no"}), 200, '{"error": "no"}', ["a"]),
    "an empty stream is a success": (EMPTY, 200, "", ["a"]),
    "a stream with an error is a success": (FAILED, 200, '"no"', ["a"]),
}


@pytest.mark.parametrize("case", BODIES)
def test_what_a_body_makes_of_an_answer(gateway: Running, case: str) -> None:
    answer, status, text, calls = BODIES[case]
    gateway.take({"p": FALLBACK}, *MODELS)
    gateway.upstream.play({"a": [sends(answer)]})
    seen = gateway.chat()
    assert (seen.status_code, gateway.upstream.calls) == (status, calls)
    assert text in seen.text


REQUESTS = 400


@pytest.mark.slow
@pytest.mark.parametrize("case", SHARES)
def test_shares_are_those_of_the_rule(gateway: Running, case: str) -> None:
    """Within five standard deviations, which a right gateway leaves once in a million."""
    recorded = SHARES[case]
    gateway.take({"p": recorded["policy"]}, *MODELS)
    gateway.upstream.play(recorded["script"])
    seen: Counter[str] = Counter()
    for _ in range(REQUESTS):
        answer = gateway.chat()
        served = f":{answer.json()['model']}" if answer.status_code < 300 else ""
        seen[f"{answer.status_code}{served}"] += 1
    table: dict[str, dict[str, Any]] = recorded["answers"]["table"]
    assert seen.keys() <= table.keys()
    for answered, row in table.items():
        spread = (row["rule"] * (1 - row["rule"]) / REQUESTS) ** 0.5
        assert seen[answered] / REQUESTS == pytest.approx(row["rule"], abs=5 * spread + 1e-9), answered
