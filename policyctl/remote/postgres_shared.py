"""What workers and watches on several machines share, in the queue's database: the lock of a remote, the pace of hosts, and
what the watch that leads remembers.

The engine of the queue lets a worker that hung and came back go on beside the one that replaced it. The lock of a remote does
not. A watch leads while it holds an advisory lock, on a session that also writes what is remembered: so one that hung while
another took over can neither announce nor remember anything any more.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import LiteralString

import psycopg

from policyctl.errors import PolicyctlError, RemoteError
from policyctl.load.urls import Origin
from policyctl.remote.hosts import LONGEST_PAUSE, HostPace
from policyctl.remote.postgres import Connection, explain

_POLL = 0.2  # seconds between two tries to take the lock of a remote
_HOLDS_A_LOCK = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted)"
STATE_TABLE = """
CREATE TABLE policyctl_state (
    watch text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL, number bigint GENERATED ALWAYS AS IDENTITY,
    content bytea NOT NULL, PRIMARY KEY (watch, name, number)
);
"""
HOST_TABLE = """
CREATE TABLE policyctl_host (
    origin text COLLATE "C" PRIMARY KEY,
    next timestamptz NOT NULL DEFAULT 'epoch', paused timestamptz NOT NULL DEFAULT 'epoch'
);
"""
# The clock is that of the database, the only one that all processes have in common.
_TAKE = """
INSERT INTO policyctl_host AS host (origin, next) VALUES (%(origin)s, clock_timestamp() + %(seconds)s * interval '1 second')
ON CONFLICT (origin) DO UPDATE
SET next = greatest(host.next, host.paused, clock_timestamp()) + %(seconds)s * interval '1 second'
RETURNING extract(epoch FROM next - clock_timestamp())::float8 - %(seconds)s
"""
_PAUSE = """
INSERT INTO policyctl_host AS host (origin, paused) VALUES (%(origin)s, clock_timestamp() + %(seconds)s * interval '1 second')
ON CONFLICT (origin) DO UPDATE SET paused = greatest(host.paused, excluded.paused)
"""
_PAUSED = "SELECT extract(epoch FROM paused - clock_timestamp())::float8 FROM policyctl_host WHERE origin = %(origin)s"
_TAKEN = 10  # slots at a time, at most, and no more than those of a second
_AWAY = 10.0  # seconds for which a database that did not answer is not asked
_HEARD = 1.0  # seconds between two looks for a pause that another process was asked for


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
        try:
            yield require
        finally:  # the end of a session releases it too, but only after that was closed here
            ask(connection, "SELECT pg_advisory_unlock(%s)", key)


class PaceTable:
    """The rows of all hosts. A database that cannot be reached leaves each process to its own pace."""

    def __init__(self, connect: Callable[[], Connection]) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._connection: Connection | None = None
        self._away_until = 0.0

    def take(self, origin: Origin, seconds: float) -> float | None:
        """Take so many seconds of a host's time. Returns in how many seconds they begin; None if that is not known."""
        return self._ask(_TAKE, origin, seconds)

    def pause(self, origin: Origin, seconds: float) -> None:
        """Have no process ask a host for so many seconds."""
        self._ask(_PAUSE, origin, seconds)

    def paused(self, origin: Origin) -> float:
        """How many seconds are left of a pause of a host."""
        return max(0.0, self._ask(_PAUSED, origin) or 0.0)

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    def _ask(self, statement: LiteralString, origin: Origin, seconds: float = 0.0) -> float | None:
        values = {"origin": str(origin), "seconds": seconds}
        with self._lock, suppress(psycopg.Error):
            if time.monotonic() < self._away_until:
                return None
            self._away_until = time.monotonic() + _AWAY  # unless it answers
            if self._connection is None or self._connection.closed:
                self._connection = self._connect()
            cursor = self._connection.execute(statement, values)
            row = cursor.fetchone() if cursor.description else None
            self._away_until = 0.0
            return None if row is None else float(row[0])
        return None


