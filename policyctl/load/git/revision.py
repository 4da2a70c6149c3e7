"""Commits named by a revision, and the files in them, read from the object store."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import pairwise
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from policyctl.errors import PolicyctlError, Refused, UsageError
from policyctl.load.git import FULL_ID, plain_head, plainly_lacks
from policyctl.load.git.repository import WHOLE_HISTORY, Repository, find_repository, named_in
from policyctl.load.urls import revision_error

_SHORT_ID = re.compile(r"[0-9a-f]{4,63}", re.IGNORECASE)
_SUFFIX = re.compile(r"[\^~:].*|@\{.*", re.DOTALL)
_FROM_REFS = ("refs/", "heads/", "tags/", "remotes/")
# Where git looks for a short name, and what is found there.
_PLACES = {
    "refs/tags/{}": "a tag",
    "refs/heads/{}": "a branch",
    "refs/remotes/{}": "a remote branch",
    "refs/remotes/{}/HEAD": "the default branch of a remote",
    "refs/{}": "a reference",
}


def commit_of(repository: Repository, revision: str) -> str:
    """The full id of the commit that a revision names.

    Raises UsageError for an unknown or ambiguous revision: the permission to push a tag must not decide what a branch's name
    means.
    """
    if complaint := revision_error(revision):
        raise UsageError(f"the git revision {complaint}")
    if revision == "HEAD" and (plain := plain_head(repository.git_folder)):
        return plain
    command = ("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if FULL_ID.fullmatch(revision):
        with suppress(PolicyctlError):  # why there is none is found out below
            return repository.of_objects(*command).decode().split()[-1]
    if _is_one_thing(repository, _SUFFIX.sub("", revision)):
        found = repository.run(*command)
        if not found.returncode:
            return found.stdout.decode().split()[-1]
        if b"promisor remote" in found.stderr:
            repository.fail(found.stderr)
    if repository.is_shallow:
        raise UsageError(f"unknown git revision {revision!r}, and this clone is shallow; {WHOLE_HISTORY}")
    raise UsageError(f"unknown git revision {revision!r} (fetch it, or name another)")


def merge_base_of(repository: Repository, revision: str, commit: str) -> str:
    """The id of the commit at which the checked out branch left a revision, whose `commit` this is. Raises PolicyctlError if
    there is none."""
    head = commit_of(repository, "HEAD")
    try:
        return repository.of_history("merge-base", commit, head).decode().strip()
    except PolicyctlError:
        raise PolicyctlError(f"the checked out commit has no commit in common with {revision}; {WHOLE_HISTORY}") from None


def _is_one_thing(repository: Repository, name: str) -> bool:
    """Whether git knows the name, and it means one thing. HEAD and full ids are never ambiguous.

    Raises UsageError for a name with more than one meaning.
    """
    if not name or name in ("HEAD", "@") or FULL_ID.fullmatch(name):
        return True
    if name.startswith("refs/") and plainly_lacks(repository.git_folder, name):
        return False
    places = {place.format(name): what for place, what in _PLACES.items()}
    listed = _references(repository, name, *places)  # a name has no wildcards, so nothing else matches
    if name.startswith(_FROM_REFS):  # git looks there first, and a tag may have that name too
        return f"refs/{name.removeprefix('refs/')}" in listed
    found = {place: what for place, what in places.items() if place in listed}
    meanings = [f"{what} ({place})" for place, what in found.items()]
    if found and _SHORT_ID.fullmatch(name):
        meanings += [f"a commit ({one})" for one in _commits(repository, name)]
    if len(meanings) > 1:
        raise UsageError(
            f"{name} has more than one meaning here: {', '.join(meanings)}; write the intended one in full, "
            "or delete the others"
        )
    if list(found) == [f"refs/tags/{name}"]:
        _refuse_a_tag_for_a_branch(repository, name)
    return True


def _refuse_a_tag_for_a_branch(repository: Repository, name: str) -> None:
    """Raise UsageError for a tag with the name of a remote's branch, or of one that was not fetched."""
    branches = [one for one in _references(repository, "refs/remotes/") if one.split("/", 3)[3:] == [name]]
    if branches:
        raise UsageError(f"{name} is both a tag and a branch of a remote; write refs/tags/{name} or {branches[0]}")
    if remote := _remote_of(repository, name):
        raise UsageError(
            f"{name} is a tag here, and {remote} has no branch of that name; fetch the branch, or write refs/tags/{name}"
        )


def _remote_of(repository: Repository, name: str) -> str | None:
    """The remote that a name such as origin/main would be a branch of."""
    remote, slash, _ = name.partition("/")
    return remote if slash and (remote == "origin" or _references(repository, f"refs/remotes/{remote}/")) else None


def _references(repository: Repository, *patterns: str) -> list[str]:
    listed = repository.output("for-each-ref", "--format=%(refname)", *patterns)
    return listed.decode(errors="replace").splitlines()


def _commits(repository: Repository, prefix: str) -> list[str]:
    return repository.output("rev-parse", f"--disambiguate={prefix}").decode().split()


