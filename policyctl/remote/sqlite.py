"""The embedded remote: a store in one SQLite file."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from policyctl.remote.database import BUSY_SECONDS, SqliteFile
from policyctl.remote.store import Store, StoreReader


class SqliteReader(StoreReader):
    """Reads an embedded remote. A missing file reads as empty and is not created."""

    database: SqliteFile

    def __init__(self, path: Path, *, models: bool = False) -> None:
        """With `models` virtual models are rows too, beside policies."""
        super().__init__(SqliteFile(path, writable=False), embedded=True, models=models)


class SqliteRemote(Store):
    """Reads and writes an embedded remote; a missing file or directory is created."""

    database: SqliteFile

    def __init__(
        self,
        path: Path,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        unique_names: bool = True,
        busy_seconds: float = BUSY_SECONDS,
        models: bool = False,
    ) -> None:
        database = SqliteFile(path, writable=True, unique_names=unique_names, busy_seconds=busy_seconds)
        self.path = database.path
        super().__init__(database, now, embedded=True, models=models)
