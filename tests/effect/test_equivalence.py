"""When two policies do the same."""

from __future__ import annotations

from fractions import Fraction
from math import lcm
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.effect.analysis import compare
from policyctl.effect.equivalence import Always, Drawn, First, Form, Kind, ModelCall, canonical_form, kind_of
from policyctl.effect.evaluate import costs, evaluate
from policyctl.effect.gateway import RetryAfter
from policyctl.effect.tree import DeclaredModels, Tree, read_tree
from policyctl.effect.worst_case import Routes, max_calls, max_waits
from policyctl.policy.document import normal_form
from tests.effect.policies import TIMEOUTS, answers, bodies, body_of, distorted_bodies, document
from tests.examples import examples


def form_of(body: dict[str, Any]) -> Form:
    return canonical_form(read_tree(document(body)))


def kind(one: dict[str, Any], other: dict[str, Any]) -> Kind:
    return kind_of(one, other, read_tree(one), read_tree(other))


def written(form: Form) -> dict[str, Any]:
    """A form as a policy body again, so that the engine can walk it. The usual codes are written out."""
    if isinstance(form, ModelCall):
        retry = {"attempts": form.repeats or -1, "on_status_codes": list(form.codes), "use_retry_after_header": form.obeys}
        return {"strategy": {"mode": "single"}, "retry": retry, "targets": [{"model_name": form.model}]}
    if isinstance(form, Always):
        return {"strategy": {"mode": "fallback" if form.outcome == 0 else "single"}, "targets": []}
    if isinstance(form, First):
        codes = {} if form.codes is None else {"on_status_codes": list(form.codes)}
        return {"strategy": {"mode": "fallback", **codes}, "targets": [written(one) for one in form.forms]}
    scale = lcm(*(share.denominator for share, _ in form.forms))
    targets = [{**written(one), "weight": int(share * scale)} for share, one in form.forms]
    return {"strategy": {"mode": "loadbalance"}, "targets": targets}


@settings(max_examples=examples(120))
@given(body=distorted_bodies, answers=answers)
def test_the_form_never_changes_an_outcome(body: dict[str, Any], answers: dict[str, Any]) -> None:
    """Statuses, calls, reach and costs are those of the policy itself, whatever the models answer."""
    one, other = read_tree(document(body)), read_tree(document(written(form_of(body))))
    left, right = evaluate(one, answers), evaluate(other, answers)
    assert left.statuses == pytest.approx(right.statuses, abs=1e-9)
    for model in one.models:
        assert left.calls[model] == pytest.approx(right.calls.get(model, 0), abs=1e-9)
        assert left.reached[model] == pytest.approx(right.reached.get(model, 0), abs=1e-9)
        assert left.serves[model] == pytest.approx(right.serves.get(model, 0), abs=1e-9)
    spent = [_spent(tree, answers) for tree in (one, other)]
    assert spent[0] == pytest.approx(spent[1], abs=1e-8)


def _spent(tree: Tree, answers: dict[str, Any]) -> dict[Any, float]:
    found = costs(tree, answers)
    return {(status, cost): chance for status, spread in found.items() for cost, chance in spread.items() if chance > 1e-9}


@given(body=distorted_bodies)
def test_the_form_has_the_same_bounds(body: dict[str, Any]) -> None:
    one, other = (Routes(read_tree(document(each))) for each in (body, written(form_of(body))))
    assert max_calls(one).value == max_calls(other).value
    assert max_waits(one).value == max_waits(other).value


@given(body=distorted_bodies)
def test_the_form_of_a_form_is_itself(body: dict[str, Any]) -> None:
    assert form_of(written(form_of(body))) == form_of(body)


@given(body=distorted_bodies)
def test_nothing_moves_between_a_policy_and_its_form(body: dict[str, Any]) -> None:
    assert compare(document(body), document(written(form_of(body))), declared=DeclaredModels(TIMEOUTS)).kind != "effective"


@given(body=bodies, seed=st.integers(0, 99))
def test_the_order_of_a_load_balance_does_not_matter(body: dict[str, Any], seed: int) -> None:
    random = Random(seed)

    def shuffled(group: dict[str, Any]) -> dict[str, Any]:
        targets = [shuffled(target) if "targets" in target else target for target in group["targets"]]
        if group["strategy"]["mode"] == "loadbalance":
            random.shuffle(targets)
        return {**group, "targets": targets}

    assert form_of(shuffled(body)) == form_of(body)


