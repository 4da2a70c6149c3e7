"""The virtual models of an embedded remote: the names that its policies may target. One row a model, names unique."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime

from policyctl.policy.document import Document
from policyctl.remote.database import Database
from policyctl.remote.sqlite import Table, document_of


class SqliteModels(Table):
    """Reads and writes the models of a database: each is its document with `id` (not the name) and two times."""

    def __init__(self, database: Database, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        super().__init__(database, "model", "name", _row, str, now)


def _row(values: Iterable[str]) -> Document:
    """A row as callers see it; one whose document is not readable has just its name."""
    identifier, document, created_on, updated_at, name = values
    found = document_of(document) or {"name": name}
    return {**found, "id": identifier, "created_on": created_on, "updated_at": updated_at}
