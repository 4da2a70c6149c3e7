"""What validate and test found, in every format.

Problems as text, JSON, GitHub annotations and SARIF 2.1.0, with the rules behind them; the results of scenario tests as text in
the style of pytest, JSON and JUnit XML. What only the latter need is imported there: problems are shown of every command.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import PurePath
from textwrap import fill
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import quote

from policyctl import __version__
from policyctl.errors import Mark, Problem, Rule, Severity
from policyctl.policy.memo import late_pattern
from policyctl.report.format import SEVERITIES, Style, columns, count, escape, json_text
from policyctl.rules import LINT_CODES, RULES

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

    from policyctl.lint.validate import Validation
    from policyctl.plan.scenario import Mismatch, ScenarioResult, Suite
    from policyctl.policy.findings import FieldPath

VALIDATE_FORMAT = "policyctl/validate"
VALIDATE_VERSION = 1
_USUAL, _NARROWEST = 80, 40  # columns of an excerpt: without a terminal, and at least


LineAt = Callable[[Mark], str | None]


def validation_text(validation: Validation, style: Style, line_at: LineAt | None = None) -> str:
    """One line for each problem, with `line_at` also the line of the file, and a summary as the last line."""
    lines = "".join(f"{line}\n" for line in problem_lines(validation.problems, style, line_at))
    return lines + validation_summary(validation, style)


def problem_lines(problems: Sequence[Problem], style: Style, line_at: LineAt | None = None) -> list[str]:
    """`file:line:col: message [CODE]`, one line each; a severity other than error is named.

    `line_at` returns the line of the file at a mark, which is then shown with a caret under the column.
    """
    lines = []
    for problem in problems:
        lines.append(_problem_line(problem, style))
        line = line_at(problem.mark) if line_at else None
        if line is not None and line.strip():
            lines += _excerpt(line, problem, style)
    return lines


def _excerpt(line: str, problem: Problem, style: Style) -> list[str]:
    """The part of a problem's line that fits, and a caret under its column."""
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
        "format": VALIDATE_FORMAT,
        "version": VALIDATE_VERSION,
        "valid": validation.valid,
        "environment": validation.environment,
        "environments": None if validation.environments is None else list(validation.environments),
        "files": validation.files,
        "policies": validation.policies,
        "models": validation.models,
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


def _problem_line(problem: Problem, style: Style) -> str:
    text = escape(problem.text).removesuffix(f"[{problem.code}]")
    code = style.paint(problem.code, SEVERITIES[problem.severity], "bold")
    return f"{style.paint(escape(str(problem.mark)), 'bold')}: {text}[{code}]"


def validation_summary(validation: Validation, style: Style) -> str:
    """One line: whether all is valid, and what was checked."""
    found = Counter(problem.severity for problem in validation.problems)
    problems = ", ".join(count(found[severity], severity) for severity in SEVERITIES if found[severity])
    seen = f"{_checked(validation)} in {count(validation.files, 'file')}"
    if validation.skipped:
        kinds = ", ".join(f"{number} {escape(kind)}" for kind, number in sorted(validation.skipped.items()))
        seen += f", skipped: {kinds}"
    where = f" in {escape(validation.environment)}" if validation.environment is not None else ""
    if validation.environments:
        where = f" in {count(len(validation.environments), 'environment')}"
    if validation.valid:
        verdict = style.paint("Valid", "green", "bold")
        return f"{verdict}{where}: {seen}" + (f", {problems}.\n" if problems else ".\n")
    return f"{style.paint('Not valid', 'red', 'bold')}{where}: {problems} ({seen}).\n"


def _checked(validation: Validation) -> str:
    """What was checked: `2 policies, 1 model and 4 tests`."""
    others = [count(number, noun) for number, noun in ((validation.models, "model"), (validation.tests, "test")) if number]
    policies = [count(validation.policies, "policy")] if validation.policies or not validation.models else []
    *first, last = [*policies, *others]
    return f"{', '.join(first)} and {last}" if first else last


RULES_FORMAT = "policyctl/rules"
RULES_VERSION = 1


def rules_text(rules: Iterable[Rule], style: Style) -> str:
    """One line for each rule: code, severity, short name."""
    return "".join(f"{_code(rule, style)}  {rule.severity:7}  {rule.name}\n" for rule in rules)


def rule_text(rule: Rule, style: Style) -> str:
    """One rule with its explanation, and how to silence it."""
    silence = _wrapped(how_to_silence(rule.code))
    return f"{_code(rule, style)} {rule.name} ({rule.severity})\n\n{_wrapped(rule.text)}\n\n{silence}\n"