@given(body=bodies)
def test_the_normal_form_of_a_policy_is_equivalent_to_it(body: dict[str, Any]) -> None:
    assert form_of(normal_form(document(body))["policy"]) == form_of(body)


A, B, C = "virtual-model/x/a", "virtual-model/x/b", "virtual-model/y/c"


def weighed(*weights: float, targets: tuple[Any, ...] = (A, B, C)) -> dict[str, Any]:
    whole = [{"model_name": target} if isinstance(target, str) else target for target in targets]
    return {
        "strategy": {"mode": "loadbalance"},
        "targets": [{**target, "weight": weight} for target, weight in zip(whole, weights, strict=False)],
    }


def retried(body: dict[str, Any], attempts: float, *codes: int) -> dict[str, Any]:
    return {**body, "retry": {"attempts": attempts, **({"on_status_codes": list(codes)} if codes else {})}}


def header(body: dict[str, Any], attempts: float, *codes: int, on: bool = True) -> dict[str, Any]:
    whole = retried(body, attempts, *codes)
    return {**whole, "retry": {**whole["retry"], "use_retry_after_header": on}}


ALIKE = {
    "weights scaled": (weighed(0.7, 0.2, 0.1), weighed(7, 2, 1)),
    "a weight of 0": (weighed(1, 1, 0), weighed(1, 1)),
    "a target written twice": (weighed(1, 2), weighed(1, 1, 1, targets=(A, B, B))),
    "a load balance of load balances": (weighed(1, 1, 2), weighed(1, 1, targets=(weighed(1, 1), C))),
    "single and its first target": (body_of("single", A, B), body_of("single", A)),
    "a group of one": (body_of("fallback", A, B), body_of("fallback", body_of("loadbalance", A), B)),
    "a fallback in one with the same list": (
        body_of("fallback", A, B, C, codes=[500]),
        body_of("fallback", body_of("fallback", A, B, codes=[500]), C, codes=[500]),
    ),
    "nothing after an empty list": (body_of("fallback", A, B, codes=[]), body_of("single", A)),
    "the usual codes written": (retried(body_of("single", A), 2), retried(body_of("single", A), 2, 504, 503, 502, 500, 429)),
    "a fraction of an attempt": (retried(body_of("single", A), 1.5), retried(body_of("single", A), 2)),
    "no attempts": (retried(body_of("fallback", A, B), 0, 500), body_of("fallback", A, B)),
    "negative attempts": (retried(body_of("single", A), -1, 500), body_of("single", A)),
    "the switch for Retry-After where no 429 is asked again": (
        header(body_of("single", A), 2, 503),
        retried(body_of("single", A), 2, 503),
    ),
    "the switch for Retry-After without attempts": (header(body_of("single", A), 0), body_of("single", A)),
    "retry here or there": (
        retried(body_of("fallback", A, B), 1),
        body_of("fallback", retried(body_of("single", A), 1), retried(body_of("single", B), 1)),
    ),
    "codes that no target ends with": (body_of("fallback", A, B, codes=[500, 205]), body_of("fallback", A, B, codes=[500])),
    "407 is asked again anyway": (retried(body_of("single", A), 1, 500, 407), retried(body_of("single", A), 1, 500)),
    "a codes list where nobody looks": (body_of("loadbalance", A, B, codes=[503]), body_of("loadbalance", A, B)),
    "a group that is passed over": (body_of("fallback", body_of("fallback"), A), body_of("single", A)),
}


@pytest.mark.parametrize("case", ALIKE)
def test_other_words_for_the_same(case: str) -> None:
    one, other = ALIKE[case]
    assert form_of(one) == form_of(other)
    assert kind(document(one), document(other)) == "equivalent"


