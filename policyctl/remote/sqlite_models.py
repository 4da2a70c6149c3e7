"""The virtual models of an embedded remote: the names that its policies may target. One row a model, names unique."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from policyctl.errors import Conflict, NotFound
from policyctl.model.normal import Document
from policyctl.remote.database import Database, has_models
from policyctl.remote.sqlite import document_of, stored_text, timestamp

_SELECT = "SELECT id, document, created_on, updated_at, name FROM model"
_INSERT = "INSERT INTO model (id, document, created_on, updated_at, name) VALUES (?, ?, ?, ?, ?)"
_UPDATE = "UPDATE model SET name = ?, document = ?, updated_at = ? WHERE id = ?"


class SqliteModels:
    """Reads and writes the models of a database; a file without models, or of a format that has none, reads as empty."""

    def __init__(self, database: Database, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._database = database
        self._now = now

    def rows(self) -> list[Any]:
        """Every model: its document with `id` (not the name), `created_on` and `updated_at`, in order of names."""
        with self._database.reading() as connection:
            if connection is None or not has_models(connection):
                return []
            return [_row(values) for values in connection.execute(f"{_SELECT} ORDER BY name")]

    def insert(self, document: Document) -> Document:
        """Add a model and return its row. Raises Conflict when there is one of that name."""
        now = timestamp(self._now())
        values = (str(uuid.uuid4()), stored_text(document), now, now, document["name"])
        try:
            with self._database.writing() as connection:
                connection.execute(_INSERT, values)
        except sqlite3.IntegrityError:
            raise Conflict(f"there is a model {document['name']} already") from None
        return _row(values)

    def replace(self, id: str, document: Document) -> Document:  # noqa: A002 - the platform's word
        """Write a model over the one with that id and return its row.

        Raises NotFound when it is gone, Conflict when its new name is taken.
        """
        name = ""
        try:
            with self._database.writing() as connection:
                found = connection.execute(f"{_SELECT} WHERE id = ?", (id,)).fetchone()
                if found is None:
                    raise NotFound(f"there is no model with the id {id}")
                merged = {**_row(found), **document}
                name = merged["name"]
                values = (id, stored_text(merged), found[2], timestamp(self._now()), name)
                connection.execute(_UPDATE, (name, values[1], values[3], id))
        except sqlite3.IntegrityError:
            raise Conflict(f"there is a model {name} already") from None
        return _row(values)

    def remove(self, id: str) -> None:  # noqa: A002 - the platform's word
        """Remove the model with that id. Raises NotFound when it is gone."""
        with self._database.writing() as connection:
            if connection.execute("DELETE FROM model WHERE id = ?", (id,)).rowcount == 0:
                raise NotFound(f"there is no model with the id {id}")


def _row(values: tuple[str, str, str, str, str]) -> Document:
    """A row as it is told; of one whose document is none that is just its name."""
    identifier, document, created_on, updated_at, name = values
    told = document_of(document) or {"name": name}
    return {**told, "id": identifier, "created_on": created_on, "updated_at": updated_at}
