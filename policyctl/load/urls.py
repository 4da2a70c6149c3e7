"""What a remote's URL shows: its kind, its origin, what is wrong with it, and whether another one leads to the same remote."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import lru_cache
from os import stat
from os.path import abspath, basename, commonpath, dirname, join, realpath, split
from typing import Any, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from policyctl.errors import UsageError
from policyctl.load.source import STATE_FOLDER
from policyctl.policy.memo import late_pattern

LOCAL = "local"  # the embedded remote beside the directory
SQLITE = "sqlite:///"
POSTGRES = "postgresql:"
GIT = "git:"  # git:REVISION is the policies of a git revision, as a remote that can only be read
_PORTS = {"http": 80, "https": 443}
API = {True: "/v1", False: "/v1/orchestrate"}  # the end of an API's base, by whether it is the Developer Edition's
_LONGEST_REVISION = 1000
_AUTHORITY = late_pattern(r"(?:\[(?P<address>[^\[\]]*)\]|(?P<name>[^\[\]:@]*))(?::[0-9]*)?")
# Placeholders of examples in an instance's URL.
_PLACEHOLDER = late_pattern(
    r"…|\.\.\.|[<>{}$]|%7B|%3C|/(?:(?:your|my)[-_])?(?:instance|tenant)(?:[-_]?id)?(?=/|$)|/(?:id|uuid|x{2,}|todo|change-?me)(?=/|$)",
    re.IGNORECASE,
)
# What the URL of a PostgreSQL database may set, besides host, database and user; libpq knows more, in its service file.
_POSTGRES_OPTIONS = frozenset(
    "service host hostaddr port dbname user sslmode sslrootcert sslcert sslkey sslcrl channel_binding gssencmode "
    "target_session_attrs load_balance_hosts application_name connect_timeout".split()
)
_POSTGRES_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")  # they decide which server is trusted, and the login
_PASSWORDS = frozenset({"password", "sslpassword", "passfile", "oauth_client_secret"})
# IBM's CLI treats URLs with these beginnings as the Developer Edition, case-sensitively.
_LOCAL = ("http://localhost", "http://127.0.0.1", "http://[::1]", "http://0.0.0.0", "http://host.docker.internal")


class Origin(NamedTuple):
    """The server of a URL: scheme, host and port, normalised."""

    scheme: str
    host: str
    port: int | None

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{self.scheme}://{host}:{self.port}"


def host_in(authority: str) -> str | None:
    """The name or address in `host:port`, without brackets; None for what is not one as a whole, such as `[::1].example`."""
    found = _AUTHORITY.fullmatch(authority)
    if found is None or found["name"] is not None:
        return found and found["name"]
    from ipaddress import IPv6Address  # most hosts have a name

    try:
        IPv6Address(found["address"])
    except ValueError:
        return None
    return found["address"]


def is_http(url: str) -> bool:
    """Whether a URL is one of http or https."""
    return urlsplit(url).scheme in _PORTS


def is_postgres(url: str) -> bool:
    """Whether a remote is a PostgreSQL database."""
    return url.startswith(POSTGRES)


def is_shared(url: str) -> bool:
    """Whether others than the directory's own users may keep policies on a remote: it is a service or a database server."""
    return is_http(url) or is_postgres(url)


def origin(url: str) -> Origin:
    """The origin of a URL. Raises ValueError when the text is not a URL."""
    parts = urlsplit(url)
    if host_in(parts.netloc.rpartition("@")[2]) is None:
        raise ValueError("the host is not a name or an address")
    return Origin(parts.scheme, parts.hostname or "", parts.port or _PORTS.get(parts.scheme))


def is_local(url: str) -> bool:
    """Whether a URL has the layout of the Developer Edition, by the rule of IBM's CLI."""
    return url.startswith(_LOCAL)


def is_safe_for_secrets(url: str) -> bool:
    """Whether a secret may be sent to a URL: over TLS, or without leaving this machine."""
    return origin(url).scheme == "https" or (origin(url).scheme == "http" and is_loopback(url))


