"""Findings as SARIF 2.1.0, the exchange format of code scanners (OASIS standard, errata 01)."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import PurePath
from typing import Any
from urllib.parse import quote

from policyctl import __version__
from policyctl.errors import Mark, Problem, Severity
from policyctl.report.format import escape, json_text
from policyctl.report.problems import how_to_silence
from policyctl.rules.catalogue import RULES

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
