"""What one file says, as a value."""

from __future__ import annotations

from dataclasses import dataclass, field

from policyctl.errors import Problem
from policyctl.load.kinds import is_test_file
from policyctl.policy.document import Policy


@dataclass(slots=True)
class FileResult:
    """What one file (or a whole directory) says.

    `references` are the policies that a policy's targets may mean, by its name, where there are any. `timeouts` (seconds) and
    `types` are those of the virtual models, by canonical name. `tests` says whether a document of scenario tests is among the
    others.
    """

    policies: list[Policy] = field(default_factory=list)
    references: dict[str, frozenset[str]] = field(default_factory=dict)
    models: set[str] = field(default_factory=set)
    timeouts: dict[str, float] = field(default_factory=dict)
    types: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    skipped: dict[str, int] = field(default_factory=dict)
    tests: bool = False

    def add(self, other: FileResult) -> None:
        self.policies += other.policies
        self.problems += other.problems
        if other.references:
            self.references |= other.references
        if other.models:
            self.models |= other.models
            self.timeouts |= other.timeouts
            self.types |= other.types
        for kind, number in other.skipped.items():
            self.skip(kind, number)
        self.tests |= other.tests

    def skip(self, kind: str, number: int = 1) -> None:
        """Count what is left alone."""
        self.skipped[kind] = self.skipped.get(kind, 0) + number


def holds_tests(file: str, contents: FileResult) -> bool:
    """Whether a file has scenario tests: by its own name, or in a document of that kind."""
    return is_test_file(file) or contents.tests
