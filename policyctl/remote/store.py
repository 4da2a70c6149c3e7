"""A remote of policyctl's own: policies and virtual models in a database, behaving like the platform's API where known.

Ids are UUIDs; rows have `created_on`, `updated_at` and, for policies, an `etag` that changes with every write. Unknown keys are
kept. A second policy of one name (in either spelling) is refused, unless the database was made to allow it.

The rows are in tables, with ids, times and versions, which a `Database`, of SQLite or PostgreSQL, keeps. Beside policies these
are the virtual models, and the other documents that `policyctl serve` stores.
"""

from __future__ import annotations

import hashlib
import json
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain
from typing import Any, Literal, NamedTuple, Protocol

from policyctl.errors import Conflict, Moved, NotFound, RemoteError
from policyctl.plan.consumers import ConsumerKind, Sources
from policyctl.policy.document import Document, is_server_key
from policyctl.policy.model_settings import masked, without_unset_masks
from policyctl.policy.names import Kind, canonical_name, kind_of, row_names
from policyctl.policy.virtual_model import VirtualModelRow
from policyctl.remote import Closing


class StoreReader(Closing):
    """Reads a store. One that was never written reads as empty, and is not made."""

    connections = None
    shows_keys = True

    def __init__(
        self,
        database: Database,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        embedded: bool,
        models: bool = False,
    ) -> None:
        """With `models` virtual models are rows too, beside policies."""
        self.database = database
        self.identity = database.identity
        self.embedded = embedded
        self._now = now
        self._with_models = models
        self._policies = PolicyTable(database, "policy", now)

    @cached_property
    def _models(self) -> ModelRows:
        return ModelRows(self.database, self._now)

    def rows(self) -> Iterable[Any]:
        return chain(self._policies.each(), self._models.rows() if self._with_models else ())

    def find(self, names: Collection[str]) -> list[Any]:
        models = [name for name in names if kind_of(name) == "model"]
        policies = frozenset(names).difference(models)
        return [*self._policies.named(policies), *(self._models.find(models) if models else ())]

    def by_id(self, ids: Collection[str]) -> list[Any]:
        """The rows with these ids; unknown ids are left out."""
        return self._policies.by_id(ids)

    def count(self) -> int:
        """How many policies there are."""
        return self._policies.count()

    def models(self) -> frozenset[str]:
        with self.database.reading() as rows:
            return frozenset() if rows is None else frozenset(stored.name for stored in rows.select("model"))

    def sources(self) -> Sources:
        return stored_sources(self.database)

    def close(self) -> None:
        self.database.close()


class Store(StoreReader):
    """Reads and writes a store; one that is missing is made by the first write."""

    def add(self, document: Document, kind: Kind = "policy") -> str:
        return self._models.add(document) if kind == "model" else str(self.insert(document)["id"])

    def update(self, identifier: str, document: Document, version: str | None = None, kind: Kind = "policy") -> None:
        if kind == "model":
            self._models.update(identifier, document, version)
        else:
            self.replace(identifier, document, version)

    def insert(self, document: Document, most: int | None = None) -> Document:
        """Add a policy and return its row as written, which is only known within the write.

        Raises QuotaReached if there are `most` policies already.
        """
        return self._policies.insert(document, most)

    def replace(self, identifier: str, document: Document, version: str | None = None) -> Document:
        """Replace the policy with that id and return its row as written."""
        return self._policies.replace(identifier, document, version)

    def test_model(self, name: str) -> None:
        """None: this remote calls no model."""

    def remove(self, identifier: str, version: str | None = None, kind: Kind = "policy") -> None:
        (self._models if kind == "model" else self._policies).remove(identifier, version)


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


class PolicyTable(Table):
    """The policies of a store."""

    def row(self, stored: Columns) -> Document:
        """The row as the API returns it. A document that is corrupt, or of another name, yields a row without a policy: it is
        listed but never changed.

        Look-ups and the unique constraint go by the name in the column.
        """
        found = document_of(stored.document) or {}
        name = found.get("name")
        return {
            **(found if isinstance(name, str) and canonical_name(name) == stored.name else {"name": stored.name}),
            **server_fields(stored),
        }

    def name_of(self, name: str) -> str:
        return canonical_name(name)


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


