"""What policyctl keeps in a PostgreSQL database: a store, an audit record, and the connections to it (extra `postgres`).

A store is for several servers and commands at once. Every write is one statement, which is bound to the version that it
replaces and notes its token in the same transaction. When the connection breaks before the answer, the statement is sent again:
the token shows whether the first one was carried out, so that it happens once. Everything is in the schema `policyctl`, as text
that sorts by bytes, as in SQLite.

An audit record is for many machines: one row a line, in a schema of its own.
"""

# ruff: noqa: S608 - tables are named by this package alone, and values are bound

from __future__ import annotations

import itertools
import math
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from threading import BoundedSemaphore
from typing import Any, Literal, TypeVar
from uuid import uuid4

import psycopg
from psycopg import errors
from psycopg.abc import PQGen
from psycopg.conninfo import make_conninfo
from psycopg.pq import TransactionStatus

from policyctl.errors import Conflict, LostAnswer, RemoteError
from policyctl.load.urls import postgres_identity
from policyctl.plan.audit import AuditLine, audit_line, read_entry
from policyctl.remote import Backoff
from policyctl.remote.store import UNIQUE_KINDS, Columns, QuotaReached, Store, StoreReader, taken

LONGEST_NAME = 2000  # bytes of a name or id, which an index must hold
AT_ONCE = Backoff(tries=1)
_MIGRATING, _COUNTING = 0x706C6379_0001, 0x706C6379_0002  # advisory locks
_PRUNE_EVERY = 1000  # writes

_OTHERS = ("agent", "external_agent", "assistant", "tool", "toolkit", "knowledge_base", "workspace", "binding")
# Not to_regclass: that is answered from a cache, which misses tables made while this connection waited for a lock.
_IS_MADE = """
SELECT count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = 'policyctl' AND relname = 'format'
"""
_SIGNATURE = "SELECT md5(string_agg(id || ' ' || version, ',' ORDER BY id)) FROM policyctl.{}"


def _format_1(unique: bool) -> Iterator[str]:
    """Tables for each kind of rows, the tokens of writes, and the format itself."""
    # Not IF NOT EXISTS: an administrator may have made it for a role that may not make schemas.
    yield """
        DO $$ BEGIN
            IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = 'policyctl') THEN CREATE SCHEMA policyctl; END IF;
        END $$"""
    for kind in ("policy", "model", *sorted(UNIQUE_KINDS), *_OTHERS):
        yield f"""
            CREATE TABLE policyctl.{kind} (
                id         text COLLATE "C" PRIMARY KEY,
                name       text COLLATE "C" NOT NULL,
                document   text NOT NULL,
                created_on text NOT NULL,
                updated_at text NOT NULL,
                version    bigint NOT NULL
            )"""
        once = "UNIQUE" if kind in UNIQUE_KINDS or (unique and kind in ("policy", "model")) else ""
        yield f"CREATE {once} INDEX {kind}_name ON policyctl.{kind} (name)"
    yield "CREATE TABLE policyctl.written (token uuid PRIMARY KEY, at timestamptz NOT NULL DEFAULT now())"
    yield "CREATE INDEX written_at ON policyctl.written (at)"
    yield "CREATE TABLE policyctl.format (version integer NOT NULL, unique_names boolean NOT NULL)"
    yield f"INSERT INTO policyctl.format VALUES (1, {unique})"


# Later formats add steps at the end, each of which leaves what the release before needs: servers are replaced one by one.
_STEPS = (_format_1,)


