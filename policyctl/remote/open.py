"""From a remote's URL to a remote."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import unquote

from policyctl.errors import RemoteError
from policyctl.remote.protocol import Reader, Writer
from policyctl.remote.sqlite import SqliteReader, SqliteRemote

_SQLITE = "sqlite:///"


def open_reader(url: str) -> Reader:
    """A remote that can only be read."""
    return SqliteReader(_sqlite_path(url))


def open_writer(url: str) -> Writer:
    """A remote that can be read and written."""
    return SqliteRemote(_sqlite_path(url))


def _sqlite_path(url: str) -> Path:
    """`sqlite:///a.db` is relative to the working directory, `sqlite:////a.db` is absolute, as SQLAlchemy has it."""
    if not url.startswith(_SQLITE):
        scheme = url.partition(":")[0]
        raise RemoteError(f"no remote of the kind {scheme}: is known; use local or sqlite:///path")
    return Path(unquote(url.removeprefix(_SQLITE)))