def http_url_error(url: str) -> str | None:
    """Why this cannot be the URL of an http(s) service, or None. Never repeats the text: it may have a password."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "is not a URL; write https://HOST/PATH"
    if "@" in parts.netloc:
        return "must not contain a user or password; use auth with env:NAME or file:PATH"
    if parts.scheme not in _PORTS:
        return "must be an https:// URL"
    if (host := host_in(parts.netloc)) is None:  # not every release of Python finds this
        return "is not a URL; write https://HOST/PATH"
    if not host or port == 0 or not url.isprintable():
        return "has no usable host"
    if not parts.netloc.isascii():
        return "must have a host in ASCII, since letters of other scripts look like those of other hosts; write it as xn--…"
    if not {".", ".."}.isdisjoint(unquote(parts.path).split("/")):
        return "must not have . or .. in its path; write the path that is meant"
    return "must not have a query or a fragment (? or #)" if parts.query or parts.fragment else None


def _instance_error(url: str) -> str | None:
    """Why this cannot be the URL of an instance: on IBM's hosts and on premises each has one; `policyctl serve` needs none."""
    parts = urlsplit(url)
    if _PLACEHOLDER.search(parts.netloc + parts.path):
        return "still has a placeholder in it; write the instance's URL as the platform shows it, https://…/instances/…"
    is_ibms = (parts.hostname or "").endswith(".ibm.com") or "/orchestrate" in parts.path
    if is_ibms and not re.search("/instances/[^/]", parts.path):
        return "does not name an instance; write its URL as the platform shows it, https://…/instances/…"
    return None


def is_git(url: str) -> bool:
    """Whether a remote is the policies of a git revision."""
    return url.startswith(GIT)


def postgres_url_error(url: str) -> str | None:
    """Why this cannot be the URL of a PostgreSQL database, or None. Never repeats the text: it may have a password."""
    parts = urlsplit(url)
    asked = _asked(parts.query)
    if ":" in parts.netloc.rpartition("@")[0] or not _PASSWORDS.isdisjoint(key.lower() for key, _ in asked):
        return "must not contain a password; put it into PGPASSWORD, the file of PGPASSFILE or a libpq service"
    if not {key for key, _ in asked} <= _POSTGRES_OPTIONS:
        return "has a parameter that policyctl does not accept; put it into a libpq service, and write postgresql:?service=NAME"
    place = url.removeprefix(POSTGRES)
    named = place.startswith("//") and (parts.netloc or parts.path.strip("/") or "host" in dict(asked))
    if not (named or "service" in dict(asked)) or not place.startswith(("//", "?")) or parts.fragment or not url.isprintable():
        return "must be postgresql://HOST/DATABASE or postgresql:?service=NAME"
    return None


def database_url(text: str, what: str = "the URL of the database") -> str | None:
    """The URL of a PostgreSQL database that is named by it or by `service=NAME`; None for other text.

    Raises UsageError for a URL that cannot be used; the message never repeats the text, which may have a password.
    """
    url = f"{POSTGRES}?{text}" if text.startswith("service=") and text != "service=" else text
    if not url.startswith((POSTGRES, "postgres:", "service=")):
        return None
    if complaint := postgres_url_error(url):
        raise UsageError(f"{what} {complaint}")
    return url


def _asked(query: str) -> list[tuple[str, str]]:
    """The parameters of a PostgreSQL URL as libpq reads them, where a `+` is not a space."""
    return parse_qsl(query.replace("+", "%2B"), keep_blank_values=True)


def postgres_servers(url: str) -> tuple[str, ...]:
    """What decides which servers a PostgreSQL URL leads to: its hosts and ports, without user and database."""
    parts = urlsplit(url)
    asked = dict(_asked(parts.query))
    return (parts.netloc.rpartition("@")[2].lower(), *(asked.get(key, "") for key in ("host", "hostaddr", "port", "service")))


def postgres_files(url: str) -> dict[str, str]:
    """The files that a PostgreSQL URL names, by parameter, as absolute paths: libpq starts from the working directory."""
    asked = dict(_asked(urlsplit(url).query)) if is_postgres(url) else {}
    return {key: abspath(asked[key]) for key in _POSTGRES_FILES if asked.get(key) not in (None, "", "system")}


def postgres_identity(url: str) -> str:
    """Servers and database of a PostgreSQL URL, without user, options and the usual port: `postgresql://db/policies`."""
    parts = urlsplit(url)
    asked = dict(_asked(parts.query))
    netloc, host, address, port, service = postgres_servers(url)
    server = ":".join(filter(None, (netloc or host or address, port))).removesuffix(":5432")
    database = asked.get("dbname") or unquote(parts.path).strip("/")
    where = f"{POSTGRES}service={service}" if service else f"{POSTGRES}//{server.replace('@', '%40').replace('?', '%3F')}"
    return f"{where}/{database}" if database else where


