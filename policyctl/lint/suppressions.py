"""Comments that suppress a lint rule on their line: `# policyctl: ignore[P405]`, or several codes with commas."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field

from policyctl.errors import Mark, Problem
from policyctl.load.locate import IgnoreComment, ignore_comments
from policyctl.policy.findings import format_path
from policyctl.rules import LINT_CODES, RULES, guess_rule, severity_of


@dataclass(slots=True)
class Suppressions:
    """The ignore comments of some files, and which of their codes have suppressed a finding so far."""

    contents: Mapping[str, bytes]
    _comments: dict[str, tuple[IgnoreComment, ...]] = field(default_factory=dict)
    _lines: dict[str, dict[int, list[IgnoreComment]]] = field(default_factory=dict)
    _used: set[tuple[Mark, str]] = field(default_factory=set)

    def without_ignored(self, problems: list[Problem]) -> list[Problem]:
        """The problems that no comment suppresses. Only findings of lint rules can be suppressed."""
        return [problem for problem in problems if problem.code not in LINT_CODES or not self._suppresses(problem)]

    def problems(self, judged: Collection[str], files: Collection[str]) -> Iterator[Problem]:
        """What is wrong with the comments of these files. A code is reported as useless only if its rule was `judged`."""
        for file in files:
            for comment in self._comments_of(file):
                yield from self._problems_of(comment, judged)

    def _problems_of(self, comment: IgnoreComment, judged: Collection[str]) -> Iterator[Problem]:
        if not comment.codes:
            yield _problem(comment.mark, "P492", "this comment does not name a rule (write # policyctl: ignore[CODE])")
        for code, mark in comment.codes:
            if complaint := _code_finding(code):
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
            self._comments[file] = self._read(file)
        return self._comments[file]

    def _read(self, file: str) -> tuple[IgnoreComment, ...]:
        if b"policyctl:" not in self.contents.get(file, b"") or file.endswith(".json"):  # JSON has no comments
            return ()

        return ignore_comments(self.contents[file], file)


def _code_finding(code: str) -> str | None:
    if code in LINT_CODES:
        return None
    if code in RULES:
        return f"{code} is not a lint rule and cannot be ignored; fix the problem"
    return f"unknown rule {format_path(code)}{guess_rule(code)}; policyctl rules lists all"


def _problem(mark: Mark, code: str, message: str) -> Problem:
    return Problem(mark, code, message, severity_of(code))
