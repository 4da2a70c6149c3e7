"""Comments that suppress a lint rule on their line: `# policyctl: ignore[P405]`, or several codes with commas."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

import yaml

from policyctl.errors import Mark, Problem
from policyctl.lint.catalogue import LINT_CODES, RULES, guess_rule, severity_of
from policyctl.load.source import Source
from policyctl.load.yaml_text import Loader
from policyctl.model.complaints import show

_COMMENT = re.compile(r"#[ \t]*policyctl:[ \t]*ignore\b[ \t]*(?P<codes>\[[^\]\r\n]*\])?")
_CODE = re.compile(r"[^\s,\[\]]+")
_LINE_END = re.compile("\r\n|[\n\r\x85\u2028\u2029]")  # as YAML counts lines


@dataclass(frozen=True, slots=True)
class IgnoreComment:
    """One such comment: where it stands, and each code with its place, as written."""

    mark: Mark
    codes: tuple[tuple[str, Mark], ...]


@dataclass(slots=True)
class Ignored:
    """The ignore comments of some files, and which of their codes have suppressed something so far."""

    sources: Mapping[str, Source]
    _comments: dict[str, tuple[IgnoreComment, ...]] = field(default_factory=dict)
    _lines: dict[str, dict[int, list[IgnoreComment]]] = field(default_factory=dict)
    _used: set[tuple[Mark, str]] = field(default_factory=set)

    def without_ignored(self, problems: list[Problem]) -> list[Problem]:
        """The problems that no comment suppresses. Only findings of lint rules can be suppressed."""
        return [problem for problem in problems if problem.code not in LINT_CODES or not self._suppresses(problem)]

    def problems(self, judged: Collection[str], files: Collection[str]) -> Iterator[Problem]:
        """What is wrong with the comments of these files. A code is called useless only when its rule was `judged`."""
        for file in files:
            for comment in self._comments_of(file):
                yield from self._problems_of(comment, judged)

    def _problems_of(self, comment: IgnoreComment, judged: Collection[str]) -> Iterator[Problem]:
        if not comment.codes:
            yield _problem(comment.mark, "P492", "this comment names no rule (write # policyctl: ignore[CODE])")
        for code, mark in comment.codes:
            if complaint := _code_complaint(code):
                yield _problem(mark, "P492", complaint)
            elif code in judged and (mark, code) not in self._used:
                yield _problem(mark, "P491", f"there is no {code} on this line to suppress (remove the comment)")

    def _suppresses(self, problem: Problem) -> bool:
        uses = [
            (mark, code)
            for comment in self._on_lines(problem.mark.file).get(problem.mark.line, ())
            for code, mark in comment.codes
            if code == problem.code
        ]
        self._used.update(uses)
        return bool(uses)

    def _on_lines(self, file: str) -> dict[int, list[IgnoreComment]]:
        """The comments of a file by their lines."""
        if file not in self._lines:
            self._lines[file] = defaultdict(list)
            for comment in self._comments_of(file):
                self._lines[file][comment.mark.line].append(comment)
        return self._lines[file]

    def _comments_of(self, file: str) -> tuple[IgnoreComment, ...]:
        if file not in self._comments:
            source = self.sources.get(file)
            self._comments[file] = () if source is None else ignore_comments(source)
        return self._comments[file]


def ignore_comments(source: Source) -> tuple[IgnoreComment, ...]:
    """The ignore comments of a YAML file, in order. JSON has no comments, and text in a scalar is none."""
    text = source.text
    if "policyctl:" not in text or source.file.endswith(".json"):
        return ()
    found = list(_COMMENT.finditer(text))
    if not found:
        return ()
    begins, ends = _scalars(text)
    starts = [0, *(end.end() for end in _LINE_END.finditer(text))]
    return tuple(
        _comment(match, starts, source.file)
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


def _code_complaint(code: str) -> str | None:
    if code in LINT_CODES:
        return None
    if code in RULES:
        return f"{code} is no lint rule and cannot be ignored; mend what it finds"
    return f"there is no rule {show(code)}{guess_rule(code)}; policyctl rules lists all"


def _problem(mark: Mark, code: str, message: str) -> Problem:
    return Problem(mark, code, message, severity_of(code))
