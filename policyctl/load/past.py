"""What was: the policy files at a git revision, the environments in a policyctl.yaml of then, and how settings changed since.

Nothing is checked out. The history of a branch is that of its head by first parents.

What is not known of an environment is reported as that: with today's variables in the place of those of then, every version
would look like one that never was applied.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from policyctl.errors import InvalidInput, PolicyctlError, Problem, Refused
from policyctl.load.base_config import (
    access_at,
    config_at,
    config_in,
    config_paths,
    in_checkout,
    is_policy_file,
    mark_of_several,
    reading_base,
    referred_paths,
)
from policyctl.load.directory import Files
from policyctl.load.environment import Config, Environment, EnvironmentFilter
from policyctl.load.git import FULL_ID
from policyctl.load.git.repository import WHOLE_HISTORY
from policyctl.load.git.revision import Revision, TreeEntry
from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.source import is_lfs_pointer
from policyctl.load.urls import identities_of, is_other_instance
from policyctl.plan.approval import SettingsMarks, SettingsStep

_SYNTAX = "P002"
_NO_FILE = f"{CONFIG_FILE} is not in Git"


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


class EnvironmentThen(NamedTuple):
    """An environment as it was at a commit, its inventories, and the directory, which may have been another one.

    `doubt` is why its variables and `include` of then are not known; those of today are in their place.
    """

    environment: Environment
    inventories: frozenset[str]
    folder: str
    doubt: str = ""

    def may_include(self, path: str) -> bool:
        """Whether loading the directory for the environment read the policy file at a path, or may have."""
        return path.startswith(self.folder) and path not in self.inventories and (bool(self.doubt) or self.includes(path))

    def includes(self, path: str) -> bool:
        """Whether its `include` has a path in the directory."""
        include = self.environment.include
        return include is None or any(fnmatchcase(path.removeprefix(self.folder), pattern) for pattern in include)


@dataclass(frozen=True)
class ConfigThen:
    """The environments of a configuration of then, the paths of its inventories, and what their remotes are.

    `broken` are environments that cannot be used today, though the others can. `folders` are those that paths in a remote may
    start from: where the configuration was, and where it is now. `doubt` is why the environments are not known.
    """

    environments: Mapping[str, Environment]
    inventories: frozenset[str] = frozenset()
    folders: tuple[str, ...] = ()
    doubt: str = ""
    broken: frozenset[str] = frozenset()

    @cached_property
    def identities(self) -> dict[str, frozenset[object]]:
        """By the name of an environment what is the same for every spelling of its remote."""
        remotes = {name: one.remote for name, one in self.environments.items()}
        found = [identities_of(remotes, folder) for folder in self.folders]
        return {name: frozenset().union(*(one[name] for one in found)) for name in remotes}


class EnvironmentsThen:
    """Finds environments of today in the configurations of then."""

    def __init__(self, config: Config, head: Revision) -> None:
        """`config` is the one in use, for the directory as it is at the `head` that is checked out."""
        self._top, self._config, self._head = head.top, config, head
        self._here = str(head.top / head.folder) if config.path is None else os.path.abspath(config.path.parent)
        self._today = ConfigThen(config.environments, folders=(self._here,))

    def read(self, ids: Mapping[str, str], content: Callable[[str], bytes | None]) -> ConfigThen:
        """The configuration in files, by path their ids, of which the first one is policyctl.yaml. `content` returns that of
        an id; None if it is not known."""
        path = next(iter(ids), "")
        if PurePosixPath(path).name != CONFIG_FILE:
            return ConfigThen({}, doubt=_NO_FILE if self._untracked else "")
        if content(ids[path]) is None:
            return ConfigThen({}, doubt=f"the content of {path} of then is not known")
        try:
            config = config_in(path, lambda file: content(ids[file]) if file in ids else None)
        except InvalidInput as error:
            # No policyctl ever read what is not YAML. All else may have been valid for the one of then.
            never = all(one.code == _SYNTAX and one.mark.file == path for one in error.problems)
            return ConfigThen({}, doubt="" if never else f"{path} of then is not valid for this policyctl")
        inventories = frozenset(os.path.normpath(one) for one in config.inventories)
        folders = dict.fromkeys((str(self._top / path.rpartition("/")[0]), self._here))
        return ConfigThen(config.environments, inventories, tuple(folders), broken=frozenset(config.broken))

    def find(self, then: ConfigThen, folder: str, now: Environment) -> list[EnvironmentThen]:
        """The environment in a configuration: those of then with the same remote, else the one of the same name.

        If it has none of these, today's is the answer: nothing was applied from there, unless there is a `doubt`.
        """
        found, doubt = self._matches(then, now)
        return [EnvironmentThen(one, then.inventories, folder, doubt) for one in found]

    def _matches(self, then: ConfigThen, now: Environment) -> tuple[list[Environment], str]:
        named = then.environments.get(now.name)
        if named is not None and named.remote == now.remote:
            return [named], ""
        own = self._today.identities.get(now.name, frozenset())
        if same := [one for name, one in then.environments.items() if then.identities[name] & own]:
            return same, ""
        return [named or now], then.doubt or self._doubt(then, now)

    def _doubt(self, then: ConfigThen, now: Environment) -> str:
        """Why an environment may have been another one of a configuration, or what it was is not known: one that is gone may
        have been this one, under another name and another address of its remote. One that is still there was not, and neither
        was one without variables: it could not render a template."""
        if now.name in then.broken:
            return f"environment {now.name} of then cannot be used by this policyctl"
        gone = [
            name
            for name, one in then.environments.items()
            if one.vars
            and name not in self._today.environments
            and not then.identities[name] & self._remotes
            and not is_other_instance(one.remote, now.remote)
        ]
        gone += sorted(then.broken - self._today.environments.keys() - self._config.broken.keys())
        return f"it may have been environment {gone[0]} of then" if gone else ""

    @cached_property
    def _untracked(self) -> bool:
        """Whether the configuration in use is not in Git. If it is, nothing was applied from commits that lack it."""
        return self._config.path is not None and not self._head.entries(config_paths(self._head.folder))

    @cached_property
    def _remotes(self) -> frozenset[object]:
        return frozenset().union(*self._today.identities.values())


_MOST_CHANGES = 500  # commits whose configuration is read
_SEVERAL = "the history of the branch has more than one first configuration"
_MOVED = f"there was a {CONFIG_FILE} elsewhere before the first one of this directory"
_ROUNDS = 5  # of files that settings referred to, each of which may have been named in a file of before


class SettingsHistory:
    """The history of the commit that is in use. Many environments ask for the same, so what was read is kept."""

    def __init__(self, directory: Path, commit: str, now: Config) -> None:
        """`now` is the configuration in use, with its path in this checkout, which names the files that settings refer to."""
        self._directory, self._commit, self._now = directory, commit, now
        self._changes: dict[str | None, tuple[list[str], list[str]]] = {}
        self._configs: dict[str, tuple[Revision, Config | None]] = {}
        self._found: dict[tuple[str, str], SettingsMarks | None] = {}

    def steps(
        self, about: str | EnvironmentFilter, now: SettingsMarks, since: str | None, ends: Collection[str]
    ) -> list[SettingsStep]:
        """The changes of the settings of an environment, or of several, after the commit `since` and up to those of `now`, the
        oldest first; with None, after the first configuration that the history has. `ends` are the commits with which pull
        requests were merged. Raises PolicyctlError if that is not known, as in a shallow clone, or if the branch lacks that
        commit.
        """
        branch, changes = self._changed(since)
        ended, end = dict[str, str](), ""
        for commit in branch:  # the youngest first
            end = commit if commit in ends else end
            ended[commit] = end
        start = since or self._first(branch, changes, ends)
        before, found = None if start is None else self._marks(start, about), list[SettingsStep]()
        for commit in reversed(changes[: changes.index(start)] if start in changes else changes):
            after = self._marks(commit, about)
            if before != after:
                found.append(SettingsStep(ended[commit], before, after))
            before = after
        return found if before == now else [*found, SettingsStep("", before, now)]

    def why_unknown(self, since: str | None) -> str:
        """Why it is not known how the settings changed since that commit, or the first configuration; empty if it is."""
        try:
            branch, changes = self._changed(since)
            return "" if since or self._first(branch, changes, ()) else _MOVED
        except PolicyctlError as error:
            return str(error)

    def _first(self, branch: Sequence[str], changes: Sequence[str], ends: Collection[str]) -> str | None:
        """The commit of the first configuration, or the first commit if there never was any. None if a pull request was merged
        before, which nothing of it was shown for, or if there was one in another place. Raises PolicyctlError if another one
        was merged in from elsewhere: which of them was the first is chosen by what is merged into which."""
        found = next((one for one in reversed(changes) if self._has_config(one)), None)
        if found is None:
            return branch[-1]
        head, before = self._config(branch[0])[0], branch[branch.index(found) + 1 :]
        rest = [f"^{one}" for one in before[:1]]
        paths, along = config_paths(head.folder), head.repository.output("rev-list", found, *rest).decode().split()
        every = head.repository.output("rev-list", "--full-history", head.commit, "--", *paths).decode().split()
        if not {*every} <= {*along, *_after(head, found)}:
            raise PolicyctlError(_SEVERAL)
        return None if any(one in ends for one in before) or (before and _has_had_config(head, before[0])) else found

    def _changed(self, since: str | None) -> tuple[list[str], list[str]]:
        """The commits of the branch after that one, and those of them that changed the settings, the youngest first."""
        if since not in self._changes:
            self._changes[since] = self._read(since)
        return self._changes[since]

    def _read(self, since: str | None) -> tuple[list[str], list[str]]:
        head = Revision(self._directory, self._commit)
        repository = head.repository
        if repository.is_shallow:
            raise PolicyctlError(f"the history of the branch is not known here; {WHOLE_HISTORY}")
        if since is not None and not FULL_ID.fullmatch(since):
            raise PolicyctlError("it is not known which settings were approved last")
        line = ("rev-list", "--first-parent", head.commit, *(() if since is None else (f"^{since}",)))
        branch = repository.output(*line).decode().split()
        if since is not None and since != head.commit:
            after = _after(head, since)
            branch = [one for one in branch if one in after]
            if not branch:
                raise PolicyctlError(f"the branch does not go back to {since}, whose settings were approved last")
        # A branch into which main was merged may be what main is now: its first commit with `since` in it is the next one.
        changes, paths = {*branch[-1:]}, dict[str, None]()
        for _ in range(_ROUNDS):
            configs = (self._config(one)[1] for one in (*changes, *(() if since is None else (since,))))
            known = [one for config in configs if config is not None for one in referred_paths(head.top, config)]
            wanted = dict.fromkeys((*config_paths(head.folder), *referred_paths(head.top, self._now), *known))
            if wanted.keys() <= paths.keys():
                break
            paths |= wanted
            changes |= {*repository.output(*line, f"--max-count={_MOST_CHANGES + 1}", "--", *paths).decode().split()}
        if len(changes) > _MOST_CHANGES:
            raise PolicyctlError(f"more than {_MOST_CHANGES:,} commits changed the settings")
        return branch, [one for one in branch if one in changes]

    def _has_config(self, commit: str) -> bool:
        """Whether there was a valid configuration at a commit."""
        _, config = self._config(commit)
        return config is not None and config.path is not None

    def _config(self, commit: str) -> tuple[Revision, Config | None]:
        if commit not in self._configs:
            self._configs[commit] = _config_then(Revision(self._directory, commit))
        return self._configs[commit]

    def _marks(self, commit: str, about: str | EnvironmentFilter) -> SettingsMarks | None:
        """The settings at a commit; None if there were none, or the file is not valid: nothing logs in with it."""
        key = commit, about if isinstance(about, str) else about.text
        if key not in self._found:
            self._found[key] = _marks_of(*self._config(commit), about)
        return self._found[key]


def _has_had_config(head: Revision, commit: str) -> bool:
    """Whether there was a configuration anywhere up to a commit: that of a directory may have moved."""
    anywhere = "--no-literal-pathspecs", "rev-list", "--full-history", "--max-count=1", commit, "--", f":(glob)**/{CONFIG_FILE}"
    return bool(head.repository.output(*anywhere))


def _after(head: Revision, commit: str) -> set[str]:
    """The commits up to the head that contain another one."""
    return {*head.repository.output("rev-list", "--ancestry-path", f"{commit}..{head.commit}").decode().split()}


def _marks_of(then: Revision, config: Config | None, about: str | EnvironmentFilter) -> SettingsMarks | None:
    if config is None:
        return None
    if isinstance(about, str):
        one = config.environments.get(about)
        return None if one is None else SettingsMarks(access_at(then, config, one), one.rules)
    access = mark_of_several(config, about, lambda one: access_at(then, config, one))
    rules = mark_of_several(config, about, lambda one: one.rules)
    return None if access is None or rules is None else SettingsMarks(access, rules)


def _config_then(then: Revision) -> tuple[Revision, Config | None]:
    try:
        return then, in_checkout(config_at(then), then)
    except InvalidInput:
        return then, None
