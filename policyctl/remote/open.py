"""From a remote's URL to a remote."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import unquote

from policyctl.errors import PolicyctlError, Refused, RemoteError, UsageError
from policyctl.load.environment import Environment
from policyctl.load.source import MAX_BYTES, bounded, read_bounded
from policyctl.load.urls import (
    LOCAL,
    SQLITE,
    http_url_error,
    is_git,
    is_http,
    is_postgres,
    origin,
    postgres_files,
    postgres_url_error,
)
from policyctl.remote import Backoff, Reader, Writer
from policyctl.remote.sqlite import SqliteReader, SqliteRemote

if TYPE_CHECKING:
    from policyctl.load.settings_file import AuthFile
    from policyctl.load.urls import Origin
    from policyctl.remote.hosts import HostPace, Hosts
    from policyctl.remote.orchestrate import Sender
    from policyctl.remote.redaction import Redactor
    from policyctl.remote.sqlite import LockWait
    from policyctl.remote.store import Store


class Access(NamedTuple):
    """How to reach a remote: the login, authorities to trust, and the base of relative paths.

    `directory` and `environment` are what a git revision is read for. Files in `held` are not read from the disk: while a
    branch is reviewed, its changes to them do not count. `hosts` are the connections, paces and tokens of several environments;
    without it every reader and writer has its own.
    """

    auth: AuthFile | None = None
    ca_file: str | None = None
    base: Path = Path()
    directory: Path = Path("policies")
    environment: Environment = Environment(LOCAL)
    held: Mapping[Path, bytes | str] = {}
    hosts: Hosts | None = None

    @property
    def authorities(self) -> Path | None:
        """The file of authorities to trust besides the usual ones."""
        return None if self.ca_file is None else self.base / self.ca_file

    def read(self, path: Path, most: int) -> bytes:
        """The content of a file that a setting refers to. Raises Refused if it has no reviewed content, OSError if it cannot
        be read or has more than `most` bytes."""
        content = self.held.get(path)
        if isinstance(content, str):
            raise Refused(f"{path}, which environment {self.environment.name} refers to, {content}; merge that first")
        return read_bounded(path, most) if content is None else bounded(content, most)

    def raise_if_moved(self, url: str) -> None:
        """Raise Refused for a file of a PostgreSQL URL that a branch changes: libpq reads it from the disk itself."""
        for path in map(Path, postgres_files(url).values()):
            if path in self.held and self.read(path, MAX_BYTES) != _on_disk(path):
                name = self.environment.name
                raise Refused(f"{path}, which environment {name} refers to, is not what it is at the base; merge that first")

    def for_remote(self, url: str, own: str) -> Access:
        """The access to a remote other than the environment's `own`: auth only goes to the same origin.

        See manual/architecture.md, safety rule 9.
        """
        same = url == own or (not (is_postgres(url) or is_postgres(own)) and origin(url) == origin(own))
        return self if same else self._replace(auth=None)


def _on_disk(path: Path) -> bytes | None:
    try:
        return read_bounded(path, MAX_BYTES)
    except OSError:
        return None


def open_reader(url: str, access: Access = Access()) -> Reader:
    """A remote that can only be read."""
    if is_git(url):
        from policyctl.remote.git import GitReader

        return GitReader(url, access.directory, access.environment)
    if is_postgres(url):
        access.raise_if_moved(url)
        reader: Reader = _postgres(url).open_postgres_reader(url, models=access.environment.settings.models)
        return reader
    if not is_http(url):
        return SqliteReader(sqlite_path(url), models=access.environment.settings.models)
    from policyctl.remote.orchestrate import OrchestrateReader

    return OrchestrateReader(url, *open_sender(url, access), models=access.environment.settings.models)


def change_signature(url: str) -> Callable[[], object] | None:
    """For a store in PostgreSQL a function whose value is another one once something was written; None for other remotes."""
    if not is_postgres(url):
        return None
    signature: Callable[[], object] = _postgres(url).PostgresDatabase(url, writable=False).signature
    return signature


def open_writer(url: str, access: Access = Access()) -> Writer:
    """A remote that can be read and written. Raises UsageError for one that can only be read."""
    require_writable(url)
    if is_postgres(url):
        writer: Writer = _postgres(url).PostgresRemote(url, models=access.environment.settings.models)
        return writer
    if not is_http(url):
        return SqliteRemote(sqlite_path(url), models=access.environment.settings.models)
    from policyctl.remote.orchestrate import OrchestrateRemote

    return OrchestrateRemote(url, *open_sender(url, access), models=access.environment.settings.models)


def apply_lock_for(url: str, command: str, waiting: LockWait, status: Callable[[str], None]) -> AbstractContextManager[None]:
    """Hold the lock of an embedded remote; other remotes have none. See `apply_lock`."""
    if is_http(url) or is_postgres(url):
        return nullcontext()
    from policyctl.remote.sqlite import apply_lock

    return apply_lock(sqlite_path(url), command, waiting, status)


def require_writable(url: str) -> None:
    """Raise UsageError when nothing can be applied to a remote, whatever its state."""
    if is_git(url):
        raise UsageError(f"{url} is a git revision: it can be planned against but not applied to; name a remote")


def open_sender(url: str, access: Access, patience: Backoff = Backoff()) -> tuple[Sender, Redactor, str]:
    """What sends the requests, logged in if `access` has auth; its redactor; and what to do about a refused login.

    Imports httpx, which embedded remotes do not need.
    """
    from policyctl.remote.http import HttpClient
    from policyctl.remote.orchestrate import CHECK_LOGIN
    from policyctl.remote.redaction import Redactor

    if complaint := http_url_error(url):
        raise RemoteError(f"the remote {complaint}")
    scrub = Redactor()
    wire = HttpClient(scrub, access.authorities, patience=patience, read=access.read, hosts=access.hosts)
    wire.hosts.pace(origin(url)).limit(access.environment.requests_per_second)
    if access.auth is None:
        own = access.environment
        no_auth = f"auth is not configured for environment {own.name}; add it in policyctl.yaml"
        return wire, scrub, no_auth if own.auth is None else CHECK_LOGIN
    from policyctl.remote.login import LoginSession  # imports pydantic
    from policyctl.remote.redaction import Credentials

    return (
        LoginSession(wire, access.auth, url, Credentials(access.auth, scrub, access.base, read=access.read)),
        scrub,
        CHECK_LOGIN,
    )


def shared_hosts(new_pace: Callable[[Origin], HostPace] | None = None) -> Hosts:
    """What the environments of one run share; `new_pace` is as for `Hosts`. Imports httpx, which not all remotes need."""
    from policyctl.remote.hosts import Hosts

    return Hosts() if new_pace is None else Hosts(new_pace=new_pace)


def open_store(url: str, *, unique_names: bool) -> Store:
    """A store for a server to serve. Raises UsageError for a remote that is not one."""
    if is_postgres(url):
        store: Store = _postgres(url).PostgresRemote(url, unique_names=unique_names)
        return store
    if is_http(url) or is_git(url):
        raise UsageError(f"{url} is not a store that can be served; add --remote sqlite:///PATH or postgresql://HOST/DATABASE")
    return SqliteRemote(sqlite_path(url), unique_names=unique_names)


def _postgres(url: str) -> ModuleType:
    """The module of PostgreSQL. Raises RemoteError for a URL that it cannot have, PolicyctlError without the extra."""
    if complaint := postgres_url_error(url):
        raise RemoteError(f"the remote {complaint}")
    try:
        from policyctl.remote import postgres
    except ImportError:
        raise PolicyctlError("a postgresql: remote needs psycopg; install it with: pip install 'policyctl[postgres]'") from None
    return postgres


def sqlite_path(url: str) -> Path:
    """`sqlite:///a.db` is relative to the working directory, `sqlite:////a.db` is absolute, as SQLAlchemy has it."""
    if not url.startswith(SQLITE):
        scheme = url.partition(":")[0]
        kinds = "local, sqlite:///path, postgresql://host/name, git:REVISION or an https:// URL"
        raise RemoteError(f"unknown kind of remote, {scheme}:; use {kinds}")
    return Path(unquote(url.removeprefix(SQLITE)))
