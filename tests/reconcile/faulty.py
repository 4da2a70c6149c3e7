"""A remote on which things go wrong, by a script, around a real one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from policyctl.errors import LostAnswer, RemoteError
from policyctl.policy.document import Document
from policyctl.policy.names import Kind
from policyctl.remote.sqlite import SqliteRemote

# What happens to one write: it works; it is refused; its answer is lost, before or after it was carried out.
FAULTS = ("none", "refused", "lost before", "lost after")
# Besides: it is `only answered` as done, or carried out `late`, by `catch_up`.


class FaultyRemote(SqliteRemote):
    """The embedded remote; each write takes its fault from `fault_of(name)`, looks are counted."""

    def __init__(self, path: Path, fault_of: Callable[[str], str], *, models: bool = False) -> None:
        super().__init__(path, models=models)
        self.fault_of = fault_of
        self.looks = 0
        self._late: list[Callable[[], object]] = []

    def catch_up(self) -> None:
        """Carry out what was answered before it was done."""
        late, self._late = self._late, []
        for write in late:
            write()

    def find(self, names: Any) -> list[Any]:
        self.looks += 1
        return super().find(names)

    def add(self, document: Document, kind: Kind = "policy") -> str:
        return str(self._write(document["name"], lambda: SqliteRemote.add(self, document, kind)))

    def update(self, identifier: str, document: Document, version: str | None = None, kind: Kind = "policy") -> None:
        self._write(document["name"], lambda: SqliteRemote.update(self, identifier, document, version, kind))

    def remove(self, identifier: str, version: str | None = None, kind: Kind = "policy") -> None:
        name = next(row["name"] for row in self.rows() if row["id"] == identifier)
        self._write(name, lambda: SqliteRemote.remove(self, identifier, version, kind))

    def _write(self, name: str, write: Callable[[], Any]) -> Any:
        match self.fault_of(name):
            case "refused":
                raise RemoteError("refused by the script")
            case "lost before":
                raise LostAnswer("lost by the script")
            case "lost after":
                write()
                raise LostAnswer("lost by the script")
            case "only answered":
                return None
            case "late":
                self._late.append(write)
                return None
        return write()
