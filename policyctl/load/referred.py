"""Files in a repository that settings refer to (`ca_file`, `file:` in auth, and those that the URL of a PostgreSQL database
names), as they were at a branch's base.

Such a file decides who receives a login, and which login. So while a branch is reviewed its content is that of the base, a
change to it is a change of settings, and it is part of the access that a merge approves.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from policyctl.load.atomic import read_bounded
from policyctl.load.environment import Config, Environment
from policyctl.load.git.repository import named_in
from policyctl.load.git.revision import Revision, TreeEntry, staged
from policyctl.load.source import MAX_BYTES
from policyctl.load.urls import postgres_files
from policyctl.plan.diff import FieldChange
from policyctl.policy.document import digest

_FILE = "file:"
_SECRETS = ("api_key", "password", "token")  # the references of auth
Held = Mapping[Path, bytes | str]  # the content of a file, or as text the reason why it cannot be read


def held_at(then: Revision, config: Config) -> dict[Path, bytes | str]:
    """The content of the files that a base's settings refer to, by path; `config` is the base's, with its path here.

    Files outside any repository are left out, such as secrets that a CI service writes or certificates of the machine. Raises
    PolicyctlError if git cannot be asked, or lacks the content of a file.
    """
    found: dict[Path, bytes | str] = {}
    for environment in config.environments.values():
        for _, where in _references(environment):
            path = _folder(config) / where
            if path not in found and (content := _content(then, path)) is not None:
                found[path] = content
    return found


def changed_since(then: Revision, base: Config, held: Held, now: Config) -> Iterator[FieldChange]:
    """A field for each setting that refers to the same file by the same path in a branch, where the file's content differs."""
    for name, environment in now.environments.items():
        before = dict(_references(base.environments.get(name, Environment(name))))
        for key, where in _references(environment):
            was, path = held.get(_folder(base) / where), _folder(now) / where
            if before.get(key) == where and was is not None and not _is_same(then, _folder(base) / where, was, path):
                shown = f"{_FILE}{where}" if key.startswith("auth.") else where if key == "ca_file" else os.path.relpath(where)
                yield FieldChange(f"environments.{name}.{key}", shown, f"{shown}, whose content this branch changes")


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
    paths = [_folder(config) / where for one in config.environments.values() for _, where in _references(one)]
    paths += config.inventories
    return [below.as_posix() for path in paths for below in _below(top, path)]


def _access(config: Config, mark: Callable[[Path], str | None], environment: Environment) -> str:
    auth = None if environment.auth is None else environment.auth.model_dump(exclude_none=True)
    access: dict[str, Any] = {"remote": environment.remote, "auth": auth, "ca_file": environment.ca_file}
    marks = {key: found for key, where in _references(environment) if (found := mark(_folder(config) / where)) is not None}
    return digest(access | ({"files": marks} if marks else {}))


def _mark(content: bytes) -> str:
    return sha256(_lines(content)).hexdigest()


def _references(environment: Environment) -> Iterator[tuple[str, str]]:
    """The settings of an environment that refer to files, as keys and paths."""
    if environment.ca_file is not None:
        yield "ca_file", environment.ca_file
    yield from ((f"remote.{key}", path) for key, path in postgres_files(environment.remote).items())
    for key in _SECRETS if environment.auth is not None else ():
        text = getattr(environment.auth, key) or ""
        if text.startswith(_FILE):
            yield f"auth.{key}", text.removeprefix(_FILE)


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
