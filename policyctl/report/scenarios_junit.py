"""What became of scenario tests as JUnit XML, which most CI systems read."""

from __future__ import annotations

from xml.etree.ElementTree import Element, SubElement, indent, tostring

from policyctl.core.judge import Verdict
from policyctl.report.plain import plain
from policyctl.report.scenarios import Ran, failure_line


def scenarios_junit(ran: Ran) -> str:
    """A test suite a file, a test case a test; what XML cannot hold is escaped as everywhere else."""
    root = Element("testsuites", _counts("policyctl", list(ran.verdicts)))
    for file, verdicts in ran.by_file():
        suite = SubElement(root, "testsuite", _counts(plain(file), verdicts))
        for verdict in verdicts:
            _case(suite, ran, verdict)
    indent(root)
    return f'<?xml version="1.0" encoding="UTF-8"?>\n{tostring(root, encoding="unicode")}\n'


def _counts(name: str, verdicts: list[Verdict]) -> dict[str, str]:
    failed = sum(bool(verdict.failures) for verdict in verdicts)
    return {"name": name, "tests": str(len(verdicts)), "failures": str(failed), "errors": "0", "skipped": "0"}


def _case(suite: Element, ran: Ran, verdict: Verdict) -> None:
    mark = ran.mark_of(verdict.suite, verdict.path)
    about = {"classname": plain(verdict.suite.policy), "name": plain(verdict.name)}
    case = SubElement(suite, "testcase", {**about, "file": plain(mark.file), "line": str(mark.line)})
    if verdict.failures:
        lines = [failure_line(ran, verdict, failure) for failure in verdict.failures]
        first = verdict.failures[0]
        message = plain(f"{first.about}: expected {first.expected}, got {first.got}")
        SubElement(case, "failure", {"message": message}).text = "\n".join(lines)
