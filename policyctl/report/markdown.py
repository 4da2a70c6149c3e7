"""Text as GitHub's markdown in which it is only shown: no markup, link, mention, issue, command or formula.

One rule: what is not a plain word or number of ours stands in a code span, a block of code or an HTML `<code>`; there GitHub
neither reads markup nor looks for mentions and references.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from policyctl.report.plain import cut, plain

_LONGEST = 200  # characters of a name
_LONGEST_SENTENCE = 600
_TOKEN = re.compile(r"(\(?)(.*?)([,:;.)]*)")
_WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*'?")
_NUMBER = re.compile(r"(?:\d{1,3}(?:,\d{3})+|\d{1,6})(?:\.\d+)?%?|[→×…]")
_REFERENCE = re.compile(r"[a-f]{7,40}|ghsa-.*|www", re.IGNORECASE)  # words that may be a commit's or an advisory's name
_ITEM = re.compile(r"\d+[.)]")  # would begin a list


def code(text: str) -> str:
    """A text in a code span, cut to what a line can hold."""
    return _span(cut(plain(text), _LONGEST))


def prose(text: str) -> str:
    """A sentence with names in it: plain words and numbers stay, everything else is code."""
    said: list[str] = []
    names: list[str] = []  # that stand side by side, and so in one code span
    for token in cut(plain(text), _LONGEST_SENTENCE).split():
        before, name, after = _parts(token, not said and not names)
        if names and (before or not name):
            said.append(_span(" ".join(names)))
            names = []
        if not name:
            said.append(token)
        elif before or after:
            said.append(before + _span(" ".join([*names, name])) + after)
            names = []
        else:
            names.append(name)
    return " ".join([*said, *([_span(" ".join(names))] if names else [])])


def html_code(text: str) -> str:
    """A text as code inside HTML, where markdown is not read."""
    return f"<code>{html.escape(cut(plain(text), _LONGEST))}</code>"


def block(language: str, lines: Sequence[str]) -> str:
    """Lines in a block of code that none of them can end; each must be one line already."""
    fence = "`" * max(3, 1 + max(map(_longest_run, lines), default=0))
    return "\n".join((f"{fence}{language}", *lines, fence)) + "\n"


def row(cells: Sequence[str]) -> str:
    """A table's row. A bar ends a cell even inside code, and cannot be written behind a backslash."""
    return "| " + " | ".join(cell.replace("\\|", "\\\\x7c").replace("|", "\\|") for cell in cells) + " |\n"


def _span(shown: str) -> str:
    shown = shown or " "  # none is no code span
    ticks = "`" * (1 + _longest_run(shown))
    # A code span loses one space on both sides, and may not begin or end with a backtick.
    pad = " " if shown.strip() and (shown[0] in " `" or shown[-1] in " `") else ""
    return f"{ticks}{pad}{shown}{pad}{ticks}"


def _parts(token: str, first: bool) -> tuple[str, str, str]:
    """What of a token must be code, with what stands around it; nothing when the token can stay as it is."""
    found = _TOKEN.fullmatch(token)
    assert found is not None  # noqa: S101 - it takes any line
    before, core, after = found.groups()
    if first and _ITEM.fullmatch(token):
        return "", token, ""
    if _NUMBER.fullmatch(core) or (_WORD.fullmatch(core) and not _REFERENCE.fullmatch(core)):
        return "", "", ""
    return (before, core, after) if core else ("", token, "")


def _longest_run(text: str) -> int:
    """How many backticks stand in a row, at most."""
    return max(map(len, re.findall("`+", text)), default=0)
