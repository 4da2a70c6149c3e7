"""What a watch remembers, in the queue's database: for watches on several machines, of which one leads at a time.

It leads who holds an advisory lock, on a session that also writes what is remembered. So a watch that hung while another took
over can neither announce nor remember anything any more.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import psycopg

from policyctl.errors import PolicyctlError, RemoteError
from policyctl.remote.postgres_pool import Connection, explain

TABLE = """
CREATE TABLE policyctl_state (
    watch text COLLATE "C" NOT NULL, name text COLLATE "C" NOT NULL, number bigint GENERATED ALWAYS AS IDENTITY,
    content bytea NOT NULL, PRIMARY KEY (watch, name, number)
);
"""


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
