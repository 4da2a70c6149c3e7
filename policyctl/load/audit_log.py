"""The file of an audit: whole lines are appended, and unreadable lines are reported and skipped."""

from __future__ import annotations

import os
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from policyctl.errors import PolicyctlError
from policyctl.load.atomic import raise_if_led_out
from policyctl.plan.audit import MAX_LINE, AuditEntry, BadAuditEntry, read_entry


class AuditFile:
    """A file that lines are appended to: each in one write, and on the disk before `add` returns.

    Several threads and processes may add at once. A new file is readable by its owner only.
    """

    def __init__(self, path: Path) -> None:
        """Raises PolicyctlError if the file cannot be appended to."""
        self.path = path
        self._lock = threading.Lock()
        self._torn = False
        raise_if_led_out(path)
        try:
            # Without blocking, or a pipe without a reader would be waited for.
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            self._descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise PolicyctlError(f"the audit file {path} cannot be written: {error.strerror}; nothing was applied") from None
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._descriptor)
            raise PolicyctlError(f"the audit file {path} is not a regular file; nothing was applied")
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
