"""The audit of an apply: who changes what, recorded before and after each write; and where the record is kept.

It is a file that lines are appended to, or a table (see `policyctl.remote.postgres`).
"""

from __future__ import annotations

import fcntl
import os
import stat
import threading
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

from policyctl.errors import PolicyctlError, RemoteError, UsageError
from policyctl.load.source import raise_if_led_out
from policyctl.load.urls import database_url
from policyctl.plan.audit import MAX_LINE, AuditLine, AuditOrigin, audit_line, entry_line, entry_of
from policyctl.plan.plan import Change, Outcome, Plan
from policyctl.plan.settings import Override
from policyctl.remote.sqlite import user_name
from policyctl.remote.store import timestamp


class AuditWriter(Protocol):
    """Adds lines. Several threads may do so at once."""

    def add(self, line: str) -> None:
        """Add a line, including its line feed. Raises OSError or RemoteError unless all of it is kept."""

    def close(self) -> None:
        """End it."""


class AuditRecord(Protocol):
    """An audit record, by its name in messages."""

    title: str  # with what it is: `the audit file audit.jsonl`

    def writer(self) -> AuditWriter:
        """What adds lines. Raises PolicyctlError if the record cannot be added to."""

    def lines(self, remote: str | None = None) -> Iterator[AuditLine]:
        """The lines; with a `remote` at least those about it. Raises PolicyctlError when they cannot be read."""

    def mark(self) -> object:
        """A value that is another one once lines were added; None if that is not known."""

    def exists(self) -> bool:
        """Whether there is anything to read."""

    def why_untrusted(self) -> str | None:
        """Why it must decide nothing, or None. Raises PolicyctlError if git has to be asked and cannot be."""


class AuditFile:
    """A file of lines of JSON, an `AuditRecord`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.title = f"the audit file {path}"

    def __str__(self) -> str:
        return str(self._path)

    def writer(self) -> LineFile:
        return LineFile(self._path)

    def lines(self, remote: str | None = None) -> Iterator[AuditLine]:  # noqa: ARG002 - a file is read as a whole
        try:
            with open(self._path, "rb") as stream:
                if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):
                    raise PolicyctlError(f"{self.title} cannot be read: it is a device")
                number = 0
                while line := stream.readline(MAX_LINE):
                    number += 1
                    end = line
                    while len(end) == MAX_LINE and not end.endswith(b"\n"):  # longer than any entry
                        end = stream.readline(MAX_LINE)
                    if line.strip():
                        yield audit_line(number, line, unfinished=not end.endswith(b"\n"))
        except OSError as error:
            raise PolicyctlError(f"{self.title} cannot be read: {error.strerror}") from None

    def mark(self) -> object:
        try:
            status = self._path.stat()
        except OSError:  # reading it raises the reason
            return None
        return status.st_size, status.st_mtime_ns

    def exists(self) -> bool:
        return self._path.exists()

    def why_untrusted(self) -> str | None:
        from policyctl.load.git.checkout import is_committed  # imports subprocess

        if not is_committed(self._path):
            return None
        return f"{self.title} is in the checked-out commit, so a branch may have written it; keep it outside the repository"


def audit_record(text: str) -> AuditRecord:
    """The record that --audit names: a file, or a table in the database of `postgresql://…` or `service=NAME`.

    Raises UsageError for a database's URL that cannot be used, such as one with a password.
    """
    if (url := database_url(text)) is None:
        if Path(text).is_dir():
            raise UsageError(f"--audit {text} is a directory; name a file in it")
        return AuditFile(Path(text))
    from policyctl.remote.postgres import AuditTable  # needs the extra

    return AuditTable(url)


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

    def lock(self) -> bool:
        """Keep the file for this process until it is closed; whether no other one has it."""
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        os.close(self._descriptor)


@dataclass(frozen=True, slots=True)
class Audit:
    """Where to record changes, the command that makes them, and the page of the CI run that it is part of. `commit` is the one
    that the files are of, where they are not those of a checkout. `who` makes the changes, if it is not the user of this
    process."""

    record: AuditRecord
    command: str
    run: str | None = None
    who: str = ""
    commit: str | None = None


@dataclass(slots=True)
class Recording:
    """The record of one apply. `lost` are the names of changes whose outcome could not be written: only their beginning is
    recorded."""

    begun: Callable[[Change], None]
    finished: Callable[[Outcome], None]
    lost: list[str] = field(default_factory=list)


@contextmanager
def recording(
    audit: Audit | None, plan: Plan, directory: Path, warn: Callable[[str], None], overrides: tuple[Override, ...] = ()
) -> Iterator[Recording]:
    """Record the changes of a plan and their outcomes. Raises PolicyctlError when that cannot be done.

    `overrides` are those of the apply, besides its plan's. `begun` raises PolicyctlError when a change cannot be recorded: then
    it must not be made. An outcome that cannot be recorded is reported to `warn`.
    """
    if audit is None:
        yield Recording(lambda _: None, lambda _: None)
        return
    writer, origin, identifier = audit.record.writer(), _origin(audit, directory), str(uuid.uuid4())

    def add(change: Change, outcome: Outcome | None) -> None:
        entry = entry_of(plan, origin, identifier, timestamp(datetime.now(UTC)), change, outcome)
        writer.add(entry_line(replace(entry, overrides=(*entry.overrides, *overrides))))

    def begun(change: Change) -> None:
        try:
            add(change, None)
        except (OSError, RemoteError) as error:
            why = f"cannot write to {audit.record.title}: {_reason(error)}"
            raise PolicyctlError(f"{why}; so this change was not made") from None

    def finished(outcome: Outcome) -> None:
        try:
            add(outcome.change, outcome)
        except (OSError, RemoteError) as error:
            record.lost.append(outcome.change.name)
            why = f"cannot write to {audit.record.title}: {_reason(error)}"
            warn(f"{why}; it lacks the outcome of {outcome.change.name}")

    record = Recording(begun, finished)
    try:
        yield record
    finally:
        writer.close()


def _reason(error: OSError | RemoteError) -> str:
    return (isinstance(error, OSError) and error.strerror) or str(error)


def _origin(audit: Audit, directory: Path) -> AuditOrigin:
    from policyctl.load.git.checkout import head  # imports subprocess

    origin = AuditOrigin(audit.who or person(), audit.command, audit.run or os.environ.get("CI_JOB_URL"))
    source = head(directory)
    if audit.commit is not None:
        subject = source.subject if source is not None and source.commit == audit.commit else None
        return replace(origin, commit=audit.commit, dirty=False, subject=subject)
    if source is None:
        return replace(origin, no_commit=_why_no_commit(directory))
    return replace(origin, commit=source.commit, dirty=source.dirty, subject=source.subject)


def _why_no_commit(directory: Path) -> str:
    """Why a directory has no commit, as git explains it."""
    from policyctl.load.git.revision import commit_of, required_repository

    try:
        commit_of(required_repository(directory)[0], "HEAD")
    except PolicyctlError as error:
        return str(error)
    return "git does not show what is checked out"


def person() -> str:
    """The person that a CI service names, else the user and the machine."""
    import socket  # which reading a record does not need

    if person := os.environ.get("GITHUB_ACTOR") or os.environ.get("GITLAB_USER_LOGIN"):
        return person
    return f"{user_name()}@{socket.gethostname()}"
