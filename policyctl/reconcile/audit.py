"""The audit of an apply: who changes what, recorded in a file before and after each write, and read back from there."""

from __future__ import annotations

import os
import socket
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from policyctl.errors import PolicyctlError
from policyctl.load.atomic import raise_if_led_out
from policyctl.load.git.checkout import head
from policyctl.load.git.revision import merge_base
from policyctl.plan.audit import MAX_LINE, AuditEntry, AuditOrigin, BadAuditEntry, entry_line, entry_of, read_entry
from policyctl.plan.change import Change, Outcome
from policyctl.plan.plan import Plan
from policyctl.plan.settings import Override
from policyctl.remote.lock import user_name
from policyctl.remote.table import timestamp


@dataclass(frozen=True, slots=True)
class Audit:
    """Where to record changes, the command that makes them, and the page of the CI run that it is part of. `commit` is the one
    that the files are of, where they are not those of a checkout. `overrides` are those of the apply, besides its plan's."""

    file: Path
    command: str
    run: str | None = None
    commit: str | None = None
    overrides: tuple[Override, ...] = ()


@dataclass(slots=True)
class Recording:
    """The record of one apply. `lost` are the names of changes whose outcome could not be written: the file has their
    beginning only."""

    begun: Callable[[Change], None]
    finished: Callable[[Outcome], None]
    lost: list[str] = field(default_factory=list)


@contextmanager
def recording(audit: Audit | None, plan: Plan, directory: Path, warn: Callable[[str], None]) -> Iterator[Recording]:
    """Record the changes of a plan and their outcomes. Raises PolicyctlError when the file cannot be opened.

    `begun` raises PolicyctlError when a change cannot be recorded: then it must not be made. An outcome that cannot be
    recorded is reported to `warn`.
    """
    if audit is None:
        yield Recording(lambda _: None, lambda _: None)
        return
    file, origin, identifier = LineFile(audit.file), _origin(audit, directory), str(uuid.uuid4())

    def add(change: Change, outcome: Outcome | None) -> None:
        entry = entry_of(plan, origin, identifier, timestamp(datetime.now(UTC)), change, outcome)
        file.add(entry_line(replace(entry, overrides=(*entry.overrides, *audit.overrides))))

    def begun(change: Change) -> None:
        try:
            add(change, None)
        except OSError as error:
            why = f"cannot write to the audit file {file.path}: {error.strerror}"
            raise PolicyctlError(f"{why}; so this change was not made") from None

    def finished(outcome: Outcome) -> None:
        try:
            add(outcome.change, outcome)
        except OSError as error:
            record.lost.append(outcome.change.name)
            why = f"cannot write to the audit file {file.path}: {error.strerror}"
            warn(f"{why}; it lacks the outcome of {outcome.change.name}")

    record = Recording(begun, finished)
    try:
        yield record
    finally:
        file.close()


def _origin(audit: Audit, directory: Path) -> AuditOrigin:
    origin = AuditOrigin(_user(), audit.command, audit.run or os.environ.get("CI_JOB_URL"))
    source = head(directory)
    if audit.commit is not None:
        subject = source.subject if source is not None and source.commit == audit.commit else None
        return replace(origin, commit=audit.commit, dirty=False, subject=subject)
    if source is None:
        return replace(origin, no_commit=_why_no_commit(directory))
    return replace(origin, commit=source.commit, dirty=source.dirty, subject=source.subject)


def _why_no_commit(directory: Path) -> str:
    """Why a directory has no commit, as git explains it."""
    try:
        merge_base(directory, "HEAD")
    except PolicyctlError as error:
        return str(error)
    return "git does not show what is checked out"


def _user() -> str:
    """The person that a CI service names, else the user and the machine."""
    if person := os.environ.get("GITHUB_ACTOR") or os.environ.get("GITLAB_USER_LOGIN"):
        return person
    return f"{user_name()}@{socket.gethostname()}"


class LineFile:
    """A file that lines are appended to: each in one write, and on the disk before `add` returns.

    Several threads and processes may add at once. A new file is readable by its owner only.
    """

    def __init__(self, path: Path, what: str = "the audit file") -> None:
        """`what` names the file in messages. Raises PolicyctlError if the file cannot be appended to."""
        self.path = path
        self._lock = threading.Lock()
        self._torn = False
        raise_if_led_out(path)
        try:
            # Without blocking, or a pipe without a reader would be waited for.
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            self._descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise PolicyctlError(f"{what} {path} cannot be written: {error.strerror}; nothing was applied") from None
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._descriptor)
            raise PolicyctlError(f"{what} {path} is not a regular file; nothing was applied")
        if status.st_size:  # a line that a killed process left unfinished must not join the next one
            self._torn = os.pread(self._descriptor, 1, status.st_size - 1) != b"\n"

    def add(self, line: str) -> None:
        """Add a line, including its line feed. Raises OSError unless all of it is on the disk."""
        content = line.encode()
        with self._lock:
            content = b"\n" + content if self._torn else content
            self._torn = True
            written = os.write(self._descriptor, content)
            if written < len(content):
                os.write(self._descriptor, content[written:])  # this mostly raises the reason
            self._torn = False
            os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


class AuditLine(NamedTuple):
    """One line of an audit file: its number, its entry or why it has none, and whether its line feed is missing."""

    number: int
    entry: AuditEntry | None
    complaint: str = ""
    unfinished: bool = False


def read_audit(path: Path) -> Iterator[AuditLine]:
    """The lines of an audit file; empty ones are left out. Raises PolicyctlError when it cannot be read."""
    try:
        with open(path, "rb") as stream:
            if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):
                raise PolicyctlError(f"the audit file {path} cannot be read: it is a device")
            number = 0
            while line := stream.readline(MAX_LINE):
                number += 1
                end = line
                while len(end) == MAX_LINE and not end.endswith(b"\n"):  # longer than any entry
                    end = stream.readline(MAX_LINE)
                if line.strip():
                    yield _line(number, line, unfinished=not end.endswith(b"\n"))
    except OSError as error:
        raise PolicyctlError(f"the audit file {path} cannot be read: {error.strerror}") from None


def _line(number: int, line: bytes, *, unfinished: bool) -> AuditLine:
    try:
        return AuditLine(number, read_entry(line))
    except BadAuditEntry as error:
        return AuditLine(number, None, str(error), unfinished)
