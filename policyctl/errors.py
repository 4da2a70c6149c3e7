"""The exceptions, and the exit code of each.

    PolicyctlError                1   anything that the user can fix; always one clear line
    ├── InvalidInput              1   files with problems; carries all of them
    ├── UsageError               64   the command line asks for something impossible
    ├── NotKnown                  1   it is not known what a policy does to traffic
    ├── Refused                   3   a safety rule or a guard refuses the plan
    ├── StalePlan                 4   the remote or the configuration changed since the plan was made
    ├── Incomplete                5   partly applied, not verified, or blocked by rows
    └── RemoteError               1   the remote refuses, fails or does not answer
        ├── Conflict                  a policy of that name already exists
        │   └── Moved                 the row changed since the writer read it
        ├── NotFound                  that policy no longer exists
        └── LostAnswer                a write of unknown outcome: read again, then decide

A `Problem` is not an exception: it is a finding in a file. All of them are collected before anything stops.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, NamedTuple

Severity = Literal["error", "warning", "info"]


class Mark(NamedTuple):
    """Where a problem is: a file as the user named it, and line and column, counted from 1.

    Without a line it is the whole file (unreadable, or a link), or a directory.
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
        return f"{self.mark}: {self.text}"

    @property
    def text(self) -> str:
        """The problem without its place; a severity other than error is named: `warning: … [P405]`."""
        return self.coded if self.severity == "error" else f"{self.severity}: {self.coded}"

    @property
    def coded(self) -> str:
        """The message, ending in its code."""
        return f"{self.message} [{self.code}]"


class Rule(NamedTuple):
    """A rule: its stable code, a short name, its severity, and one paragraph: what is wrong, why, and what to do."""

    code: str
    name: str
    severity: Severity
    text: str


def errors_in(problems: Iterable[Problem]) -> list[Problem]:
    """The problems that stop a plan: those of severity "error"."""
    return [problem for problem in problems if problem.severity == "error"]


def where_raised(error: BaseException) -> dict[str, str]:
    """An error's type and the line that raised it, for a log. Its text is left out, since it may contain what a client sent."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    place = "" if trace is None else f"{trace.tb_frame.f_code.co_filename}:{trace.tb_lineno}"
    return {"error": type(error).__name__, "at": place}


class PolicyctlError(Exception):
    """The base of every exception that ends a command with a message instead of a traceback.

    `details` are lines that `-v` adds.
    """

    exit_code = 1
    details: tuple[str, ...] = ()


class InvalidInput(PolicyctlError):
    """Files with problems: all of them, in `problems`, sorted by place."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(sorted(set(problems)))
        super().__init__("\n".join(map(str, self.problems)))


class UsageError(PolicyctlError):
    """The command line asks for something impossible."""

    exit_code = 64


class NotKnown(PolicyctlError):
    """It is not known what a policy does to traffic; the message gives the reason."""


class Refused(PolicyctlError):
    """A safety rule (manual/architecture.md, safety rules 2 to 4) or a guard refuses the plan."""

    exit_code = 3


class StalePlan(PolicyctlError):
    """The remote or the configuration changed since the plan was made; nothing was written."""

    exit_code = 4


class Incomplete(PolicyctlError):
    """Some changes were applied and some were not, or the result cannot be verified on the remote."""

    exit_code = 5


class RemoteError(PolicyctlError):
    """The remote refuses, fails or cannot be reached."""


class Unreachable(RemoteError):
    """No connection to the remote's host can be made."""


class LoginRefused(RemoteError):
    """The remote does not accept the credentials."""


class Conflict(RemoteError):
    """A policy of that name already exists, or the row changed before the write."""


class Moved(Conflict):
    """The row is not the version that the write was meant to replace."""


class NotFound(RemoteError):
    """That policy no longer exists."""


class LostAnswer(RemoteError):
    """A write was sent and its outcome is unknown. Never repeat it blindly: read again, then decide.

    `after` are the seconds that the remote asks to be left alone. `slow` says that it was given up on while it may still be
    at work, so that what is not there yet may come.
    """

    def __init__(self, message: str, after: float | None = None, *, slow: bool = False) -> None:
        super().__init__(message)
        self.after = after
        self.slow = slow
