"""The embedded remote: a store in one SQLite file, and the lock that lets one apply at a time write to it.

The lock is the operating system's (flock) on a file beside the database, `<database>.lock`, with one line of JSON: who took it
and when. It is released when its holder dies: a row in the database would outlive its writer, and closing the database file a
second time would drop SQLite's own locks. The file stays; only the lock on it counts. Each write is bound to the version of its
row anyway; the lock keeps two applies from mixing.
"""

from __future__ import annotations

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from policyctl.errors import Refused, RemoteError
from policyctl.load.atomic import make_state_folder
from policyctl.remote.database import BUSY_SECONDS, SqliteFile, settled
from policyctl.remote.store import Store, StoreReader

POLL = 0.1  # seconds between two tries to take the lock
_LONGEST = 4096  # bytes of the file to read


class SqliteReader(StoreReader):
    """Reads an embedded remote. A missing file reads as empty and is not created."""

    database: SqliteFile

    def __init__(self, path: Path, *, models: bool = False) -> None:
        """With `models` virtual models are rows too, beside policies."""
        super().__init__(SqliteFile(path, writable=False), embedded=True, models=models)


class SqliteRemote(Store):
    """Reads and writes an embedded remote; a missing file or directory is created."""

    database: SqliteFile

    def __init__(
        self,
        path: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        unique_names: bool = True,
        busy_seconds: float = BUSY_SECONDS,
        models: bool = False,
    ) -> None:
        database = SqliteFile(path, writable=True, unique_names=unique_names, busy_seconds=busy_seconds)
        self.path = database.path
        super().__init__(database, now, embedded=True, models=models)


@dataclass(frozen=True, slots=True)
class LockWait:
    """How many seconds to wait for the lock; clocks and sleep can be replaced in tests."""

    seconds: float
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time


@contextmanager
def apply_lock(database: Path, command: str, waiting: LockWait, status: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a database, for `command`. While waiting, `status` is called once with the current holder.

    Raises Refused if the lock is not free in time, RemoteError if its file cannot be created.
    """
    descriptor = _open_lock(database)
    try:
        _wait_for_lock(descriptor, database, waiting, status)
        _sign(descriptor, command, waiting.now())
        yield
    finally:
        os.close(descriptor)  # releases the lock, as the end of the process does


def _wait_for_lock(descriptor: int, database: Path, waiting: LockWait, status: Callable[[str], None]) -> None:
    end, shown = waiting.clock() + waiting.seconds, False
    while not _lock(descriptor):
        if waiting.clock() >= end:
            raise Refused(
                f"{database} is being written by {_holder(descriptor, waiting.now())}; nothing was written, "
                "try again when that is done, or wait longer with apply --lock-timeout"
            )
        waiting.sleep(POLL)
        if not shown:  # after the first wait, so that a new holder has signed the file
            status(f"waiting up to {waiting.seconds:g} s for {_holder(descriptor, waiting.now())}")
            shown = True


def _lock(descriptor: int) -> bool:
    import fcntl  # imported where a lock is taken, as is what follows: a plan takes none

    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise RemoteError(
            f"the lock of apply cannot be taken: {error.strerror} (does the file system support locking?)"
        ) from None
    return True


def _open_lock(database: Path) -> int:
    path = settled(database)  # one lock for all paths of the file
    path = path.with_name(f"{path.name}.lock")
    make_state_folder(path.parent)
    try:
        # Without blocking, and only a regular file: opening a pipe would block.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        raise RemoteError(f"{path}, the lock of apply, cannot be created: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RemoteError(f"{path}, the lock of apply, is not a regular file; remove it")
    return descriptor


def _sign(descriptor: int, command: str, now: float) -> None:
    """Write the holder into the file; on a full disk the lock is held without it."""
    import socket

    owner = {"owner": user_name(), "host": socket.gethostname(), "pid": os.getpid(), "command": command, "since": now}
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode() + b"\n", 0)


def _holder(descriptor: int, now: float) -> str:
    """`user@host, pid 123 (policyctl apply, begun 12 s ago)`, if the file has it in printable text."""
    try:
        found = json.loads(os.pread(descriptor, _LONGEST, 0))
        age = max(0, now - found["since"])
        holder = f"{found['owner']}@{found['host']}, pid {found['pid']} ({found['command']}, begun {age:.0f} s ago)"
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError, OSError):
        return "another policyctl"
    return holder if holder.isprintable() else "another policyctl"


def user_name() -> str:
    """The name of the user who runs this program."""
    import getpass

    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # an id without a name, as containers have
        return f"uid {os.getuid()}"
