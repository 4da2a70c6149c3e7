"""The results of scenario tests: as text in the style of pytest, as JSON and as JUnit XML."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any
from xml.etree.ElementTree import Element, SubElement, indent, tostring

from policyctl.effect.gateway import ASSUMED, PROFILE
from policyctl.errors import Mark
from policyctl.plan.scenario import Mismatch, ScenarioResult, Suite
from policyctl.policy.findings import FieldPath
from policyctl.report.format import Style, escape, json_text

FORMAT = "policyctl/test"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Ran:
    """Tests that were run for one environment, in order; `mark_of` gives a path into a document of tests its place."""

    environment: str
    verdicts: tuple[ScenarioResult, ...]
    mark_of: Callable[[Suite, FieldPath], Mark]

    @property
    def failed(self) -> int:
        """How many failed."""
        return sum(bool(verdict.failures) for verdict in self.verdicts)

    def by_file(self) -> Iterator[tuple[str, list[ScenarioResult]]]:
        """The verdicts of each file, in order."""
        for file, verdicts in groupby(self.verdicts, key=lambda verdict: verdict.suite.file):
            yield file, list(verdicts)


def scenarios_text(ran: Ran, style: Style, *, verbose: bool = False) -> str:
    """A line a file (`verbose`: a test) with its dots, then each failed expectation at its place, then the summary line."""
    lines = [f"environment {escape(ran.environment)}", ""]
    for file, verdicts in ran.by_file():
        lines += _tests(file, verdicts, style) if verbose else [f"{escape(file)} {_dots(verdicts, style)}"]
    lines.append("")
    for verdict in ran.verdicts:
        if verdict.failures:
            lines += [*_failed(ran, verdict, style), ""]
    lines += [style.paint(f"{ASSUMED}, unless a test says so", "dim"), "", _summary(ran, style)]
    return "".join(f"{line}\n" for line in lines)


def scenarios_json(ran: Ran) -> str:
    """The same as JSON text."""
    data = {
        "format": FORMAT,
        "version": VERSION,
        "environment": ran.environment,
        "profile": PROFILE,
        "passed": len(ran.verdicts) - ran.failed,
        "failed": ran.failed,
        "tests": [_test(ran, verdict) for verdict in ran.verdicts],
    }
    return json_text(data)


def failure_line(ran: Ran, verdict: ScenarioResult, failure: Mismatch) -> str:
    """`file:line:col: status: expected 200, got 503`."""
    said = f"{failure.about}: expected {failure.expected}, got {failure.got}"
    return f"{escape(str(ran.mark_of(verdict.suite, failure.path)))}: {escape(said)}"


def _tests(file: str, verdicts: list[ScenarioResult], style: Style) -> list[str]:
    return [
        f"{escape(file)} {style.paint('FAILED', 'red') if one.failures else style.paint('PASSED', 'green')} {escape(one.name)}"
        for one in verdicts
    ]


def _dots(verdicts: list[ScenarioResult], style: Style) -> str:
    return "".join(style.paint("F", "red") if verdict.failures else style.paint(".", "green") for verdict in verdicts)


def _failed(ran: Ran, verdict: ScenarioResult, style: Style) -> list[str]:
    title = f"{style.paint('FAILED', 'red', 'bold')} {escape(verdict.name)}  ({escape(verdict.suite.policy)})"
    return [title, *(f"  {failure_line(ran, verdict, failure)}" for failure in verdict.failures)]


def _summary(ran: Ran, style: Style) -> str:
    passed = len(ran.verdicts) - ran.failed
    words = [f"{passed} passed"] if passed or not ran.failed else []
    words += [f"{ran.failed} failed"] if ran.failed else []
    return style.paint(", ".join(words), "red" if ran.failed else "green", "bold")


def _test(ran: Ran, verdict: ScenarioResult) -> dict[str, Any]:
    return {
        **_place(ran, verdict, verdict.path),
        "policy": verdict.suite.policy,
        "name": verdict.name,
        "passed": not verdict.failures,
        "failures": [
            {"about": one.about, "expected": one.expected, "got": one.got, **_place(ran, verdict, one.path)}
            for one in verdict.failures
        ],
    }


def _place(ran: Ran, verdict: ScenarioResult, path: FieldPath) -> dict[str, Any]:
    return ran.mark_of(verdict.suite, path)._asdict()


def scenarios_junit(ran: Ran) -> str:
    """A test suite a file, a test case a test; what XML cannot hold is escaped as everywhere else."""
    root = Element("testsuites", _counts("policyctl", list(ran.verdicts)))
    for file, verdicts in ran.by_file():
        suite = SubElement(root, "testsuite", _counts(escape(file), verdicts))
        for verdict in verdicts:
            _case(suite, ran, verdict)
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def _counts(name: str, verdicts: list[ScenarioResult]) -> dict[str, str]:
    failed = sum(bool(verdict.failures) for verdict in verdicts)
    return {"name": name, "tests": str(len(verdicts)), "failures": str(failed), "errors": "0", "skipped": "0"}


def _case(suite: Element, ran: Ran, verdict: ScenarioResult) -> None:
    mark = ran.mark_of(verdict.suite, verdict.path)
    about = {"classname": escape(verdict.suite.policy), "name": escape(verdict.name)}
    case = SubElement(suite, "testcase", {**about, "file": escape(mark.file), "line": str(mark.line)})
    if verdict.failures:
        lines = [failure_line(ran, verdict, failure) for failure in verdict.failures]
        first = verdict.failures[0]
        message = escape(f"{first.about}: expected {first.expected}, got {first.got}")
        SubElement(case, "failure", {"message": message}).text = "\n".join(lines)
