"""Where an audit record is kept: a file that lines are appended to, or a table (see `policyctl.remote.postgres_audit`)."""

from __future__ import annotations

import fcntl
import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from policyctl.errors import PolicyctlError, UsageError
from policyctl.load.atomic import raise_if_led_out
from policyctl.load.urls import database_url
from policyctl.plan.audit import MAX_LINE, AuditLine, audit_line


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
    from policyctl.remote.postgres_audit import AuditTable  # needs the extra

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
