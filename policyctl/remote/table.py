"""One table of a store: rows with ids, times and versions. A `Database`, of SQLite or PostgreSQL, keeps them."""

from __future__ import annotations

import hashlib
import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any, Literal, NamedTuple, Protocol

from policyctl.errors import Conflict, Moved, NotFound, RemoteError
from policyctl.policy.document import Document, is_server_key

# Kinds of documents of which a second one of a name is refused. Of policies and models the database decides when it is made.
UNIQUE_KINDS = frozenset({"connection", "setting"})


class Columns(NamedTuple):
    """A row as it is stored. `name` is what look-ups go by; `version` changes with every write."""

    id: str
    document: str
    created_on: str
    updated_at: str
    name: str
    version: str | int


class QuotaReached(RemoteError):
    """A row that is not added, since there are already `stored` ones."""

    def __init__(self, stored: int) -> None:
        super().__init__(f"{stored} are stored, and no more are accepted")
        self.stored = stored


class Rows(Protocol):
    """The rows of every table, within one read or one write. `kind` names a table and its rows."""

    def select(self, kind: str, by: Literal["id", "name"] | None = None, values: Collection[str] = ()) -> list[Columns]:
        """Every row, or those with one of these ids or names, in order of names. Empty without the table."""
        ...

    def count(self, kind: str) -> int:
        """How many rows there are."""
        ...

    def insert(self, kind: str, row: Columns, most: int | None = None) -> Columns:
        """Add a row, whose version is not used, and return it as written.

        Raises Conflict if its id or name is taken, QuotaReached if there are `most` rows.
        """
        ...

    def update(self, kind: str, stored: Columns, row: Columns) -> Columns | None:
        """Write `row` over `stored` and return it as written; None if another writer was there first.

        Raises Conflict if its name is taken.
        """
        ...

    def delete(self, kind: str, stored: Columns) -> bool:
        """Remove `stored`. False if another writer was there first."""
        ...


class Database(Protocol):
    """A store of rows, used by several threads at once. `identity` is that of the remote that it is (see `Reader`)."""

    identity: str

    def reading(self) -> AbstractContextManager[Rows | None]:
        """The rows, to read; None where nothing was ever written."""
        ...

    def writing(self) -> AbstractContextManager[Rows]:
        """The rows, to write. Each method of them is whole or not at all, whatever happens to this process.

        Raises RemoteError where it was opened for reading.
        """
        ...

    def names_are_unique(self) -> bool:
        """Whether a second policy or model of one name is refused, which was decided when the database was made."""
        ...

    def prepare(self) -> None:
        """Make what serving needs before the first write: the tables of a database server, nothing in a file."""
        ...

    def check(self) -> None:
        """Raise RemoteError unless the database answers at once."""
        ...

    def close(self) -> None: ...


class Table(ABC):
    """One table of a store. A database without the table reads as empty."""

    def __init__(self, database: Database, kind: str, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        """`kind` is the name of the table and of its rows."""
        self._database = database
        self._kind = kind
        self._now = now

    @abstractmethod
    def row(self, stored: Columns) -> Any:
        """The row for callers."""

    def name_of(self, name: str) -> str:
        """What look-ups of a document go by, of its name."""
        return name

    def text(self, document: Document, _: Document) -> str:
        """What is stored of a document. Of some kinds it depends on the row that it replaces (empty for a new one)."""
        return stored_text(document)

    def new_id(self, _: Document) -> str:
        """The id of a new row. Documents of some kinds bring theirs."""
        return str(uuid.uuid4())

    def rows(self) -> list[Any]:
        """Every row, in order of names."""
        return list(self.each())

    def each(self, by: Literal["id", "name"] | None = None, values: Collection[str] = ()) -> Iterator[Any]:
        """The same, or those with one of these ids or names. Each row is made when it is asked for: what is stored takes a
        fraction of the memory of the rows."""
        with self._database.reading() as rows:
            found = [] if rows is None else rows.select(self._kind, by, values)
        return map(self.row, found)

    def named(self, names: Collection[str]) -> list[Any]:
        """The rows of these names."""
        return list(self.each("name", names))

    def by_id(self, ids: Collection[str]) -> list[Any]:
        """The rows with these ids; unknown ids are left out."""
        return list(self.each("id", ids))

    def count(self) -> int:
        """How many rows there are."""
        with self._database.reading() as rows:
            return 0 if rows is None else rows.count(self._kind)

    def insert(self, document: Document, most: int | None = None) -> Document:
        """Add a row and return it as written. Raises Conflict if the name is taken, QuotaReached if there are `most` rows."""
        now, name = timestamp(self._now()), self.name_of(document["name"])
        row = Columns(self.new_id(document), self.text(document, {}), now, now, name, "")
        with self._database.writing() as rows:
            written: Document = self.row(rows.insert(self._kind, row, most))
        return written

    def replace(self, identifier: str, document: Document, version: str | None = None, *, merge: bool = True) -> Document:
        """Replace the document of the row with that id and return the row as written.

        Keys that the document leaves out stay as they are, or are cleared without `merge`; a name always stays.

        Raises NotFound when the row is gone, Moved when it has another version, Conflict when its new name is taken.
        """

        def write(rows: Rows, stored: Columns) -> Document | None:
            before = self.row(stored)
            merged = {**(before if merge else {"name": before["name"]}), **document}
            text, name = self.text(merged, before), self.name_of(merged["name"])
            row = stored._replace(document=text, updated_at=timestamp(self._now()), name=name)
            written = rows.update(self._kind, stored, row)
            return None if written is None else self.row(written)

        return self._write(identifier, version, write)

    def remove(self, identifier: str, version: str | None = None) -> None:
        """Remove the row with that id. Raises NotFound when it is gone, Moved when it has another version."""
        self._write(identifier, version, lambda rows, stored: {} if rows.delete(self._kind, stored) else None)

    def _write(self, identifier: str, version: str | None, write: Callable[[Rows, Columns], Document | None]) -> Document:
        """Write over a row as it is; if another writer was there first (`write` returned None), over what it is by then."""
        while True:
            with self._database.writing() as rows:
                if (done := write(rows, self._stored(rows, identifier, version))) is not None:
                    return done

    def _stored(self, rows: Rows, identifier: str, version: str | None) -> Columns:
        """The row that is about to be written over."""
        kind = self._kind.replace("_", " ")
        found = rows.select(self._kind, "id", [identifier])
        if not found:
            raise NotFound(f"no {kind} has the id {identifier}")
        if version is not None and etag(found[0]) != version:
            raise Moved(f"the {kind} {self.row(found[0])['name']} was changed by another writer meanwhile")
        return found[0]


def taken(kind: str, name: str) -> Conflict:
    """The error for a row whose name or id another row has."""
    return Conflict(f"the {kind.replace('_', ' ')} {name} already exists")


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


def server_fields(stored: Columns) -> Document:
    """What the server adds to a document."""
    times = {"created_on": stored.created_on, "updated_at": stored.updated_at}
    return {"id": stored.id, **times, "etag": etag(stored)}


def etag(stored: Columns) -> str:
    """A row's version for callers: it changes with every write."""
    return hashlib.sha256(f"{stored.id} {stored.version} {stored.document}".encode()).hexdigest()[:32]