_KINDS: dict[str, Literal["file", "link", "submodule"]] = {"120000": "link", "160000": "submodule"}


class TreeEntry(NamedTuple):
    """A path at a revision: from the repository's top, what it was, and its object's id.

    `below` is the path of the submodule that contains it; empty for the repository itself.
    """

    path: str
    kind: Literal["file", "link", "submodule"]
    id: str
    below: str = ""


class PastCommit(NamedTuple):
    """A commit of a walk back in time, and what was different in it from the commit before it in the walk, which is younger.

    `entries` has by path what was there; None for what was not there yet. In the first commit of a walk that is everything.
    """

    commit: str
    entries: Mapping[str, TreeEntry | None]


class Revision:
    """One commit of the repository around a directory, which need not exist any more.

    `folder` is the directory's path from the repository's top as written, with `/` at the end; empty for the top itself.
    `top` is the top of the working tree of `repository`. Neither now nor at the commit is the directory, or one above it, a
    link or submodule.
    """

    def __init__(self, directory: Path, revision: str) -> None:
        """Raises UsageError for an unknown or ambiguous revision, PolicyctlError without git or a repository, and Refused
        if the path to the directory has a link or a submodule."""
        repository, self.folder = required_repository(directory)
        self.top = repository.top
        self.commit = commit_of(repository, revision)
        self.repository = repository
        self._homes = {"": repository}  # and those of submodules, by path
        self._refuse_detours(revision)

    def files(self) -> list[TreeEntry]:
        """Everything below the directory, sorted by path; empty if it did not exist.

        A submodule that is checked out is replaced by its files at the commit that the revision names. Raises PolicyctlError
        if that commit was not fetched.
        """
        return sorted(self._with_submodules(self.entries([self.folder] if self.folder else [])))

    def entries(self, paths: Sequence[str]) -> list[TreeEntry]:
        """Everything at these paths (from the repository's top) and, for a path ending in `/`, below it; without paths, all.

        A directory at a path without a `/` is left out, though git would list its content.
        """
        below, exactly = tuple(path for path in paths if path.endswith("/")), frozenset(paths)
        listed = entries_at(self.repository, self.commit, paths)
        return sorted(one for one in listed if not paths or one.path in exactly or one.path.startswith(below))

    def sizes(self, entries: Sequence[TreeEntry]) -> dict[str, int | None]:
        """The sizes of these files in bytes, by path; None for one that the repository lacks."""
        return {
            entry.path: size
            for below, group in _by_home(entries).items()
            for entry, size in zip(group, self._homes[below].sizes([entry.id for entry in group]), strict=True)
        }

    def contents(self, entries: Sequence[TreeEntry]) -> dict[str, bytes]:
        """The contents of these files, by path. Raises PolicyctlError, with the remedy, if the repository lacks one."""
        return {
            entry.path: content
            for below, group in _by_home(entries).items()
            for entry, content in zip(group, self._homes[below].contents([entry.id for entry in group]), strict=True)
        }

    def at(self, path: str) -> TreeEntry | None:
        """The entry at a path from the top: the file, or the link or submodule at that path or above it."""
        return _on_the_way(path, lambda paths: entries_at(self.repository, self.commit, paths, inside=False))

    def staged(self, path: str) -> TreeEntry | None:
        """The same in the index, which is what is checked out now."""
        return staged(self.repository, path)

    def is_behind_head(self) -> bool:
        """Whether the commit is the checked out one, or in its history. Raises PolicyctlError if git cannot tell."""
        repository = self.repository
        ran = repository.run("merge-base", "--is-ancestor", self.commit, "HEAD")
        if ran.returncode > 1:
            repository.fail(ran.stderr)
        return ran.returncode == 0

    def ancestor(self, steps: int) -> str | None:
        """The commit that many first parents back; None if history is shorter."""
        found = self.repository.of_history("rev-list", "--first-parent", "--max-count=1", f"--skip={steps}", self.commit)
        return found.decode().strip() or None

    def walk(self, paths: Sequence[str], most: int, without: Sequence[str] = ()) -> list[PastCommit]:
        """The first-parent history of these paths (from the top; all if empty) up to this commit, the youngest first: at most
        so many commits, and none of those in the history of the commits `without`. Submodules are not looked into."""
        repository, limit = self.repository, [f"--max-count={most}", self.commit, *(f"^{one}" for one in without)]
        commits = repository.of_history("rev-list", "--first-parent", *limit, "--", *paths).decode().split()
        if not commits:
            return []
        first: dict[str, TreeEntry | None] = {entry.path: entry for entry in entries_at(repository, commits[0], paths)}
        return [PastCommit(commits[0], first), *_steps(repository, commits, paths)]

    def _refuse_detours(self, revision: str) -> None:
        """Raise Refused if the directory, or one above it, was a link or a submodule at the commit."""
        entry = self.at(self.folder.removesuffix("/"))
        if entry is not None and entry.kind != "file":
            raise Refused(
                f"at {revision} {entry.path} is a {entry.kind}, which is not followed at a revision; "
                "make it a directory there first"
            )

    def _with_submodules(self, entries: Iterable[TreeEntry]) -> Iterator[TreeEntry]:
        for entry in entries:
            home = self.top / entry.path
            if entry.kind != "submodule" or not os.path.lexists(home / ".git"):
                yield entry
                continue
            repository = find_repository(home)
            if repository is None or repository.sizes([entry.id]) == [None]:
                remedy = f"git -C {home} fetch origin {entry.id}"
                raise PolicyctlError(f"the submodule {entry.path} does not have the commit {entry.id}; fetch it: {remedy}")
            self._homes[entry.path] = repository
            inside = entries_at(repository, entry.id, ())
            yield from self._with_submodules(one._replace(path=f"{entry.path}/{one.path}", below=entry.path) for one in inside)


