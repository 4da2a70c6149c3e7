"""The embedded remote: policies and virtual models in one SQLite file, behaving like the platform's API where that is known.

Ids are UUIDs; rows have `created_on`, `updated_at` and, for policies, an `etag` that changes with every write. Unknown keys
are kept. A second policy of one name (in either spelling) is refused, unless the file was created to allow it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from policyctl.policy.document import Document
from policyctl.policy.names import Kind, canonical_name, kind_of
from policyctl.remote.database import BUSY_SECONDS, Database, has_table
from policyctl.remote.table import Table, document_of, server_fields

if TYPE_CHECKING:
    from policyctl.plan.consumers import Sources
    from policyctl.remote.sqlite_models import EmbeddedModels


class SqliteReader:
    """Reads an embedded remote. A missing file reads as empty and is not created."""

    embedded = True
    connections = None
    shows_keys = True

    def __init__(self, path: Path, *, models: bool = False) -> None:
        """With `models` virtual models are rows too, beside policies."""
        self._use(Database(path, writable=False), models=models)

    def _use(
        self, database: Database, now: Callable[[], datetime] = lambda: datetime.now(UTC), *, models: bool = False
    ) -> None:
        self.database = database
        self._now = now
        self._with_models = models
        self.path = database.path
        self.identity = f"sqlite:///{self.path}"
        self._policies = Table(database, "policy", "canonical", _row, canonical_name, now)

    @cached_property
    def _models(self) -> EmbeddedModels:
        from policyctl.remote.sqlite_models import EmbeddedModels

        return EmbeddedModels(self.database, self._now)

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
        with self.database.reading() as connection:
            if connection is None or not has_table(connection, "model"):
                return frozenset()
            return frozenset(name for (name,) in connection.execute("SELECT name FROM model"))

    def sources(self) -> Sources:
        from policyctl.remote.sqlite_models import stored_sources

        return stored_sources(self.database)

    def close(self) -> None:
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class SqliteRemote(SqliteReader):
    """Reads and writes an embedded remote; a missing file or directory is created."""

    def __init__(
        self,
        path: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        unique_names: bool = True,
        busy_seconds: float = BUSY_SECONDS,
        models: bool = False,
    ) -> None:
        database = Database(path, writable=True, unique_names=unique_names, busy_seconds=busy_seconds)
        self._use(database, now, models=models)

    def add(self, document: Document, kind: Kind = "policy") -> str:
        return self._models.add(document) if kind == "model" else str(self.insert(document)["id"])

    def update(
        self,
        id: str,  # noqa: A002 - the platform's word
        document: Document,
        version: str | None = None,
        kind: Kind = "policy",
    ) -> None:
        if kind == "model":
            self._models.update(id, document, version)
        else:
            self.replace(id, document, version)

    def insert(self, document: Document) -> Document:
        """Add a policy and return its row as written, which is only known within the write."""
        return self._policies.insert(document)

    def replace(self, id: str, document: Document, version: str | None = None) -> Document:  # noqa: A002 - as above
        """Replace the policy with that id and return its row as written."""
        return self._policies.replace(id, document, version)

    def test_model(self, name: str) -> None:
        """None: this remote calls no model."""

    def remove(self, id: str, version: str | None = None, kind: Kind = "policy") -> None:  # noqa: A002 - the platform's word
        (self._models if kind == "model" else self._policies).remove(id, version)


def _row(values: Iterable[str]) -> Document:
    """The row as the API returns it. A document that is corrupt, or of another name, yields a row without a policy: it is
    listed but never changed.

    Look-ups and the unique constraint go by the name in the column.
    """
    _, document, _, _, canonical = values = tuple(values)
    found = document_of(document) or {}
    name = found.get("name")
    return {
        **(found if isinstance(name, str) and canonical_name(name) == canonical else {"name": canonical}),
        **server_fields(values),
    }
