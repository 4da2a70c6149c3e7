"""Targets that are other policies: what they lead to, and what is known of those that cannot be followed."""

from __future__ import annotations

from itertools import pairwise

import pytest

from policyctl.effect.analysis import Effect, analyse, compare
from policyctl.effect.course import simulate
from policyctl.effect.evaluate import evaluate
from policyctl.effect.outages import outages
from policyctl.effect.tree import MAX_CHAIN, NOT_HERE, DeclaredModels, KnownPolicies, read_tree
from policyctl.effect.worst_case import Routes, max_waits
from policyctl.errors import NotKnown
from policyctl.policy.document import Document
from policyctl.policy.schema import MAX_TARGETS
from tests.effect.examples import A, B
from tests.effect.policies import body_of, document

INNER = {"name": "virtual-policy/inner", "policy": {**body_of("loadbalance", A, B), "retry": {"attempts": 2}}}


def test_a_target_that_is_another_policy_is_that_policys_outcome() -> None:
    """Its own retries hold inside. What is served counts no outer ones; the worst case counts them for the whole policy."""
    outer = {**body_of("fallback", "virtual-policy/inner", "virtual-model/x/c"), "retry": {"attempts": 5}}
    resolved = analyse(document(outer), {"virtual-policy/inner": INNER})
    assert resolved.tree.assumed == {"virtual-policy/inner": 5}
    assert resolved.models == {A: 0.5, B: 0.5, "virtual-model/x/c": 0}
    assert resolved.calls.value == 6 * 3 + 6
    assert resolved.failover.value == 31 + 6 * 3


def test_a_bare_name_may_be_another_policy() -> None:
    assert analyse(document(body_of("single", "inner")), {"virtual-policy/inner": INNER}).models == {A: 0.5, B: 0.5}


def test_a_target_with_the_prefix_of_models_is_a_model_whatever_policies_are_called() -> None:
    """Else a live policy of such a name would hide from every guard what a branch leads to."""
    decoy = f"virtual-policy/{B}"
    seen = analyse(document(body_of("single", B)), {decoy: {**document(body_of("single", A)), "name": decoy}})
    assert (seen.models, dict(seen.tree.assumed)) == ({B: 1.0}, {})


MISSING = KnownPolicies({}, whole=True)
TWICE = KnownPolicies({}, whole=True, unclear={"virtual-policy/inner": "the remote has several policies of this name"})
OTHER_HALF = body_of("loadbalance", "virtual-policy/inner", A)
# The policies that are known, and what a fallback of `inner` and another model serves when nothing fails.
UNFOLLOWED = {
    "not known here": (None, {"virtual-policy/inner": NOT_HERE}, (), 0.0),
    "several of one name": (TWICE, {"virtual-policy/inner": "the remote has several policies of this name"}, (), 0.0),
    "no such policy": (MISSING, {}, ("virtual-policy/inner",), 1.0),
}


@pytest.mark.parametrize("case", UNFOLLOWED)
def test_a_policy_that_cannot_be_followed_serves_no_request(case: str) -> None:
    """Of one that does not exist it is known how it fails; of the others not even that a fallback moves on from them."""
    known, unknown, missing, served = UNFOLLOWED[case]
    seen = analyse(document(body_of("fallback", "virtual-policy/inner", A)), known)
    assert (dict(seen.tree.unfollowed), seen.tree.missing, dict(seen.tree.assumed)) == (unknown, missing, {})
    assert seen.usual == served == 1 - outages(seen.tree).usual
    assert seen.models == ({A: 1.0} if missing else {"virtual-policy/inner": 1.0, A: 0.0})
    half = analyse(document(OTHER_HALF), known)
    assert half.usual == 0.5
    assert set(outages(half.tree).models[A]) == {1.0}
    assert evaluate(half.tree, {}).served == 0.5
    assert simulate(half.tree, {}, lambda: 0.0).status in (400, 500)


