"""What validation found, and the rules behind it, for people and for machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from textwrap import fill

from policyctl.errors import Mark, Problem
from policyctl.load.validation import Validation
from policyctl.report.format import columns, count, escape, json_text
from policyctl.report.terminal import SEVERITIES, Style
from policyctl.rules import Rule
from policyctl.rules.catalogue import LINT_CODES

FORMAT = "policyctl/validate"
VERSION = 1
_USUAL, _NARROWEST = 80, 40  # columns of a line that is shown: where no terminal says, and at least


LineAt = Callable[[Mark], str | None]


def validation_text(validation: Validation, style: Style, line_at: LineAt | None = None) -> str:
    """One line a problem, with `line_at` the line of the file below it, and a summary line, the last."""
    lines = "".join(f"{line}\n" for line in problem_lines(validation.problems, style, line_at))
    return lines + validation_summary(validation, style)


def problem_lines(problems: Sequence[Problem], style: Style, line_at: LineAt | None = None) -> list[str]:
    """`file:line:col: CODE message`, one line each; a severity other than error is named.

    `line_at` gives the line of a file that a mark is in, which is shown below with a caret under the column.
    """
    lines = []
    for problem in problems:
        lines.append(_line(problem, style))
        line = line_at(problem.mark) if line_at else None
        if line is not None and line.strip():
            lines += _excerpt(line, problem, style)
    return lines


def _excerpt(line: str, problem: Problem, style: Style) -> list[str]:
    """The line of a problem as far as it fits, and a caret under its column."""
    number, at = f"{problem.mark.line:5}", problem.mark.column - 1
    room = max((style.width or _USUAL) - len(number) - 4, _NARROWEST)
    before = _shown(line[max(at - room // 2, 0) : at])
    if at > room // 2:
        before = f"…{before[1:]}"
    after, rest = _shown(line[at : at + room]), len(line) > at + room
    while after and columns(before + after) + rest > room:
        after, rest = after[:-1], True
    caret = style.paint("^", SEVERITIES[problem.severity], "bold")
    bar = style.paint("|", "dim")
    shown = f"{before}{after}{'…' if rest else ''}"
    return [f"{style.paint(number, 'dim')} {bar} {shown}", f"{' ' * len(number)} {bar} {' ' * columns(before)}{caret}"]


def _shown(text: str) -> str:
    return escape(text.replace("\t", " "))


def validation_json(validation: Validation) -> str:
    """The same as JSON text."""
    data = {
        "format": FORMAT,
        "version": VERSION,
        "valid": validation.valid,
        "environment": validation.environment,
        "files": validation.files,
        "policies": validation.policies,
        "tests": validation.tests,
        "skipped": dict(sorted(validation.skipped.items())),
        "problems": [
            {
                "file": problem.mark.file,
                "line": problem.mark.line or None,
                "column": problem.mark.column or None,
                "code": problem.code,
                "severity": problem.severity,
                "message": problem.message,
            }
            for problem in validation.problems
        ],
    }
    return json_text(data)


def _line(problem: Problem, style: Style) -> str:
    severity = "" if problem.severity == "error" else f"{problem.severity}: "
    code = style.paint(problem.code, SEVERITIES[problem.severity], "bold")
    return f"{style.paint(escape(str(problem.mark)), 'bold')}: {code} {severity}{escape(problem.message)}"


def validation_summary(validation: Validation, style: Style) -> str:
    """One line: the verdict, and what was looked at."""
    found = Counter(problem.severity for problem in validation.problems)
    said = ", ".join(count(found[severity], severity) for severity in SEVERITIES if found[severity])
    tests = f" and {count(validation.tests, 'test')}" if validation.tests else ""
    seen = f"{count(validation.policies, 'policy')}{tests} in {count(validation.files, 'file')}"
    if validation.skipped:
        kinds = ", ".join(f"{number} {escape(kind)}" for kind, number in sorted(validation.skipped.items()))
        seen += f", skipped: {kinds}"
    where = f" in {escape(validation.environment)}" if validation.environment is not None else ""
    if validation.valid:
        verdict = style.paint("Valid", "green", "bold")
        return f"{verdict}{where}: {seen}" + (f", {said}.\n" if said else ".\n")
    return f"{style.paint('Not valid', 'red', 'bold')}{where}: {said} ({seen}).\n"


RULES_FORMAT = "policyctl/rules"
RULES_VERSION = 1


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
        "format": RULES_FORMAT,
        "version": RULES_VERSION,
        "rules": [{**rule._asdict(), "ignorable": rule.code in LINT_CODES} for rule in rules],
    }
    return json_text(data)


def _code(rule: Rule, style: Style) -> str:
    return style.paint(rule.code, SEVERITIES[rule.severity], "bold")


def _wrapped(text: str) -> str:
    return fill(text, 88, break_long_words=False, break_on_hyphens=False)
