"""What a policy directory has held: every version of its policies in Git, without a checkout.

First those along the first parents, then those of all other commits, and of the directory before it was renamed or moved: a
branch may have been applied before its squash merge, and a directory is the same one under another path. Each is rendered with
the policyctl.yaml of its commit, by today's code, so that a new policyctl changes all versions alike. Contents are read
together, each once, and rendered once for each set of variables that they mention.
"""

from __future__ import annotations

import os
import posixpath
import re
import threading
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cache, cached_property
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from policyctl.errors import InvalidInput, PolicyctlError, errors_in
from policyctl.load.base_config import config_paths, is_policy_file
from policyctl.load.directory import FileResult, read_contents
from policyctl.load.environment import Config, Environment
from policyctl.load.git import FULL_ID
from policyctl.load.git.repository import WHOLE_HISTORY, Repository, find_repository
from policyctl.load.git.revision import PastCommit, Revision, Sides, TreeEntry, changes_between, entries_at
from policyctl.load.kinds import CONFIG_FILE, is_templated
from policyctl.load.past import ConfigThen, EnvironmentsThen, EnvironmentThen
from policyctl.load.source import MAX_BYTES, is_lfs_pointer, source_of
from policyctl.plan.plan import Desired
from policyctl.policy.document import written_text

MOST_COMMITS = 20_000  # that changed the directory, or one that it was before
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
        return self._revision.repository.is_ancestor(commit, self.commit)

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


_MOST_MOVING = 2_000  # commits that may have moved a directory
_MOST_TREES = 200  # commits of which all files are looked at
_ROUNDS = 5  # of moves, one before the other
_FROM = re.compile(rb"""\bfrom: *["']?([^\s"',}]+)""")

Files = tuple[tuple[str, str], ...]  # the paths and ids of the files of a configuration


Changes = dict[str, dict[str, Sides]]


class PastConfig(NamedTuple):
    """A configuration as it was for a directory: that, and the files of it."""

    folder: str
    files: Files


class PastFile(NamedTuple):
    """A file of the directory, which was at `folder`, as a commit of any branch wrote it."""

    commit: str
    folder: str
    entry: TreeEntry


class Way(NamedTuple):
    """How a version was in Git, besides in the commits that were merged one by one: in which folder, and for which environment
    if that has another name."""

    folder: str = ""
    environment: str = ""