def how_to_silence(code: str) -> str:
    """How to silence the rule with that code, or that this is not possible."""
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


MOST = 10  # annotations of one type that GitHub shows for a step; it silently drops the rest
_COMMANDS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "notice"}


def github_annotations(problems: Sequence[Problem], path_of: Callable[[str], str]) -> str:
    """An annotation for each problem, errors first, at most ten of a type. One more counts the rest, which follows as text,
    because the log would not contain it otherwise.

    `path_of` returns a file's path from the top of the repository, by which GitHub finds it. The syntax and the limits are
    those of GitHub's documentation of workflow commands.
    """
    found = {severity: [problem for problem in problems if problem.severity == severity] for severity in _COMMANDS}
    over = any(len(some) > MOST for some in found.values())
    # The last annotation is itself a notice, one of the ten.
    shown = {severity: some[: MOST - (over and severity == "info")] for severity, some in found.items()}
    lines = [_annotation(problem, path_of) for some in shown.values() for problem in some]
    if over:
        rest = {severity: some[len(shown[severity]) :] for severity, some in found.items()}
        further = ", ".join(count(len(some), f"further {_COMMANDS[severity]}") for severity, some in rest.items() if some)
        lines.append(f"::notice title=policyctl::{further} not shown here; the log of the step lists them")
        lines += problem_lines([problem for some in rest.values() for problem in some], Style())
    return "".join(f"{line}\n" for line in lines)


def _annotation(problem: Problem, path_of: Callable[[str], str]) -> str:
    return f"::{_COMMANDS[problem.severity]} {','.join(_properties(problem, path_of))}::{_escaped(problem.coded)}"


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
    """One visible line without percent escapes; `escape` leaves no line breaks."""
    return escape(text).replace("%", "%25")


SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_LEVELS: dict[Severity, str] = {"error": "error", "warning": "warning", "info": "note"}
_PLACE = late_pattern(r":\d+:\d+\b")


def sarif(problems: Sequence[Problem], path_of: Callable[[str], str]) -> str:
    """The problems as one SARIF run (OASIS standard, errata 01), with the rules that they break.

    `path_of` returns a file's path from the top of the repository, or an absolute path outside it.
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
    """The position in a file; for a whole file its first line, because code scanning ignores results without a line."""
    return {"startLine": mark.line, "startColumn": mark.column} if mark.line else {"startLine": 1}


def _without_links(text: str) -> str:
    """A message in which SARIF does not read `[text](place)` as a link."""
    return text.replace("](", "] (")


def _artifact(path: str) -> dict[str, str]:
    uri = quote(os.fsencode(path))
    return {"uri": f"file://{uri}"} if PurePath(path).is_absolute() else {"uri": uri, "uriBaseId": "%SRCROOT%"}


def _fingerprints(problems: Sequence[Problem], paths: dict[str, str]) -> Iterator[str]:
    """What identifies a problem in later runs: its file, rule and message, and its number among equal ones.

    Lines and columns are not included, so that edits above a problem do not change it.
    """
    seen = Counter[str]()
    for problem in problems:
        facts = [paths[problem.mark.file], problem.code, _PLACE.sub("", problem.message)]
        key = json.dumps(facts)
        seen[key] += 1
        yield hashlib.sha256(json.dumps([*facts, seen[key]]).encode()).hexdigest()


TEST_FORMAT = "policyctl/test"
TEST_VERSION = 1


class Ran(NamedTuple):
    """Results of tests in one environment, in order. `mark_of` returns the position of a path in a suite's document."""

    environment: str
    results: tuple[ScenarioResult, ...]
    mark_of: Callable[[Suite, FieldPath], Mark]

    @property
    def failed(self) -> int:
        """How many failed."""
        return sum(bool(result.failures) for result in self.results)

    def by_file(self) -> Iterator[tuple[str, list[ScenarioResult]]]:
        """The results of each file, in order."""
        for file, results in groupby(self.results, key=lambda result: result.suite.file):
            yield file, list(results)


