"""A store in a PostgreSQL database, for several servers and commands at once (extra `postgres`).

Every write is one statement, which is bound to the version that it replaces and notes its token in the same transaction. When
the connection breaks before the answer, the statement is sent again: the token shows whether the first one was carried out, so
that it happens once. Everything is in the schema `policyctl`, as text that sorts by bytes, as in SQLite.
"""

# ruff: noqa: S608 - tables are named by this package alone, and values are bound

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, Literal
from uuid import uuid4

from psycopg import errors

from policyctl.errors import Conflict, RemoteError
from policyctl.load.urls import postgres_identity
from policyctl.remote.postgres_pool import PATIENCE, Connection, Found, Pool, without_limit
from policyctl.remote.protocol import Backoff
from policyctl.remote.store import Store, StoreReader
from policyctl.remote.table import UNIQUE_KINDS, Columns, QuotaReached, taken

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