def test_what_a_policy_that_cannot_be_followed_answers_may_be_given() -> None:
    tree = read_tree(document(OTHER_HALF))
    assert evaluate(tree, {"virtual-policy/inner": 200}).served == 1
    assert simulate(tree, {"virtual-policy/inner": [200]}, lambda: 0.0).status == 200


def test_retries_around_policies_count_in_the_worst_case() -> None:
    """Each repeats the whole policy, the repeats inside it multiplied; the waits between are those of one retry each."""
    known = {
        "virtual-policy/outer": document(body_of("single", "virtual-policy/inner", attempts=2)),
        "virtual-policy/inner": document(body_of("fallback", A, B, attempts=1)),
    }
    seen = analyse(document(body_of("single", "virtual-policy/outer", attempts=3)), known, DeclaredModels({A: 10.0, B: 10.0}))
    calls, waits = 4 * 3 * 2 * 2, 7 + 4 * 3 + 4 * 3 * 2
    assert [(leg.model, leg.calls) for leg in seen.calls.legs] == [(A, 24), (B, 24)]
    assert (seen.calls.value, max_waits(Routes(seen.tree)).value) == (calls, waits)
    assert seen.latency is not None
    assert seen.latency.value == calls * 10 + waits
    assert seen.usual == 1


def test_the_wait_of_a_retry_around_a_load_balance_counts_once_whichever_is_drawn() -> None:
    known = {"virtual-policy/inner": document(body_of("loadbalance", A, B))}
    outer = document(body_of("fallback", "virtual-policy/inner", A, attempts=2))
    assert max_waits(Routes(read_tree(outer, known))).value == 3 + 3


AROUND = {
    "another list": ((1, [429]), (1, [503]), False),
    "a longer list": ((1, [429]), (1, [429, 503]), True),
    "more attempts": ((1, [429]), (2, [429]), True),
    "fewer attempts": ((2, [429]), (1, [429]), False),
    "a success on the list": ((1, [429]), (1, [200, 429]), False),
}


@pytest.mark.parametrize("case", AROUND)
def test_a_retry_around_a_policy_may_matter_to_what_is_served(case: str) -> None:
    """So nothing is proven of a change that takes one away, though no figure moves."""
    known = {"virtual-policy/inner": INNER}
    outer = body_of("single", "virtual-policy/inner")
    *both, sure = AROUND[case]
    one, other = (document({**outer, "retry": {"attempts": attempts, "on_status_codes": codes}}) for attempts, codes in both)
    effect = compare(one, other, known, known)
    assert (effect.kind, effect.sure) == ("effective", sure)


OPEN = KnownPolicies({}, whole=True, unclear={"virtual-policy/inner": "it is there twice"})
CLEAR = KnownPolicies({"virtual-policy/inner": INNER}, whole=True)
TO_INNER = body_of("fallback", "virtual-policy/inner", A)
# Two versions of a policy, each with what is known of others: neither is called better or worse than the other.
NOT_KNOWN = {
    "a target that becomes clear": ((TO_INNER, OPEN), (TO_INNER, CLEAR)),
    "a target that ceases to be clear": ((TO_INNER, CLEAR), (TO_INNER, OPEN)),
    "it comes": ((body_of("single", A), OPEN), (TO_INNER, OPEN)),
    "it goes": ((TO_INNER, OPEN), (body_of("single", A), OPEN)),
    "what is around it changes": ((TO_INNER, OPEN), (body_of("fallback", "virtual-policy/inner", B), OPEN)),
    "it is not known here": ((body_of("single", A), None), (TO_INNER, None)),
}


@pytest.mark.parametrize("case", NOT_KNOWN)
def test_nothing_is_claimed_of_a_change_that_involves_a_policy_which_is_not_known(case: str) -> None:
    (one, known), (other, then) = NOT_KNOWN[case]
    effect = compare(document(one), document(other), known, then)
    assert effect.unknown is not None
    assert effect.unknown.startswith("it leads to virtual-policy/inner, and what that one does is not known: ")
    assert effect == Effect("unknown", unknown=effect.unknown)


