"""The comments `# policyctl: ignore[…]` in a file's text."""

from __future__ import annotations

import re
from bisect import bisect_right
from typing import NamedTuple

import yaml

from policyctl.errors import Mark
from policyctl.load.yaml_text import Loader

_COMMENT = re.compile(r"#[ \t]*policyctl:[ \t]*ignore\b[ \t]*(?P<codes>\[[^\]\r\n]*\])?")
_CODE = re.compile(r"[^\s,\[\]]+")
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # as YAML counts lines


class IgnoreComment(NamedTuple):
    """One such comment: where it stands, and each code with its place, as written."""

    mark: Mark
    codes: tuple[tuple[str, Mark], ...]


def ignore_comments(content: bytes, file: str) -> tuple[IgnoreComment, ...]:
    """The ignore comments of a YAML file, in order. Text in a scalar is none."""
    text = content.decode("utf-8-sig")
    found = list(_COMMENT.finditer(text))
    if not found:
        return ()
    begins, ends = _scalars(text)
    starts = [0, *(end.end() for end in _LINE_END.finditer(text))]
    return tuple(
        _comment(match, starts, file)
        for match in found
        if not (before := bisect_right(begins, match.start())) or match.start() >= ends[before - 1]
    )


def _comment(match: re.Match[str], starts: list[int], file: str) -> IgnoreComment:
    def mark(position: int) -> Mark:
        line = bisect_right(starts, position)
        return Mark(file, line, position - starts[line - 1] + 1)

    listed, offset = match["codes"] or "", match.start("codes")
    codes = tuple((code.group(), mark(offset + code.start())) for code in _CODE.finditer(listed))
    return IgnoreComment(mark(match.start()), codes)


def _scalars(text: str) -> tuple[list[int], list[int]]:
    """Where the scalars of a YAML text, which was parsed before, begin and end, in order."""
    marks = [(event.start_mark, event.end_mark) for event in yaml.parse(text, Loader) if isinstance(event, yaml.ScalarEvent)]
    both = [(start.index, end.index) for start, end in marks if start and end]
    return [start for start, _ in both], [end for _, end in both]
