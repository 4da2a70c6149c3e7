"""Who uses a model, a provider or a policy, and what is left without it."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings

from policyctl.effect.evaluate import evaluate
from policyctl.effect.gateway import MAX_DEPTH
from policyctl.effect.tree import DeclaredModels, KnownPolicies, read_tree
from policyctl.effect.usage import Names, Use, Uses, names_in
from policyctl.policy.document import Document, model_names
from policyctl.policy.names import canonical_model
from tests.effect.examples import A, B
from tests.effect.policies import bodies, body_of, document
from tests.examples import examples

P, CHAT, MID = "virtual-policy/p", "virtual-policy/chat", "virtual-policy/mid"


def uses(pattern: str, known: dict[str, Document]) -> list[Use]:
    """All uses by `p`, whatever else is known."""
    wanted = names_in(known.values(), known.keys()).fitting(pattern)
    return list(Uses(wanted, KnownPolicies(known)).of(P, known[P]))


class Case(NamedTuple):
    """The policy `p` and others, what is asked for, and: share, condition, whether it is asked, the way, served without it."""

    body: dict[str, Any]
    pattern: str
    found: tuple[float | None, str, bool, tuple[str, ...], float | None]
    others: Mapping[str, Any] = MappingProxyType({})


CASES: dict[str, Case] = {
    "the first choice": Case(body_of("fallback", A, B, codes=[503]), A, (1, "", True, (), 0)),
    "the second": Case(body_of("fallback", A, B, codes=[503, 404]), B, (0, "when a answers 404 or 503", True, (), 1)),
    "the first of a list that moves on when it is gone": Case(body_of("fallback", A, B, codes=[404]), A, (1, "", True, (), 1)),
    "a share": Case(body_of("loadbalance", A, B), "google", (0.5, "", True, (), 0.5)),
    "a target that is never asked": Case(body_of("single", A, B), B, (0, "", False, (), 1)),
    "through another policy": Case(
        body_of("single", CHAT), A, (0.5, "", True, (CHAT,), 0.5), {CHAT: body_of("loadbalance", A, B)}
    ),
    "by itself and through another": Case(body_of("fallback", CHAT, A), A, (1, "", True, (), 0), {CHAT: body_of("single", A)}),
    "deep": Case(
        body_of("single", MID), A, (1, "", True, (MID, CHAT), 0), {MID: body_of("single", CHAT), CHAT: body_of("single", A)}
    ),
    "a policy": Case(body_of("fallback", A, CHAT), "chat", (0, "when a fails", True, (), 1), {CHAT: body_of("single", B)}),
    "a policy in a policy": Case(
        body_of("single", MID), CHAT, (1, "", True, (MID,), 0), {MID: body_of("single", "chat"), CHAT: body_of("single", B)}
    ),
    "a policy that is not known": Case(body_of("fallback", CHAT, A), CHAT, (1, "", True, (), 1)),
    "a model spelled without the prefix": Case(body_of("fallback", "openai/b", A), B, (1, "", True, (), 1)),
    "a model spelled in two ways": Case(body_of("loadbalance", "openai/b", B), "openai", (1, "", True, (), 0)),
    "beside a policy that may serve": Case(body_of("fallback", A, CHAT), A, (1, "", True, (), None)),
    "beside a policy that is never asked": Case(body_of("single", A, CHAT), A, (1, "", True, (), 0)),
}


@pytest.mark.parametrize("name", CASES)
def test_a_use_has_its_share_its_condition_and_its_way(name: str) -> None:
    case = CASES[name]
    known = {name: {"name": name, "policy": body} for name, body in {P: case.body, **case.others}.items()}
    (use,) = uses(case.pattern, known)
    assert (use.share, use.when, use.asked, use.through, use.served) == case.found


def test_what_a_policy_does_not_lead_to_is_not_used() -> None:
    known = {P: document(body_of("single", A)), CHAT: document(body_of("single", B))}
    assert uses(B, known) == []


UNTOLD = {
    "refused": ({"targets": [{"model_name": A}]}, "the gateway refuses this policy: policy has no strategy"),
    "too deep": (None, "groups are nested more than"),
    "a mode that is not known": (
        {"strategy": {"mode": "semantic"}, "targets": [{"model_name": A}]},
        'policy has mode "semantic", which policyctl does not know',
    ),
}


@pytest.mark.parametrize("name", UNTOLD)
def test_a_use_that_cannot_be_known_shows_why(name: str) -> None:
    body, why = UNTOLD[name]
    if body is None:
        body = body_of("single", A)
        for _ in range(MAX_DEPTH + 1):
            body = body_of("single", body)
    (use,) = uses(A, {P: document(body)})
    assert (use.share, use.served, use.asked) == (None, None, False)
    assert use.why.startswith(why)


def test_policies_that_target_each_other_use_each_other() -> None:
    known = {P: document(body_of("single", CHAT)), CHAT: document(body_of("fallback", P, A))}
    assert [use.through for use in uses(A, known)] == [(CHAT,)]
    assert [use.target for use in uses(CHAT, known)] == [CHAT]


def test_a_policy_beyond_which_nothing_is_known_is_reported() -> None:
    known = {P: document(body_of("fallback", MID, A)), MID: document(body_of("single", CHAT))}
    wanted = names_in(known.values(), known.keys()).fitting(A)
    assert list(Uses(wanted, KnownPolicies(known)).beyond(known[P])) == [CHAT]
    assert list(Uses(Names((), (CHAT,)), KnownPolicies(known)).beyond(known[P])) == []


def test_of_a_policy_whose_mode_is_not_known_no_use_is_denied() -> None:
    known = {
        P: document({"strategy": {"mode": "semantic"}, "routes": [{"model_name": A}]}),
        CHAT: {"name": CHAT, "policy": body_of("single", P)},
    }
    found = Uses(Names((A,), ()), KnownPolicies(known))
    why = 'policy has mode "semantic", which policyctl does not know'
    assert (list(found.of(P, known[P])), found.why_not_known(known[P])) == ([], why)
    assert found.why_not_known(known[CHAT]) == f"{P}: {why}"
    assert found.why_not_known(document(body_of("single", A))) is None


def test_declared_types_count_as_in_a_plan() -> None:
    """A model of another type than the policy's first serves no request, so nothing is lost without it."""
    known = {P: document(body_of("loadbalance", A, B))}
    (use,) = Uses(Names((B,), ()), KnownPolicies(known), DeclaredModels(types={A: "chat", B: "embedding"})).of(P, known[P])
    assert (use.share, use.asked, use.served) == (0, True, 0.5)


@settings(max_examples=examples(100))
@given(body=bodies)
def test_every_model_that_a_policy_names_is_used_and_its_absence_is_what_a_404_does(body: dict[str, Any]) -> None:
    one = document(body)
    for model in set(map(canonical_model, model_names(one))):
        (use,) = Uses(Names((model,), ()), KnownPolicies({})).of(P, one)
        if not use.why:
            assert use.served == evaluate(read_tree(one), {model: 404}).served
