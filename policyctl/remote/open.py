"""From a remote's URL to a remote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from policyctl.errors import RemoteError
from policyctl.load.auth import AuthFile
from policyctl.load.urls import http_complaint, origin
from policyctl.remote.protocol import Reader, Writer
from policyctl.remote.sqlite import SqliteReader, SqliteRemote

if TYPE_CHECKING:
    from policyctl.remote.credentials import Scrubber
    from policyctl.remote.orchestrate import Sender

_SQLITE = "sqlite:///"


@dataclass(frozen=True, slots=True)
class Access:
    """What may be used to reach a remote: how to log in, authorities to trust, and what relative paths start from."""

    auth: AuthFile | None = None
    ca_file: str | None = None
    base: Path = Path()

    def for_remote(self, url: str, own: str) -> Access:
        """The access to a remote other than the environment's `own`: auth only goes to the same origin (design: rule 9)."""
        return self if origin(url) == origin(own) else Access(None, self.ca_file, self.base)


def open_reader(url: str, access: Access = Access()) -> Reader:
    """A remote that can only be read."""
    if not _is_http(url):
        return SqliteReader(sqlite_path(url))
    from policyctl.remote.orchestrate import OrchestrateReader

    return OrchestrateReader(url, *_sender(url, access))


def open_writer(url: str, access: Access = Access()) -> Writer:
    """A remote that can be read and written."""
    if not _is_http(url):
        return SqliteRemote(sqlite_path(url))
    from policyctl.remote.orchestrate import OrchestrateRemote

    return OrchestrateRemote(url, *_sender(url, access))


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _sender(url: str, access: Access) -> tuple[Sender, Scrubber]:
    """What sends the requests, logged in where `access` says how. httpx is imported here: embedded remotes need none."""
    from policyctl.remote.auth import Session
    from policyctl.remote.credentials import Credentials, Scrubber
    from policyctl.remote.wire import Wire

    if complaint := http_complaint(url):
        raise RemoteError(f"the remote {complaint}")
    scrub = Scrubber()
    wire = Wire(scrub, None if access.ca_file is None else access.base / access.ca_file)
    if access.auth is None:
        return wire, scrub
    return Session(wire, access.auth, url, Credentials(access.auth, scrub, access.base)), scrub


def sqlite_path(url: str) -> Path:
    """`sqlite:///a.db` is relative to the working directory, `sqlite:////a.db` is absolute, as SQLAlchemy has it."""
    if not url.startswith(_SQLITE):
        scheme = url.partition(":")[0]
        raise RemoteError(f"no remote of the kind {scheme}: is known; use local, sqlite:///path or an https:// URL")
    return Path(unquote(url.removeprefix(_SQLITE)))
