"""What a policy directory has held: every version of its policies in Git, without a checkout.

First those along the first parents, then those of all other commits, and of the directory before it was renamed. Each is
rendered with the policyctl.yaml of its commit, by today's code, so that a new policyctl changes all versions alike. Contents
are read together, each once, and rendered once for each set of variables that they mention.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from policyctl.errors import InvalidInput, PolicyctlError, errors_in
from policyctl.load.base_config import config_paths, is_policy_file
from policyctl.load.documents import FileResult, read_contents
from policyctl.load.elsewhere import Elsewhere, Files, PastConfig, Way, inventories_then, way_text
from policyctl.load.environment import Config, Environment
from policyctl.load.git.repository import WHOLE_HISTORY
from policyctl.load.git.revision import PastCommit, Revision, TreeEntry
from policyctl.load.kinds import is_templated
from policyctl.load.past import ConfigThen, EnvironmentsThen, EnvironmentThen
from policyctl.load.source import MAX_BYTES, is_lfs_pointer, source_of
from policyctl.plan.plan import Desired
from policyctl.policy.document import written_text

MOST_COMMITS = 20_000  # that changed the directory
_MOST_TOTAL = 64 * 1024 * 1024  # bytes of all versions of all files
_MOST_CONFIGS = 256 * 1024  # bytes of the configurations of other branches and directories
_UPSTREAM = "refs/remotes/origin/HEAD"  # the default branch, which may be ahead of what is checked out


class PastVersion(NamedTuple):
    """A version of a policy or model and the youngest commit with it. `way` is how Git had it, if not along the first parents.

    Without `desired` it is a version of a file that could not be read as policies: `content` is its text, empty if that is
    not known either, and `doubt` is why what it held for the environment is not known, if it can be read.
    """

    commit: str
    desired: Desired | None
    content: bytes = b""
    way: Way | None = None
    doubt: str = ""


class History:
    """The versions that git has of what is in a directory. It is read once, on demand, also for several environments.

    Several threads may use it at once.
    """

    def __init__(self, directory: Path, config: Config, within: int | None = None, only: str | None = None) -> None:
        """`config` is the one in use, whose inventories are looked for in the past too. `within` is how many commits of the
        repository to look at, whatever they changed; with `only` a revision, of which nothing but the history counts. Raises
        PolicyctlError without git, a repository or a commit, UsageError for an unknown revision, and Refused for a directory
        that a link or a submodule leads to."""
        self._revision, self._within, self._alone = Revision(directory, only or "HEAD"), within, only is not None
        folder, top = self._revision.folder, self._revision.top
        self._configs = config_paths(folder)
        self._inventories = [path for one in config.inventories if (path := _below(one, top)) is not None]
        self._environments = EnvironmentsThen(config, self._revision)
        self._known: dict[Files, ConfigThen] = {}
        self._is_read = cache(lambda entry: is_policy_file(entry, folder))
        self._results: dict[tuple[str, str, bool, str], FileResult | None] = {}
        self._room_for_configs = _MOST_CONFIGS
        self._lock = threading.Lock()
        self._ends = False  # whether a walk ended before the beginning

    @property
    def commit(self) -> str:
        """The commit that is checked out, or that of the revision."""
        return self._revision.commit

    def has(self, commit: str, *, merged: bool = True) -> bool:
        """Whether a commit is in the history of that one; unless `merged` ones count, along its first parents."""
        if commit == self.commit:
            return True
        if not merged:
            return commit in self._elsewhere.first_parents
        return self._revision.repository.run("merge-base", "--is-ancestor", commit, self.commit).returncode == 0

    @cached_property
    def _elsewhere(self) -> Elsewhere:
        """All other commits, and where the directory was before."""
        only = self.commit if self._alone else None
        return Elsewhere(self._revision.repository, self._revision.folder, [*self._inventories], self._walked, only)

    def way(self, version: PastVersion) -> str:
        """How Git had a version, for a sentence; empty along the first parents."""
        return "" if version.way is None else way_text(version.way, version.commit, self._elsewhere)

    @cached_property
    def _walks(self) -> list[list[PastCommit]]:
        """The way back from what is checked out, and the commits of the default branch that the checkout lacks."""
        walks = self._walk()
        entries = (entry for walk in walks for one in walk for entry in one.entries.values() if entry)
        then = inventories_then(self._revision.repository, entries, self._configs)
        if not (more := [name for name in then if name not in self._inventories]):
            return walks
        self._inventories += more  # under other names then
        return self._walk()

    def _walk(self) -> list[list[PastCommit]]:
        revision, folder = self._revision, self._revision.folder
        paths = [folder, *self._configs, *self._inventories] if folder else []
        walks = [revision.walk(paths, MOST_COMMITS, self._ends_of(revision))]
        if self._alone:
            return walks
        with suppress(PolicyctlError):  # most clones of a pull request have no such branch
            upstream = Revision(revision.top / folder, _UPSTREAM)
            walks.append(upstream.walk(paths, MOST_COMMITS, [revision.commit, *self._ends_of(upstream)]))
        return walks

    def _ends_of(self, revision: Revision) -> list[str]:
        """The commit at which a walk back ends, if not all of history is to be looked at."""
        end = None if self._within is None else revision.ancestor(self._within)
        self._ends = self._ends or end is not None
        return [] if end is None else [end]

    @property
    def commits(self) -> int:
        """How many commits changed the directory or its configuration."""
        return sum(map(len, self._walks))

    @property
    def gap(self) -> str | None:
        """Why this is not the whole history; None when it is."""
        if self._revision.repository.is_shallow:
            return f"this clone is shallow; {WHOLE_HISTORY}"
        if len(self._walks[0]) >= MOST_COMMITS or self._ends:
            return f"only the last {len(self._walks[0]):,} commits that changed the directory were looked at"
        return self._elsewhere.gap if "_elsewhere" in self.__dict__ else None

    @cached_property
    def _contents(self) -> dict[str, bytes]:
        """The contents of all versions of all files, by id; what is too large is left out, and so is what would be too much."""
        steps = [step for walk in self._walks for step in walk]
        entries = (entry for step in steps for entry in step.entries.values() if entry is not None and entry.kind == "file")
        self._room = _MOST_TOTAL
        others = (*self._configs, *self._inventories)
        wanted = (entry.id for entry in entries if entry.path in others or self._is_read(entry))
        return self._read(list(dict.fromkeys(wanted)))

    def _read(self, ids: Sequence[str]) -> dict[str, bytes]:
        taken, repository = list[str](), self._revision.repository
        for identifier, size in zip(ids, repository.sizes(ids), strict=True):
            if size is not None and size <= min(MAX_BYTES, self._room):
                self._room -= size
                taken.append(identifier)
        return dict(zip(taken, repository.contents(taken), strict=True))

    def versions(self, environment: Environment) -> Iterator[PastVersion]:
        """Each version of each policy, and of each virtual model if they are managed, as it was for an environment; the
        youngest first, and those that are not along the first parents last. Raises PolicyctlError if git cannot be asked."""
        seen: set[object] = set()
        for walk in self._walks:
            state: dict[str, TreeEntry] = {}
            before: Any = None
            for step in walk:
                _go_back(state, step.entries)
                with self._lock:
                    key = self._files_of(state)
                    thens = self._environments_then(key, self._revision.folder, environment)
                    paths = list(state if key != before else step.entries)
                    found = list(self._of_commit(step.commit, paths, state, thens, environment, seen))
                before = key
                yield from found
        if not self._ends:
            yield from self._versions_elsewhere(environment, seen)

    def _versions_elsewhere(self, now: Environment, seen: set[object]) -> Iterator[PastVersion]:
        with self._lock:
            files, states = self._elsewhere.files, self._elsewhere.states
            self._contents.update(self._read([one.entry.id for one in files if one.entry.id not in self._contents]))
        thens: dict[PastConfig, list[EnvironmentThen]] = {}
        for one in files:
            state = states[one.commit, one.folder]
            with self._lock:
                if state not in thens:
                    thens[state] = self._environments_elsewhere(one.commit, state, now)
                found = [version for then in thens[state] for version in self._of_entry(one.commit, one.entry, then, now, seen)]
            # What could not be applied as it is now does not count on another branch: it may be work in progress.
            merged = one.commit in self._elsewhere.first_parents
            yield from (
                version for version in found if merged or version.desired is not None or version.doubt or not version.content
            )

    def _environments_elsewhere(self, commit: str, state: PastConfig, now: Environment) -> list[EnvironmentThen]:
        """The environment as it was with a configuration; none once too many have been read."""
        if state.files not in self._known:
            contents = self._read([identifier for _, identifier in state.files if identifier not in self._contents])
            self._contents.update(contents)
            self._room_for_configs -= sum(map(len, contents.values()))
        if self._room_for_configs < 0:
            self._elsewhere.gap = f"the configuration of commit {commit[:12]} and of older ones elsewhere was not read"
            return []
        return self._environments_then(state.files, state.folder, now)

    def _of_commit(
        self,
        commit: str,
        paths: Sequence[str],
        state: Mapping[str, TreeEntry],
        thens: Sequence[EnvironmentThen],
        now: Environment,
        seen: set[object],
    ) -> Iterator[PastVersion]:
        for path in paths:
            entry = state.get(path)
            if entry is not None and self._is_read(entry):
                for then in thens:
                    yield from self._of_entry(commit, entry, then, now, seen)

    def _of_entry(
        self, commit: str, entry: TreeEntry, then: EnvironmentThen, now: Environment, seen: set[object]
    ) -> Iterator[PastVersion]:
        """What a file held, unless that was `seen`. Of what was rendered with variables that are not known, also what it is
        with those of today: if that is live, it was applied."""
        if not then.may_include(entry.path):
            return
        content = self._contents.get(entry.id, b"")
        if then.doubt and content and (is_templated(content) or not then.includes(entry.path)):
            if (entry.id, then.doubt) not in seen:
                seen.add((entry.id, then.doubt))
                yield PastVersion(commit, None, content, doubt=then.doubt)
            if not then.includes(entry.path):
                return
        result = self._result(entry, content, then.environment, models=now.settings.models)
        mark = entry.id if result is None else id(result)
        if mark in seen:
            return
        seen.add(mark)
        if result is None or errors_in(result.problems):
            yield PastVersion(commit, None, content if is_known(content) else b"")
        if result is not None:
            other = "" if then.environment.name == now.name else then.environment.name
            way = (
                Way(then.folder, other) if other or then.folder != self._revision.folder or commit not in self._walked else None
            )
            desired: list[Desired] = [*result.policies, *result.virtual_models]
            yield from (PastVersion(commit, one, way=way) for one in desired)

    @cached_property
    def _walked(self) -> frozenset[str]:
        return frozenset(step.commit for walk in self._walks for step in walk)

    def _result(self, entry: TreeEntry, content: bytes, environment: Environment, *, models: bool) -> FileResult | None:
        """What a file held, with virtual models if they are managed now; None if it cannot be read at all. A content is
        rendered once for each set of variables in it."""
        if entry.kind != "file" or entry.id not in self._contents:
            return None
        used = {}
        if is_templated(content):
            used = {name: value for name, value in environment.vars.items() if name.encode() in content}
        key = (entry.id, entry.path.rpartition("/")[2], models, written_text(used) if used else "")
        if key not in self._results:
            try:
                source = source_of(content, entry.path)
                self._results[key] = read_contents(source, environment.vars, models=models)
            except InvalidInput:
                self._results[key] = None
        return self._results[key]

    def _files_of(self, state: Mapping[str, TreeEntry]) -> Files:
        """The configuration among these entries."""
        nearest = next((path for path in self._configs if path in state), None)
        entries = [entry for path in (nearest, *self._inventories) if path and (entry := state.get(path))]
        return tuple((entry.path, entry.id) for entry in entries)

    def _environments_then(self, files: Files, folder: str, now: Environment) -> list[EnvironmentThen]:
        """The environment as it was with the configuration in files."""
        if files not in self._known:
            self._known[files] = self._environments.read(dict(files), self._contents.get)
        return self._environments.find(self._known[files], folder, now)


def is_known(content: bytes) -> bool:
    """Whether the content of a file is known: it was read, and it is not that of a pointer, or encrypted."""
    if not content or is_lfs_pointer(content):
        return False
    try:
        content.decode()
    except UnicodeDecodeError:
        return False
    return True


def _go_back(state: dict[str, TreeEntry], entries: Mapping[str, TreeEntry | None]) -> None:
    """Turn the entries of a commit into those of an older one."""
    for path, entry in entries.items():
        if entry is None:
            state.pop(path, None)
        else:
            state[path] = entry


def _below(file: Path, top: Path) -> str | None:
    """The path of a file from the top; None for one outside."""
    path = Path(os.path.abspath(file))
    return path.relative_to(top).as_posix() if path.is_relative_to(top) else None
