"""Which models a policy can lead to and what must fail before; what in it can never do anything."""

from __future__ import annotations

from itertools import combinations
from typing import Any

import pytest
from hypothesis import given, settings

from policyctl.effect.tree import read_tree
from policyctl.effect.usage import dead_configuration
from policyctl.effect.worst_case import Routes, reach
from policyctl.policy.names import short_names
from tests.effect.policies import bodies, body_of, document, small_bodies
from tests.effect.simulation import every_request
from tests.examples import examples

A, B, C, D = (f"virtual-model/google/{name}" for name in ("flash", "lite", "pro", "nano"))


def said(body: dict[str, Any]) -> dict[str, str]:
    """Per model, by its short name, the condition in words."""
    tree = read_tree(document(body))
    names = short_names(tree.models)
    return {names[model]: condition.said(names) for model, condition in reach(Routes(tree)).items()}


SAID: dict[str, tuple[dict[str, Any], dict[str, str]]] = {
    "healthy traffic needs no failure": (body_of("loadbalance", A, B), {"flash": "", "lite": ""}),
    "a list": (body_of("fallback", A, B, codes=[503, 429]), {"flash": "", "lite": "when flash answers 429 or 503"}),
    "one code": (body_of("fallback", A, B, codes=[429]), {"flash": "", "lite": "when flash answers 429"}),
    "no list": (body_of("fallback", A, B), {"flash": "", "lite": "when flash fails"}),
    "several in a row": (
        body_of("fallback", A, B, C, codes=[429]),
        {"flash": "", "lite": "when flash answers 429", "pro": "when flash and lite answer 429"},
    ),
    "different lists": (
        body_of("fallback", body_of("fallback", A, B, codes=[500]), C, codes=[429]),
        {"flash": "", "lite": "when flash answers 500", "pro": "when flash answers 429"},
    ),
    "one list in the other": (
        body_of("fallback", body_of("fallback", A, B, codes=[429, 500]), C, codes=[429]),
        {"flash": "", "lite": "when flash answers 429 or 500", "pro": "when flash answers 429 or 500 and lite answers 429"},
    ),
    "anything but": (
        body_of("fallback", body_of("fallback", A, B, codes=[429, 503]), C),
        {"flash": "", "lite": "when flash answers 429 or 503", "pro": "when flash fails with anything but 429 or 503"},
    ),
    "the same model twice fails once": (
        body_of("fallback", A, A, B),
        {"flash": "", "lite": "when flash fails"},
    ),
    "a listed success is no failure": (body_of("fallback", A, B, codes=[200]), {"flash": "", "lite": ""}),
    "nothing leads there": (body_of("fallback", A, B, codes=[]), {"flash": ""}),
    "every way, where several are the shortest": (
        body_of("fallback", A, body_of("loadbalance", C, D), B, codes=[429]),
        {
            "flash": "",
            "pro": "when flash answers 429",
            "nano": "when flash answers 429",
            "lite": "when flash and pro answer 429, or when flash and nano answer 429",
        },
    ),
    "a model that is drawn once more fails once": (
        body_of("fallback", A, body_of("loadbalance", C, A), B),
        {"flash": "", "pro": "when flash fails", "lite": "when flash fails"},
    ),
    "the least of several ways": (
        body_of("loadbalance", body_of("fallback", A, B, C), body_of("fallback", D, C)),
        {"flash": "", "lite": "when flash fails", "pro": "when nano fails", "nano": ""},
    ),
}


@pytest.mark.parametrize("case", SAID)
def test_the_condition_in_words(case: str) -> None:
    body, expected = SAID[case]
    assert said(body) == expected


def test_models_of_one_name_keep_their_provider() -> None:
    names = short_names([A, "virtual-model/openai/flash", "virtual-model/openai/gpt", "virtual-policy/x", "plain"])
    assert list(names.values()) == ["google/flash", "openai/flash", "gpt", "x", "plain"]


ANSWERS = (200, 204, 400, 408, 429, 500, 503)


