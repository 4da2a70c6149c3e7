"""The policy files as they were at a git revision, read from the object store: nothing is checked out."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from policyctl.errors import InvalidInput, PolicyctlError, Problem, Refused
from policyctl.load.base_config import config_at, is_policy_file, reading_base
from policyctl.load.directory import Files
from policyctl.load.environment import Config, Environment
from policyctl.load.git.repository import WHOLE_HISTORY
from policyctl.load.git.revision import Revision, TreeEntry
from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.source import is_lfs_pointer


@dataclass(frozen=True, slots=True)
class PastDirectory:
    """A policy directory at a commit of the checked out history, to go back to. `revision` is as the user wrote it.

    From the commit come the files, and what decides how they are read: an environment's variables and its `include`.
    Everything else of policyctl.yaml is as it is now: going back must not loosen a safety setting, nor lead elsewhere.
    """

    revision: str
    then: Revision
    config: Config

    @property
    def note(self) -> str:
        """The note of a plan that goes back."""
        short = self.then.commit[:12]
        named = short if self.then.commit.startswith(self.revision) else f"{self.revision} ({short})"
        return (
            f"this goes back to the files of {named}; Git still has the newer ones and wins at the next apply, "
            "so revert the change there too"
        )

    def environment(self, now: Environment) -> Environment:
        """Today's environment with the variables and `include` of then.

        Raises Refused if it did not exist then, and InvalidInput if it cannot be used as it was.
        """
        if now.name in self.config.broken:
            raise InvalidInput(self._placed(self.config.broken[now.name]))
        then = self.config.environments.get(now.name)
        if then is None:
            raise Refused(
                f"environment {now.name} did not exist at {self.revision}, so there is nothing to go back to; "
                "name a later revision, or leave it out"
            )
        return replace(now, vars=then.vars, include=then.include)

    def files(self, *, several: bool = False) -> Files:
        """The policy files, named `REVISION:path`; `several` keeps what was parsed for other environments.

        Raises PolicyctlError for a file whose content is not in the repository: in Git LFS, or left out of a partial clone.
        """
        folder = self.then.folder or "./"  # what `include` is relative to needs a name
        found = policy_entries(self.then, self.config.is_inventory)
        entries = {f"{folder}{entry.path.removeprefix(self.then.folder)}": entry for entry in found}
        read, prefix = reading_base(self.then, found), f"{self.revision}:"

        def content(file: str) -> bytes:
            try:
                found = read(entries[file.removeprefix(prefix)].path)
            except InvalidInput as error:
                raise InvalidInput(self._placed(error.problems)) from None
            if is_lfs_pointer(found):
                raise PolicyctlError(
                    f"{file} is kept in Git LFS, so its content then is not known; check that revision out, and apply it there"
                )
            return found

        names = [f"{prefix}{path}" for path in entries]
        return Files(names, root=Path(f"{prefix}{folder}"), whole=True, tests=False, several=several, read=content)

    def _placed(self, problems: Sequence[Problem]) -> list[Problem]:
        """Problems of the revision's files, at their places there."""
        return [one._replace(mark=one.mark._replace(file=f"{self.revision}:{one.mark.file}")) for one in problems]


def read_past(directory: Path, revision: str) -> PastDirectory:
    """The policy directory at a revision that the checked out commit has in its history.

    Raises UsageError for an unknown revision, Refused for one outside of that history, InvalidInput for a policyctl.yaml there
    that is not valid, and PolicyctlError without git or a repository.
    """
    then = Revision(directory, revision)
    if not then.is_behind_head():
        why = f"{revision} is not in the history of the checked out commit, and going back is only possible within it"
        raise Refused(f"{why}; this clone is shallow: {WHOLE_HISTORY}" if then.repository.is_shallow else why)
    try:
        config = config_at(then)
    except InvalidInput as error:
        first, more = error.problems[0], len(error.problems) - 1
        rest = f" (and {more} more)" if more else ""
        raise PolicyctlError(
            f"at {revision}, {CONFIG_FILE} is not valid, so the variables of then are unknown: {first}{rest}; "
            "name a revision whose configuration is valid"
        ) from None
    return PastDirectory(revision, then, config)


def policy_entries(revision: Revision, is_inventory: Callable[[str], bool]) -> list[TreeEntry]:
    """What loading the directory of a revision would read."""
    return [one for one in revision.files() if is_policy_file(one, revision.folder) and not is_inventory(one.path)]


def files_at(
    revision: Revision,
    problems: Sequence[Problem] = (),
    is_inventory: Callable[[str], bool] = lambda _: False,
    *,
    several: bool = False,
    tests: bool = False,
) -> Files:
    """The policy files of a directory at a revision, with `tests` scenario tests too; `several` keeps what was parsed for other
    environments."""
    entries = policy_entries(revision, is_inventory)
    read, folder = reading_base(revision, entries), Path(revision.folder)
    return Files([entry.path for entry in entries], problems, folder, tests=tests, several=several, read=read)
