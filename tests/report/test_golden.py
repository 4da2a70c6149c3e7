"""What plan and validate print, compared as text over one set of plans; the JSON also against its shipped schema.

`POLICYCTL_WRITE_GOLDEN=1 pytest tests/report` writes the files anew; read the difference before you commit it.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from policyctl.core.diff import Field
from policyctl.core.guards import Review, review
from policyctl.core.settings import Settings
from policyctl.errors import Mark, Problem
from policyctl.load.validation import Validation
from policyctl.model.live import observe_rows
from policyctl.report.plan_json import plan_json
from policyctl.report.plan_text import plan_text
from policyctl.report.schemas import schema_text
from policyctl.report.style import Style
from policyctl.report.validation import validation_json, validation_text
from tests.builders import plan, policy, row

GOLDEN = Path(__file__).parent / "golden"
WRITE = os.environ.pop("POLICYCTL_WRITE_GOLDEN", "") == "1"


def reviewed(desired: list[object], rows: list[object], settings: Settings = Settings()) -> Review:
    return review(plan(desired, rows, settings), observe_rows(rows), settings)


LONG = "A description that goes on and on, " * 8
HOSTILE = "\x1b[2J‮::error::</details>\n@team `x` | y"

PLANS = {
    "none": reviewed([policy("a")], [row("a"), row("other")], Settings(scope=("a",))),
    "empty": reviewed([policy("a")], [row("a")]),
    "add": reviewed([policy("a", "virtual-model/google/g"), policy("b", "x", retry={"attempts": 1})], []),
    "update": reviewed(
        [policy("a", "one", "two", retry={"attempts": 3}, cache={"mode": "simple"})], [row("a", "two", "one", "three")]
    ),
    "equivalent": reviewed(
        [policy("a", "one", "two", description="new"), policy("b", "x", retry={"attempts": 0})],
        [row("a", "one", "two"), row("b", "x")],
    ),
    "settings": replace(
        reviewed([policy("a")], [row("a")]),
        settings=(Field("limits.max_removes", 5, 50), Field(f"environments.{HOSTILE}.protect", [HOSTILE, LONG], None)),
    ),
    "remove": reviewed([policy("a")], [row("a"), row("b"), row("c")]),
    "mixed": reviewed(
        [policy("new"), policy("changed", "b"), policy("same"), policy("twin"), policy("bad")],
        [
            row("changed"),
            row("same"),
            row("old"),
            row("twin"),
            row("virtual-policy/twin"),
            {"id": "7", "name": "bad"},
            {"id": "8"},
        ],
        Settings(allow_remove=("gone",)),
    ),
    "refused": reviewed(
        [policy("a")], [row("prod-a"), *(row(f"r{number}") for number in range(6))], Settings(protect=("prod-*",))
    ),
    "hostile": reviewed(
        [policy("new"), policy("changed", f"virtual-model/{HOSTILE}")],
        [row("changed", LONG), {**row(HOSTILE), "description": HOSTILE}],
    ),
}

VALIDATIONS = {
    "good": Validation((), 2, 2, Counter()),
    "bad": Validation(
        (
            Problem(Mark("policies/a.yaml", 3, 7), "P103", "weight must be greater than 0 and at most 1, got 75"),
            Problem(Mark(f"policies/{HOSTILE}.yaml"), "P401", HOSTILE, "warning"),
            Problem(Mark("policies/b.yaml", 9, 1), "P409", "something to know", "info"),
        ),
        3,
        1,
        Counter({"agent": 2}),
    ),
}


def same(name: str, text: str) -> None:
    path = GOLDEN / name
    if WRITE:
        path.write_text(text, "utf-8")
    assert text == path.read_text("utf-8")


@pytest.mark.parametrize("case", PLANS)
def test_plan_text(case: str) -> None:
    same(f"plan-{case}.txt", plan_text(PLANS[case], "local", Style()))


def test_plan_text_in_colour() -> None:
    same("plan-mixed-colour.txt", plan_text(PLANS["mixed"], "local", Style(on=True)))


@pytest.mark.parametrize("case", PLANS)
def test_plan_json(case: str) -> None:
    text = plan_json(PLANS[case])
    same(f"plan-{case}.json", text)
    jsonschema.Draft202012Validator(json.loads(schema_text("plan"))).validate(json.loads(text))


@pytest.mark.parametrize("case", VALIDATIONS)
def test_validation(case: str) -> None:
    same(f"validate-{case}.txt", validation_text(VALIDATIONS[case], Style()))
    text = validation_json(VALIDATIONS[case])
    same(f"validate-{case}.json", text)
    jsonschema.Draft202012Validator(json.loads(schema_text("validate"))).validate(json.loads(text))


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("*.txt")), ids=lambda path: path.name)
def test_text_holds_nothing_that_a_terminal_obeys(path: Path) -> None:
    text = path.read_text("utf-8")
    if "colour" not in path.name:
        assert all(char.isprintable() for char in text.replace("\n", ""))
