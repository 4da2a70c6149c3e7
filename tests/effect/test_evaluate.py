"""The exact evaluator against requests that are gone through one by one."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings

from policyctl.effect.course import simulate
from policyctl.effect.evaluate import Cost, costs, evaluate
from policyctl.effect.gateway import Answers
from policyctl.effect.tree import read_tree
from tests.effect.policies import MODELS, answers, bodies, document, scripts, small_bodies
from tests.effect.simulation import Request, Simulation, at_random, chosen, every_request, scripted
from tests.examples import examples


def _status_chances(requests: Mapping[Request, float]) -> dict[int | None, float]:
    found: defaultdict[int | None, float] = defaultdict(float)
    for request, chance in requests.items():
        found[request.status] += chance
    return found


@settings(max_examples=examples(120))
@given(body=small_bodies, answers=answers)
def test_every_number_is_that_of_all_requests_together(body: dict[str, Any], answers: dict[str, Any]) -> None:
    requests = every_request(body, answers)
    tree = read_tree(document(body))
    evaluation = evaluate(tree, answers)
    assert evaluation.statuses == pytest.approx(_status_chances(requests), abs=1e-12)
    served = sum(chance for request, chance in requests.items() if request.served_by is not None)
    assert evaluation.served == pytest.approx(served, abs=1e-9)
    for model in tree.models:
        calls = sum(request.calls.count(model) * chance for request, chance in requests.items())
        reached = sum(chance for request, chance in requests.items() if model in request.calls)
        serves = sum(chance for request, chance in requests.items() if request.served_by == model)
        assert evaluation.calls[model] == pytest.approx(calls, abs=1e-12)
        assert evaluation.reached[model] == pytest.approx(reached, abs=1e-12)
        assert evaluation.serves[model] == pytest.approx(serves, abs=1e-12)


@settings(max_examples=examples(120))
@given(body=small_bodies, answers=answers)
def test_costs_are_those_of_all_requests_together(body: dict[str, Any], answers: dict[str, Any]) -> None:
    found: defaultdict[tuple[int | None, Cost], float] = defaultdict(float)
    for request, chance in every_request(body, answers).items():
        found[request.status, Cost(len(request.calls), int(request.waited))] += chance
    exact = {
        (status, cost): chance
        for status, spread in costs(read_tree(document(body)), answers).items()
        for cost, chance in spread.items()
        if chance
    }
    assert exact == pytest.approx({key: chance for key, chance in found.items() if chance}, abs=1e-12)


@settings(max_examples=examples(120))
@given(body=bodies, script=scripts)
def test_the_walk_is_that_of_the_simulation(body: dict[str, Any], script: dict[str, list[Any]]) -> None:
    """Every load balance draws the last target that it may: the same choice on both sides."""
    expected = Simulation(body, scripted(script), lambda options: options[-1][0]).request()
    walked = simulate(read_tree(document(body)), script, lambda: 1 - 1e-12)
    assert (walked.status, tuple(walked.models), walked.waited) == (expected.status, expected.calls, expected.waited)


RATES: dict[str, dict[Any, float]] = {
    MODELS[0]: {200: 0.5, 429: 0.3, "refused": 0.2},
    MODELS[1]: {200: 0.6, 500: 0.3, "broken-body": 0.1},
    MODELS[2]: {200: 0.4, 503: 0.4, 400: 0.2},
    MODELS[3]: {200: 0.2, 408: 0.5, 421: 0.3},
}


def _nested(random: Random, depth: int) -> dict[str, Any]:
    mode = random.choice(["loadbalance", "fallback"])
    targets: list[dict[str, Any]] = []
    for _ in range(random.randint(2, 3)):
        target = _nested(random, depth - 1) if depth and random.random() < 0.6 else {"model_name": random.choice(MODELS)}
        targets.append({**target, "weight": random.choice([1, 2, 0.5])})
    group: dict[str, Any] = {"strategy": {"mode": mode}, "targets": targets}
    if random.random() < 0.5:
        group["strategy"]["on_status_codes"] = random.sample([400, 408, 429, 500, 503], 3)
    if random.random() < 0.5:
        group["retry"] = {"attempts": random.randint(0, 3)}
    return group


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_nested_policies_are_within_sampling_error_of_a_simulation(seed: int) -> None:
    body, requests = _nested(Random(seed), 3), 4000
    choose = at_random(seed)
    simulation = Simulation(body, chosen(RATES, choose), choose)
    sample = [simulation.request() for _ in range(requests)]
    evaluation = evaluate(read_tree(document(body)), RATES)
    statuses = Counter(request.status for request in sample)
    assert set(statuses) <= set(evaluation.statuses)
    for status, chance in evaluation.statuses.items():
        assert statuses[status] / requests == pytest.approx(chance, abs=5 * (chance * (1 - chance) / requests) ** 0.5 + 1e-9)
    for model, reached in evaluation.reached.items():
        seen = sum(model in request.calls for request in sample) / requests
        assert seen == pytest.approx(reached, abs=5 * (reached * (1 - reached) / requests) ** 0.5 + 1e-9)
    mean_calls = sum(len(request.calls) for request in sample) / requests
    assert sum(evaluation.calls.values()) == pytest.approx(mean_calls, rel=0.1)


def test_a_deep_policy_of_200_leaves_sums_to_one() -> None:
    """Chances stay chances where a naive enumeration would never end."""
    random, leaves = Random(5), 0

    def grow(depth: int) -> dict[str, Any]:
        nonlocal leaves
        if not depth:
            leaves += 1
            return {"model_name": f"virtual-model/{random.choice('xyz')}/{leaves}"}
        mode = "fallback" if depth % 2 else "loadbalance"
        return {
            "strategy": {"mode": mode},
            "retry": {"attempts": 2},
            "targets": [grow(depth - 1) for _ in range(2 + depth % 2)],
        }

    tree = read_tree(document(grow(6)))
    assert len(tree.leaves) == 216
    rates: dict[str, Answers] = {model: {200: 0.7, 500: 0.2, 404: 0.1} for model in tree.models}
    evaluation = evaluate(tree, rates)
    assert sum(evaluation.statuses.values()) == pytest.approx(1, abs=1e-12)
    spread = costs(tree, rates)
    assert sum(sum(of_status.values()) for of_status in spread.values()) == pytest.approx(1, abs=1e-12)
    expected = sum(cost.calls * chance for of_status in spread.values() for cost, chance in of_status.items())
    assert sum(evaluation.calls.values()) == pytest.approx(expected)