class Elsewhere:
    """The commits of all branches, and of what was a branch here, that changed a directory: also where it was before.

    `gap` is why these are not all.
    """

    def __init__(
        self, repository: Repository, folder: str, inventories: Sequence[str], known: Collection[str], only: str | None = None
    ) -> None:
        """`inventories` are the files, besides those of the configuration, that decide how the directory was read. What is in
        it at the commits that are `known` is left out. With `only` nothing but the history of that commit counts."""
        self._head, self._others = only or "HEAD", ["--all"] if only is None else []
        self.gap: str | None = None
        self._known, self._trees = frozenset(known), _MOST_TREES
        self.folder = folder
        self._repository = repository
        self._folders, self._inventories = [folder], [*inventories]

    @cached_property
    def commits(self) -> Changes:
        """The commits that changed the directory wherever it was, the youngest first: by path the entries on both sides."""
        for _ in range(_ROUNDS):
            found = self._changes()
            folders = [one for one in self._other_folders(found) if one not in self._folders]
            inventories = [one for one in self._named_then(found) if one not in self._inventories]
            if not folders and not inventories:
                return found
            self._folders += folders
            self._inventories += inventories
        return self._changes()

    @cached_property
    def files(self) -> list[PastFile]:
        """Every version of every file beside each configuration that it was with, once, the youngest first."""
        found: dict[tuple[str, str, Files], PastFile] = {}
        for commit, entries in self.commits.items():
            there = [entry for _, entry in entries.values() if entry is not None]
            if any(path in self._inventories or PurePosixPath(path).name == CONFIG_FILE for path in entries):
                there += self._tree(commit)
            for entry in there:
                folder = max((one for one in self._folders if entry.path.startswith(one)), key=len, default=None)
                if folder is None or (folder == self.folder and commit in self._known) or not is_policy_file(entry, folder):
                    continue
                key = entry.path, entry.id, self.states[commit, folder].files
                found.setdefault(key, PastFile(commit, folder, entry))
        return [*found.values()]

    def _tree(self, commit: str) -> list[TreeEntry]:
        """Everything in the directories at a commit that changed how they are read."""
        if commit in self._known and len(self._folders) == 1:
            return []
        self._trees -= 1
        if self._trees < 0:
            self.gap = f"of commits elsewhere, only {_MOST_TREES} that changed the configuration were looked at as a whole"
            return []
        return [*entries_at(self._repository, commit, [] if "" in self._folders else self._folders)]

    @cached_property
    def states(self) -> dict[tuple[str, str], PastConfig]:
        """By commit and folder the configuration there: the nearest policyctl.yaml, and the inventories."""
        commits, folders = [*self.commits], self._folders
        paths = {folder: [*config_paths(folder), *self._inventories] for folder in folders}
        wanted = [(commit, folder) for commit in commits for folder in folders]
        ids = iter(self._ids([f"{commit}:{path}" for commit, folder in wanted for path in paths[folder]]))
        found = {}
        for commit, folder in wanted:
            there = {path: identifier for path in paths[folder] if (identifier := next(ids)) is not None}
            nearest = next((path for path in config_paths(folder) if path in there), None)
            names = [path for path in (nearest, *self._inventories) if path is not None and path in there]
            found[commit, folder] = PastConfig(folder, tuple((path, there[path]) for path in names))
        return found

    def whose(self, commit: str) -> str:
        """Where a commit is: ` of a merged branch`, ` of another branch`; empty for one that the checked out one goes back
        to by first parents."""
        if commit in self.first_parents:
            return ""
        if self._repository.is_ancestor(commit):
            return " of a merged branch"
        held = self._repository.run("for-each-ref", "--count=1", f"--contains={commit}")
        return " of another branch" if held.stdout.strip() else " that is on no branch"

    @cached_property
    def first_parents(self) -> frozenset[str]:
        """The commits that the checked out one goes back to by first parents, and that one."""
        return frozenset(self._repository.output("rev-list", "--first-parent", self._head).decode().split())

    def _changes(self) -> Changes:
        configs = (path for one in self._folders for path in config_paths(one))
        paths = [] if "" in self._folders else list(dict.fromkeys((*self._folders, *configs, *self._inventories)))
        options = ("--full-history", f"--max-count={MOST_COMMITS}", self._head, *self._others)
        reflog = ["--reflog"] if self._others else []
        ran = self._repository.run("rev-list", *options, *reflog, "--", *paths)
        if ran.returncode:  # the reflog may name commits that are gone
            commits = self._repository.output("rev-list", *options, "--", *paths).decode().split()
        else:
            commits = ran.stdout.decode().split()
        if len(commits) >= MOST_COMMITS:
            self.gap = f"only the last {MOST_COMMITS:,} commits of all branches were looked at"
        return changes_between(self._repository, commits, paths, "--root", "-m") if commits else {}

    def _named_then(self, commits: Changes) -> list[str]:
        """The inventories that the configurations of these commits name."""
        paths = {path for folder in self._folders for path in config_paths(folder)}
        entries = (entry for one in commits.values() for _, entry in one.values() if entry)
        return inventories_then(self._repository, entries, paths)

    def _other_folders(self, commits: Changes) -> list[str]:
        """The folders from which a commit moved a file to one of ours, or to which a branch moved one."""
        moving: dict[str, list[tuple[str, bool]]] = {}
        for commit, entries in commits.items():
            here = [
                (path, old is None) for path, (old, new) in entries.items() if not (old and new) and self._is_ours(old or new)
            ]
            if here:
                moving[commit] = here
        chosen = [*moving][-_MOST_MOVING:]
        if len(moving) > len(chosen):
            self.gap = f"only {_MOST_MOVING:,} commits that added or removed files were looked at for where these were besides"
        parents = self._parents(chosen)
        pairs = [f"{commit} {parents[commit]}" for commit in chosen if commit in parents]
        changes = changes_between(self._repository, pairs, (), "--diff-filter=AD") if pairs else {}
        found: dict[str, None] = {}
        for commit, entries in changes.items():
            outside = [(path, old is None) for path, (old, _) in entries.items() if not path.startswith(tuple(self._folders))]
            for path, added in moving[commit]:
                folder = max((one for one in self._folders if path.startswith(one)), key=len)
                others = (other for other, was_added in outside if was_added != added)
                found |= {one: None for other in others if (one := _moved(other, path, folder)) is not None}
        return [*found]

    def _is_ours(self, entry: TreeEntry | None) -> bool:
        return entry is not None and any(
            entry.path.startswith(folder) and is_policy_file(entry, folder) for folder in self._folders
        )

    def _parents(self, commits: Sequence[str]) -> dict[str, str]:
        """The first parents of commits that have one here."""
        if not commits:
            return {}
        lines = self._repository.of_history("rev-list", "--no-walk=unsorted", "--parents", *commits).decode().splitlines()
        return {commit: parents[0] for commit, *parents in map(str.split, lines) if parents}

    def _ids(self, names: Sequence[str]) -> list[str | None]:
        """The ids of `COMMIT:PATH`; None for what is not there."""
        given = "".join(f"{name}\n" for name in names if "\n" not in name).encode()
        lines = self._repository.output("cat-file", "--batch-check=%(objectname)", given=given).decode().splitlines()
        known = iter(lines)
        return [None if "\n" in name or (line := next(known)).endswith(" missing") else line for name in names]