UNLIKE: dict[str, tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = {
    "an empty list and none": (body_of("fallback", A, B, codes=[]), body_of("fallback", A, B), {A: 500}),
    "all failures listed but one": (
        body_of("fallback", A, B, codes=[code for code in range(400, 600) if code != 418]),
        body_of("fallback", A, B),
        {A: 418},
    ),
    "the order of a fallback": (body_of("fallback", A, B), body_of("fallback", B, A), {A: 500}),
    "a fallback of load balances, a load balance of fallbacks": (
        body_of("fallback", body_of("loadbalance", A, B), body_of("loadbalance", A, B)),
        body_of("loadbalance", body_of("fallback", A, B), body_of("fallback", B, A)),
        {A: 500},
    ),
    "an inner list that is narrower": (
        body_of("fallback", body_of("fallback", A, B, codes=[429]), C),
        body_of("fallback", A, B, C),
        {A: 500, C: 500},
    ),
    "a nested retry takes nothing from the outer one": (
        retried(body_of("fallback", retried(body_of("single", A), 1)), 3, 418),
        retried(body_of("single", A), 1, 418),
        {A: {418: 0.5, 200: 0.5}},
    ),
    "attempts of 0 switch an outer retry off": (
        retried(body_of("fallback", retried(body_of("single", A), 0), B), 1),
        retried(body_of("fallback", A, B), 1),
        {A: {500: 0.5, 200: 0.5}},
    ),
    "a retry of the default codes does not repeat 529": (
        retried(body_of("single", A), 1),
        retried(body_of("single", A), 1, 429, 500, 502, 503, 504, 529),
        {A: {529: 0.5, 200: 0.5}},
    ),
    "a retry with an empty list still repeats what is refused": (
        {**body_of("single", A), "retry": {"attempts": 1, "on_status_codes": []}},
        body_of("single", A),
        {A: {"refused": 0.5, 200: 0.5}},
    ),
    "the same model twice in a fallback": (body_of("fallback", A, A), body_of("single", A), {A: {500: 0.5, 200: 0.5}}),
    "weights of 0 among others": (weighed(1, 0), weighed(1, 1), {A: 500}),
    "a missing weight is 1, not the rest": (
        {**weighed(0.25), "targets": [{"model_name": A, "weight": 0.25}, {"model_name": B}]},
        weighed(0.25, 0.75),
        {A: 500},
    ),
    "weights inside a group do not reach out": (weighed(1, 1, targets=(weighed(5, 5), C)), weighed(5, 5, 1), {A: 500}),
    "an empty single ends the walk, an empty fallback does not": (
        body_of("fallback", body_of("single"), A),
        body_of("fallback", body_of("fallback"), A),
        {},
    ),
}


@pytest.mark.parametrize("case", UNLIKE)
def test_what_looks_alike_and_is_not(case: str) -> None:
    """Pinned with the answers that tell the two apart."""
    one, other, answers = UNLIKE[case]
    assert form_of(one) != form_of(other)
    assert kind(document(one), document(other)) == "effective"
    left, right = (evaluate(read_tree(document(body)), answers) for body in (one, other))
    assert not (left.statuses == pytest.approx(right.statuses) and left.calls == pytest.approx(right.calls))


def test_a_draw_that_may_draw_no_target_keeps_that_chance() -> None:
    """Twice a weight of -1: by the gateway's arithmetic half of the requests draw the first, and half draw no target."""
    half = Fraction(1, 2)
    assert form_of(weighed(-1, -1)) == Drawn(((half, Always(0)), (half, ModelCall(A, 0, ()))))


@settings(max_examples=examples(60))
@given(body=bodies)
def test_metadata_is_what_the_gateway_does_not_get(body: dict[str, Any]) -> None:
    one = document(body)
    assert kind(one, {**one, "description": "other", "display_name": "other"}) == "metadata"
    assert kind(one, one) == "metadata"


def test_the_normal_forms_differences_are_metadata() -> None:
    """What the plan would not even call a change is none here."""
    one = {**header(body_of("fallback", A, B, codes=[503, 429]), 1, on=False), "unknown": 1}
    other = {**retried(body_of("fallback", A, B, codes=[429, 503, 503]), 1)}
    assert kind(document(one), document(other)) == "metadata"


@pytest.mark.parametrize("attempts", [1, 2, -1])
def test_waiting_for_a_retry_after_is_another_behaviour(attempts: int) -> None:
    """Statuses and calls stay; the seconds of back-off do not."""
    one, other = document(header(body_of("fallback", A, B), attempts)), document(retried(body_of("fallback", A, B), attempts))
    assert kind(one, other) == "effective"
    spent = [costs(read_tree(policy), {A: RetryAfter(30)}) for policy in (one, other)]
    assert spent[0] != spent[1]


def test_a_cache_is_never_ironed_out() -> None:
    """A cache answers requests without any call, so another cache is another policy."""
    body = body_of("fallback", A, B)
    assert kind(document(body), document({**body, "cache": {"mode": "simple"}})) == "effective"


def test_adding_and_removing_is_effective() -> None:
    assert compare(None, document(body_of("single", A))).kind == "effective"
    assert compare(document(body_of("single", A)), None).kind == "effective"
