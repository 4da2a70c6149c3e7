"""Models that are declared to be of another type than the requests that a policy takes: called, and never of any help."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.effect.analysis import analyse, compare
from policyctl.effect.course import simulate
from policyctl.effect.equivalence import kind_of
from policyctl.effect.evaluate import evaluate, model_shares
from policyctl.effect.outages import FAILURES, outages
from policyctl.effect.tree import DeclaredModels, Unfit, read_tree
from policyctl.policy.document import normal_form
from tests.effect.policies import MODELS, answers, bodies, document
from tests.examples import examples

A, B, C, D = MODELS
CHAT, EMBED = "chat", "embedding"


def declared(**types: str) -> DeclaredModels:
    """`a="chat"`: the type of the model whose name ends so."""
    return DeclaredModels(types={model: types[model[-1]] for model in MODELS if model[-1] in types})


def body(mode: str, *targets: Any, **strategy: Any) -> dict[str, Any]:
    made = [target if isinstance(target, dict) else {"model_name": target} for target in targets]
    return {"strategy": {"mode": mode, **strategy}, "targets": made}


@pytest.mark.parametrize(
    ("policy", "types", "takes", "unfit"),
    [
        (body("fallback", A, B), declared(a=CHAT, b=EMBED), CHAT, {B: EMBED}),
        (body("fallback", B, A), declared(a=CHAT, b=EMBED), EMBED, {A: CHAT}),
        (body("fallback", C, A, B), declared(a=CHAT, b=EMBED), CHAT, {B: EMBED}),
        (body("fallback", A, B), declared(a=CHAT, b="chat_vision"), CHAT, {}),
        (body("fallback", A, B), declared(a="chat_vision", b="completion"), CHAT, {B: "completion"}),
        (body("fallback", A, B), declared(b=EMBED), EMBED, {}),
        (body("fallback", A, B), declared(), None, {}),
        (body("single", A, B), declared(a=CHAT, b=EMBED), CHAT, {}),
        (body("loadbalance", B, A), declared(a=CHAT, b=EMBED), CHAT, {B: EMBED}),
        (body("loadbalance", B, A), declared(a=EMBED, b="completion"), "completion", {A: EMBED}),
        (body("fallback", body("loadbalance", B, A), C), declared(a=CHAT, b=EMBED, c=EMBED), CHAT, {B: EMBED, C: EMBED}),
    ],
)
def test_a_policy_takes_the_requests_of_its_first_target_that_has_a_type(
    policy: dict[str, Any], types: DeclaredModels, takes: str | None, unfit: dict[str, str]
) -> None:
    tree = read_tree(document(policy), None, types)
    assert (tree.takes, tree.unfit) == (takes, unfit)


@given(policy=bodies)
def test_what_a_policy_takes_does_not_depend_on_the_order_of_a_load_balance(policy: dict[str, Any]) -> None:
    """Plans compare normal forms, which have an order of their own there."""
    types = declared(a=EMBED, b=CHAT, c="completion")
    as_written = read_tree(document(policy), None, types)
    normal = read_tree(normal_form(document(policy)), None, types)
    assert (as_written.takes, as_written.unfit) == (normal.takes, normal.unfit)


@settings(max_examples=examples(150))
@given(policy=bodies, given_answers=answers, unfit=st.sets(st.sampled_from(MODELS[1:]), max_size=3))
def test_a_model_of_another_type_does_what_one_does_that_answers_400_instead_of_a_success(
    policy: dict[str, Any], given_answers: dict[str, dict[Any, float]], unfit: set[str]
) -> None:
    tree = read_tree(document(policy), None, DeclaredModels(types={A: CHAT} | dict.fromkeys(unfit, EMBED)))
    plain = read_tree(document(policy))
    failing = {
        model: {
            answer: chance
            for answer, chance in given_answers.get(model, {400: 1.0}).items()
            if not (isinstance(answer, int) and 200 <= answer <= 299)
        }
        for model in tree.unfit
    }
    for own in failing.values():
        own[400] = own.get(400, 0.0) + 1.0 - sum(own.values())
    # Such a model is never asked again after a 204, since it never gives one.
    seen = evaluate(tree, {**given_answers, **failing})
    wanted = evaluate(plain, {**given_answers, **failing})
    assert seen.statuses == pytest.approx(wanted.statuses)
    assert seen.calls == pytest.approx(wanted.calls)
    assert seen.serves == pytest.approx(wanted.serves)
    assert all(seen.serves[model] == 0 for model in tree.unfit)


@settings(max_examples=examples(80))
@given(policy=bodies, unfit=st.sets(st.sampled_from(MODELS[1:]), max_size=3))
def test_what_is_reported_of_outages_and_shares_counts_it_as_failing(policy: dict[str, Any], unfit: set[str]) -> None:
    tree = read_tree(document(policy), None, DeclaredModels(types={A: CHAT} | dict.fromkeys(unfit, EMBED)))
    plain = read_tree(document(policy))
    failing: dict[str, Any] = dict.fromkeys(tree.unfit, 400)
    matrix = outages(tree)
    assert 1 - matrix.usual == pytest.approx(evaluate(plain, failing).served)
    assert model_shares(tree) == pytest.approx({**evaluate(plain, failing).serves, **dict.fromkeys(tree.unfit, 0.0)})
    for model, row in matrix.models.items():
        for failures, lost in zip(matrix.classes, row, strict=True):
            for failure in FAILURES & failures.answers:
                assert 1 - lost == pytest.approx(evaluate(plain, {**failing, model: failure}).served, abs=1e-11)


def test_it_is_called_all_the_same() -> None:
    """So a guard about providers sees it."""
    seen = analyse(document(body("fallback", A, C, on_status_codes=[503])), None, declared(a=CHAT, c=EMBED))
    assert set(seen.reach) == {A, C}
    assert seen.calls.value == 2
    walked = simulate(seen.tree, {A: [503]}, lambda: 0.0)
    assert (walked.status, walked.models) == (400, [A, C])


def test_a_model_behind_it_is_reached_without_a_failure_of_its_own() -> None:
    seen = analyse(document(body("fallback", A, C, B)), None, declared(a=CHAT, c=EMBED))
    assert [[failure.model for failure in way] for way in seen.reach[B].ways] == [[A]]


def test_it_is_of_no_help_in_an_outage() -> None:
    old, new = document(body("fallback", A, C)), document(body("fallback", A, B))
    types = declared(a=CHAT, b=CHAT, c=EMBED)
    assert set(outages(read_tree(old, None, types)).models[A]) == {1.0}
    effect = compare(new, old, declared=types)
    assert effect.unfit == (Unfit(C, EMBED, CHAT),)
    assert {cell.after for cell in effect.worse if cell.name == A and cell.share == 1} == {0.0}
    assert compare(old, new, declared=types).unfit == ()


def test_versions_that_differ_in_what_serves_are_not_equivalent() -> None:
    chat_first, embed_first = (document(body("fallback", *order)) for order in ((A, A, C), (C, A, A)))
    types = declared(a=CHAT, c=EMBED)
    trees = [read_tree(one, None, types) for one in (chat_first, embed_first)]
    assert kind_of(chat_first, embed_first, *trees) == "effective"


def test_what_is_targeted_by_way_of_another_policy_counts() -> None:
    policies = {"virtual-policy/inner": {"name": "virtual-policy/inner", "policy": body("single", C)}}
    tree = read_tree(document(body("fallback", A, "inner")), policies, declared(a=CHAT, c=EMBED))
    assert tree.unfit == {C: EMBED}
