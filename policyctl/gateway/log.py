"""What the gateway writes about requests: the access log, and records that `policyctl effect --records` reads.

Neither has anything of a request's or an answer's content, no header and no key. Lines are gathered and written together.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

FLUSH_SECONDS = 0.25
RECORDS_BYTES = 64 << 20  # of one file of records, before it is rotated
KEPT = 4  # rotated files: FILE.1 is the youngest


class Lines:
    """Writes lines to a file descriptor, a quarter of a second later. Lines are lost if that fails; the gateway continues."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._waiting: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    def write(self, value: Any) -> None:
        """Write a value as a line of JSON."""
        self._waiting.append(msgspec.json.encode(value))
        if self._timer is None:
            try:
                self._timer = asyncio.get_running_loop().call_later(FLUSH_SECONDS, self.flush)
            except RuntimeError:  # before the loop runs, and after
                self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        self._timer = None
        data = b"".join(b"%s\n" % line for line in self._waiting)
        self._waiting.clear()
        with suppress(OSError):
            self.put(data)

    def put(self, data: bytes) -> None:
        """Write bytes to the descriptor, all of them."""
        while data:
            data = data[os.write(self.descriptor, data) :]


class EventLog:
    """Events with their time and level, one JSON object a line."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines

    def __call__(self, level: str, event: str, **fields: Any) -> None:
        self.lines.write({"time": now(), "level": level, "event": event, **fields})


class LibraryEvents(logging.Handler):
    """Turns the log records of libraries into events, without the texts of errors, which may have what a client sent."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() not in _EXPECTED:
            error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
            self._log(record.levelname.lower(), "library", message=record.getMessage().strip(), error=error)


# A stream that broke off is ended so on purpose.
_EXPECTED = frozenset({"ASGI callable returned without completing response."})


class Records(Lines):
    """The file of records, which several workers may write to. It is rotated once it is large."""

    def __init__(self, path: Path, most: int = RECORDS_BYTES) -> None:
        self.path = path
        self.most = most
        super().__init__(self._open())

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def put(self, data: bytes) -> None:
        self._follow()
        super().put(data)

    def _follow(self) -> None:
        """Rotate the file if it is large, and write to the new one if this or another worker has rotated it."""
        if os.fstat(self.descriptor).st_size >= self.most:
            # Not flock: workers begin with the same open file, whose lock they would hold together.
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX)
            try:
                if self._is_current():
                    self._rotate()
            finally:  # the other workers wait for it
                fcntl.lockf(self.descriptor, fcntl.LOCK_UN)
        if not self._is_current():
            fresh = self._open()  # first: if it fails, the old number must not be left to what is opened next, such as a client
            os.close(self.descriptor)
            self.descriptor = fresh

    def _rotate(self) -> None:
        for number in range(KEPT - 1, 0, -1):
            with suppress(FileNotFoundError):
                os.replace(f"{self.path}.{number}", f"{self.path}.{number + 1}")
        os.replace(self.path, f"{self.path}.1")

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.descriptor))
        except FileNotFoundError:
            return False


def now() -> str:
    """The time of a line."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