class PostgresDatabase:
    """The connections to a database, whose format is checked before it is used, and what is done when one breaks.

    `unique_names` makes a new store refuse a second policy or model of one name; an existing one keeps its rule.
    """

    def __init__(self, url: str, *, writable: bool, unique_names: bool = True) -> None:
        self.identity = postgres_identity(url)
        self._writable = writable
        self._unique_names = unique_names
        self.patience = PATIENCE
        self._pool = Pool(url, self.identity, writable=writable)
        self._made = self._current = False  # whether the tables are there, and in this format

    @contextmanager
    def reading(self) -> Iterator[PostgresRows | None]:
        """The rows, to read; None where nothing was ever written."""
        self._made = self._made or self.run(self._format) is not None
        yield PostgresRows(self) if self._made else None

    @contextmanager
    def writing(self) -> Iterator[PostgresRows]:
        """The rows, to write. Raises RemoteError where it was opened for reading."""
        if not self._writable:
            raise RemoteError(f"{self.identity} was opened for reading")
        self.prepare()
        yield PostgresRows(self)

    def prepare(self) -> None:
        """Make the tables, or bring them to this format. Servers that start at once do it one after the other."""
        if not self._current and (self.run(self._format) or (0,))[0] < len(_STEPS):
            self.run(self._migrate)
        self._made = self._current = True

    def signature(self) -> object:
        """A value that is another one once a policy or model was written. Raises RemoteError as reading does."""
        self._made = self._made or self.run(self._format) is not None
        if not self._made:
            return []
        return self.run(lambda connection, _: [_one(connection, _SIGNATURE.format(kind)) for kind in ("policy", "model")])

    def names_are_unique(self) -> bool:
        """Whether this store (or the one that would be made) refuses a second policy of one name."""
        found = self.run(self._format)
        return self._unique_names if found is None else found[1]

    def check(self) -> None:
        """Raise RemoteError unless the database answers at once, in a format that this policyctl reads."""
        self.run(self._format, patience=AT_ONCE)

    def close(self) -> None:
        self._pool.close()

    def run(
        self,
        work: Callable[[Connection, bool], Found],
        *,
        writes: bool = False,
        patience: Backoff | None = None,
    ) -> Found:
        """The result of `work`, which is given a connection and whether an earlier try of it may have been carried out.

        It is called again when the connection breaks. Raises RemoteError when that does not help, and for a write (`writes`)
        that may have been carried out LostAnswer.
        """
        return self._pool.run(work, patience or self.patience, writes=writes)

    def _format(self, connection: Connection, _: bool) -> tuple[int, bool] | None:
        """The format of the store and whether names are unique in it; None without one."""
        if not _one(connection, _IS_MADE):
            return None
        # One row, since the table is made with it in one transaction.
        [(version, unique)] = connection.execute("SELECT version, unique_names FROM policyctl.format").fetchall()
        if version > len(_STEPS):
            raise RemoteError(f"{self.identity} is from a newer policyctl (format {version}); update policyctl")
        return version, unique

    def _migrate(self, connection: Connection, again: bool) -> None:
        with without_limit(connection), connection.transaction():
            connection.execute("SET LOCAL statement_timeout = 0")
            connection.execute("SET LOCAL lock_timeout = '60s'")
            connection.execute("SELECT pg_advisory_xact_lock(%s)", [_MIGRATING])
            version, unique = self._format(connection, again) or (0, self._unique_names)
            for step in _STEPS[version:]:
                for statement in step(unique):
                    connection.execute(statement)
            connection.execute("UPDATE policyctl.format SET version = %s", [len(_STEPS)])


