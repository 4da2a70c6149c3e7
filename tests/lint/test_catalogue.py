"""The catalogue has every code of the source, and nothing else."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path

import pytest

import policyctl
from policyctl.rules import DEFAULT_CODES, FILE_RULES, LINT_CODES, RULES, Chosen, with_prefix
from policyctl.rules.lint import DEEP_RULES, LINT_RULES

SOURCE = Path(policyctl.__file__).parent
INFOS = {"P404", "P415", "P422", "P462", "P503"}


def raised_codes() -> set[str]:
    """Every code in the source outside the catalogue."""
    files = [path for path in SOURCE.rglob("*.py") if not path.name.startswith("catalogue")]
    return {code for path in files for code in re.findall(r'"(P\d{3})"', path.read_text("utf-8"))}


def test_every_code_that_is_raised_is_in_the_catalogue_and_the_other_way_round() -> None:
    """A code without an explanation is of no help; an explanation without a code is dead text."""
    assert raised_codes() == RULES.keys()


def test_no_code_and_no_name_is_used_twice_and_they_are_in_order() -> None:
    """Two meanings of one code, or two codes of one name, could not be told apart."""
    rules = (*FILE_RULES, *LINT_RULES, *DEEP_RULES)
    assert all(left.code < right.code for left, right in pairwise(rules))
    assert len({rule.name for rule in rules}) == len(rules)


def test_a_rule_explains_itself() -> None:
    """A plain short name, and one paragraph of at least two sentences."""
    for code, rule in RULES.items():
        assert rule.code == code
        assert re.fullmatch(r"P[0-5]\d\d", code)
        assert re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", rule.name), code
        assert rule.text.endswith("."), code
        assert "\n" not in rule.text, code
        assert "  " not in rule.text, code
        assert re.search(r"[.;:] [A-Za-z]", rule.text), code


def test_only_lint_rules_can_be_less_than_an_error() -> None:
    """What the others find cannot be applied."""
    assert {rule.severity for rule in FILE_RULES} == {"error"}
    lint_rules = (*LINT_RULES, *DEEP_RULES)
    assert {rule.code for rule in lint_rules if rule.severity == "info"} == INFOS
    assert not any(rule.severity == "error" for rule in lint_rules)


@pytest.mark.parametrize(
    ("chosen", "infos", "expected"),
    [
        (Chosen(), False, LINT_CODES - INFOS),
        (Chosen(), True, LINT_CODES),
        (Chosen(ignore=("P4", "P5")), True, frozenset()),
        (Chosen(ignore=("P4",)), False, {"P501", "P502"}),
        (Chosen(ignore=("P40", "P415")), False, LINT_CODES - INFOS - {"P401", "P402", "P403", "P405"}),
        (Chosen(select=("P415",)), False, {"P415"}),
        (Chosen(select=("P40",)), False, {"P401", "P402", "P403", "P404", "P405"}),
        (
            Chosen(select=("P4",), ignore=("P40",)),
            False,
            {code for code in LINT_CODES if code.startswith("P4") and not code.startswith("P40")},
        ),
        (Chosen(select=("P401",)), True, {"P401"}),
        (Chosen(select=()), True, frozenset()),
    ],
)
def test_select_and_ignore_take_codes_and_beginnings(chosen: Chosen, infos: bool, expected: frozenset[str]) -> None:
    """Selecting shows infos too; ignoring wins over selecting."""
    assert chosen.codes(infos=infos) == expected


def test_a_prefix_means_lint_rules_only() -> None:
    """No setting reaches the rules that must hold."""
    assert with_prefix("P") == LINT_CODES
    assert not with_prefix("P1")
    assert not with_prefix("")
    assert Chosen().codes() == DEFAULT_CODES
