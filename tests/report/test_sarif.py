"""SARIF 2.1.0, held against the standard's own schema."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.errors import Mark, Problem
from policyctl.report.checks import SCHEMA, sarif
from policyctl.rules import RULES
from tests.examples import examples

STANDARD = json.loads((Path(__file__).parent / "data" / "sarif-schema-2.1.0.json").read_text("utf-8"))
VALIDATOR = jsonschema.Draft4Validator(STANDARD)

PROBLEMS = [
    Problem(Mark("policies/a b.yaml", 3, 7), "P103", "weight must be at most 1, got 75"),
    Problem(Mark("policies/a b.yaml", 9, 7), "P103", "weight must be at most 1, got 75"),
    Problem(Mark("policies/é:x.yaml"), "P405", "a [link](http://x.example) that is none, {0}", "warning"),
    Problem(Mark("/elsewhere/b.yaml", 2, 1), "P415", "something\nto know", "info"),
]


def run_of(problems: list[Problem]) -> dict[str, Any]:
    """The one run of a log that the standard's schema accepts."""
    log = json.loads(sarif(problems, lambda file: file))
    VALIDATOR.validate(log)
    assert (log["version"], log["$schema"]) == ("2.1.0", SCHEMA)
    (run,) = log["runs"]
    assert isinstance(run, dict)
    return run


def prints(problems: list[Problem]) -> list[str]:
    return [result["partialFingerprints"]["policyctlFinding/v1"] for result in run_of(problems)["results"]]


def test_the_schema_is_the_one_that_the_log_names() -> None:
    assert STANDARD["id"] == SCHEMA
    VALIDATOR.check_schema(STANDARD)


def test_without_problems_it_has_neither_results_nor_rules() -> None:
    run = run_of([])
    assert run["results"] == []
    assert run["tool"]["driver"]["rules"] == []


def test_results_say_what_where_and_how_bad() -> None:
    results = run_of(PROBLEMS)["results"]
    assert [(result["ruleId"], result["level"], result["message"]["text"]) for result in results] == [
        ("P103", "error", "weight must be at most 1, got 75"),
        ("P103", "error", "weight must be at most 1, got 75"),
        ("P405", "warning", "a [link] (http://x.example) that is none, {0}"),
        ("P415", "note", "something\\nto know"),
    ]
    places = [result["locations"][0]["physicalLocation"] for result in results]
    assert [place["artifactLocation"] for place in places] == [
        {"uri": "policies/a%20b.yaml", "uriBaseId": "%SRCROOT%"},
        {"uri": "policies/a%20b.yaml", "uriBaseId": "%SRCROOT%"},
        {"uri": "policies/%C3%A9%3Ax.yaml", "uriBaseId": "%SRCROOT%"},
        {"uri": "file:///elsewhere/b.yaml"},
    ]
    assert [place["region"]["startLine"] for place in places] == [3, 9, 1, 2]
    assert places[0]["region"]["startColumn"] == 7


def test_rules_are_those_with_findings_and_bring_their_help() -> None:
    run = run_of(PROBLEMS)
    rules = run["tool"]["driver"]["rules"]
    assert [rule["id"] for rule in rules] == ["P103", "P405", "P415"]
    assert all(rules[result["ruleIndex"]]["id"] == result["ruleId"] for result in run["results"])
    assert rules[1]["help"]["text"].startswith(RULES["P405"].text)
    assert "# policyctl: ignore[P405]" in rules[1]["help"]["text"]
    assert rules[0]["help"]["text"].endswith("It cannot be silenced.")


def test_every_rule_of_the_catalogue_makes_a_valid_log() -> None:
    for code in RULES:
        (rule,) = run_of([Problem(Mark("a.yaml"), code, "x")])["tool"]["driver"]["rules"]
        assert rule["name"] == RULES[code].name


def test_a_finding_keeps_its_fingerprint_when_it_moves() -> None:
    moved = [Problem(Mark(p.mark.file, p.mark.line + 40, 1), p.code, p.message, p.severity) for p in PROBLEMS]
    assert prints(moved) == prints(PROBLEMS)
    twice = "virtual-policy/x is also written at policies/b.yaml:{}:7; keep one"
    before, after = ([Problem(Mark("a.yaml"), "P201", twice.format(line))] for line in (3, 30))
    assert prints(before) == prints(after)


def test_different_findings_have_different_fingerprints() -> None:
    one = Problem(Mark("a.yaml"), "P103", "x")
    others = [Problem(Mark("b.yaml"), "P103", "x"), Problem(Mark("a.yaml"), "P104", "x"), Problem(Mark("a.yaml"), "P103", "y")]
    assert len(set(prints([one, *others, one]))) == 5


MARKS = st.builds(Mark, st.text(min_size=1), st.integers(1, 9), st.integers(1, 9))


@settings(max_examples=examples(20))  # the standard's schema is large
@given(st.lists(st.builds(Problem, MARKS, st.sampled_from(["P103", "P999"]), st.text()), max_size=4))
def test_whatever_the_text_the_log_is_valid(problems: list[Problem]) -> None:
    assert len(run_of(problems)["results"]) == len(problems)
