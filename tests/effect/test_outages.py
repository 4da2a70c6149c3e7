"""The outage matrix, and who gets the traffic when nothing is broken."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from policyctl.effect.evaluate import evaluate
from policyctl.effect.outages import outages
from policyctl.effect.profile import FAILURES, Answer
from policyctl.effect.shares import model_shares, provider_of, provider_shares
from policyctl.effect.tree import read_tree
from tests import strategies
from tests.effect.policies import distorted_bodies, document, small_bodies
from tests.effect.simulation import every_request


@settings(max_examples=120)
@given(body=distorted_bodies)
def test_a_cell_is_the_evaluation_with_that_model_or_provider_down(body: dict[str, Any]) -> None:
    """For every failure: the matrix evaluates only one of each class, the evaluator knows no classes."""
    tree = read_tree(document(body))
    matrix = outages(tree)
    rows = [([model], row) for model, row in matrix.models.items()]
    for provider, row in matrix.providers.items():
        rows.append(([model for model in tree.models if provider_of(model) == provider], row))
    for down, row in rows:
        for failure, chance in zip(FAILURES, row, strict=True):
            assert chance == pytest.approx(evaluate(tree, dict.fromkeys(down, failure)).served, abs=1e-11)
    assert matrix.usual == evaluate(tree, {}).served


@settings(max_examples=120)
@given(body=small_bodies)
def test_shares_are_the_chances_of_serving_a_request(body: dict[str, Any]) -> None:
    shares = model_shares(read_tree(document(body)))
    requests = every_request(body, {})
    for model, share in shares.items():
        assert share == pytest.approx(
            sum(chance for request, chance in requests.items() if request.served_by == model), abs=1e-9
        )


@given(body=strategies.bodies)
def test_healthy_shares_of_what_a_file_may_say_sum_to_the_usual_chance(body: dict[str, Any]) -> None:
    tree = read_tree(document(body))
    shares = model_shares(tree)
    assert sum(shares.values()) == pytest.approx(outages(tree).usual, abs=1e-9)
    assert sum(provider_shares(shares).values()) == pytest.approx(sum(shares.values()), abs=1e-9)


A, B = "virtual-model/google/a", "virtual-model/openai/b"
OLD = {
    "strategy": {"mode": "loadbalance"},
    "retry": {"attempts": 3},
    "targets": [{"model_name": A, "weight": 3}, {"model_name": B, "weight": 1}],
}
NEW = {
    "strategy": {"mode": "fallback", "on_status_codes": [429, 503]},
    "retry": {"attempts": 3},
    "targets": [{"model_name": A}, {"model_name": B}],
}
WORKED: list[tuple[str, Answer, float, float]] = [
    (A, 503, 0.25, 1),
    (A, 500, 0.25, 0),
    (A, 408, 0.25, 0),
    (A, 401, 0.25, 0),
    (A, "hang", 0.25, 1),
    (A, "refused", 0.25, 0),
    (A, "broken-body", 0.25, 0),
    (B, 503, 0.75, 1),
    (B, 500, 0.75, 1),
]


@pytest.mark.parametrize(("model", "failure", "old", "new"), WORKED)
def test_the_worked_example_of_a_change_that_only_looks_safer(model: str, failure: Answer, old: float, new: float) -> None:
    cell = FAILURES.index(failure)
    assert outages(read_tree(document(OLD))).models[model][cell] == old
    assert outages(read_tree(document(NEW))).models[model][cell] == new


def test_a_provider_down_takes_all_its_models_down() -> None:
    targets = [{"model_name": f"virtual-model/google/{name}"} for name in "ab"]
    body = {"strategy": {"mode": "fallback"}, "targets": [*targets, {"model_name": B}]}
    matrix = outages(read_tree(document({**body, "targets": targets})))
    assert matrix.models["virtual-model/google/a"][FAILURES.index(500)] == 1
    assert matrix.providers["google"][FAILURES.index(500)] == 0
    assert outages(read_tree(document(body))).providers["google"][FAILURES.index(500)] == 1


def test_a_draw_of_nobody_is_no_failure_that_a_list_has() -> None:
    """Half of the requests draw the failing model and fall, half draw nobody and end there."""
    drawn = {"strategy": {"mode": "loadbalance"}, "targets": [{"model_name": A, "weight": -1}, {"model_name": B, "weight": -1}]}
    body = {"strategy": {"mode": "fallback", "on_status_codes": [500]}, "targets": [drawn, {"model_name": B}]}
    assert outages(read_tree(document(body))).models[A][FAILURES.index(500)] == 0.5


def test_what_a_policy_does_not_use_may_fail() -> None:
    matrix = outages(read_tree(document(OLD)))
    assert matrix.row("model", "virtual-model/x/unused") == (1,) * len(FAILURES)


def test_shares_that_should_be_one_are_one() -> None:
    """Ten times a tenth, in floats, is a little less."""
    targets = [{"model_name": f"virtual-model/x/{number % 2}", "weight": 0.1} for number in range(10)]
    shares = model_shares(read_tree(document({"strategy": {"mode": "loadbalance"}, "targets": targets})))
    assert provider_shares(shares) == {"x": 1.0}


@pytest.mark.parametrize(
    ("model", "provider"),
    [
        ("virtual-model/google/gemini-2.0-flash", "google"),
        ("virtual-model/a/b/c", "a"),
        ("virtual-model/google", None),
        ("virtual-model//x", None),
        ("google/gemini-2.0-flash", None),
        ("virtual-policy/google/x", None),
        ("", None),
    ],
)
def test_the_provider_is_what_stands_before_the_next_slash(model: str, provider: str | None) -> None:
    assert provider_of(model) == provider
