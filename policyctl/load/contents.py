"""What one file says, as a value that can be kept: in memory and in the cache."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from policyctl.errors import Mark, Problem
from policyctl.load.kinds import is_test_file
from policyctl.model.policy import Policy


@dataclass(slots=True)
class Contents:
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

    def add(self, other: Contents) -> None:
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


def holds_tests(file: str, contents: Contents) -> bool:
    """Whether a file has scenario tests: by its own name, or in a document of that kind."""
    return is_test_file(file) or contents.tests


def to_line(contents: Contents) -> str:
    """One file's contents as one line of text, without the file's name: what there is as JSON, then the policies' texts."""
    said = {
        "policies": [(policy.index, policy.name) for policy in contents.policies],
        "references": {name: sorted(names) for name, names in contents.references.items()},
        "models": sorted(contents.models),
        "timeouts": contents.timeouts,
        "types": contents.types,
        "problems": [(*problem.mark[1:], problem.code, problem.message, problem.severity) for problem in contents.problems],
        "skipped": contents.skipped,
        "tests": contents.tests,
    }
    there = json.dumps({key: value for key, value in said.items() if value})
    return "\t".join([there, *(policy.text for policy in contents.policies)])  # JSON has no tab or line end of its own


def from_line(line: str, file: str) -> Contents:
    """The contents that a line stands for, as those of this file."""
    there, *texts = line.split("\t")
    said = json.loads(there)
    return Contents(
        [Policy(name, text, file, index) for (index, name), text in zip(said.get("policies", ()), texts, strict=True)],
        {name: frozenset(names) for name, names in said.get("references", {}).items()},
        set(said.get("models", ())),
        said.get("timeouts", {}),
        said.get("types", {}),
        [Problem(Mark(file, line, column), *rest) for line, column, *rest in said.get("problems", ())],
        said.get("skipped", {}),
        said.get("tests", False),
    )
