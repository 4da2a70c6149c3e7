"""Lines at the width of a terminal: words kept whole where they can be, continuations under their text.

Colours take no room and end with their row, so that a pager shows them right; a wide character takes two columns.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator
from typing import NamedTuple

_ESCAPE = re.compile(r"\x1b\[[\d;]*m")
_PIECE = re.compile(r" +|(?:\x1b\[[\d;]*m|[^ ])+")
_GLYPH = re.compile(r"\x1b\[[\d;]*m|.")
_PLAIN = "\x1b[0m"
_NARROWEST = 20  # columns; with fewer nothing can be read, and the terminal may break as it likes


class Line(NamedTuple):
    """One line of text. Where it is too long, what continues it stands under `text`, or `deeper` by so many columns; as far
    as that leaves room."""

    lead: str
    text: str = ""
    deeper: int = 0


def laid_out(lines: Iterable[Line], width: int | None) -> str:
    """The lines as text, at most `width` columns wide; None leaves each of them one line."""
    return "\n".join(row for line in lines for row in _rows(line, width))


def columns(text: str) -> int:
    """How many columns a terminal needs for a painted text."""
    bare = _ESCAPE.sub("", text) if "\x1b" in text else text
    return len(bare) if bare.isascii() else sum(map(_columns_of, bare))


def padded(text: str, width: int) -> str:
    """The text filled up to this width; a longer one stays as it is."""
    return text + " " * (width - columns(text))


def _columns_of(char: str) -> int:
    if char == "\ufe0f":  # asks for the wide form of the character before it; some terminals follow
        return 1
    if unicodedata.category(char) in ("Mn", "Me"):
        return 0
    return 2 if unicodedata.east_asian_width(char) in ("W", "F") else 1


def _rows(line: Line, width: int | None) -> Iterator[str]:
    text = line.lead + line.text
    if width is None or columns(text) <= (width := max(width, _NARROWEST)):
        return iter([text])
    return _broken(text, width, _hang(line, width))


def _hang(line: Line, width: int) -> int:
    """How far continuations are indented; what takes half of the width would leave too little beside it."""
    under = columns(line.lead) + line.deeper
    return under if under <= width // 2 else min(_indentation(line.lead) + 4, width // 2)


def _indentation(text: str) -> int:
    return len(text) - len(text.lstrip(" "))


def _broken(text: str, width: int, hang: int) -> Iterator[str]:
    """The rows of a text that does not fit in one. Spaces at which it is broken are dropped, nothing else is."""
    indentation = min(_indentation(text), width // 2)
    row, used, gap, look = " " * indentation, indentation, "", ""
    for piece in _PIECE.findall(text.lstrip(" ")):
        if piece[0] == " ":
            gap = piece
            continue
        size = columns(piece)
        if used + len(gap) + size > width and size <= width - hang:  # whole in the next row
            yield _ended(row, look)
            row, used, gap = " " * hang + look, hang, ""
        row, used = row + gap, used + len(gap)
        gap = ""
        for glyph in [piece] if used + size <= width else _GLYPH.findall(piece):
            if used + columns(glyph) > width:
                yield _ended(row, look)
                row, used = " " * hang + look, hang
            row, used = row + glyph, used + columns(glyph)
            look = _look_after(glyph, look)
    yield row


def _ended(row: str, look: str) -> str:
    row = row.rstrip(" ")
    return f"{row}{_PLAIN}" if look else row


def _look_after(text: str, look: str) -> str:
    """The escape that is in force behind a text."""
    found = _ESCAPE.findall(text)
    return look if not found else "" if found[-1] == _PLAIN else found[-1]
