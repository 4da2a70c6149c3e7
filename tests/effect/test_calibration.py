"""Records of requests that the engine itself made up agree with its predictions, and others do not."""

from __future__ import annotations

import json
from random import Random
from typing import Any

import jsonschema
import pytest

from policyctl.effect.course import simulate
from policyctl.effect.evaluate import RecordedRequest, calibrate, read_record
from policyctl.effect.gateway import Answer
from policyctl.effect.tree import read_tree
from policyctl.report import schema_text
from tests.conftest import Policyctl, Project

A, B = "virtual-model/openai/a", "virtual-model/google/b"
BODY = {
    "strategy": {"mode": "fallback"},
    "retry": {"attempts": 1},
    "targets": [{"model_name": A}, {"model_name": B}],
}
TREE = read_tree({"policy": BODY})


def recorded(number: int, seed: int, *, version: str = "v", served: bool | None = None) -> list[RecordedRequest]:
    """Requests of which a third of A's calls fail, as the gateway would record them."""
    chance, found = Random(seed), []
    for _ in range(number):
        answers: list[Answer] = [503 if chance.random() < 1 / 3 else 200 for _ in range(2)]
        walked = simulate(TREE, {A: answers}, chance.random)
        attempts = tuple((call.model, call.answer) for call in walked.calls)
        good = walked.served if served is None else served
        found.append(RecordedRequest("p", version, attempts, walked.waited, good, whole=True))
    return found


def test_what_the_rules_did_is_what_they_predict() -> None:
    found = calibrate("p", "v", TREE, recorded(3000, 1))
    assert found.served is not None
    assert found.wait is not None
    assert [found.served.agrees, found.wait.agrees, *(one.agrees for one in found.shares.values())] == [True] * 4
    assert found.shares[A].observed == pytest.approx(8 / 9, abs=0.02)
    assert found.wait.predicted == pytest.approx(1 / 3, abs=0.03)


def test_what_the_rules_would_not_do_differs() -> None:
    found = calibrate("p", "v", TREE, recorded(300, 1, served=False))
    assert found.served is not None
    assert (found.served.predicted, found.served.observed, found.served.agrees) == (1, 0, False)


def test_other_versions_and_requests_whose_client_left_are_counted_and_not_compared() -> None:
    left = [record._replace(whole=False, served=False) for record in recorded(3, 2)]
    found = calibrate("p", "v", TREE, [*recorded(5, 1), *left, *recorded(2, 1, version="w")])
    assert (found.requests, found.left, found.others) == (5, 3, 2)


GOOD = {"policy": "p", "version": "v", "attempts": [], "wait": 0, "status": 200, "served": True}
ONE = {"model": "a", "wait": 0, "answer": 200}
BAD: tuple[Any, ...] = (
    *(None, [], {}, {"attempts": [1]}, {"attempts": [], "wait": "x"}, "text"),
    *({**GOOD, "wait": wait} for wait in (10**400, float("inf"), float("nan"), -1)),
    *(
        {**GOOD, "attempts": [{**ONE, **more}]}
        for more in ({"wait": 10**400}, {"answer": 0}, {"answer": -500}, {"answer": 10**30})
    ),
)


def test_a_record_is_read() -> None:
    assert read_record({**GOOD, "attempts": [ONE]}).attempts == (("a", 200),)


@pytest.mark.parametrize("value", BAD)
def test_what_is_not_a_record_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="not a record"):
        read_record(value)


LINE = {
    "policy": "virtual-policy/p", "operation": "chat/completions", "stream": False, "wait": 0, "status": 200, "served": True,
    "attempts": [{"model": A, "wait": 0, "answer": "connect-timeout"}, {"model": A, "wait": 1, "answer": 200}],
}  # fmt: skip


def test_effect_shows_both_side_by_side(project: Project, policyctl: Policyctl) -> None:
    project.policy("p", A, retry="{attempts: 1}")
    other = json.dumps({**LINE, "version": "another"})
    (project.folder / "records").write_text(f"{other}\nnot a record\n{'[' * 100_000}\n")
    ran = policyctl("effect", "--records", "records", "--format", "json")
    only = json.loads(ran.out)["policies"][0]
    assert (only["requests"], only["other_versions"]) == (0, 1)
    (project.folder / "records").write_text(json.dumps({**LINE, "version": only["version"]}) + "\n")
    schema = jsonschema.Draft202012Validator(json.loads(schema_text("calibration")))
    for text in (ran.out, policyctl("effect", "--records", "records", "--format", "json").out):
        schema.validate(json.loads(text))
    shown = policyctl("effect", "--records", "records").out
    assert shown.startswith("p: 1 request\n")
    assert "mean wait" in shown
    assert "| served |" in policyctl("effect", "--records", "records", "--format", "markdown").out
    ran = policyctl("effect", "--records", "records", "--graph")
    assert (ran.code, "different questions" in ran.err) == (64, True)
    (project.folder / "records").write_text("")
    assert "no request of these policies" in policyctl("effect", "--records", "records").err
