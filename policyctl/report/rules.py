"""The rules that problems come from, for people and for machines."""

from __future__ import annotations

from collections.abc import Iterable
from textwrap import fill

from policyctl.lint.catalogue import LINT_CODES
from policyctl.lint.rule import Rule
from policyctl.report.plain import json_text
from policyctl.report.style import SEVERITIES, Style

FORMAT = "policyctl/rules"
VERSION = 1


def rules_text(rules: Iterable[Rule], style: Style) -> str:
    """One line a rule: code, severity, short name."""
    return "".join(f"{_code(rule, style)}  {rule.severity:7}  {rule.name}\n" for rule in rules)


def rule_text(rule: Rule, style: Style) -> str:
    """One rule with its explanation and how to silence it, if it can be."""
    silence = _wrapped(how_to_silence(rule.code))
    return f"{_code(rule, style)} {rule.name} ({rule.severity})\n\n{_wrapped(rule.text)}\n\n{silence}\n"


def how_to_silence(code: str) -> str:
    """How the rule with that code is silenced, or that it cannot be."""
    if code not in LINT_CODES:
        return "It cannot be silenced."
    return (
        f"Silence it on one line with the comment `# policyctl: ignore[{code}]`, everywhere with lint.ignore in policyctl.yaml."
    )


def rules_json(rules: Iterable[Rule]) -> str:
    """The rules as JSON text, with their explanations."""
    data = {
        "format": FORMAT,
        "version": VERSION,
        "rules": [{**rule._asdict(), "ignorable": rule.code in LINT_CODES} for rule in rules],
    }
    return json_text(data)


def _code(rule: Rule, style: Style) -> str:
    return style.paint(rule.code, SEVERITIES[rule.severity], "bold")


def _wrapped(text: str) -> str:
    return fill(text, 88, break_long_words=False, break_on_hyphens=False)
