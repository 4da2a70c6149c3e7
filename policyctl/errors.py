"""What can go wrong, and the exit code that each of it ends with.

    PolicyctlError                1   anything that a person can mend; always one clear line
    ├── InvalidInput              1   files with problems; carries all of them
    ├── UsageError               64   the command line asks for something that cannot be
    ├── NotKnown                  1   what a policy does to traffic cannot be told
    ├── Refused                   3   a safety rule or a guard says no
    ├── StalePlan                 4   the remote or the configuration moved since the plan was made
    ├── Incomplete                5   partly applied, not verified, or rows that block
    └── RemoteError               1   the remote cannot do it, or does not answer
        ├── Conflict                  a policy of that name is already there
        │   └── Moved                 the row is not as the writer last read it
        ├── NotFound                  that policy is not there any more
        └── LostAnswer                a write whose outcome is unknown: read again, then decide

A `Problem` is not an exception: it is a finding in a file, collected with all the others before anything stops.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "info"]


class Mark(NamedTuple):
    """Where a problem is: a file as the user named it, a line and a column, both counted from 1.

    Without a line it is the file as a whole (one that cannot be read, a link), or a directory.
    """

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


class Problem(NamedTuple):
    """A finding in a file: where, its rule's stable code, what is wrong and what to do."""

    mark: Mark
    code: str
    message: str
    severity: Severity = "error"

    def __str__(self) -> str:
        kind = "" if self.severity == "error" else f"{self.severity}: "
        return f"{self.mark}: {self.code} {kind}{self.message}"


class Rule(NamedTuple):
    """A rule: its stable code, a short name, its severity, and one paragraph: what is wrong, why, and what to do."""

    code: str
    name: str
    severity: Severity
    text: str


def errors_in(problems: Iterable[Problem]) -> list[Problem]:
    """The problems that must stop a plan: those of severity "error"."""
    return [problem for problem in problems if problem.severity == "error"]


class PolicyctlError(Exception):
    """The base of everything that ends a command with a message instead of a traceback.

    `details` are lines that `-v` shows besides.
    """

    exit_code = 1
    details: tuple[str, ...] = ()


class InvalidInput(PolicyctlError):
    """Files with problems. `problems` holds every one of them, sorted by place."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(map(str, self.problems)))


class UsageError(PolicyctlError):
    """The command line asks for something that cannot be."""

    exit_code = 64


class NotKnown(PolicyctlError):
    """What a policy does to traffic cannot be told; the message says why."""


class Refused(PolicyctlError):
    """A safety rule (manual/architecture.md, safety rules 2 to 4) or a guard says no."""

    exit_code = 3


class StalePlan(PolicyctlError):
    """The remote or the configuration moved since the plan was made; nothing was written."""

    exit_code = 4


class Incomplete(PolicyctlError):
    """Something was applied and something was not, or what was applied cannot be seen on the remote."""

    exit_code = 5


class RemoteError(PolicyctlError):
    """The remote refuses, fails or cannot be reached."""


class Conflict(RemoteError):
    """A policy of that name is already there, or the row changed under the writer."""


class Moved(Conflict):
    """The row is not the version that the writer says it replaces."""


class NotFound(RemoteError):
    """That policy is not there any more."""


class LostAnswer(RemoteError):
    """A write was sent and its outcome is unknown. Never repeat it blindly: read again, then decide.

    `after` are the seconds that the remote asks to be left alone. `slow` says that it was given up on while it may still be
    at work, so that what is not there yet may come.
    """

    def __init__(self, message: str, after: float | None = None, *, slow: bool = False) -> None:
        super().__init__(message)
        self.after = after
        self.slow = slow
