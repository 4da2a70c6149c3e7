"""A remote on which things go wrong, by a script, around a real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from policyctl.errors import LostAnswer, RemoteError
from policyctl.policy.document import Document
from policyctl.remote.sqlite import SqliteRemote

# What happens to one write: it works; it is refused; its answer is lost, before or after it was carried out.
FAULTS = ("none", "refused", "lost before", "lost after")


class FaultyRemote(SqliteRemote):
    """The embedded remote; each write takes its fault from `fault_of(name)`, looks are counted."""

    def __init__(self, path: Path, fault_of: Callable[[str], str]) -> None:
        super().__init__(path)
        self.fault_of = fault_of
        self.looks = 0

    def find(self, names: Any) -> list[Any]:
        self.looks += 1
        return super().find(names)

    def add(self, document: Document) -> str:
        return str(self._write(document["name"], lambda: SqliteRemote.add(self, document)))

    def update(self, id: str, document: Document, version: str | None = None) -> None:  # noqa: A002 - the platform's word
        self._write(document["name"], lambda: SqliteRemote.update(self, id, document, version))

    def remove(self, id: str, version: str | None = None) -> None:  # noqa: A002 - the platform's word
        name = next(row["name"] for row in self.rows() if row["id"] == id)
        self._write(name, lambda: SqliteRemote.remove(self, id, version))

    def _write(self, name: str, write: Callable[[], Any]) -> Any:
        match self.fault_of(name):
            case "refused":
                raise RemoteError("refused by the script")
            case "lost before":
                raise LostAnswer("lost by the script")
            case "lost after":
                write()
                raise LostAnswer("lost by the script")
        return write()
