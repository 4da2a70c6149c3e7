"""Files in a repository that settings refer to (`ca_file`, `file:` in auth, notify and gateway, and those that the URL of a
PostgreSQL database names), as they were at a branch's base.

Such a file decides who receives a login or a notification, and which login. So while a branch is reviewed its content is that
of the base, a change to it is a change of settings, and that of an environment is part of the access that a merge approves.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from functools import cache, partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from policyctl.load.atomic import bounded, read_bounded
from policyctl.load.environment import Config, Environment, dotted
from policyctl.load.git.repository import named_in
from policyctl.load.git.revision import Revision, TreeEntry, staged
from policyctl.load.source import MAX_BYTES
from policyctl.load.urls import postgres_files
from policyctl.plan.diff import FieldChange
from policyctl.policy.document import digest

_FILE = "file:"
CHANGES = ", whose content this branch changes"
_SECRETS = ("api_key", "password", "token")  # the references of auth
Held = Mapping[Path, bytes | str]  # the content of a file, or as text the reason why it cannot be read


def held_at(then: Revision, config: Config) -> dict[Path, bytes | str]:
    """The content of the files that a base's settings refer to, by path; `config` is the base's, with its path here.

    Files outside any repository are left out, such as secrets that a CI service writes or certificates of the machine. Raises
    PolicyctlError if git cannot be asked, or lacks the content of a file.
    """
    found: dict[Path, bytes | str] = {}
    for path in dict.fromkeys(_folder(config) / one.path for one in _references(config)):
        if (content := _content(then, path)) is not None:
            found[path] = content
    return found


def changed_since(then: Revision, base: Config, held: Held, now: Config) -> Iterator[FieldChange]:
    """A field for each setting that refers to the same file by the same path in a branch, where the file's content differs."""
    before = {one.key: one.path for one in _references(base)}
    is_same = cache(partial(_is_same, then))  # many environments may refer to one file
    for one in _references(now):
        at, path = _folder(base) / one.path, _folder(now) / one.path
        if before.get(one.key) == one.path and (was := held.get(at)) is not None and not is_same(at, was, path):
            yield FieldChange(one.key, one.shown, f"{one.shown}{CHANGES}")


def moves(then: Revision, base: Config, now: Config, reference: str) -> bool:
    """Whether a branch changes the content of the repository's file at a reference of both, such as `file:keys/openai`."""
    where = reference.removeprefix(_FILE)
    was = _content(then, _folder(base) / where) if reference.startswith(_FILE) else None
    return was is not None and not _is_same(then, _folder(base) / where, was, _folder(now) / where)


def read_referred(held: Held, path: Path, most: int) -> bytes:
    """The content of a file that a setting refers to: what is held, else what the disk has. Raises OSError if it cannot be
    read or has more than `most` bytes."""
    content = held.get(path)
    if isinstance(content, str):
        raise OSError(errno.EINVAL, f"it {content}")
    return read_bounded(path, most) if content is None else bounded(content, most)


def access_at(then: Revision, config: Config, environment: Environment) -> str:
    """A hash of a remote's address, how to log in and which authorities to trust: the settings, and the content at a revision
    of the repository's files that they refer to. `config` is that revision's, with its path in this checkout.

    It covers references to secrets and hashes of committed files, never a secret that a CI service writes. Raises
    PolicyctlError if git cannot be asked.
    """

    def mark(path: Path) -> str | None:
        entry = _first(then.at, then.top, path)
        if entry is None:
            return None
        content = _content(then, path)
        return f"{entry.kind} {entry.id}" if content is None or isinstance(content, str) else _mark(content)

    return _access(config, mark, environment)


def access_now(directory: Path, config: Config) -> Callable[[Environment], str]:
    """What gives the same for environments in the checkout, with files as they are on the disk: git may convert a file when it
    writes it. The repository is looked for once."""
    if (found := named_in(directory)) is None:
        return partial(_access, config, lambda _: None)
    repository = found[0]

    def mark(path: Path) -> str | None:
        entry = _first(partial(staged, repository), repository.top, path)  # a repository may have no commit yet
        if entry is None:
            return None
        try:
            content = _mark(read_bounded(path, MAX_BYTES))
        except OSError:
            content = "unreadable"
        return content if entry.kind == "file" else f"{entry.kind} {entry.id} {content}"

    return partial(_access, config, mark)


