"""What a remote can do. `plan` is handed a Reader, which has no way to write; only `apply` opens a Writer."""

from __future__ import annotations

from collections.abc import Collection
from types import TracebackType
from typing import Any, Protocol, Self

from policyctl.policy.document import Document


class Reader(Protocol):
    """Reading. Rows are plain JSON objects as the service gives them, not yet judged, or `Unreadable` already.

    `identity` is the remote's origin and path, without user, password or query: it is written into saved plans.
    `embedded` remotes belong to the directory, so that without a written scope it speaks for everything on them.
    """

    identity: str
    embedded: bool

    def rows(self) -> list[Any]:
        """Every row. Raises RemoteError when that cannot be told; a missing collection is an error, never empty."""
        ...

    def find(self, names: Collection[str]) -> list[Any]:
        """The rows whose policy has one of these canonical names, in either spelling; nothing else."""
        ...

    def models(self) -> frozenset[str]:
        """The names of the models that the remote knows; empty when it cannot say."""
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None: ...


class Writer(Reader, Protocol):
    """Writing, one policy at a time. Every method may raise LostAnswer when it cannot be told what became of the write.

    `version` is the `etag` of the row that is to be replaced. Where it is given and the remote has versions, the write is
    refused with Moved when the row is not that version any more: looking and writing are then one step.
    """

    def add(self, document: Document) -> str | None:
        """Add a policy and return its id (None: the remote does not say it, or says another policy's name with it).

        Raises Conflict when there is one of that name, in either spelling.
        """
        ...

    def update(self, id: str, document: Document, version: str | None = None) -> None:  # noqa: A002 - the platform's word
        """Write a policy over the one with that id. Raises NotFound when it is gone, Moved when it moved."""
        ...

    def remove(self, id: str, version: str | None = None) -> None:  # noqa: A002 - the platform's word
        """Remove the policy with that id. Raises NotFound when it is gone, Moved when it moved."""
        ...
