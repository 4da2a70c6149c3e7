"""What validating found, for people and for machines. The JSON's schema is `schemas/validate.schema.json`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from policyctl.errors import Problem
from policyctl.load.validation import Validation
from policyctl.report.plain import count, json_text, plain
from policyctl.report.style import SEVERITIES, Style

FORMAT = "policyctl/validate"
VERSION = 1


def validation_text(validation: Validation, style: Style) -> str:
    """One line a problem, and a summary line, the last."""
    lines = "".join(f"{line}\n" for line in problem_lines(validation.problems, style))
    return lines + validation_summary(validation, style)


def problem_lines(problems: Sequence[Problem], style: Style) -> list[str]:
    """`file:line:col: CODE message`, one line each; a severity other than error is named."""
    return [_line(problem, style) for problem in problems]


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
    return f"{style.paint(plain(str(problem.mark)), 'bold')}: {code} {severity}{plain(problem.message)}"


def validation_summary(validation: Validation, style: Style) -> str:
    """One line: the verdict, and what was looked at."""
    found = Counter(problem.severity for problem in validation.problems)
    said = ", ".join(count(found[severity], severity) for severity in SEVERITIES if found[severity])
    tests = f" and {count(validation.tests, 'test')}" if validation.tests else ""
    seen = f"{count(validation.policies, 'policy')}{tests} in {count(validation.files, 'file')}"
    if validation.skipped:
        kinds = ", ".join(f"{number} {plain(kind)}" for kind, number in sorted(validation.skipped.items()))
        seen += f", skipped: {kinds}"
    where = f" in {plain(validation.environment)}" if validation.environment is not None else ""
    if validation.valid:
        verdict = style.paint("Valid", "green", "bold")
        return f"{verdict}{where}: {seen}" + (f", {said}.\n" if said else ".\n")
    return f"{style.paint('Not valid', 'red', 'bold')}{where}: {said} ({seen}).\n"
