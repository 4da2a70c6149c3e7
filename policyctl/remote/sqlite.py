"""The embedded remote: policies in one SQLite file, with the behaviour of the platform's API where that is known.

Ids are UUIDs; rows carry `created_on`, `updated_at` and an `etag` that changes with every write; keys it does not know are
kept; a second policy of one name (in either spelling) is refused, unless the file was made to allow it.
"""

from __future__ import annotations

import hashlib
import json
import sqlite3
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from policyctl.errors import Conflict, Moved, NotFound
from policyctl.model.names import canonical_name
from policyctl.model.normal import Document, is_server_key
from policyctl.remote.database import BUSY_SECONDS, Database, has_models

_IN_ONE_QUERY = 500
_SELECT = "SELECT id, document, created_on, updated_at, canonical FROM policy"
_INSERT = "INSERT INTO policy (id, document, created_on, updated_at, canonical) VALUES (?, ?, ?, ?, ?)"
_UPDATE = "UPDATE policy SET canonical = ?, document = ?, updated_at = ? WHERE id = ?"


class SqliteReader:
    """Reads an embedded remote. A file that is not there reads as empty, and is not made."""

    embedded = True

    def __init__(self, path: Path) -> None:
        self._use(Database(path, writable=False))

    def _use(self, database: Database) -> None:
        self.database = database
        self.path = database.path
        self.identity = f"sqlite:///{self.path}"

    def rows(self) -> list[Any]:
        with self.database.reading() as connection:
            found = [] if connection is None else connection.execute(f"{_SELECT} ORDER BY canonical").fetchall()
        return [_row(values) for values in found]

    def find(self, names: Collection[str]) -> list[Any]:
        return self._where("canonical", sorted(names))

    def by_id(self, ids: Collection[str]) -> list[Any]:
        """The rows with these ids; ids that there are not are left out."""
        return self._where("id", sorted(ids))

    def count(self) -> int:
        """How many policies there are."""
        with self.database.reading() as connection:
            return 0 if connection is None else int(connection.execute("SELECT count(*) FROM policy").fetchone()[0])

    def models(self) -> frozenset[str]:
        with self.database.reading() as connection:
            if connection is None or not has_models(connection):
                return frozenset()
            return frozenset(name for (name,) in connection.execute("SELECT name FROM model"))

    def close(self) -> None:
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _where(self, column: str, values: list[str]) -> list[Any]:
        with self.database.reading() as connection:
            found = [] if connection is None else list(_select(connection, column, values))
        return [_row(values) for values in found]


class SqliteRemote(SqliteReader):
    """Reads and writes an embedded remote; the file and its directory are made when missing."""

    def __init__(
        self,
        path: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        unique_names: bool = True,
        busy_seconds: float = BUSY_SECONDS,
    ) -> None:
        self._use(Database(path, writable=True, unique_names=unique_names, busy_seconds=busy_seconds))
        self._now = now

    def add(self, document: Document) -> str:
        return str(self.insert(document)["id"])

    def update(self, id: str, document: Document, version: str | None = None) -> None:  # noqa: A002 - the platform's word
        self.replace(id, document, version)

    def insert(self, document: Document) -> Document:
        """Add a policy and return its row as it was written, which only the write itself can tell."""
        now = timestamp(self._now())
        name = canonical_name(document["name"])
        values = (str(uuid.uuid4()), stored_text(document), now, now, name)
        try:
            with self.database.writing() as connection:
                connection.execute(_INSERT, values)
        except sqlite3.IntegrityError:
            raise Conflict(f"there is a policy {name} already") from None
        return _row(values)

    def replace(self, id: str, document: Document, version: str | None = None) -> Document:  # noqa: A002 - as above
        """Write a policy over the one with that id and return its row as it was written."""
        name = ""
        try:
            with self.database.writing() as connection:
                stored = _stored(connection, id, version)
                merged = {**stored, **document}
                name = canonical_name(merged["name"])
                values = (id, stored_text(merged), stored["created_on"], timestamp(self._now()), name)
                connection.execute(_UPDATE, (name, values[1], values[3], id))
        except sqlite3.IntegrityError:
            raise Conflict(f"there is a policy {name} already") from None
        return _row(values)

    def remove(self, id: str, version: str | None = None) -> None:  # noqa: A002 - the platform's word
        with self.database.writing() as connection:
            _stored(connection, id, version)
            connection.execute("DELETE FROM policy WHERE id = ?", (id,))


def timestamp(time: datetime) -> str:
    """RFC 3339 in UTC, to the microsecond, as the platform writes times."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def stored_text(document: Document) -> str:
    """What is stored of a document: everything but the server's own keys."""
    return json.dumps({key: value for key, value in document.items() if not is_server_key(key)})


def _stored(connection: sqlite3.Connection, identifier: str, version: str | None) -> Document:
    """A row that is about to be written over; asked inside the write's own transaction."""
    found = next(_select(connection, "id", [identifier]), None)
    if found is None:
        raise NotFound(f"there is no policy with the id {identifier}")
    row = _row(found)
    if version is not None and row["etag"] != version:
        raise Moved(f"the policy {row['name']} was written by someone else meanwhile")
    return row


def _select(connection: sqlite3.Connection, column: str, values: list[str]) -> Iterator[Any]:
    for start in range(0, len(values), _IN_ONE_QUERY):
        some = values[start : start + _IN_ONE_QUERY]
        marks = ",".join("?" * len(some))
        # Fetched at once: a query that is left in the middle, by a row that cannot be read, keeps the file locked.
        yield from connection.execute(f"{_SELECT} WHERE {column} IN ({marks}) ORDER BY canonical", some).fetchall()


def document_of(text: str) -> Document | None:
    """A stored document; None for what somebody else wrote in its place."""
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _row(values: Iterable[str]) -> Document:
    """A row as it is told. One whose document is none, or of another name, has a name and no policy: shown, and not touched.

    The column is what look-ups go by, and what keeps a second policy of that name out.
    """
    identifier, document, created_on, updated_at, canonical = values
    version = hashlib.sha256(f"{identifier} {updated_at} {document}".encode()).hexdigest()[:32]
    found = document_of(document) or {}
    name = found.get("name")
    return {
        **(found if isinstance(name, str) and canonical_name(name) == canonical else {"name": canonical}),
        "id": identifier,
        "created_on": created_on,
        "updated_at": updated_at,
        "etag": version,
    }
