"""The embedded remote: policies in one SQLite file, with the behaviour of the platform's API where that is known.

Ids are UUIDs; rows carry `created_on` and `updated_at`; keys it does not know are kept; a second policy of one name (in
either spelling) is refused. Every write is one transaction in SQLite's rollback journal, so two processes may write at
once and a killed one leaves the row as it was or as it was to be.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import uuid
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from policyctl.errors import Conflict, NotFound, RemoteError
from policyctl.model.names import canonical_name
from policyctl.model.normal import Document, is_server_key

APPLICATION_ID = 0x706C6379  # "plcy" in the file's header: this is a policyctl database and nothing else
VERSION = 1
BUSY_SECONDS = 10.0
_IN_ONE_QUERY = 500
_SCHEMA = """
CREATE TABLE policy (
    id         TEXT PRIMARY KEY,
    canonical  TEXT NOT NULL UNIQUE,
    document   TEXT NOT NULL,
    created_on TEXT NOT NULL,
    updated_at TEXT NOT NULL
) WITHOUT ROWID
"""


class SqliteReader:
    """Reads an embedded remote. A file that is not there reads as empty, and is not made."""

    embedded = True

    def __init__(self, path: Path, busy_seconds: float = BUSY_SECONDS) -> None:
        self.path = path.absolute()
        self.busy_seconds = busy_seconds
        self.identity = f"sqlite:///{self.path}"
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None

    def rows(self) -> list[Any]:
        with self._reading() as connection:
            if connection is None:
                return []
            return [_row(values) for values in connection.execute(_SELECT + "ORDER BY canonical")]

    def find(self, names: Collection[str]) -> list[Any]:
        rows: list[Any] = []
        wanted = sorted(names)
        with self._reading() as connection:
            if connection is None:
                return []
            for start in range(0, len(wanted), _IN_ONE_QUERY):
                some = wanted[start : start + _IN_ONE_QUERY]
                marks = ",".join("?" * len(some))
                found = connection.execute(f"{_SELECT} WHERE canonical IN ({marks})", some)
                rows += [_row(values) for values in found]
        return rows

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        with self._lock, self._told():
            if self._connection is None and self.path.exists():
                self._connection = self._open("rw", "PRAGMA query_only = ON")
            yield self._if_filled()

    def _if_filled(self) -> sqlite3.Connection | None:
        """The connection, if there is anything to read: a file that a killed writer had only just made is empty."""
        return None if self._connection is None or _is_blank(self._connection) else self._connection

    def _open(self, mode: str, *pragmas: str) -> sqlite3.Connection:
        """Connect and check whose database this is.

        Reading opens read-write with `query_only`: a file that a killed writer left in mid-write must be rolled back
        before it can be read. Where the file cannot be opened so (read-only disk), it is opened read-only.
        """
        try:
            connection = self._connect(mode)
        except sqlite3.OperationalError:
            if mode != "rw":
                raise
            connection = self._connect("ro")
        for pragma in pragmas:
            connection.execute(pragma)
        self._check(connection)
        return connection

    def _connect(self, mode: str) -> sqlite3.Connection:
        connection = sqlite3.connect(
            f"{self.path.as_uri()}?mode={mode}",
            uri=True,
            timeout=self.busy_seconds,
            isolation_level=None,
            check_same_thread=False,
        )
        connection.execute("PRAGMA schema_version")  # the first real look at the file
        return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        application = connection.execute("PRAGMA application_id").fetchone()[0]
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if application != APPLICATION_ID and not _is_blank(connection):
            raise RemoteError(f"{self.path} is a database of something else; choose another file")
        if version > VERSION:
            raise RemoteError(f"{self.path} is from a newer policyctl (format {version}); update policyctl")

    @contextmanager
    def _told(self) -> Iterator[None]:
        """SQLite's errors in the user's words."""
        try:
            yield
        except sqlite3.IntegrityError:
            raise
        except sqlite3.DatabaseError as error:
            raise RemoteError(f"{self.path}: {_explain(error)}") from None


class SqliteRemote(SqliteReader):
    """Reads and writes an embedded remote; the file and its directory are made when missing."""

    def __init__(
        self,
        path: Path,
        busy_seconds: float = BUSY_SECONDS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        super().__init__(path, busy_seconds)
        self._now = now

    def add(self, document: Document) -> str:
        identifier, now = str(uuid.uuid4()), self._time()
        values = (identifier, canonical_name(document["name"]), _text(document), now, now)
        try:
            with self._writing() as connection:
                connection.execute("INSERT INTO policy VALUES (?, ?, ?, ?, ?)", values)
        except sqlite3.IntegrityError:
            raise Conflict(f"there is a policy {values[1]} already") from None
        return identifier

    def update(self, id: str, document: Document) -> None:  # noqa: A002 - the platform's word
        try:
            with self._writing() as connection:
                found = connection.execute("SELECT document FROM policy WHERE id = ?", (id,)).fetchone()
                if found is None:
                    raise NotFound(f"there is no policy with the id {id}")
                merged = {**json.loads(found[0]), **document}
                values = (canonical_name(merged["name"]), _text(merged), self._time(), id)
                connection.execute("UPDATE policy SET canonical = ?, document = ?, updated_at = ? WHERE id = ?", values)
        except sqlite3.IntegrityError:
            raise Conflict(f"there is a policy {canonical_name(document['name'])} already") from None

    def remove(self, id: str) -> None:  # noqa: A002 - the platform's word
        with self._writing() as connection:
            if connection.execute("DELETE FROM policy WHERE id = ?", (id,)).rowcount == 0:
                raise NotFound(f"there is no policy with the id {id}")

    def _time(self) -> str:
        return self._now().astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")

    @contextmanager
    def _reading(self) -> Iterator[sqlite3.Connection | None]:
        """A writer reads through its own connection, so that it sees what it wrote."""
        with self._lock, self._told():
            if self._connection is None and self.path.exists():
                self._connection = self._open("rw")
            yield self._if_filled()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        """One transaction: whole or not at all, whatever happens to this process."""
        with self._lock, self._told():
            if self._connection is None:
                self._make_folder()
                self._connection = self._open("rwc")
            connection = self._connection
            connection.execute("BEGIN IMMEDIATE")
            try:
                if _is_blank(connection):
                    connection.execute(_SCHEMA)
                    connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                    connection.execute(f"PRAGMA user_version = {VERSION}")
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _make_folder(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RemoteError(f"{self.path.parent} cannot be made: {error.strerror}") from None


_SELECT = "SELECT id, document, created_on, updated_at FROM policy "


def _row(values: tuple[str, str, str, str]) -> Document:
    identifier, document, created_on, updated_at = values
    return {**json.loads(document), "id": identifier, "created_on": created_on, "updated_at": updated_at}


def _text(document: Document) -> str:
    """What is stored: everything but the server's own keys."""
    return json.dumps({key: value for key, value in document.items() if not is_server_key(key)})


def _is_blank(connection: sqlite3.Connection) -> bool:
    """Whether the file holds no table yet."""
    return bool(connection.execute("SELECT count(*) = 0 FROM sqlite_schema").fetchone()[0])


def _explain(error: sqlite3.DatabaseError) -> str:
    text = str(error)
    if "locked" in text:
        return "the database is locked by another program, which did not let go; try again later"
    if "readonly" in text:
        return "the database is read-only; make it writable, or choose another remote"
    if "malformed" in text or "not a database" in text:
        return "this is no intact SQLite database; restore it from a backup, or move it away to start afresh"
    if "unable to open" in text or "disk I/O" in text:
        return f"the database cannot be opened or used ({text}); check the path, its permissions and the disk"
    return f"the database fails: {text}"
