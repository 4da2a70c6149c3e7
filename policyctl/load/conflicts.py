"""What an unfinished merge leaves in a file, found before anything tries to read it as YAML or JSON."""

from __future__ import annotations

import re

from policyctl.errors import Mark, Problem

# Valid text can hold `=======` as a line, at the most; the other two say enough by themselves.
_ENDS = re.compile(r"^(?:<{7}|>{7})(?: .*)?\r?$", re.MULTILINE)
_ANY = re.compile(r"^(?:<{7}|>{7}|\|{7}|={7})(?: .*)?\r?$", re.MULTILINE)


def conflict_in(text: str, file: str) -> Problem | None:
    """The first conflict that a merge left in a text, or None. Also found where the text happens to be valid."""
    if "<<<<<<<" not in text and ">>>>>>>" not in text:
        return None
    first = _ENDS.search(text)
    if first is None:
        return None
    if first[0].startswith(">"):
        return _left_over(text, first, file)
    line = _line(text, first.start())
    end = next((found for found in _ENDS.finditer(text, first.end()) if found[0].startswith(">")), None)
    where = f"lines {line} to {_line(text, end.start())}" if end else f"line {line}"
    message = f"the merge conflict on {where} is not resolved; finish the merge: keep the right lines and delete the markers"
    return Problem(Mark(file, line, 1), "P002", message)


def left_over_marker(text: str, file: str) -> Problem | None:
    """A lone line of a merge conflict in a text that cannot be parsed, or None."""
    found = _ANY.search(text)
    return _left_over(text, found, file) if found else None


def _left_over(text: str, found: re.Match[str], file: str) -> Problem:
    marker = found[0][:7]
    message = f"this line, {marker}, is left over from a merge conflict; finish the merge: delete it"
    return Problem(Mark(file, _line(text, found.start()), 1), "P002", message)


def _line(text: str, position: int) -> int:
    return text.count("\n", 0, position) + 1