def scenarios_text(ran: Ran, style: Style, *, verbose: bool = False, quiet: bool = False) -> str:
    """A line of dots for each file (`verbose`: a line for each test), the failed expectations with positions, and a summary.

    `quiet` leaves the last two of these.
    """
    from policyctl.effect.gateway import ASSUMED

    failed = [result for result in ran.results if result.failures]
    if quiet:
        return "".join(f"{line}\n" for result in failed for line in _failed(ran, result, style)) + f"{_summary(ran, style)}\n"
    lines = [f"environment {escape(ran.environment)}", ""]
    for file, results in ran.by_file():
        lines += _scenario_lines(file, results, style) if verbose else [f"{escape(file)} {_scenario_dots(results, style)}"]
    lines.append("")
    for result in failed:
        lines += [*_failed(ran, result, style), ""]
    lines += [style.paint(f"{ASSUMED}, unless a test sets streamed", "dim"), "", _summary(ran, style)]
    return "".join(f"{line}\n" for line in lines)


def scenarios_json(ran: Ran) -> str:
    """The same as JSON text."""
    from policyctl.effect.gateway import PROFILE

    data = {
        "format": TEST_FORMAT,
        "version": TEST_VERSION,
        "environment": ran.environment,
        "profile": PROFILE,
        "passed": len(ran.results) - ran.failed,
        "failed": ran.failed,
        "tests": [_scenario(ran, result) for result in ran.results],
    }
    return json_text(data)


def failure_line(ran: Ran, result: ScenarioResult, failure: Mismatch) -> str:
    """`file:line:col: status: expected 200, got 503`."""
    text = f"{failure.about}: expected {failure.expected}, got {failure.got}"
    return f"{escape(str(ran.mark_of(result.suite, failure.path)))}: {escape(text)}"


def _scenario_lines(file: str, results: list[ScenarioResult], style: Style) -> list[str]:
    return [
        f"{escape(file)} {style.paint('FAILED', 'red') if one.failures else style.paint('PASSED', 'green')} {escape(one.name)}"
        for one in results
    ]


def _scenario_dots(results: list[ScenarioResult], style: Style) -> str:
    return "".join(style.paint("F", "red") if result.failures else style.paint(".", "green") for result in results)


def _failed(ran: Ran, result: ScenarioResult, style: Style) -> list[str]:
    title = f"{style.paint('FAILED', 'red', 'bold')} {escape(result.name)}  ({escape(result.suite.policy)})"
    return [title, *(f"  {failure_line(ran, result, failure)}" for failure in result.failures)]


def _summary(ran: Ran, style: Style) -> str:
    passed = len(ran.results) - ran.failed
    words = [f"{passed} passed"] if passed or not ran.failed else []
    words += [f"{ran.failed} failed"] if ran.failed else []
    return style.paint(", ".join(words), "red" if ran.failed else "green", "bold")


def _scenario(ran: Ran, result: ScenarioResult) -> dict[str, Any]:
    return {
        **_marked(ran, result, result.path),
        "policy": result.suite.policy,
        "name": result.name,
        "passed": not result.failures,
        "failures": [
            {"about": one.about, "expected": one.expected, "got": one.got, **_marked(ran, result, one.path)}
            for one in result.failures
        ],
    }


def _marked(ran: Ran, result: ScenarioResult, path: FieldPath) -> dict[str, Any]:
    return ran.mark_of(result.suite, path)._asdict()


def scenarios_junit(ran: Ran) -> str:
    """A test suite for each file and a test case for each test. What XML cannot hold is escaped, as in all text."""
    from xml.etree.ElementTree import Element, SubElement, indent, tostring

    root = Element("testsuites", _junit_counts("policyctl", list(ran.results)))
    for file, results in ran.by_file():
        suite = SubElement(root, "testsuite", _junit_counts(escape(file), results))
        for result in results:
            _junit_case(suite, ran, result)
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def _junit_counts(name: str, results: list[ScenarioResult]) -> dict[str, str]:
    failed = sum(bool(result.failures) for result in results)
    return {"name": name, "tests": str(len(results)), "failures": str(failed), "errors": "0", "skipped": "0"}


def _junit_case(suite: Element, ran: Ran, result: ScenarioResult) -> None:
    from xml.etree.ElementTree import SubElement

    mark = ran.mark_of(result.suite, result.path)
    about = {"classname": escape(result.suite.policy), "name": escape(result.name)}
    case = SubElement(suite, "testcase", {**about, "file": escape(mark.file), "line": str(mark.line)})
    if result.failures:
        lines = [failure_line(ran, result, failure) for failure in result.failures]
        first = result.failures[0]
        message = escape(f"{first.about}: expected {first.expected}, got {first.got}")
        SubElement(case, "failure", {"message": message}).text = "\n".join(lines)
