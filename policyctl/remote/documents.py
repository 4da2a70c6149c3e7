"""The virtual models of a store, and the other documents that `policyctl serve` stores beside them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterable
from datetime import datetime

from policyctl.plan.consumers import Sources
from policyctl.plan.uses import ConsumerKind
from policyctl.policy.document import Document
from policyctl.policy.model_secrets import masked, without_unset_masks
from policyctl.policy.names import short_model
from policyctl.policy.virtual_model import VirtualModelRow
from policyctl.remote.table import Columns, Database, Table, document_of, server_fields, stored_text

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
        return self._with_app_ids(self._models.named({spelling for name in names for spelling in (name, short_model(name))}))

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