class PostgresRows:
    """The rows of all tables of a store; each method is a statement of its own."""

    _written = itertools.count(1)

    def __init__(self, database: PostgresDatabase) -> None:
        self._database = database

    def select(self, kind: str, by: Literal["id", "name"] | None = None, values: Collection[str] = ()) -> list[Columns]:
        """See `Rows`. What cannot be stored is not found."""
        query = f"SELECT id, document, created_on, updated_at, name, version FROM policyctl.{kind}"
        wanted = [value for value in values if _unstorable(value) is None]
        if by is not None and not wanted:
            return []
        where, given = ("", None) if by is None else (f" WHERE {by} = ANY(%s)", [wanted])
        found = self._database.run(lambda connection, _: connection.execute(f"{query}{where} ORDER BY name", given).fetchall())
        return [Columns(*row) for row in found]

    def count(self, kind: str) -> int:
        """See `Rows`."""
        return self._database.run(lambda connection, _: int(_one(connection, f"SELECT count(*) FROM policyctl.{kind}")))

    def insert(self, kind: str, row: Columns, most: int | None = None) -> Columns:
        """See `Rows`."""
        row = row._replace(version=1)
        few = "" if most is None else f"WHERE (SELECT count(*) FROM policyctl.{kind}) < %(most)s"
        insert = f"""
            INSERT INTO policyctl.{kind} (id, name, document, created_on, updated_at, version)
            SELECT %(id)s, %(name)s, %(document)s, %(created_on)s, %(updated_at)s, %(version)s {few}"""
        if not self._write(kind, insert, row, {"most": most}):
            raise QuotaReached(self.count(kind))
        return row

    def update(self, kind: str, stored: Columns, row: Columns) -> Columns | None:
        """See `Rows`."""
        row = row._replace(version=int(stored.version) + 1)
        update = f"""
            UPDATE policyctl.{kind} SET name = %(name)s, document = %(document)s, updated_at = %(updated_at)s,
            version = %(version)s WHERE id = %(id)s AND version = %(before)s"""
        return row if self._write(kind, update, row, {"before": stored.version}) else None

    def delete(self, kind: str, stored: Columns) -> bool:
        """See `Rows`."""
        return self._write(kind, f"DELETE FROM policyctl.{kind} WHERE id = %(id)s AND version = %(version)s", stored, {})

    def _write(self, kind: str, statement: str, row: Columns, more: dict[str, Any]) -> bool:
        """Whether the statement changed its row, however often it had to be sent.

        The token is noted only if it did, and can be noted once: of a statement that is carried out twice, the second fails.
        """
        for value in (row.name, row.id):
            if (why := _unstorable(value)) is not None:
                raise Conflict(f"the {kind.replace('_', ' ')} cannot be stored in PostgreSQL: its name or id {why}")
        values, prune = {**row._asdict(), **more, "token": uuid4()}, next(self._written) % _PRUNE_EVERY == 0
        whole = f"""
            WITH done AS ({statement} RETURNING 1),
            noted AS (INSERT INTO policyctl.written (token) SELECT %(token)s FROM done)
            SELECT FROM done"""

        def work(connection: Connection, again: bool) -> bool:
            if prune:
                connection.execute("DELETE FROM policyctl.written WHERE at < now() - interval '10 minutes'")
            try:
                with nullcontext() if more.get("most") is None else connection.transaction():
                    if more.get("most") is not None:  # counted after all others that count have written
                        connection.execute("SELECT pg_advisory_xact_lock(%s)", [_COUNTING])
                    done = connection.execute(whole, values).fetchone() is not None
            except errors.UniqueViolation:
                if not (again and _is_noted(connection, values["token"])):
                    raise taken(kind, row.name) from None
                done = True
            return done or (again and _is_noted(connection, values["token"]))

        return self._database.run(work, writes=True)


def open_postgres_reader(url: str, *, models: bool = False) -> StoreReader:
    """A store in PostgreSQL, to read only. Nothing is connected yet."""
    return StoreReader(PostgresDatabase(url, writable=False), embedded=False, models=models)


class PostgresRemote(Store):
    """Reads and writes a store in PostgreSQL; the first write makes a missing one."""

    database: PostgresDatabase

    def __init__(self, url: str, *, unique_names: bool = True, models: bool = False) -> None:
        super().__init__(PostgresDatabase(url, writable=True, unique_names=unique_names), embedded=False, models=models)


def _one(connection: Connection, query: str) -> Any:
    found = connection.execute(query).fetchone()
    return None if found is None else found[0]


def _is_noted(connection: Connection, token: Any) -> bool:
    """Whether the write with that token was carried out."""
    return connection.execute("SELECT FROM policyctl.written WHERE token = %s", [token]).fetchone() is not None


def _unstorable(text: str) -> str | None:
    """Why a text cannot be a name or an id in PostgreSQL, or None."""
    if "\0" in text:
        return "has a NUL"
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        return "has half a surrogate pair"
    return f"has more than {LONGEST_NAME} bytes" if size > LONGEST_NAME else None


