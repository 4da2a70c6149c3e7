"""The results of scenario tests as text in the style of pytest, as JSON, and as JUnit XML."""

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
    failed = [result for result in ran.results if result.failures]
    if quiet:
        return "".join(f"{line}\n" for result in failed for line in _failed(ran, result, style)) + f"{_summary(ran, style)}\n"
    lines = [f"environment {escape(ran.environment)}", ""]
    for file, results in ran.by_file():
        lines += _tests(file, results, style) if verbose else [f"{escape(file)} {_dots(results, style)}"]
    lines.append("")
    for result in failed:
        lines += [*_failed(ran, result, style), ""]
    lines += [style.paint(f"{ASSUMED}, unless a test sets streamed", "dim"), "", _summary(ran, style)]
    return "".join(f"{line}\n" for line in lines)


def scenarios_json(ran: Ran) -> str:
    """The same as JSON text."""
    data = {
        "format": FORMAT,
        "version": VERSION,
        "environment": ran.environment,
        "profile": PROFILE,
        "passed": len(ran.results) - ran.failed,
        "failed": ran.failed,
        "tests": [_test(ran, result) for result in ran.results],
    }
    return json_text(data)


def failure_line(ran: Ran, result: ScenarioResult, failure: Mismatch) -> str:
    """`file:line:col: status: expected 200, got 503`."""
    text = f"{failure.about}: expected {failure.expected}, got {failure.got}"
    return f"{escape(str(ran.mark_of(result.suite, failure.path)))}: {escape(text)}"


def _tests(file: str, results: list[ScenarioResult], style: Style) -> list[str]:
    return [
        f"{escape(file)} {style.paint('FAILED', 'red') if one.failures else style.paint('PASSED', 'green')} {escape(one.name)}"
        for one in results
    ]


def _dots(results: list[ScenarioResult], style: Style) -> str:
    return "".join(style.paint("F", "red") if result.failures else style.paint(".", "green") for result in results)


def _failed(ran: Ran, result: ScenarioResult, style: Style) -> list[str]:
    title = f"{style.paint('FAILED', 'red', 'bold')} {escape(result.name)}  ({escape(result.suite.policy)})"
    return [title, *(f"  {failure_line(ran, result, failure)}" for failure in result.failures)]


def _summary(ran: Ran, style: Style) -> str:
    passed = len(ran.results) - ran.failed
    words = [f"{passed} passed"] if passed or not ran.failed else []
    words += [f"{ran.failed} failed"] if ran.failed else []
    return style.paint(", ".join(words), "red" if ran.failed else "green", "bold")


def _test(ran: Ran, result: ScenarioResult) -> dict[str, Any]:
    return {
        **_place(ran, result, result.path),
        "policy": result.suite.policy,
        "name": result.name,
        "passed": not result.failures,
        "failures": [
            {"about": one.about, "expected": one.expected, "got": one.got, **_place(ran, result, one.path)}
            for one in result.failures
        ],
    }


def _place(ran: Ran, result: ScenarioResult, path: FieldPath) -> dict[str, Any]:
    return ran.mark_of(result.suite, path)._asdict()


def scenarios_junit(ran: Ran) -> str:
    """A test suite for each file and a test case for each test. What XML cannot hold is escaped, as in all text."""
    root = Element("testsuites", _counts("policyctl", list(ran.results)))
    for file, results in ran.by_file():
        suite = SubElement(root, "testsuite", _counts(escape(file), results))
        for result in results:
            _case(suite, ran, result)
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def _counts(name: str, results: list[ScenarioResult]) -> dict[str, str]:
    failed = sum(bool(result.failures) for result in results)
    return {"name": name, "tests": str(len(results)), "failures": str(failed), "errors": "0", "skipped": "0"}


def _case(suite: Element, ran: Ran, result: ScenarioResult) -> None:
    mark = ran.mark_of(result.suite, result.path)
    about = {"classname": escape(result.suite.policy), "name": escape(result.name)}
    case = SubElement(suite, "testcase", {**about, "file": escape(mark.file), "line": str(mark.line)})
    if result.failures:
        lines = [failure_line(ran, result, failure) for failure in result.failures]
        first = result.failures[0]
        message = escape(f"{first.about}: expected {first.expected}, got {first.got}")
        SubElement(case, "failure", {"message": message}).text = "\n".join(lines)
