"""The normal form: documents that say the same thing have the same one, and it never raises."""

from __future__ import annotations

import copy
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.policy.document import canonical_text, digest, normal_form, references
from tests.strategies import documents, loose_documents


def document(**policy: Any) -> dict[str, Any]:
    return {"name": "x", "policy": policy}


def lb(*targets: Any, **more: Any) -> dict[str, Any]:
    return document(strategy={"mode": "loadbalance"}, targets=list(targets), **more)


def fb(*targets: Any, **strategy: Any) -> dict[str, Any]:
    return document(strategy={"mode": "fallback", **strategy}, targets=list(targets))


A, B = {"model_name": "a"}, {"model_name": "b"}

SAME = {
    "both spellings of the name": ({**lb(A), "name": "virtual-policy/x"}, lb(A)),
    "absent texts are the canonical name": ({**lb(A), "display_name": "virtual-policy/x", "description": None}, lb(A)),
    "absent weight is 1": (lb({**A, "weight": 1}), lb(A)),
    "1.0 is 1": (lb({**A, "weight": 1.0}), lb({**A, "weight": 1})),
    "null is absent": (lb({**A, "weight": None}, retry=None, cache=None), lb(A)),
    "order in a load balance": (lb(A, B), lb(B, A)),
    "order of codes": (fb(A, on_status_codes=[503, 429]), fb(A, on_status_codes=[429, 503])),
    "a code twice": (fb(A, on_status_codes=[503, 503]), fb(A, on_status_codes=[503])),
    "unknown keys": (lb({**A, "x": 1}, hooks=[1]), lb(A)),
    "the server's keys": ({**lb(A), "id": "1", "tenant_id": "t", "created_on": "now", "updated_at": "now"}, lb(A)),
    "order in a nested load balance": (
        fb({"strategy": {"mode": "loadbalance"}, "targets": [A, B]}),
        fb({"strategy": {"mode": "loadbalance"}, "targets": [B, A], "weight": 1}),
    ),
}

DIFFERENT = {
    "order in a fallback": (fb(A, B), fb(B, A)),
    "order in a single": (
        document(strategy={"mode": "single"}, targets=[A, B]),
        document(strategy={"mode": "single"}, targets=[B, A]),
    ),
    "an empty code list means never": (fb(A, on_status_codes=[]), fb(A)),
    "a target twice": (lb(A, A), lb(A)),
    "true is not 1": (lb({**A, "weight": True}), lb({**A, "weight": 1})),
    "a number is not its text": (lb({**A, "weight": "1"}), lb({**A, "weight": 1})),
    "an empty retry is a retry": (lb(A, retry={}), lb(A)),
    "an empty text is a text": ({**lb(A), "description": ""}, lb(A)),
}


@pytest.mark.parametrize("case", SAME)
def test_same(case: str) -> None:
    left, right = SAME[case]
    assert canonical_text(normal_form(left)) == canonical_text(normal_form(right))


@pytest.mark.parametrize("case", DIFFERENT)
def test_different(case: str) -> None:
    left, right = DIFFERENT[case]
    assert canonical_text(normal_form(left)) != canonical_text(normal_form(right))


@given(loose_documents | documents())
def test_idempotent_and_leaves_its_input_alone(doc: dict[str, Any]) -> None:
    before = copy.deepcopy(doc)
    once = normal_form(doc)
    assert canonical_text(normal_form(once)) == canonical_text(once)
    assert repr(doc) == repr(before)


@given(documents(), st.randoms())
def test_shuffling_load_balances_changes_nothing(doc: dict[str, Any], rng: random.Random) -> None:
    shuffled = copy.deepcopy(doc)

    def shuffle(group: dict[str, Any]) -> None:
        if group["strategy"]["mode"] == "loadbalance":
            rng.shuffle(group["targets"])
        for target in group["targets"]:
            if "targets" in target:
                shuffle(target)

    shuffle(shuffled["policy"])
    assert digest(normal_form(shuffled)) == digest(normal_form(doc))


def test_references_are_the_targets_that_are_not_models_at_any_depth() -> None:
    inner = {"strategy": {"mode": "single"}, "targets": [{"model_name": "virtual-policy/b"}]}
    doc = fb({"model_name": "virtual-model/google/g"}, {"model_name": "a"}, inner, {"model_name": 3}, None)
    assert references(doc) == {"virtual-policy/a", "virtual-policy/b"}