class SharedHostPace(HostPace):
    """The pace of a host that other processes ask too: together they keep to its rate, and to its pauses."""

    def __init__(self, table: PaceTable, origin: Origin) -> None:
        super().__init__()
        self._table, self._origin = table, origin
        self._heard_at = self._slot = float("-inf")  # the next slot of those that were taken
        self._left = 0

    @property
    def is_free(self) -> bool:
        return False

    def pause(self, now: float, seconds: float) -> None:
        super().pause(now, seconds)
        self._table.pause(self._origin, min(seconds, LONGEST_PAUSE))

    def slot(self, now: float) -> float:
        with self._lock:
            if now - self._heard_at >= _HEARD:
                self._heard_at = now
                self._pause = max(self._pause, now + paused) if (paused := self._table.paused(self._origin)) else self._pause
            own = self._own_slot(now)
            return own if not self._interval else max(own, self._shared_slot(now, own))

    def _shared_slot(self, now: float, own: float) -> float:
        """The next of the slots that were taken, or of new ones. Slots that passed are not made up for."""
        if not self._left or self._slot < now - self._interval:
            number = max(1, min(_TAKEN, int(1 / self._interval)))
            begin = self._table.take(self._origin, number * self._interval)
            if begin is None:
                return own
            self._slot, self._left = now + max(0.0, begin), number
        slot, self._slot, self._left = self._slot, self._slot + self._interval, self._left - 1
        return slot


class LeadLost(PolicyctlError):
    """The session that held the lead is gone."""


class LeaderState:
    """What is remembered by the watch that leads: a `StateFiles`."""

    def __init__(self, connect: Callable[[], Connection], watch: str, where: str) -> None:
        """`watch` is the same for all that watch the same; `where` names the database in messages."""
        self._connect, self._watch, self._where = connect, watch, where
        self._connection: Connection | None = None
        self._lock = threading.Lock()

    def lead(self) -> bool:
        """Try to take the lead; whether this watch has it. Raises RemoteError where the database cannot be used."""
        key = int.from_bytes(hashlib.sha256(f"policyctl watch {self._watch}".encode()).digest()[:8], signed=True)
        with self._asking() as connection:
            row = connection.execute("SELECT pg_try_advisory_lock(%s)", (key,)).fetchone()
            return row == (True,)

    def check(self) -> None:
        """Raise LeadLost unless this watch still leads."""
        with self._leading() as connection:
            connection.execute("SELECT 1")

    def read(self, name: str) -> bytes | None:
        """What was written under a name; None if nothing was."""
        with self._leading() as connection:
            rows = connection.execute(
                "SELECT content FROM policyctl_state WHERE watch = %s AND name = %s ORDER BY number", (self._watch, name)
            ).fetchall()
        return b"".join(row[0] for row in rows) if rows else None

    def write(self, name: str, content: bytes) -> None:
        """Replace what is under a name."""
        with self._leading() as connection, connection.transaction():
            connection.execute("DELETE FROM policyctl_state WHERE watch = %s AND name = %s", (self._watch, name))
            self._insert(connection, name, content)

    def append(self, name: str, content: bytes) -> None:
        """Add to what is under a name."""
        with self._leading() as connection:
            self._insert(connection, name, content)

    def _insert(self, connection: Connection, name: str, content: bytes) -> None:
        values = (self._watch, name, content)
        connection.execute("INSERT INTO policyctl_state (watch, name, content) VALUES (%s, %s, %s)", values)

    def close(self) -> None:
        """Give up the lead."""
        with self._lock:
            if self._connection is not None:
                self._connection.close()

    @contextmanager
    def _asking(self) -> Iterator[Connection]:
        with self._lock:
            try:
                if self._connection is None or self._connection.closed:
                    self._connection = self._connect()
                yield self._connection
            except psycopg.Error as error:
                if self._connection is not None:
                    self._connection.close()
                raise RemoteError(f"{self._where} cannot be used: {explain(error)}") from None

    @contextmanager
    def _leading(self) -> Iterator[Connection]:
        """The session of the lead. Once it broke, it is not made anew: another watch may lead by now."""
        with self._lock:
            if self._connection is None or self._connection.closed:
                raise LeadLost("another watch may lead now, since the connection to the database was lost")
            try:
                yield self._connection
            except psycopg.Error as error:
                self._connection.close()
                raise LeadLost(f"another watch may lead now: {explain(error)}") from None