_AUDIT_LOCK = 0x706C6379_0004  # advisory lock
_AUDIT_FORMAT = 1
_AUDIT_FETCHED = 1000  # rows at a time
# Not to_regclass: that is answered from a cache, which misses tables made while this connection waited for a lock.
_AUDIT_IS_MADE = """
SELECT count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = 'policyctl_audit' AND relname = 'format'
"""
_AUDIT_TABLES = f"""
CREATE SCHEMA IF NOT EXISTS policyctl_audit;
CREATE TABLE policyctl_audit.line (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(), remote text COLLATE "C" NOT NULL, line text NOT NULL
);
CREATE INDEX line_remote ON policyctl_audit.line (md5(remote), number);
CREATE TABLE policyctl_audit.format (version integer NOT NULL);
INSERT INTO policyctl_audit.format VALUES ({_AUDIT_FORMAT});
"""
_AUDIT_ADD = "INSERT INTO policyctl_audit.line (remote, line) VALUES (%s, %s)"
_AUDIT_NEXT = """
SELECT number, line FROM policyctl_audit.line
WHERE number > %(after)s AND (%(remote)s::text IS NULL OR md5(remote) = md5(%(remote)s) AND remote = %(remote)s)
ORDER BY number LIMIT %(most)s
"""


class AuditTable:
    """The table in one database: an `AuditRecord`, and the `AuditWriter` of every apply of this process.

    A line that was sent when the connection broke is sent again, so it may be there twice; the second one adds nothing.
    """

    def __init__(self, url: str) -> None:
        self._identity = postgres_identity(url)
        self.title = f"the audit table in {self._identity}"
        self._pool = Pool(url, self._identity, writable=True)
        self._made = False

    def __str__(self) -> str:
        return self._identity

    def writer(self) -> AuditTable:
        try:
            self._run(self._prepare)
        except RemoteError as error:
            self.close()
            raise RemoteError(f"{error}; nothing was applied") from None
        return self

    def add(self, line: str) -> None:
        remote = read_entry(line.encode()).remote
        self._run(lambda connection: connection.execute(_AUDIT_ADD, (remote, line.removesuffix("\n"))))

    def close(self) -> None:
        """Close the connections that no other apply of this process uses."""
        self._pool.close()

    def lines(self, remote: str | None = None) -> Iterator[AuditLine]:
        if not self.exists():
            raise RemoteError(f"{self.title} is not there yet; policyctl apply --audit makes it")
        after, more = 0, True
        try:
            while more:
                rows = self._run(partial(_fetched, remote, after))
                for after, line in rows:
                    yield audit_line(after, line.encode())
                more = len(rows) == _AUDIT_FETCHED
        finally:
            self.close()

    def mark(self) -> None:
        return None

    def why_untrusted(self) -> None:
        return None

    def exists(self) -> bool:
        try:
            self._made = self._made or self._run(_audit_is_made)
        finally:
            self.close()
        return self._made

    def _prepare(self, connection: Connection) -> None:
        if self._made:
            return
        if not _audit_is_made(connection):  # not IF NOT EXISTS alone: a role that may only add lines may not make schemas
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (_AUDIT_LOCK,))
                if not _audit_is_made(connection):
                    connection.execute(_AUDIT_TABLES)
        found = connection.execute("SELECT version FROM policyctl_audit.format").fetchone()
        if found != (_AUDIT_FORMAT,):
            raise RemoteError(f"{self.title} is of another version of policyctl")
        self._made = True

    def _run(self, work: Callable[[Connection], Found]) -> Found:
        """What `work` returns; it is called again for some seconds while the database cannot be reached."""
        try:
            return self._pool.run(lambda connection, _: work(connection), PATIENCE)
        except RemoteError as error:
            why = str(error).removeprefix(f"{self._identity}: ")
            raise RemoteError(f"{self.title} cannot be used: {why}") from None


def _fetched(remote: str | None, after: int, connection: Connection) -> list[tuple[int, str]]:
    """The next lines after a number."""
    return connection.execute(_AUDIT_NEXT, {"after": after, "remote": remote, "most": _AUDIT_FETCHED}).fetchall()


def _audit_is_made(connection: Connection) -> bool:
    found = connection.execute(_AUDIT_IS_MADE).fetchone()
    return found is not None and bool(found[0])


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
