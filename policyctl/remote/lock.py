"""One apply at a time on an embedded remote: a lock that shows who holds it, and that death releases.

It is the operating system's lock (flock) on a file beside the database, `<database>.lock`, which says in one line of JSON who
took it and when. Not a row in the database: a row would outlive its writer. Not a lock on the database itself: closing that
file a second time would drop SQLite's own locks. The file stays; only who has it locked counts.

Each single write is bound to the version of its row anyway; the lock is there so that two applies do not mix.
"""

from __future__ import annotations

import fcntl
import getpass
import json
import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from policyctl.errors import Refused, RemoteError
from policyctl.load.atomic import make_state_folder
from policyctl.remote.database import settled

POLL = 0.1  # seconds
_LONGEST = 4096  # bytes of the file that are looked at


@dataclass(frozen=True, slots=True)
class LockWait:
    """How many seconds to wait for the lock, and the clocks and the sleep that a test may replace."""

    seconds: float
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time


@contextmanager
def apply_lock(database: Path, command: str, waiting: LockWait, say: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a database, for `command`. Who has to wait `say`s so, once, and for whom.

    Raises Refused when the lock is not to be had in time, RemoteError when its file cannot be made.
    """
    descriptor = _open(database)
    try:
        _wait(descriptor, database, waiting, say)
        _sign(descriptor, command, waiting.now())
        yield
    finally:
        os.close(descriptor)  # which releases the lock, as death does


def _wait(descriptor: int, database: Path, waiting: LockWait, say: Callable[[str], None]) -> None:
    end, told = waiting.clock() + waiting.seconds, False
    while not _lock(descriptor):
        if waiting.clock() >= end:
            raise Refused(
                f"{database} is being written by {_holder(descriptor, waiting.now())}; nothing was written, "
                "try again when that is done, or wait longer with apply --lock-timeout"
            )
        waiting.sleep(POLL)
        if not told:  # after the first wait, so that whoever has just taken the lock has signed it
            say(f"waiting up to {waiting.seconds:g} s for {_holder(descriptor, waiting.now())}")
            told = True


def _lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        raise RemoteError(f"the lock of apply cannot be taken: {error.strerror}; does the file system know locks?") from None
    return True


def _open(database: Path) -> int:
    path = settled(database)  # one lock, whichever way leads to the file
    path = path.with_name(f"{path.name}.lock")
    make_state_folder(path.parent)
    try:
        # Without blocking, and only a file: a pipe of that name would be waited for, or cannot be signed.
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
    except OSError as error:
        raise RemoteError(f"{path}, the lock of apply, cannot be made: {error.strerror}") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise RemoteError(f"{path}, the lock of apply, is no regular file; remove it")
    return descriptor


def _sign(descriptor: int, command: str, now: float) -> None:
    """Say in the file who holds the lock; on a full disk it is held without."""
    owner = {"owner": user_name(), "host": socket.gethostname(), "pid": os.getpid(), "command": command, "since": now}
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(owner).encode() + b"\n", 0)


def _holder(descriptor: int, now: float) -> str:
    """`somebody@host, pid 123 (policyctl apply, begun 12 s ago)`, as far as the file says it in plain words."""
    try:
        found = json.loads(os.pread(descriptor, _LONGEST, 0))
        age = max(0, now - found["since"])
        said = f"{found['owner']}@{found['host']}, pid {found['pid']} ({found['command']}, begun {age:.0f} s ago)"
    except (ValueError, KeyError, TypeError, RecursionError, OverflowError, OSError):
        return "another policyctl"
    return said if said.isprintable() else "another policyctl"


def user_name() -> str:
    """Who runs this program, as the system knows them."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # an id without a name, as containers have
        return f"uid {os.getuid()}"