def referred_paths(top: Path, config: Config) -> list[str]:
    """The paths, from a repository's top, of the files in it that a configuration refers to, inventories too."""
    paths = [*(_folder(config) / one.path for one in _references(config)), *config.inventories]
    return [below.as_posix() for path in paths for below in _below(top, path)]


def _access(config: Config, mark: Callable[[Path], str | None], environment: Environment) -> str:
    auth = None if environment.auth is None else environment.auth.model_dump(exclude_none=True)
    access: dict[str, Any] = {"remote": environment.remote, "auth": auth, "ca_file": environment.ca_file}
    marks = {one.key: found for one in _of(environment) if (found := mark(_folder(config) / one.path)) is not None}
    return digest(access | ({"files": marks} if marks else {}))


def _mark(content: bytes) -> str:
    return sha256(_lines(content)).hexdigest()


class _Reference(NamedTuple):
    """A setting that refers to a file: its key, the file's path as written, and how a change of it is shown."""

    key: str
    path: str
    shown: str


def _references(config: Config) -> Iterator[_Reference]:
    """The settings that refer to files, by their paths in policyctl.yaml."""
    for name, environment in config.environments.items():
        yield from (one._replace(key=f"{dotted('environments', name)}.{one.key}") for one in _of(environment))
    for name, connection in config.connections.items():
        yield from _secret(dotted("gateway", "connections", name, "api_key"), connection.api_key)
    for receiver in config.receivers:
        yield from _secret(dotted("notify", receiver.name, "url"), receiver.url)
        yield from _secret(dotted("notify", receiver.name, "secret"), receiver.secret)


def _of(environment: Environment) -> Iterator[_Reference]:
    """The settings of an environment that refer to files, by key."""
    if (file := environment.ca_file) is not None:
        yield _Reference("ca_file", file, file)
    for key, path in postgres_files(environment.remote).items():
        yield _Reference(f"remote.{key}", path, os.path.relpath(path))
    for key in _SECRETS if environment.auth is not None else ():
        yield from _secret(f"auth.{key}", getattr(environment.auth, key))


def _secret(key: str, reference: str | None) -> Iterator[_Reference]:
    if reference is not None and reference.startswith(_FILE):
        yield _Reference(key, reference.removeprefix(_FILE), reference)


def _folder(config: Config) -> Path:
    return Path() if config.path is None else config.path.parent


def _content(then: Revision, path: Path) -> bytes | str | None:
    """The content of a file; None if neither the revision nor the checked out branch has it."""
    entry = _first(then.at, then.top, path)
    if entry is None:
        return None if _first(then.staged, then.top, path) is None else "is new in this branch"
    if entry.kind != "file":
        return f"is a {entry.kind} at the base, or below one, which is not followed at a revision"
    if (then.sizes([entry])[entry.path] or 0) > MAX_BYTES:
        return f"has more than {MAX_BYTES:,} bytes at the base"
    return then.contents([entry])[entry.path]


def _is_same(then: Revision, at: Path, was: bytes | str, path: Path) -> bool:
    """Whether a branch leaves a file unchanged, both in git and on the disk."""
    before, after = _first(then.at, then.top, at), _first(then.staged, then.top, path)
    if isinstance(was, str) or before is None or after is None or (before.kind, before.id) != (after.kind, after.id):
        return False
    try:
        return _lines(read_bounded(path, MAX_BYTES)) == _lines(was)
    except OSError:
        return False


def _lines(content: bytes) -> bytes:
    return content.replace(b"\r\n", b"\n")


def _first(look: Callable[[str], TreeEntry | None], top: Path, path: Path) -> TreeEntry | None:
    """What git has at a path as written, else at the path that links outside the repository lead to."""
    return next((entry for one in _below(top, path) if (entry := look(one.as_posix()))), None)


def _below(top: Path, path: Path) -> list[Path]:
    """A path from the top, as written and with links followed; nothing for a path outside."""
    if "\0" in str(path):  # not a file name
        return []
    named, real = Path(os.path.abspath(path)), Path(os.path.realpath(path))
    below = [named.relative_to(above) for above in named.parents if os.path.realpath(above) == str(top)][:1]
    return below + ([real.relative_to(top)] if real.is_relative_to(top) else [])