def _steps(repository: Repository, commits: Sequence[str], paths: Sequence[str]) -> Iterator[PastCommit]:
    """What each commit but the first had that the one before it in the list has otherwise."""
    found = changes_between(repository, [f"{young} {old}" for young, old in pairwise(commits)], paths)
    for young, old in pairwise(commits):
        yield PastCommit(old, {path: before for path, (before, _) in found.get(young, {}).items()})


Sides = tuple["TreeEntry | None", "TreeEntry | None"]


def changes_between(
    repository: Repository, pairs: Sequence[str], paths: Sequence[str], *more: str
) -> dict[str, dict[str, Sides]]:
    """By commit and path what was there before and after. A pair is `COMMIT OLDER`; `COMMIT` alone is compared with its
    parents. `more` are options.

    `git diff-tree` compares ids. It prints each commit, then for each path `:mode mode id id status` and the path; the first
    mode and id are those of the older commit.
    """
    options = ("--stdin", "-r", "-z", "--raw", "--no-renames", "--no-ext-diff", "--no-textconv", *more)
    given = "".join(f"{pair}\n" for pair in pairs).encode()
    fields = iter(os.fsdecode(repository.of_history("diff-tree", *options, "--", *paths, given=given)).split("\0"))
    found: dict[str, dict[str, Sides]] = {}
    entries: dict[str, Sides] = {}
    for field in filter(None, fields):
        if field.startswith(":"):
            path, (*modes, before, after, _) = next(fields), field.removeprefix(":").split()
            old, new = (_entry(path, *one) for one in zip(modes, (before, after), strict=True))
            entries[path] = (old, new)
        else:
            entries = found.setdefault(field, {})
    return found


def _entry(path: str, mode: str, identifier: str) -> TreeEntry | None:
    return TreeEntry(path, _KINDS.get(mode, "file"), identifier) if mode.strip("0") else None


def staged(repository: Repository, path: str) -> TreeEntry | None:
    """The entry at a path from the top in the index: the file, or the link or submodule at that path or above it."""
    return _on_the_way(path, lambda paths: _indexed(repository, paths))


def required_repository(directory: Path) -> tuple[Repository, str]:
    """The repository of a directory, and the directory's path in it. Raises PolicyctlError without git or a repository."""
    if (found := named_in(directory)) is None:
        raise PolicyctlError(f"{directory} is not in a git repository, so it cannot be compared with a revision")
    return found


def entries_at(repository: Repository, commit: str, paths: Sequence[str], *, inside: bool = True) -> Iterator[TreeEntry]:
    """The lines of `git ls-tree`, `mode type object<tab>path`, as entries without directories. Their content is listed if
    `inside`, else only the paths themselves."""
    listing = repository.of_objects("ls-tree", *(["-r"] if inside else []), "-z", "--full-tree", commit, "--", *paths)
    for line in os.fsdecode(listing).split("\0"):
        if line:
            facts, _, path = line.partition("\t")
            mode, kind, identifier = facts.split()
            if kind != "tree":
                yield TreeEntry(path, _KINDS.get(mode, "file"), identifier)


def _indexed(repository: Repository, paths: Sequence[str]) -> Iterator[TreeEntry]:
    for line in os.fsdecode(repository.of_index("ls-files", "-s", "-z", "--full-name", "--", *paths)).split("\0"):
        if line:
            facts, _, path = line.partition("\t")
            mode, identifier, _ = facts.split()
            yield TreeEntry(path, _KINDS.get(mode, "file"), identifier)


def _on_the_way(path: str, listed: Callable[[Sequence[str]], Iterable[TreeEntry]]) -> TreeEntry | None:
    """The entry of a file, or the link or submodule in its place or above it; `listed` returns the entries at paths."""
    above = [str(one) for one in (PurePosixPath(path), *PurePosixPath(path).parents)][:-1]
    found = {entry.path: entry for entry in (listed(above) if above else ())}
    return next((entry for one in above if (entry := found.get(one)) and (one == path or entry.kind != "file")), None)


def _by_home(entries: Iterable[TreeEntry]) -> dict[str, list[TreeEntry]]:
    groups: defaultdict[str, list[TreeEntry]] = defaultdict(list)
    for entry in entries:
        groups[entry.below].append(entry)
    return groups
