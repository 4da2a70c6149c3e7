"""An audit record in a PostgreSQL database, for many machines: one row a line, in a schema of its own (extra `postgres`)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

from policyctl.errors import RemoteError
from policyctl.load.urls import postgres_identity
from policyctl.plan.audit import AuditLine, audit_line, read_entry
from policyctl.remote.postgres_pool import PATIENCE, Connection, Found, Pool

_MAKING = 0x706C6379_0004  # advisory lock
_FORMAT = 1
_FETCHED = 1000  # rows at a time
# Not to_regclass: that is answered from a cache, which misses tables made while this connection waited for a lock.
_IS_MADE = """
SELECT count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = 'policyctl_audit' AND relname = 'format'
"""
_TABLES = f"""
CREATE SCHEMA IF NOT EXISTS policyctl_audit;
CREATE TABLE policyctl_audit.line (
    number bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(), remote text COLLATE "C" NOT NULL, line text NOT NULL
);
CREATE INDEX line_remote ON policyctl_audit.line (md5(remote), number);
CREATE TABLE policyctl_audit.format (version integer NOT NULL);
INSERT INTO policyctl_audit.format VALUES ({_FORMAT});
"""  # noqa: S608 - nothing in it is from outside
_ADD = "INSERT INTO policyctl_audit.line (remote, line) VALUES (%s, %s)"
_NEXT = """
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
        self._run(lambda connection: connection.execute(_ADD, (remote, line.removesuffix("\n"))))

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
                more = len(rows) == _FETCHED
        finally:
            self.close()

    def mark(self) -> None:
        return None

    def why_untrusted(self) -> None:
        return None

    def exists(self) -> bool:
        try:
            self._made = self._made or self._run(_is_made)
        finally:
            self.close()
        return self._made

    def _prepare(self, connection: Connection) -> None:
        if self._made:
            return
        if not _is_made(connection):  # not IF NOT EXISTS alone: a role that may only add lines may not make schemas
            with connection.transaction():
                connection.execute("SELECT pg_advisory_xact_lock(%s)", (_MAKING,))
                if not _is_made(connection):
                    connection.execute(_TABLES)
        found = connection.execute("SELECT version FROM policyctl_audit.format").fetchone()
        if found != (_FORMAT,):
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
    return connection.execute(_NEXT, {"after": after, "remote": remote, "most": _FETCHED}).fetchall()


def _is_made(connection: Connection) -> bool:
    found = connection.execute(_IS_MADE).fetchone()
    return found is not None and bool(found[0])
