"""The outage matrix, and who gets the traffic when nothing is broken."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.effect.evaluate import evaluate, model_shares, provider_shares
from policyctl.effect.gateway import Answer
from policyctl.effect.outages import FAILURES, Outages, one_failure, outages, served
from policyctl.effect.tree import Tree, read_tree
from policyctl.policy.names import provider_of
from tests import strategies
from tests.effect.examples import NEW, OLD, A, B
from tests.effect.policies import distorted_bodies, document, small_bodies
from tests.effect.simulation import every_request
from tests.examples import examples


def downs(matrix: Outages, tree: Tree) -> Iterator[tuple[list[str], tuple[float, ...]]]:
    """The models that are down together, and the row for it."""
    yield from (([model], row) for model, row in matrix.models.items())
    for provider, row in matrix.providers.items():
        yield [model for model in tree.models if provider_of(model) == provider], row


@settings(max_examples=examples(120))
@given(body=distorted_bodies, data=st.data())
def test_a_cell_is_the_evaluation_with_that_model_or_provider_down(body: dict[str, Any], data: st.DataObject) -> None:
    """For every answer of a class: the matrix evaluates only one of each class, the evaluator knows no classes."""
    tree = read_tree(document(body))
    matrix = outages(tree)
    classes = [one.answers for one in matrix.classes]
    assert frozenset().union(*classes) >= FAILURES
    assert sum(map(len, classes)) == len(frozenset().union(*classes)), "an answer is in one class only"
    for down, row in downs(matrix, tree):
        for answers, lost in zip(classes, row, strict=True):
            failure = data.draw(st.sampled_from(sorted(answers, key=str)))
            assert served(lost) == pytest.approx(evaluate(tree, dict.fromkeys(down, failure)).served, abs=1e-11)
    assert served(matrix.usual) == evaluate(tree, {}).served


@settings(max_examples=examples(120))
@given(body=distorted_bodies, share=st.sampled_from([0.1, 0.5, 0.9]), data=st.data())
def test_a_cell_of_a_partial_failure_is_the_evaluation_with_that_share_failing(
    body: dict[str, Any], share: float, data: st.DataObject
) -> None:
    tree = read_tree(document(body))
    matrix = outages(tree, share=share)
    for down, row in downs(matrix, tree):
        for one, lost in zip(matrix.classes, row, strict=True):
            failure = data.draw(st.sampled_from(sorted(one.answers, key=str)))
            chances: dict[Answer, float] = {failure: share, 200: 1 - share}
            assert served(lost) == pytest.approx(evaluate(tree, dict.fromkeys(down, chances)).served, abs=1e-11)


@pytest.mark.parametrize("answer", [205, 304])
def test_an_answer_on_one_list_of_a_fallback_and_of_a_retry_is_repeated(answer: int) -> None:
    """The fallback takes an answer without a body for a 0 and ends; the retry has it on its list and asks again."""
    body = {
        "strategy": {"mode": "fallback", "on_status_codes": [answer]},
        "retry": {"attempts": 1, "on_status_codes": [answer]},
        "targets": [{"model_name": A}],
    }
    matrix = outages(read_tree(document(body)), share=0.1)
    lost = {failure: lost for one, lost in zip(matrix.classes, matrix.models[A], strict=True) for failure in one.answers}
    assert lost[answer] == pytest.approx(0.01)
    assert lost["broken-body"] == pytest.approx(0.1)


def test_tiny_chances_of_losing_a_request_stay_apart() -> None:
    """One minus a chance of 10^-20 and one minus 10^-21 are both 1."""
    for attempts in (19, 20):
        body = {"strategy": {"mode": "single"}, "retry": {"attempts": attempts}, "targets": [{"model_name": A}]}
        row = outages(read_tree(document(body)), [one_failure(503)], 0.1).models[A]
        assert row == pytest.approx((0.1 ** (attempts + 1),), rel=1e-9)


@settings(max_examples=examples(120))
@given(body=small_bodies)
def test_shares_are_the_chances_of_serving_a_request(body: dict[str, Any]) -> None:
    shares = model_shares(read_tree(document(body)))
    requests = every_request(body, {})
    for model, share in shares.items():
        assert share == pytest.approx(
            sum(chance for request, chance in requests.items() if request.served_by == model), abs=1e-9
        )


@given(body=strategies.bodies)
def test_healthy_shares_of_what_a_file_may_contain_sum_to_the_usual_chance(body: dict[str, Any]) -> None:
    tree = read_tree(document(body))
    shares = model_shares(tree)
    assert sum(shares.values()) == pytest.approx(served(outages(tree).usual), abs=1e-9)
    of_providers = sum(share for model, share in shares.items() if provider_of(model))  # a model may have none
    assert sum(provider_shares(shares).values()) == pytest.approx(of_providers, abs=1e-9)


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


def chance(body: dict[str, Any], kind: str, name: str, failure: Answer) -> float:
    """The chance of being served while that is down."""
    return served(outages(read_tree(document(body)), [one_failure(failure)]).row(kind, name)[0])


@pytest.mark.parametrize(("model", "failure", "old", "new"), WORKED)
def test_the_worked_example_of_a_change_that_only_looks_safer(model: str, failure: Answer, old: float, new: float) -> None:
    assert chance(OLD, "model", model, failure) == old
    assert chance(NEW, "model", model, failure) == new


def test_a_provider_down_takes_all_its_models_down() -> None:
    targets = [{"model_name": f"virtual-model/google/{name}"} for name in "ab"]
    body = {"strategy": {"mode": "fallback"}, "targets": [*targets, {"model_name": B}]}
    without = {**body, "targets": targets}
    assert chance(without, "model", "virtual-model/google/a", 500) == 1
    assert chance(without, "provider", "google", 500) == 0
    assert chance(body, "provider", "google", 500) == 1


def test_a_draw_of_no_target_is_not_a_failure_that_a_list_has() -> None:
    """Half of the requests draw the failing model and fall, half draw no target and end there."""
    drawn = {"strategy": {"mode": "loadbalance"}, "targets": [{"model_name": A, "weight": -1}, {"model_name": B, "weight": -1}]}
    body = {"strategy": {"mode": "fallback", "on_status_codes": [500]}, "targets": [drawn, {"model_name": B}]}
    assert chance(body, "model", A, 500) == 0.5


def test_what_a_policy_does_not_use_may_fail() -> None:
    assert chance(OLD, "model", "virtual-model/x/unused", 500) == 1


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
        ("google/gemini-2.0-flash", "google"),
        ("groq/openai/gpt-oss-120b", "groq"),
        ("gemini-2.0-flash", None),
        ("virtual-policy/google/x", None),
        ("", None),
    ],
)
def test_the_provider_is_the_first_part_with_or_without_the_prefix(model: str, provider: str | None) -> None:
    assert provider_of(model) == provider
