"""Which environments a branch affects: those that are not proven to be what they were at a git revision.

Compared are all settings but labels, the content of the files that they refer to, the lint rules, and what the files contain
for an environment: policies, models, scenario tests, and documents that use policies or models.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

from policyctl.errors import errors_in
from policyctl.load.base_config import config_at
from policyctl.load.directory import Files
from policyctl.load.discovery import find_files
from policyctl.load.environment import Config, Environment
from policyctl.load.git.revision import Revision
from policyctl.load.past import files_at
from policyctl.load.referred import access_at, access_now
from policyctl.policy.document import canonical_text


def affected_since(directory: Path, now: Config, names: Sequence[str], revision: str) -> tuple[str, ...]:
    """Those of the environments that differ from a revision; one that is new, or cannot be used, is among them.

    Raises UsageError for an unknown revision, and InvalidInput if a policyctl.yaml there is not valid.
    """
    then = Revision(directory, revision)
    before = config_at(then)
    before = before if before.path is None else before._replace(path=then.top / before.path)
    if _place(before) != _place(now) or before.lint != now.lint:  # paths in settings start from the file's folder
        return tuple(names)
    found = [file for file in find_files(directory, may_be_empty=True).files if not now.is_inventory(file)]
    own = _Contents(Files(found, root=directory, several=True))
    old = _Contents(files_at(then, is_inventory=before.is_inventory, several=True, tests=True))
    reached = _SameAccess(directory, now, then, before)

    def differs(name: str) -> bool:
        one, other = now.environments.get(name), before.environments.get(name)
        if one is None or other is None or _settings(one) != _settings(other) or not reached(one, other):
            return True
        content = own.of(one)
        return content is None or bool(content != old.of(other))

    return tuple(name for name in names if differs(name))


def _place(config: Config) -> Path | None:
    return None if config.path is None else config.path.resolve()


def _settings(environment: Environment) -> tuple[Any, ...]:
    share = environment.settings.partial
    return environment.digest, share, environment.remote, environment.auth, environment.ca_file, environment.suspend


class _SameAccess:
    """Whether files that equal settings refer to have the same content: asked once for each way to log in."""

    def __init__(self, directory: Path, now: Config, then: Revision, before: Config) -> None:
        self._own = access_now(directory, now)
        self._old = partial(access_at, then, before)
        self._known: dict[str, bool] = {}

    def __call__(self, one: Environment, other: Environment) -> bool:
        auth = None if one.auth is None else one.auth.model_dump(exclude_none=True)
        key = canonical_text([one.ca_file, auth])
        if key not in self._known:
            self._known[key] = self._own(replace(one, remote="")) == self._old(replace(other, remote=""))
        return self._known[key]


class _Contents:
    """What files contain, computed once for environments with the same settings."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._known: dict[str, Any] = {}
        self._hashes: dict[str, str] = {}

    def of(self, environment: Environment) -> Any:
        """All that a plan or a test sees of the files, as one comparable value; None where they have errors."""
        if environment.digest not in self._known:
            self._known[environment.digest] = self._content(environment)
        return self._known[environment.digest]

    def _content(self, environment: Environment) -> Any:
        loaded = self._files.load(environment, suites=False)
        if errors_in(loaded.problems):
            return None
        return (
            sorted((one.name, canonical_text(one.document)) for one in loaded.desired),
            sorted(loaded.models),
            canonical_text([dict(loaded.declared.timeouts), dict(loaded.declared.types)]),
            sorted(repr(one.consumer) for one in loaded.consumers),
            sorted((self._files.relative(file), self._hash(file)) for file in loaded.tested),
            sorted(problem.message for problem in loaded.problems),
        )

    def _hash(self, file: str) -> str:
        if file not in self._hashes:
            self._hashes[file] = sha256(self._files.contents[file]).hexdigest()
        return self._hashes[file]
