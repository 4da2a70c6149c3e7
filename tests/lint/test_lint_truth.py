"""What a rule calls dead, ignored or without effect changes no request: shown on random policies by a small gateway."""

from __future__ import annotations

import random
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.lint.catalogue import LINT_CODES
from policyctl.lint.families import lint

MODELS = [f"virtual-model/x/{name}" for name in "abc"]
CODES = [200, 205, 304, 400, 407, 429, 500, 503]
DEFAULT_RETRY = [429, 500, 502, 503, 504]


class Ended(Exception):
    """The gateway ends the request with a 500 of its own."""


class Gateway:
    """One request through a policy, by the gateway profile portkey-1.15.2; models answer in turn, the last answer sticks."""

    def __init__(self, answers: dict[str, list[int]], seed: int) -> None:
        self.answers = answers
        self.seed = seed
        self.calls: list[str] = []

    def request(self, policy: dict[str, Any]) -> tuple[int, list[str]]:
        try:
            return self.group(policy, None, ()), self.calls
        except Ended:
            return 500, self.calls

    def group(self, group: dict[str, Any], retry: dict[str, Any] | None, path: tuple[int, ...]) -> int:
        retry = group.get("retry", retry)
        mode, targets = group["strategy"]["mode"], list(enumerate(group["targets"]))
        codes = group["strategy"].get("on_status_codes")
        if mode == "single":
            targets = targets[:1]
        elif mode == "loadbalance":
            targets = random.Random(f"{self.seed} {path}").choices(targets, [target.get("weight", 1) for _, target in targets])
        status = 0
        for position, target in targets:
            status = self.target(target, retry, (*path, position))
            moves_on = not 200 <= status <= 299 if codes is None else status in codes
            if mode != "fallback" or not moves_on:
                break
        return status

    def target(self, target: dict[str, Any], retry: dict[str, Any] | None, path: tuple[int, ...]) -> int:
        return self.group(target, retry, path) if "targets" in target else self.model(target["model_name"], retry or {})

    def model(self, name: str, retry: dict[str, Any]) -> int:
        codes = retry.get("on_status_codes", DEFAULT_RETRY)
        for left in range(retry.get("attempts", 0), -1, -1):
            answers = self.answers[name]
            status = answers[min(self.calls.count(name), len(answers) - 1)]
            self.calls.append(name)
            if not left or not (status == 407 or status in codes):
                break
        if status in (205, 304):
            raise Ended
        return 500 if status == 407 else status


def _at(policy: dict[str, Any], path: tuple[str | int, ...]) -> Any:
    here: Any = {"policy": policy}
    for part in path:
        here = here[part]
    return here


def _drop(policy: dict[str, Any], path: tuple[str | int, ...]) -> None:
    del _at(policy, path[:-1])[path[-1]]


def _only_first(policy: dict[str, Any], path: tuple[str | int, ...]) -> None:
    del _at(policy, path)["targets"][1:]


def _single(policy: dict[str, Any], path: tuple[str | int, ...]) -> None:
    _at(policy, path[:-1])["mode"] = "single"


def _list_failures(policy: dict[str, Any], path: tuple[str | int, ...]) -> None:
    _at(policy, path)["on_status_codes"] = [code for code in CODES if not 200 <= code <= 299]


# What each of these rules says can be done without changing what any request does.
MENDS = {
    "P401": lambda policy, path: _only_first(policy, path[:-2]),
    "P402": lambda policy, path: _only_first(policy, path[:-2]),
    "P403": _single,
    "P404": _single,
    "P413": _drop,
    "P414": _drop,
    "P415": _list_failures,
    "P416": _drop,
    "P421": _drop,
    "P422": lambda policy, path: _drop(policy, path[:-1]),
    "P424": _drop,
    "P425": _drop,
    "P433": _drop,
}

