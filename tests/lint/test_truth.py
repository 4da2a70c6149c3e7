"""What a rule calls dead, ignored or without effect changes no request: shown on random policies by a small gateway."""

from __future__ import annotations

import random
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.lint.directory import lint
from policyctl.rules import LINT_CODES
from tests.examples import examples
from tests.lint.small_gateway import CODES, MODELS, Gateway, policies


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


# What each of these rules reports can be done without changing what any request does.
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


def scripts(seed: int) -> Iterator[tuple[int, dict[str, list[int]]]]:
    """Forty ways in which the models may answer, each with a seed for the draws."""
    chance = random.Random(seed)
    for _ in range(40):
        yield chance.randrange(1000), {model: chance.choices(CODES, k=chance.randint(1, 3)) for model in MODELS}


@pytest.mark.slow
@settings(max_examples=examples(100), deadline=None)
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