@settings(max_examples=examples(60))
@given(body=small_bodies)
def test_what_is_reached_is_what_some_request_calls(body: dict[str, Any]) -> None:
    """By trying answers that include every code of the lists, one for each target of a model in turn."""
    tree = read_tree(document(body))
    found = set(reach(Routes(tree)))
    assert found <= set(tree.models)
    for model in found:
        condition = reach(Routes(tree))[model]
        named = {frozenset(failure.model for failure in way) for way in condition.ways}
        for failing in combinations(tree.models, condition.least):
            assert _reachable(body, model, set(failing)) == (frozenset(failing) in named), condition
        for fewer in combinations(tree.models, condition.least - 1) if condition.least else ():
            assert not _reachable(body, model, set(fewer)), condition
    for model in set(tree.models) - found:
        assert not _reachable(body, model, set(tree.models))


def _reachable(body: dict[str, Any], model: str, failing: set[str]) -> bool:
    """Whether some request calls a model while only these models fail: each draw and each answer of theirs is tried."""
    answers: dict[str, dict[Any, float]] = {name: dict.fromkeys((*ANSWERS, 421), 0.1) for name in failing}
    stripped = _without_retries(body)
    return any(model in request.calls for request in every_request(stripped, answers))


def _without_retries(group: dict[str, Any]) -> dict[str, Any]:
    """Repeats change how often a model is asked, not who is."""
    kept = {key: value for key, value in group.items() if key != "retry"}
    return {**kept, "targets": [_without_retries(target) for target in kept["targets"]]} if "targets" in kept else kept


DEAD: dict[str, tuple[dict[str, Any], list[tuple[str, str | None, str]]]] = {
    "nothing": (body_of("fallback", A, B), []),
    "a second target under single": (
        body_of("single", A, B),
        [("policy.targets[1]", B, "single asks its first target only")],
    ),
    "a weight of 0": (
        body_of("loadbalance", {"model_name": A, "weight": 0}, B),
        [("policy.targets[0]", A, "its weight is never drawn")],
    ),
    "an empty list": (
        body_of("fallback", A, B, codes=[]),
        [("policy.targets[1]", B, "the empty code list of the fallback moves on from nothing")],
    ),
    "codes that no target ends with": (
        body_of("fallback", A, B, codes=[205, 407]),
        [
            ("policy.strategy.on_status_codes", None, "no target ends with 205, 407"),
            ("policy.targets[1]", B, "no outcome moves the fallback on from targets[0]"),
        ],
    ),
    "a group that asks nobody and ends the walk": (
        body_of("fallback", body_of("single"), B),
        [
            ("policy.targets[0]", None, "it calls no model"),
            ("policy.targets[1]", B, "no outcome moves the fallback on from targets[0]"),
        ],
    ),
    "codes and weights that nobody looks at": (
        body_of("loadbalance", body_of("fallback", {"model_name": A, "weight": 0.5}, B), codes=[503]),
        [
            ("policy.strategy.on_status_codes", None, "loadbalance does not look at status codes"),
            ("policy.targets[0].targets[0].weight", None, "fallback does not look at weights"),
        ],
    ),
    "of a refused policy nothing is said": ({"strategy": {"mode": "x"}, "targets": []}, []),
}


@pytest.mark.parametrize("case", DEAD)
def test_dead_configuration_has_a_witness(case: str) -> None:
    body, expected = DEAD[case]
    assert [tuple(dead) for dead in dead_configuration(document(body))] == expected


@settings(max_examples=examples(120))
@given(body=bodies)
def test_dead_targets_are_those_that_reach_does_not_have(body: dict[str, Any]) -> None:
    """A model that is in dead targets only is not reached, and every model elsewhere is."""
    dead = {one.path for one in dead_configuration(document(body)) if ".weight" not in one.path}
    alive = {model for path, model in _leaves(body, "policy") if not any(path.startswith(place) for place in dead)}
    assert alive == set(reach(Routes(read_tree(document(body)))))


def _leaves(group: dict[str, Any], path: str) -> list[tuple[str, str]]:
    if "targets" not in group:
        return [(f"{path}.", group["model_name"])]
    return [leaf for place, target in enumerate(group["targets"]) for leaf in _leaves(target, f"{path}.targets[{place}]")]
