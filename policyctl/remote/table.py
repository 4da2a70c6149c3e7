"""One table of an embedded remote: rows with ids, times and versions, read and written in transactions."""

# ruff: noqa: S608 - tables and columns are named by this package alone, and values are bound

from __future__ import annotations

import hashlib
import json
import sqlite3
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from policyctl.errors import Conflict, Moved, NotFound
from policyctl.policy.document import Document, is_server_key
from policyctl.remote.database import Database, has_table

_IN_ONE_QUERY = 500
_SERVER_COLUMNS = "id, document, created_on, updated_at"
Row = Callable[[Iterable[str]], Document]


class Table:
    """One table of an embedded remote. Each row has an id, a document, two times, and the name for look-ups.

    A database without the table reads as empty.
    """

    def __init__(
        self, database: Database, kind: str, column: str, row: Row, name: Callable[[str], str], now: Callable[[], datetime]
    ) -> None:
        """`kind` is the name of the table and of its rows; `column` is filled by `name` from a document's name.

        `row` turns the columns into a row for callers.
        """
        self._database = database
        self._kind = kind
        self._column = column
        self._row = row
        self._name = name
        self._now = now
        self._select = f"SELECT {_SERVER_COLUMNS}, {column} FROM {kind}"

    def rows(self) -> list[Any]:
        """Every row, in order of names."""
        return list(self.each())

    def each(self) -> Iterator[Any]:
        """The same, each row made when it is asked for: what is stored takes a fraction of the memory of the rows."""
        with self._database.reading() as connection:
            there = connection is not None and has_table(connection, self._kind)
            found = connection.execute(f"{self._select} ORDER BY {self._column}").fetchall() if connection and there else []
        return map(self._row, found)

    def named(self, names: Collection[str]) -> list[Any]:
        """The rows of these names."""
        return self._where(self._column, sorted(names))

    def by_id(self, ids: Collection[str]) -> list[Any]:
        """The rows with these ids; unknown ids are left out."""
        return self._where("id", sorted(ids))

    def count(self) -> int:
        """How many rows there are."""
        with self._database.reading() as connection:
            if connection is None or not has_table(connection, self._kind):
                return 0
            return int(connection.execute(f"SELECT count(*) FROM {self._kind}").fetchone()[0])

    def insert(self, document: Document) -> Document:
        """Add a row and return it as written. Raises Conflict if the name is taken."""
        now, name = timestamp(self._now()), self._name(document["name"])
        values = (self._new_id(document), self._text(document, {}), now, now, name)
        with self._conflicts(lambda: name), self._database.writing() as connection:
            self._make(connection)
            columns = f"{_SERVER_COLUMNS}, {self._column}"
            connection.execute(f"INSERT INTO {self._kind} ({columns}) VALUES (?, ?, ?, ?, ?)", values)
        return self._row(values)

    def replace(
        self,
        id: str,  # noqa: A002 - the platform's word
        document: Document,
        version: str | None = None,
        *,
        merge: bool = True,
    ) -> Document:
        """Replace the document of the row with that id and return the row as written.

        Keys that the document leaves out stay as they are, or are cleared without `merge`; a name always stays.

        Raises NotFound when the row is gone, Moved when it has another version, Conflict when its new name is taken.
        """
        name = ""
        with self._conflicts(lambda: name), self._database.writing() as connection:
            stored = self._stored(connection, id, version)
            merged = {**(stored if merge else {"name": stored["name"]}), **document}
            name = self._name(merged["name"])
            values = (id, self._text(merged, stored), stored["created_on"], timestamp(self._now()), name)
            connection.execute(
                f"UPDATE {self._kind} SET {self._column} = ?, document = ?, updated_at = ? WHERE id = ?",
                (name, values[1], values[3], id),
            )
        return self._row(values)

    def test_model(self, name: str) -> None:
        """None: this remote calls no model."""

    def remove(self, id: str, version: str | None = None) -> None:  # noqa: A002 - the platform's word
        """Remove the row with that id. Raises NotFound when it is gone, Moved when it has another version."""
        with self._database.writing() as connection:
            self._stored(connection, id, version)
            connection.execute(f"DELETE FROM {self._kind} WHERE id = ?", (id,))

    def _new_id(self, document: Document) -> str:  # noqa: ARG002 - of some kinds of rows, documents bring their ids
        return str(uuid.uuid4())

    def _text(self, document: Document, stored: Document) -> str:  # noqa: ARG002 - some kinds of rows depend on it
        """What is stored of a document that replaces the `stored` row (empty for a new one)."""
        return stored_text(document)

    def _make(self, connection: sqlite3.Connection) -> None:
        """Make the table, where it is not one that every file has."""

    @contextmanager
    def _conflicts(self, name: Callable[[], str]) -> Iterator[None]:
        try:
            yield
        except sqlite3.IntegrityError:
            raise Conflict(f"the {self._kind.replace('_', ' ')} {name()} already exists") from None

    def _stored(self, connection: sqlite3.Connection, identifier: str, version: str | None) -> Document:
        """The row that is about to be replaced, read within the write's own transaction."""
        found = next(self._chosen(connection, "id", [identifier]), None)
        if found is None:
            raise NotFound(f"no {self._kind.replace('_', ' ')} has the id {identifier}")
        row = self._row(found)
        if version is not None and row["etag"] != version:
            raise Moved(f"the {self._kind.replace('_', ' ')} {row['name']} was changed by another writer meanwhile")
        return row

    def _where(self, column: str, values: list[str]) -> list[Any]:
        with self._database.reading() as connection:
            found = [] if connection is None else list(self._chosen(connection, column, values))
        return [self._row(values) for values in found]

    def _chosen(self, connection: sqlite3.Connection, column: str, values: list[str]) -> Iterator[Any]:
        if not has_table(connection, self._kind):
            return
        for start in range(0, len(values), _IN_ONE_QUERY):
            some = values[start : start + _IN_ONE_QUERY]
            marks = ",".join("?" * len(some))
            # Fetched at once: a query left unfinished, because a row cannot be read, would keep the file locked.
            query = f"{self._select} WHERE {column} IN ({marks}) ORDER BY {self._column}"
            yield from connection.execute(query, some).fetchall()


def timestamp(time: datetime) -> str:
    """RFC 3339 in UTC, to the microsecond, as the platform writes times."""
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def stored_text(document: Document) -> str:
    """The stored form of a document: everything except the server's own keys."""
    return json.dumps({key: value for key, value in document.items() if not is_server_key(key)})


def document_of(text: str) -> Document | None:
    """A stored document; None if it is corrupt."""
    try:
        found = json.loads(text)
    except (ValueError, TypeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def server_fields(values: tuple[str, ...]) -> Document:
    """What the server adds to a document, of the columns of its row; `etag` changes with every write."""
    identifier, document, created_on, updated_at, _ = values
    version = hashlib.sha256(f"{identifier} {updated_at} {document}".encode()).hexdigest()[:32]
    return {"id": identifier, "created_on": created_on, "updated_at": updated_at, "etag": version}
