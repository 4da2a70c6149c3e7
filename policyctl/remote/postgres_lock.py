"""The lock of a remote that workers on several machines write to, in the queue's database.

The engine of the queue lets a worker that hung and came back go on beside the one that replaced it. This lock does not.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import LiteralString

import psycopg

from policyctl.errors import PolicyctlError
from policyctl.remote.postgres_pool import Connection, explain

_POLL = 0.2  # seconds between two tries to take it
_HOLDS_A_LOCK = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted)"


class Interrupted(PolicyctlError):
    """A job cannot go on here, and is to be done again: its worker is stopped, or another one, perhaps one that hangs, has the
    lock of the remote."""


@contextmanager
def remote_lock(
    connect: Callable[[], Connection], identity: str, name: str, seconds: float, stopped: Callable[[], bool]
) -> Iterator[Callable[[], None]]:
    """Hold the lock of a remote, on a session of its own. Yields what to call before each write: it raises PolicyctlError once
    the lock was lost.

    The lock is the same for every directory and environment that leads to that remote; `name` is that of the environment, for
    messages. It ends with this process, and stays with one that hangs: so two workers never write to one remote at a time. Not
    for a proxy that shares sessions between clients. Raises Interrupted if it cannot be had within so many seconds.
    """
    key = int.from_bytes(hashlib.sha256(f"policyctl {identity}".encode()).digest()[:8], signed=True)
    end = time.monotonic() + seconds

    def ask(connection: Connection, statement: LiteralString, *values: object) -> bool:
        try:
            row = connection.execute(statement, values).fetchone()
        except psycopg.Error:
            return False
        return row == (True,)

    def require() -> None:
        if not ask(connection, _HOLDS_A_LOCK):
            raise PolicyctlError(f"the lock of the remote of {name} was lost, so this was not written")

    try:
        connected = connect()
    except psycopg.Error as error:
        raise Interrupted(f"the lock of the remote of {name} cannot be taken: {explain(error)}") from None
    with connected as connection:
        while not ask(connection, "SELECT pg_try_advisory_lock(%s)", key):
            if stopped() or time.monotonic() >= end:
                raise Interrupted(f"another worker is at work on the remote of {name}")
            time.sleep(_POLL)
        yield require
