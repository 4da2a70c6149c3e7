"""What validation found, in every format, and the rules behind it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import PurePath
from textwrap import fill
from typing import Any
from urllib.parse import quote

from policyctl import __version__
from policyctl.errors import Mark, Problem, Severity
from policyctl.load.validation import Validation
from policyctl.report.format import SEVERITIES, Style, columns, count, escape, json_text
from policyctl.rules import Rule
from policyctl.rules.catalogue import LINT_CODES, RULES

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


MOST = 10  # annotations of one type that GitHub shows of one step; it drops further ones in silence
_COMMANDS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "notice"}


def github_annotations(problems: Sequence[Problem], path_of: Callable[[str], str]) -> str:
    """A line for each problem, errors first, at most ten of a type; the rest is counted in one last annotation, and follows as
    text: the log of a step does not say where an annotation belongs, and has nothing of those that are not there.

    `path_of` gives a file's path from the repository's top, which is how GitHub finds it.
    """
    found = {severity: [problem for problem in problems if problem.severity == severity] for severity in _COMMANDS}
    over = any(len(some) > MOST for some in found.values())
    # The last annotation is a notice, and must itself be one of the ten.
    shown = {severity: some[: MOST - (over and severity == "info")] for severity, some in found.items()}
    lines = [_annotation(problem, path_of) for some in shown.values() for problem in some]
    if over:
        rest = {severity: some[len(shown[severity]) :] for severity, some in found.items()}
        said = ", ".join(count(len(some), f"further {_COMMANDS[severity]}") for severity, some in rest.items() if some)
        lines.append(f"::notice title=policyctl::{said} not shown here (the step's log lists what is left)")
        lines += problem_lines([problem for some in rest.values() for problem in some], Style())
    return "".join(f"{line}\n" for line in lines)


def _annotation(problem: Problem, path_of: Callable[[str], str]) -> str:
    return f"::{_COMMANDS[problem.severity]} {','.join(_properties(problem, path_of))}::{_escaped(problem.message)}"


def _properties(problem: Problem, path_of: Callable[[str], str]) -> Iterator[str]:
    rule = RULES.get(problem.code)
    values = {
        "file": path_of(problem.mark.file),
        **({"line": str(problem.mark.line), "col": str(problem.mark.column)} if problem.mark.line else {}),
        "title": f"{problem.code} {rule.name}" if rule else problem.code,
    }
    for name, value in values.items():
        yield f"{name}={_escaped(value).replace(':', '%3A').replace(',', '%2C')}"


def _escaped(text: str) -> str:
    """One visible line in which nothing reads as an escape; `escape` leaves no line's end."""
    return escape(text).replace("%", "%25")


SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}
_PLACE = re.compile(r":\d+:\d+\b")


def sarif(problems: Sequence[Problem], path_of: Callable[[str], str]) -> str:
    """The problems as one run, with the rules that they break and no others.

    `path_of` gives a file's path from the repository's top (an absolute one when it lies outside).
    """
    codes = sorted({problem.code for problem in problems})
    paths = {problem.mark.file: path_of(problem.mark.file) for problem in problems}
    prints = _fingerprints(problems, paths)
    driver = {"name": "policyctl", "semanticVersion": __version__, "rules": [_rule(code) for code in codes]}
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [
            _result(problem, codes.index(problem.code), paths[problem.mark.file], fingerprint)
            for problem, fingerprint in zip(problems, prints, strict=True)
        ],
    }
    return json_text({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]})


def _rule(code: str) -> dict[str, Any]:
    rule = RULES.get(code)
    if rule is None:
        return {"id": code}
    return {
        "id": code,
        "name": rule.name,
        "shortDescription": {"text": rule.name.replace("-", " ")},
        "fullDescription": {"text": rule.text},
        "help": {"text": f"{rule.text}\n\n{how_to_silence(code)}"},
        "defaultConfiguration": {"level": _LEVELS[rule.severity]},
    }


def _result(problem: Problem, rule: int, path: str, fingerprint: str) -> dict[str, Any]:
    return {
        "ruleId": problem.code,
        "ruleIndex": rule,
        "level": _LEVELS[problem.severity],
        "message": {"text": _without_links(escape(problem.message))},
        "locations": [{"physicalLocation": {"artifactLocation": _artifact(path), "region": _region(problem.mark)}}],
        "partialFingerprints": {"policyctlFinding/v1": fingerprint},
    }


def _region(mark: Mark) -> dict[str, int]:
    """Where in a file. For a file as a whole its first line: GitHub's code scanning shows nothing that has no line."""
    return {"startLine": mark.line, "startColumn": mark.column} if mark.line else {"startLine": 1}


def _without_links(text: str) -> str:
    """A message in which `[text](place)` is no link, as SARIF would have it."""
    return text.replace("](", "] (")


def _artifact(path: str) -> dict[str, str]:
    uri = quote(os.fsencode(path))
    return {"uri": f"file://{uri}"} if PurePath(path).is_absolute() else {"uri": uri, "uriBaseId": "%SRCROOT%"}


def _fingerprints(problems: Sequence[Problem], paths: dict[str, str]) -> Iterator[str]:
    """What a finding is known by from run to run: its file, rule and message, and which of several equal ones it is.

    Lines and columns are no part of it, so that it stays the same finding when text above it is added or removed.
    """
    seen = Counter[str]()
    for problem in problems:
        facts = [paths[problem.mark.file], problem.code, _PLACE.sub("", problem.message)]
        key = json.dumps(facts)
        seen[key] += 1
        yield hashlib.sha256(json.dumps([*facts, seen[key]]).encode()).hexdigest()
