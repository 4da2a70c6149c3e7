"""Random directories of policies that target each other: nothing that a change does to one of them goes without notice."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.effect.evaluate import Evaluation, evaluate
from policyctl.effect.gateway import Answer
from policyctl.effect.tree import KnownPolicies, read_tree
from policyctl.plan.safety import review
from policyctl.plan.settings import Settings
from policyctl.policy.live import observe_rows
from tests.builders import plan, policy
from tests.effect.policies import MODELS, document, small_bodies
from tests.examples import examples

Body = dict[str, Any]


@st.composite
def directories(draw: st.DrawFn) -> list[Body]:
    """Four policies of which each may target those before it, in place of some of its models."""
    found: list[Body] = []
    for number in range(4):
        names = st.sampled_from([*MODELS, *(f"virtual-policy/{other}" for other in range(number))])
        found.append(_renamed(draw(small_bodies), draw(st.fixed_dictionaries(dict.fromkeys(MODELS, names)))))
    return found


def _renamed(group: Body, names: dict[str, str]) -> Body:
    if "model_name" in group:
        return {**group, "model_name": names[group["model_name"]]}
    return {**group, "targets": [_renamed(target, names) for target in group["targets"]]} if "targets" in group else group


def inlined(group: Body, policies: list[Body]) -> Body:
    """The same without references: each is a group of its own, which no retry around it reaches."""
    name = group.get("model_name", "")
    if name.startswith("virtual-policy/"):
        body = inlined(policies[int(name.removeprefix("virtual-policy/"))], policies)
        own = {key: value for key, value in {"retry": {"attempts": 0}, **body}.items() if key != "weight"}
        return {**own, "weight": group["weight"]} if "weight" in group else own
    return {**group, "targets": [inlined(target, policies) for target in group["targets"]]} if "targets" in group else group


def does(body: Body, answers: dict[str, Answer]) -> tuple[dict[int | None, float], dict[str, float]]:
    seen: Evaluation = evaluate(read_tree(document(body)), answers)
    return (
        {status: round(chance, 9) for status, chance in seen.statuses.items() if chance > 1e-9},
        {model: round(share, 9) for model, share in seen.serves.items() if share > 1e-9},
    )


answers = st.dictionaries(st.sampled_from(MODELS), st.sampled_from([400, 404, 429, 500, 503, "refused"]), max_size=3)


@settings(max_examples=examples(30))
@given(directories(), answers)
def test_a_target_policy_does_what_it_does_by_itself(bodies: list[Body], given_answers: dict[str, Answer]) -> None:
    """As a group in its place would, but for retries around it."""
    known = KnownPolicies({f"virtual-policy/{number}": document(body) for number, body in enumerate(bodies)}, whole=True)
    for body in bodies:
        seen = evaluate(read_tree(document(body), known), given_answers)
        statuses, _ = does(inlined(body, bodies), given_answers)
        assert {status: round(chance, 9) for status, chance in seen.statuses.items() if chance > 1e-9} == statuses


@pytest.mark.slow
@settings(max_examples=examples(30))
@given(directories(), directories(), st.integers(0, 2), st.lists(answers, min_size=3, max_size=6))
def test_whatever_a_change_does_to_others_is_in_the_plan(
    bodies: list[Body], others: list[Body], changed: int, samples: list[dict[str, Answer]]
) -> None:
    after = [others[number] if number == changed else body for number, body in enumerate(bodies)]
    rows = [{"id": str(number), "name": str(number), "policy": body} for number, body in enumerate(bodies)]
    found = review(plan([policy(str(n), **body) for n, body in enumerate(after)], rows), observe_rows(rows), Settings())
    affected = {one.name for one in found.affected}
    for number, body in enumerate(bodies):
        name = f"virtual-policy/{number}"
        if number != changed and name not in affected:
            for sample in ({}, *samples):
                assert does(inlined(body, bodies), sample) == does(inlined(body, after), sample)