code_lists = st.lists(st.sampled_from(CODES), max_size=3)
retries = st.fixed_dictionaries(
    {"attempts": st.integers(0, 2)}, optional={"on_status_codes": code_lists, "use_retry_after_header": st.booleans()}
)
strategies = st.fixed_dictionaries(
    {"mode": st.sampled_from(["fallback", "loadbalance", "single"])}, optional={"on_status_codes": code_lists}
)
weights = st.sampled_from([0.25, 0.5, 1])
leaves = st.fixed_dictionaries({"model_name": st.sampled_from(MODELS)}, optional={"weight": weights})


def groups_of(targets: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries(
        {"strategy": strategies, "targets": st.lists(targets, min_size=1, max_size=3)},
        optional={"retry": retries, "weight": weights},
    )


policies = groups_of(st.recursive(leaves, groups_of, max_leaves=6))


def scripts(seed: int) -> Iterator[tuple[int, dict[str, list[int]]]]:
    """Forty ways in which the models may answer, each with a seed for the draws."""
    chance = random.Random(seed)
    for _ in range(40):
        yield chance.randrange(1000), {model: chance.choices(CODES, k=chance.randint(1, 3)) for model in MODELS}


@settings(max_examples=200, deadline=None)
@given(policies, st.integers(0, 2**32))
def test_what_is_called_idle_changes_no_request(policy: dict[str, Any], seed: int) -> None:
    """With the finding mended as its rule says, every request ends in the same status after the same calls."""
    for complaint in lint({"name": "x", "policy": policy}, LINT_CODES):
        if complaint.code in MENDS:
            mended = deepcopy(policy)
            MENDS[complaint.code](mended, complaint.path)
            for draws, script in scripts(seed):
                assert Gateway(script, draws).request(mended) == Gateway(script, draws).request(policy), complaint


A, B = ({"model_name": model} for model in MODELS[:2])
OUTCOMES: list[tuple[dict[str, Any], dict[str, list[int]], tuple[int, list[str]]]] = [
    ({"strategy": {"mode": "single"}, "targets": [A, B]}, {"a": [500], "b": [200]}, (500, ["a"])),
    ({"strategy": {"mode": "fallback"}, "targets": [A, B]}, {"a": [400], "b": [200]}, (200, ["a", "b"])),
    ({"strategy": {"mode": "fallback"}, "targets": [A, B]}, {"a": [200], "b": [500]}, (200, ["a"])),
    (
        {"strategy": {"mode": "fallback", "on_status_codes": [200]}, "targets": [A, B]},
        {"a": [200], "b": [503]},
        (503, ["a", "b"]),
    ),
    ({"strategy": {"mode": "fallback", "on_status_codes": [429]}, "targets": [A, B]}, {"a": [500], "b": [200]}, (500, ["a"])),
    ({"strategy": {"mode": "fallback", "on_status_codes": [407]}, "targets": [A, B]}, {"a": [407], "b": [200]}, (500, ["a"])),
    ({"strategy": {"mode": "fallback"}, "targets": [A, B]}, {"a": [205], "b": [200]}, (500, ["a"])),
    ({"strategy": {"mode": "single"}, "retry": {"attempts": 2}, "targets": [A]}, {"a": [500, 200]}, (200, ["a", "a"])),
    ({"strategy": {"mode": "single"}, "retry": {"attempts": 2}, "targets": [A]}, {"a": [500, 400]}, (400, ["a", "a"])),
]


@pytest.mark.parametrize(("policy", "script", "outcome"), OUTCOMES)
def test_the_small_gateway_does_what_the_real_one_was_seen_to_do(
    policy: dict[str, Any], script: dict[str, list[int]], outcome: tuple[int, list[str]]
) -> None:
    """Status and calls as recorded from the real gateway, without which the test above would prove nothing."""
    answers = {f"virtual-model/x/{name}": statuses for name, statuses in script.items()}
    status, calls = outcome
    assert Gateway(answers, 0).request(policy) == (status, [f"virtual-model/x/{name}" for name in calls])
