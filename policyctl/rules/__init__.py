"""Every code that a problem can have: its short name, its severity, and what it means.

A code never changes its meaning and is never used again: P0xx the text of a file, P1xx the format, P2xx what holds across
files, P3xx policyctl.yaml, P4xx lint rules, P5xx those of them that the effect engine decides. Only lint rules can be
selected and ignored.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

from policyctl.errors import Rule, Severity
from policyctl.policy.findings import FieldPath, Finding, did_you_mean
from policyctl.rules.lint import DEEP_RULES, LINT_RULES
from policyctl.rules.problems import FILE_RULES

RULES: dict[str, Rule] = {rule.code: rule for rule in (*FILE_RULES, *LINT_RULES, *DEEP_RULES)}
DEEP_CODES = frozenset(rule.code for rule in DEEP_RULES)
REFERENCE_CODES = frozenset({"P451", "P452", "P453", "P454"})  # what needs every file of the directory
LINT_CODES = frozenset(rule.code for rule in LINT_RULES) | DEEP_CODES


def finding(path: FieldPath, code: str, message: str, at: Literal["key", "value"] = "value") -> Finding:
    """A finding of a lint rule, with the severity of the rule."""
    return Finding(path, code, message, at, RULES[code].severity)


def severity_of(code: str) -> Severity:
    """How bad a problem of that code is."""
    return RULES[code].severity


def with_prefix(prefix: str, codes: Iterable[str] = LINT_CODES) -> frozenset[str]:
    """The codes that begin with a code or a prefix (`P4`); without `codes`, lint rules only."""
    return frozenset(code for code in codes if prefix and code.startswith(prefix))


def guess_rule(code: str, codes: Iterable[str] = LINT_CODES) -> str:
    """` (did you mean P405?)` for a near miss (`P4O5`), else an empty string."""
    return did_you_mean(code.upper().replace("O", "0"), sorted(codes)) if len(code) > 3 else ""


class Chosen(NamedTuple):
    """Which lint rules are selected: codes or beginnings of codes (`P4`), as `lint` of policyctl.yaml has them.

    `select` None means that none is written: every rule, but rules of severity info only on request.
    """

    select: tuple[str, ...] | None = None
    ignore: tuple[str, ...] = ()

    def codes(self, *, infos: bool = False) -> frozenset[str]:
        """The codes of the rules to run. `infos` adds those of severity info where nothing is selected."""
        ignored = _all_with(self.ignore)
        if self.select is not None:
            return _all_with(self.select) - ignored
        return frozenset(code for code in LINT_CODES if infos or severity_of(code) != "info") - ignored


def _all_with(prefixes: Iterable[str]) -> frozenset[str]:
    return frozenset().union(*map(with_prefix, prefixes))


DEFAULT_CODES = Chosen().codes()
