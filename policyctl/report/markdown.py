"""Text as GitHub's markdown in which it is only shown: no markup, link, mention, issue, command or formula.

One rule: what is not a plain word or number of ours stands in a code span, a block of code or an HTML `<code>`; there GitHub
neither reads markup nor looks for mentions and references.
"""

from __future__ import annotations

import html
import re
from collections.abc import Sequence

from policyctl.report.plain import plain

_LONGEST = 200  # characters of a name
_LONGEST_SENTENCE = 600
_TOKEN = re.compile(r"(\(?)(.*?)([,:;.)]*)")
_WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*'?")
_NUMBER = re.compile(r"(?:\d{1,3}(?:,\d{3})+|\d{1,6})(?:\.\d+)?%?|[→×…]")
_COMMIT = re.compile(r"[a-f]{7,40}")


def code(text: str) -> str:
    """A text in a code span, cut to what a line can hold."""
    shown = _cut(plain(text), _LONGEST) or " "
    ticks = "`" * (1 + _longest_run(shown))
    # A code span loses one space on both sides, and may not begin or end with a backtick.
    pad = " " if shown[0] in " `" or shown[-1] in " `" else ""
    return f"{ticks}{pad}{shown}{pad}{ticks}"


def prose(text: str) -> str:
    """A sentence with names in it: plain words and numbers stay, everything else is code."""
    return " ".join(map(_token, _cut(plain(text), _LONGEST_SENTENCE).split()))


def html_code(text: str) -> str:
    """A text as code inside HTML, where markdown is not read."""
    return f"<code>{html.escape(_cut(plain(text), _LONGEST))}</code>"


def block(language: str, lines: Sequence[str]) -> str:
    """Lines in a block of code that none of them can end; each must be one line already."""
    fence = "`" * max(3, 1 + max(map(_longest_run, lines), default=0))
    return "\n".join((f"{fence}{language}", *lines, fence)) + "\n"


def row(cells: Sequence[str]) -> str:
    """A table's row. A bar ends a cell even inside code, and cannot be written behind a backslash."""
    return "| " + " | ".join(cell.replace("\\|", "\\\\x7c").replace("|", "\\|") for cell in cells) + " |\n"


def _token(token: str) -> str:
    found = _TOKEN.fullmatch(token)
    assert found is not None  # noqa: S101 - it takes any line
    before, core, after = found.groups()
    if _NUMBER.fullmatch(core) and "." not in after and (before or ")" not in after):  # `1.` and `1)` would begin a list
        return token
    if _WORD.fullmatch(core) and not _COMMIT.fullmatch(core):
        return token
    return f"{before}{code(core)}{after}" if core and not core.isdigit() else code(token)


def _cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"


def _longest_run(text: str) -> int:
    """How many backticks stand in a row, at most."""
    return max(map(len, re.findall("`+", text)), default=0)