_ADDED = frozenset({"id", "created_on", "updated_at", "etag"})


class DocumentTable(Table):
    """Reads and writes documents of one kind (agents, tools, ...), which are returned as they were written.

    A new document may bring its own `id`, since documents name each other by it.
    """

    def row(self, stored: Columns) -> Document:
        """A document as callers see it; an unreadable one has only its name."""
        return {**(document_of(stored.document) or {"name": stored.name}), **server_fields(stored)}

    def new_id(self, document: Document) -> str:
        return str(document.get("id") or uuid.uuid4())

    def text(self, document: Document, _: Document) -> str:
        return json.dumps({key: value for key, value in document.items() if key not in _ADDED})


class ModelTable(Table):
    """Reads and writes the virtual models of a store: each is its document with `id` (not the name), two times and `etag`.

    Secrets are stored and returned as `***`, which means "set". A write with that mask keeps a secret that is set; a write
    that leaves a secret out clears it together with the rest of its `provider_config`.
    """

    def row(self, stored: Columns) -> Document:
        """A model as callers see it. Format 2 of the embedded remote's file stored secrets in clear."""
        found: Document = masked({**(document_of(stored.document) or {"name": stored.name}), **server_fields(stored)})
        return found

    def text(self, document: Document, stored: Document) -> str:
        return stored_text(masked(without_unset_masks(document, stored)))


class ModelRows:
    """The models of a store as rows that are reconciled: with the app id of a connection in place of its id.

    A connection that was never made through `policyctl serve` is known by its app id alone: nothing here logs in anywhere.
    """

    def __init__(self, database: Database, now: Callable[[], datetime]) -> None:
        self._models = ModelTable(database, "model", now)
        self._connections = DocumentTable(database, "connection")

    def rows(self) -> list[VirtualModelRow]:
        """Every model."""
        return self._with_app_ids(self._models.rows())

    def find(self, names: Iterable[str]) -> list[VirtualModelRow]:
        """The models of these canonical names, in either spelling."""
        return self._with_app_ids(self._models.named({spelling for name in names for spelling in row_names(name)}))

    def add(self, document: Document) -> str:
        """Add a model and return its id. Raises Conflict for a name taken."""
        return str(self._models.insert(self._with_connection_id(document))["id"])

    def update(self, identifier: str, document: Document, version: str | None) -> None:
        """Write a whole model over the one with that id. Raises NotFound, Moved or Conflict."""
        self._models.replace(identifier, self._with_connection_id(document), version, merge=False)

    def remove(self, identifier: str, version: str | None) -> None:
        """Remove the model with that id. Raises NotFound or Moved."""
        self._models.remove(identifier, version)

    def _with_app_ids(self, rows: list[Document]) -> list[VirtualModelRow]:
        ids = {row["connection_id"] for row in rows if isinstance(row.get("connection_id"), str)}
        app_ids = {one["id"]: one["name"] for one in self._connections.by_id(ids)}
        return [
            VirtualModelRow(row | {"app_id": app_ids.get(row["connection_id"], row["connection_id"])})
            if isinstance(row.get("connection_id"), str)
            else VirtualModelRow(row)
            for row in rows
        ]

    def _with_connection_id(self, document: Document) -> Document:
        rest = {key: value for key, value in document.items() if key != "app_id"}
        if "app_id" not in document:
            return rest
        found = self._connections.named([document["app_id"]])
        return {**rest, "connection_id": found[0]["id"] if found else document["app_id"]}


_CONSUMERS: dict[ConsumerKind, str] = {
    "external agent": "external_agent",
    "assistant": "assistant",
    "flow": "tool",
    "knowledge base": "knowledge_base",
    "control": "binding",
}


def stored_sources(database: Database) -> Sources:
    """What may use models among the documents that `policyctl serve` stored."""

    def rows(kind: str) -> tuple[Document, ...]:
        return tuple(DocumentTable(database, kind).rows())

    selection = [row for row in rows("setting") if row["name"] == "model_selection"]
    others = {kind: rows(table) for kind, table in _CONSUMERS.items()}
    return Sources(rows("agent"), others, selection[0] if selection else {})
