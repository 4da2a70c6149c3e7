"""What requests run into, for answers in order against requests that are gone through one by one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from policyctl.effect.course import MAX_WALKS, Given, Observation, every_simulation, run_requests, streamed
from policyctl.effect.tree import read_tree
from policyctl.errors import PolicyctlError
from tests.effect.policies import MODELS, constant_answers, document, scripts, small_bodies
from tests.effect.simulation import every_scripted
from tests.examples import examples

A, B, C, _ = MODELS


@settings(max_examples=examples(100))
@given(body=small_bodies, script=scripts)
def test_answers_in_order_are_followed_through_every_draw(body: dict[str, Any], script: dict[str, list[Any]]) -> None:
    requests = every_scripted(body, script)
    tree = read_tree(document(body))
    seen = run_requests(tree, {A: (200,), **{model: tuple(answers) for model, answers in script.items()}})
    for status in {request.status for request in requests} | set(seen.statuses):
        expected = sum(chance for request, chance in requests.items() if request.status == status)
        assert seen.statuses.get(status, 0) == pytest.approx(expected, abs=1e-12)
    for model in tree.models:
        serves = sum(chance for request, chance in requests.items() if request.served_by == model)
        called = sum(chance for request, chance in requests.items() if model in request.calls)
        assert seen.serves[model] == pytest.approx(serves, abs=1e-12)
        assert seen.called[model] == pytest.approx(called, abs=1e-12)
    assert seen.max_calls == max(len(request.calls) for request in requests)
    assert seen.max_seconds == max(request.waited for request in requests)


def numbers(seen: Observation) -> dict[str, float]:
    """All numbers of an observation; statuses that no request has are left out."""
    statuses = {f"status {status}": chance for status, chance in seen.statuses.items() if chance > 1e-12}
    serves = {f"serves {model}": chance for model, chance in seen.serves.items()}
    called = {f"called {model}": chance for model, chance in seen.called.items()}
    return {**statuses, **serves, **called, "calls": seen.max_calls, "seconds": seen.max_seconds}


@settings(max_examples=examples(100))
@given(body=small_bodies, answers=constant_answers)
def test_an_answer_for_good_is_the_same_in_all_three_ways(body: dict[str, Any], answers: dict[str, Any]) -> None:
    tree = read_tree(document(body))
    for_good = pytest.approx(numbers(run_requests(tree, answers)), abs=1e-9)
    in_order = run_requests(tree, {A: (200,), **{model: (answer,) for model, answer in answers.items()}})
    by_chance = run_requests(tree, {model: {answer: 1.0} for model, answer in answers.items()})
    assert numbers(in_order) == for_good
    assert numbers(by_chance) == for_good


def test_every_walk_has_the_chance_of_its_draws_and_together_they_are_all() -> None:
    draw = {
        "strategy": {"mode": "loadbalance"},
        "targets": [{"model_name": A, "weight": 0.7}, {"model_name": B, "weight": 0.1}],
    }
    body = {"strategy": {"mode": "fallback"}, "targets": [draw, draw, draw, {"model_name": C}]}
    walks = list(every_simulation(read_tree(document(body)), {A: [500], B: [500, 200]}))
    assert sum(chance for chance, _ in walks) == pytest.approx(1)
    drawn = {"".join("B" if model == B else "A" for model in walk.models if model != C): chance for chance, walk in walks}
    a, b = 7 / 8, 1 / 8
    assert drawn == pytest.approx(
        {"AAA": a**3, "AAB": a * a * b, "ABA": a * a * b, "BAA": a * a * b, "ABB": a * b * b, "BAB": a * b * b, "BB": b * b}
    )


STREAMED: dict[str, tuple[Given, float]] = {
    "cut for good": ("cut-stream", 0),
    "unreadable for good": ("broken-body", 0),
    "in order": (("cut-stream",), 0),
    "in order, unreadable": (("broken-body",), 0),
    "by chance": ({"cut-stream": 0.25, "broken-body": 0.25, 200: 0.5}, 0.5),
    "a failure before the stream": (503, 1),
}


@pytest.mark.parametrize("case", STREAMED)
def test_a_stream_that_breaks_is_a_200_that_serves_no_one(case: str) -> None:
    """Measured: the client gets a 200, and the second target is never asked."""
    given, served = STREAMED[case]
    tree = read_tree(document({"strategy": {"mode": "fallback"}, "targets": [{"model_name": A}, {"model_name": B}]}))
    seen = run_requests(tree, {A: streamed(given)})
    assert seen.served == served
    assert seen.statuses == {200: 1}
    assert seen.called[B] == (given == 503)


def test_answers_in_order_and_chances_are_not_followed_together() -> None:
    tree = read_tree(document({"strategy": {"mode": "fallback"}, "targets": [{"model_name": A}, {"model_name": B}]}))
    with pytest.raises(PolicyctlError, match="in order and chances"):
        run_requests(tree, {A: (500,), B: {500: 0.5, 200: 0.5}})


@pytest.mark.slow
def test_too_many_ways_end_with_an_error_and_not_with_a_wait() -> None:
    draw = {"strategy": {"mode": "loadbalance"}, "targets": [{"model_name": A}, {"model_name": B}, {"model_name": C}]}
    tree = read_tree(document({"strategy": {"mode": "fallback"}, "targets": [draw] * 12}))
    assert run_requests(tree, dict.fromkeys((A, B, C), 500)).served == 0
    with pytest.raises(PolicyctlError, match=f"more than {MAX_WALKS:,} ways"):
        run_requests(tree, dict.fromkeys((A, B, C), (500,)))
