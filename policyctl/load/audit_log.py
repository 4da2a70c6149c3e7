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
    """A file that lines are added to: each in one write at its end, and on the disk before `add` returns.

    Several threads and several processes may add at once. A file that is made here is for its owner alone.
    """

    def __init__(self, path: Path) -> None:
        """Raises PolicyctlError when nothing can be added to it."""
        self.path = path
        self._lock = threading.Lock()
        self._torn = False
        raise_if_led_out(path)
        try:
            # Without blocking: a pipe that nobody reads would be waited for.
            flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK
            self._descriptor = os.open(path, flags, 0o600)
        except OSError as error:
            raise PolicyctlError(f"the audit file {path} cannot be written: {error.strerror}; nothing was applied") from None
        status = os.fstat(self._descriptor)
        if not stat.S_ISREG(status.st_mode):
            os.close(self._descriptor)
            raise PolicyctlError(f"the audit file {path} is no regular file; nothing was applied")
        if status.st_size:  # what a killed process tore must not tear the next line too
            self._torn = os.pread(self._descriptor, 1, status.st_size - 1) != b"\n"

    def add(self, line: str) -> None:
        """Add a line, with its end. Raises OSError when it is not wholly on the disk."""
        content = line.encode()
        with self._lock:
            content = b"\n" + content if self._torn else content
            self._torn = True
            written = os.write(self._descriptor, content)
            if written < len(content):
                os.write(self._descriptor, content[written:])  # mostly to be told why
            self._torn = False
            os.fsync(self._descriptor)

    def close(self) -> None:
        os.close(self._descriptor)


class AuditLine(NamedTuple):
    """One line of an audit file: its number, what it says or why it says nothing, and whether it is a last one without end."""

    number: int
    entry: AuditEntry | None
    complaint: str = ""
    unfinished: bool = False


def read_audit(path: Path) -> Iterator[AuditLine]:
    """The lines of an audit file; empty ones are left out. Raises PolicyctlError when it cannot be read."""
    try:
        with open(path, "rb") as stream:
            if stat.S_ISCHR(os.fstat(stream.fileno()).st_mode):
                raise PolicyctlError(f"the audit file {path} cannot be read: it is a device, which may never end")
            number = 0
            while line := stream.readline(MAX_LINE):
                number += 1
                end = line
                while len(end) == MAX_LINE and not end.endswith(b"\n"):  # no entry is that long
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
