"""What one file says, as a value that can be kept: in memory, in the cache, on the way from another process."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from policyctl.errors import Mark, Problem
from policyctl.load.kinds import TEST_KIND, is_test_file
from policyctl.model.policy import Policy


@dataclass(slots=True)
class Contents:
    """What one file (or a whole directory) says.

    `references` are the policies that a policy's targets may mean, by its name, where there are any.
    """

    policies: list[Policy] = field(default_factory=list)
    references: dict[str, frozenset[str]] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)
    timeouts: dict[str, float] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    skipped: Counter[str] = field(default_factory=Counter)

    def add(self, other: Contents) -> None:
        self.policies += other.policies
        self.problems += other.problems
        if other.references:
            self.references |= other.references
        if other.models:
            self.models |= other.models
            self.timeouts |= other.timeouts
        if other.skipped:
            self.skipped += other.skipped


def holds_tests(file: str, contents: Contents) -> bool:
    """Whether a file has scenario tests: by its own name, or in a document of that kind."""
    return is_test_file(file) or TEST_KIND in contents.skipped


def to_plain(contents: Contents) -> list[Any]:
    """One file's contents as a plain value, without the file's name."""
    return [
        [[policy.index, policy.document] for policy in contents.policies],
        {name: sorted(names) for name, names in contents.references.items()},
        sorted(contents.models),
        contents.timeouts,
        [[*problem.mark[1:], problem.code, problem.message, problem.severity] for problem in contents.problems],
        contents.skipped,
    ]


def from_plain(plain: list[Any], file: str) -> Contents:
    """The contents that a plain value stands for, as those of this file."""
    policies, references, models, timeouts, problems, skipped = plain
    return Contents(
        [Policy(document["name"], document, file, index) for index, document in policies],
        {name: frozenset(names) for name, names in references.items()},
        set(models),
        timeouts,
        [Problem(Mark(file, line, column), code, message, severity) for line, column, code, message, severity in problems],
        Counter(skipped),
    )
