"""Problems in the text that policyctl prints."""

from __future__ import annotations

import re


def shows(problem: str, text: str) -> bool:
    """Whether one line of the text has that part of a place and message, and ends in its code: `b.yaml: is a link [P008]`."""
    part, code = found.groups() if (found := re.fullmatch(r"(.*) (\[P\d{3}])", problem)) else (problem, "")
    return any(part in line and line.endswith(code) for line in text.splitlines())


def place_and_code(line: str) -> str:
    """`file:line:col: CODE` of a problem's line."""
    return f"{line.split()[0]} {line[-5:-1]}"
