"""What became of scenario tests, as people who know pytest expect it, and as JSON."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from policyctl.core.judge import Failure, Verdict
from policyctl.core.scenario import Suite
from policyctl.effect.profile import ASSUMED, PROFILE
from policyctl.errors import Mark
from policyctl.model.complaints import Path
from policyctl.report.plain import json_text, plain
from policyctl.report.style import Style

FORMAT = "policyctl/test"
VERSION = 1


@dataclass(frozen=True, slots=True)
class Ran:
    """Tests that were run for one environment, in order; `mark_of` gives a path into a document of tests its place."""

    environment: str
    verdicts: tuple[Verdict, ...]
    mark_of: Callable[[Suite, Path], Mark]

    @property
    def failed(self) -> int:
        """How many failed."""
        return sum(bool(verdict.failures) for verdict in self.verdicts)

    def by_file(self) -> Iterator[tuple[str, list[Verdict]]]:
        """The verdicts of each file, in order."""
        for file, verdicts in groupby(self.verdicts, key=lambda verdict: verdict.suite.file):
            yield file, list(verdicts)


def scenarios_text(ran: Ran, style: Style, *, verbose: bool = False) -> str:
    """A line a file (`verbose`: a test) with its dots, then each failed expectation at its place, then the summary line."""
    lines = [f"environment {plain(ran.environment)}", ""]
    for file, verdicts in ran.by_file():
        lines += _tests(file, verdicts, style) if verbose else [f"{plain(file)} {_dots(verdicts, style)}"]
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


def failure_line(ran: Ran, verdict: Verdict, failure: Failure) -> str:
    """`file:line:col: status: expected 200, got 503`."""
    said = f"{failure.about}: expected {failure.expected}, got {failure.got}"
    return f"{plain(str(ran.mark_of(verdict.suite, failure.path)))}: {plain(said)}"


def _tests(file: str, verdicts: list[Verdict], style: Style) -> list[str]:
    return [
        f"{plain(file)} {style.paint('FAILED', 'red') if one.failures else style.paint('PASSED', 'green')} {plain(one.name)}"
        for one in verdicts
    ]


def _dots(verdicts: list[Verdict], style: Style) -> str:
    return "".join(style.paint("F", "red") if verdict.failures else style.paint(".", "green") for verdict in verdicts)


def _failed(ran: Ran, verdict: Verdict, style: Style) -> list[str]:
    title = f"{style.paint('FAILED', 'red', 'bold')} {plain(verdict.name)}  ({plain(verdict.suite.policy)})"
    return [title, *(f"  {failure_line(ran, verdict, failure)}" for failure in verdict.failures)]


def _summary(ran: Ran, style: Style) -> str:
    passed = len(ran.verdicts) - ran.failed
    words = [f"{passed} passed"] if passed or not ran.failed else []
    words += [f"{ran.failed} failed"] if ran.failed else []
    return style.paint(", ".join(words), "red" if ran.failed else "green", "bold")


def _test(ran: Ran, verdict: Verdict) -> dict[str, Any]:
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


def _place(ran: Ran, verdict: Verdict, path: Path) -> dict[str, Any]:
    return ran.mark_of(verdict.suite, path)._asdict()
