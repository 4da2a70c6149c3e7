"""What the first parents of a commit do not show: all other commits, and a directory before it was renamed or moved.

A branch may have been applied before its squash merge, and a directory is the same one under another path.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Collection, Iterable, Sequence
from functools import cached_property
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from policyctl.errors import PolicyctlError
from policyctl.load.base_config import config_paths, is_policy_file
from policyctl.load.git import FULL_ID
from policyctl.load.git.repository import WHOLE_HISTORY, Repository, find_repository
from policyctl.load.git.revision import Sides, TreeEntry, changes_between, entries_at
from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.source import MAX_BYTES

MOST_COMMITS = 20_000  # that changed one of the directories
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
        ran = self._repository.run("merge-base", "--is-ancestor", commit, "HEAD")
        if ran.returncode == 0:
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
    """How a commit came into the checked-out branch: the commits up to the checked-out one that contain it, with itself, and
    whether the step of the branch that brought it was for it alone: a merge of this commit, or the commit itself."""

    since: tuple[str, ...]
    alone: bool


def arrival(top: Path | None, commit: str) -> Arrival:
    """How a commit came into the branch that is checked out at the top of a repository; one that is not in the repository is in
    no branch. Raises PolicyctlError if the history is not known."""
    repository = None if top is None else find_repository(top)
    if repository is None or repository.is_shallow:
        raise PolicyctlError(f"the history of the branch is not known here, which shows what was merged; {WHOLE_HISTORY}")
    if not FULL_ID.fullmatch(commit) or repository.sizes([commit]) == [None]:
        return Arrival((commit,), alone=True)
    listed = repository.output("rev-list", "--parents", "--topo-order", "--ancestry-path", f"{commit}..HEAD").decode()
    parents = {one: before for one, *before in map(str.split, listed.splitlines())}
    step = next(iter(parents), "")
    while step and parents[step][0] in parents:
        step = parents[step][0]
    return Arrival((commit, *parents), not step or commit in parents[step])


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