def revision_error(revision: str) -> str | None:
    """Why this cannot be a git revision, or None: git must not take it for an option or for several lines.

    Nor can a URL, which may have a password that a message would repeat.
    """
    if not revision or not revision.isprintable() or len(revision) > _LONGEST_REVISION or "://" in revision:
        return "must be a branch, a tag or a commit, such as origin/main"
    return "must not begin with -, / or ^" if revision.startswith(("-", "/", "^")) else None


def is_loopback(url: str) -> bool:
    """Whether a URL leads to this machine."""
    return is_loopback_host(origin(url).host)


@lru_cache  # called before every request
def is_loopback_host(host: str) -> bool:
    """Whether a host's name or address is this machine, by itself, without a name server."""
    from ipaddress import ip_address  # most commands ask this of no URL

    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def remote_url_error(remote: str) -> str | None:
    """Why this cannot be a remote, or None. Never repeats the text: it may have a password."""
    if remote == LOCAL:
        return None
    if remote.startswith("sqlite:"):
        named = remote.startswith(SQLITE) and remote != SQLITE and "\0" not in unquote(remote)
        return None if named else "must be sqlite:///path/to/file"
    if remote.startswith(("http:", "https:")):
        return http_url_error(remote) or _instance_error(remote)
    if is_postgres(remote):
        return postgres_url_error(remote)
    if is_git(remote):
        return revision_error(remote.removeprefix(GIT))
    return "must be local, sqlite:///path, postgresql://host/database, git:REVISION, or an https:// URL"


def same_remotes(remotes: Mapping[str, str], folder: str) -> Iterator[tuple[str, str]]:
    """Each environment whose remote an earlier one has, and that one: they would remove each other's policies. `folder` is that
    of policyctl.yaml, from which paths of SQLite files start."""
    first: dict[Any, str] = {}
    for name, remote in remotes.items():
        others = [first.setdefault(key, name) for key in _identities(name, remote, folder, remotes)]
        if (other := next((one for one in others if one != name), None)) is not None:
            yield name, other


def identities_of(remotes: Mapping[str, str], folder: str) -> dict[str, frozenset[Any]]:
    """By the name of an environment what every spelling of its remote has in common; two remotes are one if they share any of
    it. `folder` is that of policyctl.yaml. A git revision has nothing."""
    return {name: frozenset(_identities(name, remote, folder, remotes)) for name, remote in remotes.items()}


def is_other_instance(one: str, other: str) -> bool:
    """Whether two remotes are surely different: two instances on one server. Two servers may be one under two names, and two
    other paths of one server may lead to the same."""
    if not (is_http(one) and is_http(other)):
        return False
    mine, theirs = (next(_identities("", remote, "", {}), (remote, "")) for remote in (one, other))
    return mine[0] == theirs[0] and mine != theirs and all("/instances/" in path for _, path in (mine, theirs))


def remote_identity(url: str, name: str = "") -> str:
    """A text that is the same for every spelling of a complete remote URL, for a lock of that remote."""
    return repr(next(_identities(name, url, "", {}), url))


def _identities(name: str, remote: str, folder: str, remotes: Mapping[str, str]) -> Iterator[Any]:
    """What two spellings of one remote have in common.

    The files of `local` are beside the policy directory, which policyctl.yaml is in or above: so each place that it may be in
    counts, and the name that such a file would have.
    """
    if remote == LOCAL:
        yield STATE_FOLDER, name
        for beside in (folder, join(folder, "..")):
            yield from _file_identities(join(beside, STATE_FOLDER, f"{name}.db"))
    elif remote.startswith(SQLITE):
        path = join(folder, unquote(remote.removeprefix(SQLITE)))
        yield from _file_identities(path)
        place, file = split(abspath(path))
        stem, above = file.removesuffix(".db"), dirname(abspath(folder))
        if basename(place) == STATE_FOLDER and remotes.get(stem) == LOCAL and commonpath((place, above)) == above:
            yield STATE_FOLDER, stem
    elif is_postgres(remote):
        yield postgres_identity(remote)
    elif is_http(remote):
        with suppress(ValueError):
            server = origin(remote)
            host = "localhost" if is_loopback_host(server.host) or server.host == "0.0.0.0" else server.host.removesuffix(".")  # noqa: S104 - compared
            path = "/".join(filter(None, unquote(urlsplit(remote).path).split("/")))
            yield server._replace(host=host), f"/{path}".removesuffix(API[is_local(remote)]).removesuffix("/")


def _file_identities(path: str) -> Iterator[Any]:
    """By its path with all links followed, and where it exists by its number on the disk, which hard links share."""
    yield SQLITE, realpath(path)
    with suppress(OSError, ValueError):
        found = stat(path)
        yield SQLITE, found.st_dev, found.st_ino
