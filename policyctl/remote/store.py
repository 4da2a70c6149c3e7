"""A remote of policyctl's own: policies and virtual models in a database, behaving like the platform's API where that is known.

Ids are UUIDs; rows have `created_on`, `updated_at` and, for policies, an `etag` that changes with every write. Unknown keys
are kept. A second policy of one name (in either spelling) is refused, unless the database was made to allow it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from datetime import UTC, datetime
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING, Any

from policyctl.policy.document import Document
from policyctl.policy.names import Kind, canonical_name, kind_of
from policyctl.remote.protocol import Closing
from policyctl.remote.table import Columns, Database, Table, document_of, server_fields

if TYPE_CHECKING:
    from policyctl.plan.consumers import Sources
    from policyctl.remote.table import ModelRows


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
        from policyctl.remote.table import ModelRows

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
        from policyctl.remote.table import stored_sources

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