def test_a_policy_that_is_not_known_does_not_hide_that_nothing_changes() -> None:
    same = {"strategy": {"mode": "single"}, "targets": [TO_INNER]}
    assert compare(document(TO_INNER), document(TO_INNER), OPEN, OPEN).kind == "metadata"
    assert compare(document(TO_INNER), document(same), OPEN, OPEN).kind == "equivalent"


def test_policies_that_target_each_other_end_at_a_leaf() -> None:
    one = {**document(body_of("single", "virtual-policy/other")), "name": "virtual-policy/one"}
    other = document(body_of("single", "virtual-policy/one"))
    tree = read_tree(one, {"virtual-policy/one": one, "virtual-policy/other": other})
    assert len(tree.leaves) == 1
    assert tree.unfollowed == {"virtual-policy/one": "its targets lead back to it"}


def test_a_refused_policy_as_a_target_answers_400() -> None:
    broken = {"name": "virtual-policy/inner", "policy": {"targets": []}}
    seen = analyse(document(body_of("fallback", "virtual-policy/inner", A)), {"virtual-policy/inner": broken})
    assert seen.models == {A: 1}
    assert set(seen.reach) == {A}
    assert seen.calls.value == 1


def test_policies_that_double_at_every_step_are_not_known() -> None:
    """Eighteen policies, each targeting the next one twice, lead to 260,000 targets."""
    names = [f"virtual-policy/{number}" for number in range(19)]
    known = {name: document(body_of("fallback", after, after)) for name, after in pairwise(names)}
    with pytest.raises(NotKnown, match="it leads to more than 1,000 targets; those are too many to evaluate"):
        read_tree(known[names[0]], known)


def chain_of(length: int, end: str) -> dict[str, Document]:
    """Policies, each the target of the one before; the last one asks a model."""
    names = [f"virtual-policy/{number}" for number in range(length)]
    steps = dict(zip(names, [*names[1:], end], strict=True))
    return {name: {**document(body_of("fallback", after, B)), "name": name} for name, after in steps.items()}


def test_a_chain_of_policies_is_followed_to_its_end() -> None:
    old, new = chain_of(MAX_CHAIN + 1, A), chain_of(MAX_CHAIN + 1, "virtual-model/other/model")
    effect = compare(old["virtual-policy/0"], new["virtual-policy/0"], old, new)
    assert {(one.name, one.before, one.after) for one in effect.models} == {(A, 1, 0), ("virtual-model/other/model", 0, 1)}


@pytest.mark.slow
@pytest.mark.parametrize("length", [MAX_CHAIN + 2, 200, 5000])
def test_of_a_longer_chain_it_is_not_known_what_it_does(length: int) -> None:
    """Nor is a change at its far end called equivalent, though nothing differs as far as it was followed."""
    old, new = chain_of(length, A), chain_of(length, B)
    first = old["virtual-policy/0"]
    effect = compare(first, first, KnownPolicies(old, whole=True), KnownPolicies(new, whole=True))
    why = (
        f"it leads through more than {MAX_CHAIN} policies in a row; no more are followed, so what requests get was not computed"
    )
    assert effect == Effect("unknown", unknown=why)
    assert compare(first, {**first, "description": "other"}, old, old).kind == "metadata"


def test_a_policy_with_too_many_targets_is_not_known() -> None:
    many = document(body_of("fallback", *(f"virtual-model/a/{number}" for number in range(MAX_TARGETS + 1))))
    why = "it leads to more than 1,000 targets; those are too many to evaluate"
    few = document(body_of("fallback", A))
    assert compare(many, few) == Effect("unknown", unknown=why)
    assert compare(few, many) == Effect("unknown", unknown=why)