class Arrival(NamedTuple):
    """How a commit came into the checked-out branch: whether the step of the branch that brought it was for it alone, which is
    the merge of this commit, or the commit itself. That may have come with a later one, so `since` are the step and the commits
    up to the checked-out one that contain it. `step` is that merge and its parents, the branch's own first, if it was one."""

    since: tuple[str, ...]
    alone: bool
    step: tuple[str, ...] = ()


def arrival(top: Path | None, commit: str, end: str) -> Arrival:
    """How a commit came into the branch that is checked out at the top of a repository, where the service names `end` as the
    commit with which it was merged; one that is not in that was merged as other commits. Raises PolicyctlError if the history
    is not known."""
    repository = None if top is None else find_repository(top)
    if repository is None or repository.is_shallow:
        raise PolicyctlError(f"the history of the branch is not known here, which shows what was merged; {WHOLE_HISTORY}")
    known = FULL_ID.fullmatch(commit) and FULL_ID.fullmatch(end)
    if not known or not repository.is_ancestor(commit, end):  # it was squashed or rebased, wherever else it is
        return Arrival((commit,), alone=True)
    listed = repository.output("rev-list", "--parents", "--topo-order", "--ancestry-path", f"{commit}..HEAD").decode()
    parents = {one: before for one, *before in map(str.split, listed.splitlines())}
    step = next(iter(parents), "")
    while step and parents[step][0] in parents:
        step = parents[step][0]
    if step and parents[step][0] != commit:
        alone = step == end and commit in parents[step]
        return Arrival(_containing(step, parents), alone, (step, *parents[step]))
    return Arrival((commit, *parents), alone=True)


def _containing(step: str, parents: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """A commit, and those of the mapping, which has the youngest first, that contain it."""
    found = {step}
    for one, before in reversed([*parents.items()]):
        if not found.isdisjoint(before):
            found.add(one)
    return tuple(found)


class Lineage(NamedTuple):
    """The history of the checked-out commit: the `places` of its commits, each before those that it is based on, and those of
    the branch's own `line`, by first parents. Where a branch that took in the main one was fast-forwarded, that is its line."""

    places: Mapping[str, int] = {}
    line: frozenset[str] = frozenset()


def lineage_at(top: Path | None) -> Lineage:
    """The history of the commit that is checked out at the top of a repository; empty without one."""
    repository = None if top is None else find_repository(top)
    if repository is None:
        return Lineage()
    rows = [*map(str.split, repository.output("rev-list", "--topo-order", "--parents", "HEAD").decode().splitlines())]
    line, following = set[str](), rows[0][0]
    for commit, *parents in rows:
        if commit == following:
            line.add(commit)
            following = parents[0] if parents else ""
    return Lineage({commit: place for place, (commit, *_) in enumerate(rows)}, frozenset(line))


def _moved(old: str, new: str, folder: str) -> str | None:
    """The other folder that `folder` is, if the file `new` in it is the file `old`; None if these have not one name."""
    pairs = zip_longest(reversed(PurePosixPath(old).parts), reversed(PurePosixPath(new).parts))
    same = 0
    for one, other in pairs:
        if one != other:
            break
        same += 1
    if not same:
        return None
    was, became = (_above(path, same) for path in (old, new))
    return was + folder.removeprefix(became) if folder.startswith(became) else was


def _above(path: str, parts: int) -> str:
    """The folder that is so many parts above the end of a path."""
    return "".join(f"{part}/" for part in PurePosixPath(path).parts[:-parts])


def way_text(way: Way, commit: str, elsewhere: Elsewhere) -> str:
    """`a commit of another branch had it in old/`."""
    folder = "" if way.folder == elsewhere.folder else f" in {way.folder or 'the top directory'}"
    other = f" for environment {way.environment}" if way.environment else ""
    return f"a commit{elsewhere.whose(commit)} had it{folder}{other}"


def inventories_then(repository: Repository, entries: Iterable[TreeEntry], configs: Collection[str]) -> list[str]:
    """The paths of the inventories that the configurations among these entries may be generated from, valid or not."""
    paths = {entry.id: entry.path for entry in entries if entry.kind == "file" and entry.path in configs}
    sizes = zip(paths, repository.sizes([*paths]), strict=True)
    ids = [identifier for identifier, size in sizes if size is not None and size <= MAX_BYTES]
    found: dict[str, None] = {}
    for identifier, text in zip(ids, repository.contents(ids), strict=True):
        above = PurePosixPath(paths[identifier]).parent
        found |= {posixpath.normpath(above / os.fsdecode(name)): None for name in _FROM.findall(text)}
    return [*found]
