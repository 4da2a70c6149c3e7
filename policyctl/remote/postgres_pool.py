"""Connections to a PostgreSQL database: how each is set up, and which are open and not in use."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import BoundedSemaphore
from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import PQGen
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus

from policyctl.errors import LostAnswer, RemoteError
from policyctl.remote.protocol import Backoff

CONNECTIONS = 8  # at most, of one server or command
_WAIT = 10.0  # seconds for one of the connections
Connection = psycopg.Connection[tuple[Any, ...]]
Found = TypeVar("Found")
# A database that crashed or fails over is tried again for some seconds. The limit is `budget`, not `tries`.
PATIENCE = Backoff(tries=1_000_000, first=0.05, longest=0.2, budget=15.0)

# Errors after which the same statement may succeed, perhaps at another server.
_PASSING = (
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.TooManyConnections,
    errors.ReadOnlySqlTransaction,
    errors.SerializationFailure,
    errors.DeadlockDetected,
)
# What must hold whatever the server, the database or the role is configured to do.
_SETTINGS = """
SELECT set_config(name, value, false) FROM (VALUES
    ('search_path', 'pg_catalog'), ('statement_timeout', '10s'), ('lock_timeout', '3s'),
    ('idle_in_transaction_session_timeout', '10s'), ('default_transaction_isolation', 'read committed'),
    ('default_transaction_read_only', %(read_only)s),
    ('synchronous_commit', CASE WHEN current_setting('synchronous_commit') IN ('off', 'local') THEN 'on'
                                ELSE current_setting('synchronous_commit') END)
) AS setting (name, value)
"""
# Seconds in which a server that carries out a statement answers, by its own limit. One that hangs may not, though its machine
# still acknowledges what is sent.
SILENCE = 12.0
_NETWORK = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 8000}


class ListeningConnection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that is closed once the server was silent for too long. Raises OperationalError then."""

    is_limited = True

    def wait(self, gen: PQGen[Found], *args: Any, **more: Any) -> Found:
        try:
            return super().wait(_heard(gen, SILENCE if self.is_limited else math.inf), *args, **more)
        except _Silent:
            self.close()
            raise


class _Silent(psycopg.OperationalError):
    """The server does not answer."""


def _heard(steps: PQGen[Found], patience: float) -> PQGen[Found]:
    """What `steps` returns. Raises _Silent once nothing came for so long; it goes on ten times a second, whatever comes."""
    last = time.monotonic()
    try:
        wanted = next(steps)
        while True:
            came = yield wanted
            if came:
                last = time.monotonic()
            elif time.monotonic() - last > patience:
                raise _Silent(f"the database has not answered for {patience:g} s")
            wanted = steps.send(came)
    except StopIteration as end:
        found: Found = end.value
        return found


@contextmanager
def without_limit(connection: Connection) -> Iterator[None]:
    """Wait for statements on this connection for as long as they take."""
    assert isinstance(connection, ListeningConnection)  # noqa: S101 - all of a pool are
    connection.is_limited = False
    try:
        yield
    finally:
        connection.is_limited = True


class Pool:
    """Connections that are open and not in use; the one used last is used next.

    The thread that needs one makes it: so it knows why that fails, and tries again soon.
    """

    def __init__(self, url: str, identity: str, *, writable: bool) -> None:
        self.reached = False  # whether a connection was ever made
        self._url = url
        self._identity = identity
        self._writable = writable
        self._idle: deque[Connection] = deque()
        self._free = BoundedSemaphore(CONNECTIONS)

    @contextmanager
    def connection(self) -> Iterator[Connection]:
        """A connection, for one thread. Raises psycopg.OperationalError if none can be made."""
        if not self._free.acquire(timeout=_WAIT):
            raise RemoteError(f"{self._identity}: all {CONNECTIONS} connections are in use; try again later")
        try:
            connection = self._take()
            try:
                yield connection
            finally:
                if connection.info.transaction_status == TransactionStatus.IDLE:
                    self._idle.append(connection)
                else:  # broken, as those beside it then usually are; or given up on halfway
                    connection.close()
                    self.close()
        finally:
            self._free.release()

    def run(self, work: Callable[[Connection, bool], Found], patience: Backoff, *, writes: bool = False) -> Found:
        """The result of `work`, which is given a connection and whether an earlier try of it may have been carried out.

        It is called again when the connection breaks. Raises RemoteError when that does not help, and for a write (`writes`)
        that may have been carried out LostAnswer.
        """
        sent, budget = False, patience.begin()
        while True:
            try:
                with self.connection() as connection:
                    try:
                        return work(connection, sent)
                    except psycopg.Error:
                        sent = True
                        raise
            except psycopg.Error as error:
                # Until it was reached once, a wrong host or password is reported at once.
                passing = isinstance(error, _PASSING) or (isinstance(error, psycopg.OperationalError) and not error.sqlstate)
                wait = budget.next(None) if passing and self.reached else None
                if wait is not None:
                    patience.sleep(wait)
                    continue
                text = f"{self._identity}: {explain(error)}"
                raise (LostAnswer(text) if sent and writes and passing else RemoteError(text)) from None

    def close(self) -> None:
        """Close the connections that are not in use."""
        while self._idle:
            try:
                self._idle.pop().close()
            except IndexError:  # another thread was first
                break

    def _take(self) -> Connection:
        try:
            return self._idle.pop()
        except IndexError:
            connection = _connect(self._url, self._identity, writable=self._writable)
        self.reached = True
        return connection


def conninfo(url: str, **more: str) -> str:
    """How libpq is to reach `postgresql://…` or `postgresql:?service=…`; what is not in the URL is as libpq finds it."""
    return make_conninfo(
        url.replace("postgresql:?", "postgresql://?", 1),
        client_encoding="UTF8",
        fallback_application_name="policyctl",
        connect_timeout=None if "connect_timeout=" in url else 3,
        **_NETWORK,
        **more,
    )


def explain(error: psycopg.Error) -> str:
    """The first line of an error, which never has a document in it; the others may."""
    if isinstance(error, errors.QueryCanceled | errors.LockNotAvailable):
        return "the database did not answer in time; try again later"
    text = str(error).partition("\n")[0].removeprefix("connection failed: ")
    return text or f"the connection broke ({type(error).__name__})"


def _connect(url: str, identity: str, *, writable: bool) -> Connection:
    found = ListeningConnection.connect(conninfo(url), autocommit=True)
    try:
        _set_up(found, identity, writable=writable)
    except BaseException:
        found.close()
        raise
    return found


def _set_up(connection: Connection, identity: str, *, writable: bool) -> None:
    if connection.info.parameter_status("server_encoding") != "UTF8":
        raise RemoteError(f"{identity} does not store text in UTF8; make a database with ENCODING 'UTF8'")
    connection.execute(_SETTINGS, {"read_only": "off" if writable else "on"})
