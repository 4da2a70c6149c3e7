"""The embedded remote's file, filled and read behind policyctl's back."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

from policyctl.policy.names import canonical_name
from policyctl.remote.sqlite import SqliteRemote

LOCAL = Path(".policyctl/local.db")
LEAF = {"model_name": "virtual-model/a/one"}


def row(name: str, **more: Any) -> dict[str, Any]:
    """A row with one model; `more` are its other keys."""
    return {"name": f"virtual-policy/{name}", "policy": {"strategy": {"mode": "single"}, "targets": [LEAF]}, **more}


def put(rows: Iterable[dict[str, Any]], path: Path = LOCAL, *, unique_names: bool | None = None) -> None:
    """Store rows as they are, whatever they are. A row's `id` is its id, its `canonical` the name that it is filed under.

    The file takes a second policy of one name where `unique_names` says so, or these rows need it.
    """
    values = [*map(_values, rows)]
    if unique_names is None:
        unique_names = len({name for _, name, _ in values}) == len(values)
    with SqliteRemote(path, unique_names=unique_names) as remote:
        remote.remove(remote.add({"name": "first", "policy": {}}))  # makes the file
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.executemany("INSERT INTO policy VALUES (?, ?, ?, '', '')", values)


def put_models(rows: Iterable[dict[str, Any]], path: Path = LOCAL) -> None:
    """Store models as they are, whatever they are; a second one of a name is stored too, and secrets are not masked."""
    with SqliteRemote(path, models=True) as remote:
        remote.remove(remote.add({"name": "virtual-model/x/first"}, "model"), kind="model")  # makes the file and the table
    with closing(sqlite3.connect(path)) as connection, connection:
        values = [(row["id"], row["name"], json.dumps({k: v for k, v in row.items() if k != "id"})) for row in rows]
        connection.executemany("INSERT OR IGNORE INTO model VALUES (?, ?, ?, '', '')", values)


def add_models(path: Path, *models: dict[str, Any]) -> None:
    """Store virtual models."""
    with SqliteRemote(path, models=True) as remote:
        for model in models:
            remote.add(model, "model")


def live_documents(path: Path = LOCAL) -> dict[str, dict[str, Any]]:
    """The stored documents by name."""
    if not path.exists():
        return {}
    with closing(sqlite3.connect(path)) as connection:
        found = [json.loads(text) for (text,) in connection.execute("SELECT document FROM policy")]
    return {document["name"]: document for document in found}


def stored(path: Path) -> dict[str, tuple[str, ...]]:
    """Every row byte by byte, by its id."""
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute("SELECT id, canonical, document, created_on, updated_at FROM policy")
        return {row[0]: row[1:] for row in found}


def _values(row: dict[str, Any]) -> tuple[str, str, str]:
    document = {key: value for key, value in row.items() if key not in ("id", "canonical")}
    filed_under = row.get("canonical", canonical_name(row["name"]))
    return row.get("id", f"id-{filed_under}"), filed_under, json.dumps(document)


def edit(name: str, change: Callable[[dict[str, Any]], object], path: Path = LOCAL) -> None:
    """Change a stored policy by hand; `change` is given its document."""
    with closing(sqlite3.connect(path)) as connection, connection:
        where = (canonical_name(name),)
        (text,) = connection.execute("SELECT document FROM policy WHERE canonical = ?", where).fetchone()
        document = json.loads(text)
        change(document)
        connection.execute("UPDATE policy SET document = ? WHERE canonical = ?", (json.dumps(document), *where))


def drop(name: str, path: Path = LOCAL) -> None:
    """Remove a stored policy by hand."""
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM policy WHERE canonical = ?", (canonical_name(name),))
