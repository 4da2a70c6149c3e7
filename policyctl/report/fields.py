"""The fields of a change as lines in which long runs that did not change are left out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from difflib import SequenceMatcher

from policyctl.core.diff import Field
from policyctl.report.plain import cut, field_values, place

_SHORT = 60  # characters of a value that is shown whole
_MOST = 200  # characters of one that is not
_AROUND = 20  # characters shown on each side of what differs
_COMPARED = 500  # words of one value; a longer one is compared from both ends only
_WORD = re.compile(r"\w+|\s+|[^\w\s]")


def field_lines(fields: Sequence[Field], *, whole: bool = False) -> Iterator[str]:
    """`path: before → after`, a line a field. `whole` leaves nothing out."""
    for field in fields:
        before, after = sides(field, whole=whole)
        yield f"    {place(field.path)}: {before} → {after}"


def sides(field: Field, *, whole: bool = False) -> tuple[str, str]:
    """Both values as text that shows how they differ: never the same text twice."""
    if whole:
        return field_values(field, longest=None)
    if field.before is None or field.after is None:
        return field_values(field)
    return elided(*field_values(field, longest=None))


def elided(before: str, after: str) -> tuple[str, str]:
    """Two texts with `…` for the long runs that both have, and for what is more than can be shown.

    The first difference is always shown: it stands right behind what is left of the first common run.
    """
    if max(len(before), len(after)) <= _SHORT:
        return before, after
    start = _in_common(before, after)
    old, new = before[start:], after[start:]
    end = _in_common(old[::-1], new[::-1])
    head, tail = _end_of(before[:start]), _start_of(old[len(old) - end :])
    left, right = _middles(old[: len(old) - end], new[: len(new) - end])
    return cut(head + left + tail, _MOST), cut(head + right + tail, _MOST)


def _in_common(one: str, other: str) -> int:
    """How many characters two texts begin with alike."""
    differ = (at for at, (char, its) in enumerate(zip(one, other, strict=False)) if char != its)
    return next(differ, min(len(one), len(other)))


def _middles(old: str, new: str) -> tuple[str, str]:
    """Two texts that differ at both ends, without the long runs between."""
    words, others = _WORD.findall(old), _WORD.findall(new)
    if max(len(words), len(others)) > _COMPARED:
        return old, new
    left = right = ""
    for tag, i, j, k, m in SequenceMatcher(None, words, others, autojunk=False).get_opcodes():
        one, other = "".join(words[i:j]), "".join(others[k:m])
        if tag == "equal" and len(one) > 2 * _AROUND:
            one = other = _start_of(one).removesuffix("…") + _end_of(one)
        left, right = left + one, right + other
    return left, right


def _end_of(text: str) -> str:
    """`…` and the last words of a text."""
    if len(text) <= _AROUND:
        return text
    kept = text[-_AROUND:]
    words = kept.partition(" ")[2]
    return f"… {words}" if words else f"…{kept}"


def _start_of(text: str) -> str:
    """The first words of a text and `…`."""
    if len(text) <= _AROUND:
        return text
    kept = text[:_AROUND]
    words = kept.rpartition(" ")[0]
    return f"{words} …" if words else f"{kept}…"
