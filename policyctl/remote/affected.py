"""Which environments a branch affects: whose settings, or rendered policies, differ from those at a git revision."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from policyctl.load.base_config import config_at
from policyctl.load.directory import Files
from policyctl.load.discovery import find_files
from policyctl.load.environment import Config, Environment
from policyctl.load.git.revision import Revision
from policyctl.load.past import files_at
from policyctl.policy.document import canonical_text


def affected_since(directory: Path, now: Config, names: Sequence[str], revision: str) -> tuple[str, ...]:
    """Those of the environments that differ from a revision; one that is new, or cannot be used, is among them.

    Labels do not count. Raises UsageError for an unknown revision, and InvalidInput if a policyctl.yaml there is not valid.
    """
    then = Revision(directory, revision)
    before = config_at(then)
    found = [file for file in find_files(directory, may_be_empty=True).files if not now.is_inventory(file)]
    own = _Contents(Files(found, root=directory, tests=False, several=True))
    old = _Contents(files_at(then, is_inventory=before.is_inventory, several=True))

    def differs(name: str) -> bool:
        one, other = now.environments.get(name), before.environments.get(name)
        if one is None or other is None or _settings(one) != _settings(other):
            return True
        return bool(own.of(one) != old.of(other))

    return tuple(name for name in names if differs(name))


def _settings(environment: Environment) -> tuple[Any, ...]:
    return environment.digest, environment.remote, environment.auth, environment.ca_file, environment.suspend


class _Contents:
    """What files contain, computed once for environments with the same settings."""

    def __init__(self, files: Files) -> None:
        self._files = files
        self._known: dict[str, Any] = {}

    def of(self, environment: Environment) -> Any:
        """The documents by name, and the messages of problems, as one comparable value."""
        if environment.digest not in self._known:
            loaded = self._files.load(environment)
            documents = sorted((one.name, canonical_text(one.document)) for one in loaded.desired)
            self._known[environment.digest] = documents, sorted(problem.message for problem in loaded.problems)
        return self._known[environment.digest]
