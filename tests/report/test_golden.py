"""What plan and validate print, compared as text over one set of plans; the JSON also against its shipped schema.

Of a thousand changes the JSON and the HTML are compared by their hash: the smaller plans show how it looks.

`POLICYCTL_WRITE_GOLDEN=1 pytest tests/report` writes the files anew; read the difference before you commit it.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path

import jsonschema
import pytest

from policyctl.errors import Mark, Problem
from policyctl.lint.validate import Validation
from policyctl.report import schema_text
from policyctl.report.checks import validation_json, validation_text
from policyctl.report.format import Style
from policyctl.report.plan_html import plan_html
from policyctl.report.plan_json import plan_json
from policyctl.report.plan_markdown import plan_markdown
from policyctl.report.plan_text import plan_text
from policyctl.report.plan_view import PlanView
from tests.report.golden_files import GOLDEN, same
from tests.report.plans import CASES, HOSTILE, PLANS

VALIDATIONS = {
    "good": Validation((), 3, 2, 4, Counter()),
    "bad": Validation(
        (
            Problem(Mark("policies/a.yaml", 3, 7), "P103", "weight must be greater than 0 and at most 1, got 75"),
            Problem(Mark(f"policies/{HOSTILE}.yaml"), "P401", HOSTILE, "warning"),
            Problem(Mark("policies/b.yaml", 9, 1), "P409", "something to know", "info"),
        ),
        3,
        1,
        0,
        Counter({"agent": 2}),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_plan_text(case: str) -> None:
    same(f"plan-{case}.txt", plan_text(PLANS[case], "local", Style()))


def test_plan_text_in_colour() -> None:
    same("plan-mixed-colour.txt", plan_text(PLANS["mixed"], "local", Style(on=True)))


@pytest.mark.parametrize("case", CASES)
def test_plan_markdown(case: str) -> None:
    same(f"plan-{case}.md", plan_markdown(PlanView(PLANS[case], "local")))


@pytest.mark.parametrize("case", CASES)
def test_plan_html(case: str) -> None:
    """Without the style, the script and their hashes, which are the same in every page."""
    text = plan_html(PlanView(PLANS[case], "local"))
    text = re.sub(r"(?s)(<style>|<script>|&#39;sha256-).*?(</style>|</script>|&#39;)", r"\1\2", text)
    if case == "thousand":
        same(f"plan-{case}.html.sha256", hashlib.sha256(text.encode()).hexdigest() + "\n")
    else:
        same(f"plan-{case}.html", text)


@pytest.mark.parametrize("case", CASES)
def test_plan_json(case: str) -> None:
    text = plan_json(PLANS[case])
    if case == "thousand":
        same(f"plan-{case}.json.sha256", hashlib.sha256(text.encode()).hexdigest() + "\n")
    else:
        same(f"plan-{case}.json", text)
    jsonschema.Draft202012Validator(json.loads(schema_text("plan"))).validate(json.loads(text))


@pytest.mark.parametrize("case", VALIDATIONS)
def test_validation(case: str) -> None:
    same(f"validate-{case}.txt", validation_text(VALIDATIONS[case], Style()))
    text = validation_json(VALIDATIONS[case])
    same(f"validate-{case}.json", text)
    jsonschema.Draft202012Validator(json.loads(schema_text("validate"))).validate(json.loads(text))


@pytest.mark.parametrize("path", sorted([*GOLDEN.glob("*.txt"), *GOLDEN.glob("*.html")]), ids=lambda path: path.name)
def test_text_holds_nothing_that_a_terminal_obeys(path: Path) -> None:
    text = path.read_text("utf-8")
    if "colour" not in path.name:
        assert all(char.isprintable() for char in text.replace("\n", ""))
