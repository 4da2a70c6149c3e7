"""Files that settings refer to (`ca_file`, and `file:` in auth) and that a repository has: as they were at a branch's base.

What such a file holds decides whom a login is shown to, and what is shown. So while a branch is reviewed its content is that
of the base, and what the branch changes in it is a change of settings.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from policyctl.load.atomic import read_bounded
from policyctl.load.environment import Config, Environment
from policyctl.load.git.revision import Revision, TreeEntry
from policyctl.load.source import MAX_BYTES
from policyctl.plan.diff import FieldChange

_FILE = "file:"
_SECRETS = ("api_key", "password", "token")  # the references of auth
Held = Mapping[Path, bytes | str]  # what a file held, or as text why that cannot be read


def held_at(then: Revision, config: Config) -> dict[Path, bytes | str]:
    """What the files that a base's settings refer to held there, by path; `config` is the base's, where it would lie now.

    Files that no repository has are left out: secrets that a CI service has written, authorities of the machine. Raises
    PolicyctlError where git cannot be asked, or does not hold a file.
    """
    found: dict[Path, bytes | str] = {}
    for environment in config.environments.values():
        for _, where in _references(environment):
            path = _folder(config) / where
            if path not in found and (content := _content(then, path)) is not None:
                found[path] = content
    return found


def changed_since(then: Revision, base: Config, held: Held, now: Config) -> Iterator[FieldChange]:
    """A field for each setting that refers to the same file in a branch, by the same words, when its content is another."""
    for name, environment in now.environments.items():
        before = dict(_references(base.environments.get(name, Environment(name))))
        for key, where in _references(environment):
            was, path = held.get(_folder(base) / where), _folder(now) / where
            if before.get(key) == where and was is not None and not _is_same(then, _folder(base) / where, was, path):
                shown = where if key == "ca_file" else f"{_FILE}{where}"
                yield FieldChange(f"environments.{name}.{key}", shown, f"{shown}, whose content this branch changes")


def _references(environment: Environment) -> Iterator[tuple[str, str]]:
    """The settings of an environment that refer to files, as keys and paths."""
    if environment.ca_file is not None:
        yield "ca_file", environment.ca_file
    for key in _SECRETS if environment.auth is not None else ():
        text = getattr(environment.auth, key) or ""
        if text.startswith(_FILE):
            yield f"auth.{key}", text.removeprefix(_FILE)


def _folder(config: Config) -> Path:
    return Path() if config.path is None else config.path.parent


def _content(then: Revision, path: Path) -> bytes | str | None:
    """What a file held; None for one that neither the revision nor the checked out branch has."""
    entry = _first(then.at, then.top, path)
    if entry is None:
        return None if _first(then.staged, then.top, path) is None else "is new in this branch"
    if entry.kind != "file":
        return f"is a {entry.kind} at the base, or behind one, which is not followed at a revision"
    if (then.sizes([entry])[entry.path] or 0) > MAX_BYTES:
        return f"has more than {MAX_BYTES:,} bytes at the base"
    return then.contents([entry])[entry.path]


def _is_same(then: Revision, at: Path, was: bytes | str, path: Path) -> bool:
    """Whether a branch leaves a file as it was: as git has it, and as it lies on the disk."""
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
    """What git has at a path as it is named, or else where links of the machine's own lead from there."""
    if "\0" in str(path):  # which no file has
        return None
    named, real = Path(os.path.abspath(path)), Path(os.path.realpath(path))
    below = [named.relative_to(above) for above in named.parents if os.path.realpath(above) == str(top)][:1]
    below += [real.relative_to(top)] if real.is_relative_to(top) else []
    return next((entry for one in below if (entry := look(one.as_posix()))), None)
