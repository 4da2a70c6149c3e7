"""Commits named by a revision, and the files in them, read from the object store."""

from __future__ import annotations

import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Literal, NamedTuple

from policyctl.errors import PolicyctlError, Refused, UsageError
from policyctl.load.git.repository import WHOLE_HISTORY, Repository, find_repository, named_in
from policyctl.load.urls import revision_error

_FULL_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_SHORT_ID = re.compile(r"[0-9a-f]{4,63}", re.IGNORECASE)
_SUFFIX = re.compile(r"[\^~:].*|@\{.*", re.DOTALL)
_FROM_REFS = ("refs/", "heads/", "tags/", "remotes/")
# Where git looks for a short name, and what is there.
_PLACES = {
    "refs/tags/{}": "a tag",
    "refs/heads/{}": "a branch",
    "refs/remotes/{}": "a remote branch",
    "refs/remotes/{}/HEAD": "the default branch of a remote",
    "refs/{}": "a reference",
}


def commit_of(repository: Repository, revision: str) -> str:
    """The full id of the commit that a revision names.

    Raises UsageError when git knows no such revision, or when its name has two meanings: people who may push a tag must not
    decide what a branch's name means.
    """
    if complaint := revision_error(revision):
        raise UsageError(f"the git revision {complaint}")
    is_known = _is_one_thing(repository, _SUFFIX.sub("", revision))
    found = repository.run("rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if is_known and not found.returncode:
        return found.stdout.decode().split()[-1]
    if b"promisor remote" in found.stderr:
        repository.fail(found.stderr)
    if repository.is_shallow:
        raise UsageError(f"git knows no revision {revision!r}, and this clone is shallow; {WHOLE_HISTORY}")
    raise UsageError(f"git knows no revision {revision!r} (fetch it, or name another)")


def merge_base_of(repository: Repository, revision: str) -> str:
    """The id of the commit at which the checked out branch left a revision. Raises as `commit_of`, and without any."""
    ran = repository.run("merge-base", commit_of(repository, revision), commit_of(repository, "HEAD"))
    if ran.returncode:
        raise PolicyctlError(f"the checked out commit has no commit in common with {revision}; {WHOLE_HISTORY}")
    return ran.stdout.decode().strip()


def _is_one_thing(repository: Repository, name: str) -> bool:
    """Whether the name is not one that a tag only pretends to be. HEAD and full ids have one meaning in git itself.

    Raises UsageError for a name that could be read in more than one way.
    """
    if not name or name in ("HEAD", "@") or _FULL_ID.fullmatch(name):
        return True
    places = {place.format(name): what for place, what in _PLACES.items()}
    listed = _references(repository, name, *places)  # names may hold no wildcards, so others match nothing more
    if name.startswith(_FROM_REFS):  # git looks there first, and a tag may be called so too
        return f"refs/{name.removeprefix('refs/')}" in listed
    found = {place: what for place, what in places.items() if place in listed}
    meanings = [f"{what} ({place})" for place, what in found.items()]
    if found and _SHORT_ID.fullmatch(name):
        meanings += [f"a commit ({one})" for one in _commits(repository, name)]
    if len(meanings) > 1:
        raise UsageError(
            f"{name} has more than one meaning here: {', '.join(meanings)}; write the one that is meant in full, "
            "or delete the others"
        )
    if list(found) == [f"refs/tags/{name}"]:
        _refuse_a_tag_for_a_branch(repository, name)
    return True


def _refuse_a_tag_for_a_branch(repository: Repository, name: str) -> None:
    """Raise UsageError for a tag that is called as a branch of a remote is, or as one would be that was not fetched."""
    branches = [one for one in _references(repository, "refs/remotes/") if one.split("/", 3)[3:] == [name]]
    if branches:
        raise UsageError(f"{name} is a tag here, and a branch of a remote too; write refs/tags/{name} or {branches[0]}")
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


_LONGEST_SUBJECT = 200  # characters
_BRANCH = re.compile(r"[A-Za-z][\w./-]*", re.ASCII)  # that means itself wherever it is written
_KINDS: dict[str, Literal["file", "link", "submodule"]] = {"120000": "link", "160000": "submodule"}


class TreeEntry(NamedTuple):
    """What a path was at a revision: the path from the repository's top, what it was, its object's id.

    `below` is the submodule that it lies in, by its path; empty for what is the repository's own.
    """

    path: str
    kind: Literal["file", "link", "submodule"]
    id: str
    below: str = ""


class Revision:
    """One commit of the repository around a directory. The directory itself need not be there any more.

    `folder` is the directory's path from the repository's top, as it is named, with `/` at the end; empty for the top itself.
    `top` is where the repository lies. No link and no submodule leads to the directory, neither now nor at the commit.
    """

    def __init__(self, directory: Path, revision: str) -> None:
        """Raises UsageError for a revision that git does not know or that has two meanings, PolicyctlError without git or a
        repository, and Refused where a link or a submodule leads to the directory."""
        repository, self.folder = _named_in(directory)
        self.top = repository.top
        self.commit = commit_of(repository, revision)
        self._homes: dict[str, Repository] = {"": repository}
        self._refuse_detours(revision)

    def files(self) -> list[TreeEntry]:
        """Everything below the directory, sorted by path; nothing when it was not there.

        A submodule that is checked out stands for its files at the commit that the revision names. Raises PolicyctlError
        when that commit was not fetched.
        """
        return sorted(self._with_submodules(self.entries([self.folder] if self.folder else [])))

    def entries(self, paths: Sequence[str]) -> list[TreeEntry]:
        """Everything at these paths (from the repository's top) and, where a path ends with `/`, below it; all without any.

        A directory at a path without a `/` is left out: git would list what is below it.
        """
        below, exactly = tuple(path for path in paths if path.endswith("/")), frozenset(paths)
        listed = _listed(self._homes[""], self.commit, paths)
        return sorted(one for one in listed if not paths or one.path in exactly or one.path.startswith(below))

    def sizes(self, entries: Sequence[TreeEntry]) -> dict[str, int | None]:
        """The sizes of these files in bytes, by path; None for one that the repository does not hold."""
        return {
            entry.path: size
            for below, group in _by_home(entries).items()
            for entry, size in zip(group, self._homes[below].sizes([entry.id for entry in group]), strict=True)
        }

    def contents(self, entries: Sequence[TreeEntry]) -> dict[str, bytes]:
        """What these files held, by path. Raises PolicyctlError, with the remedy, where the repository does not hold one."""
        return {
            entry.path: content
            for below, group in _by_home(entries).items()
            for entry, content in zip(group, self._homes[below].contents([entry.id for entry in group]), strict=True)
        }

    def at(self, path: str) -> TreeEntry | None:
        """What was at a path from the top: the file, or the link or submodule that was there or on the way to it."""
        return _on_the_way(path, lambda paths: _listed(self._homes[""], self.commit, paths, inside=False))

    def staged(self, path: str) -> TreeEntry | None:
        """What the index, so what is checked out, has there now, in the same way."""
        return _on_the_way(path, lambda paths: _indexed(self._homes[""], paths))

    def changes_of(self, paths: Sequence[str], most: int) -> list[str]:
        """The commits, up to this one, that changed any of these paths (from the top): the oldest first, of every line of
        the history. Raises PolicyctlError in a shallow clone, and where there are more than `most`."""
        repository = self._homes[""]
        if repository.is_shallow:
            raise PolicyctlError(f"this clone is shallow; {WHOLE_HISTORY}")
        options = ("--full-history", "--topo-order", f"--max-count={most + 1}")
        found = repository.output("rev-list", *options, self.commit, "--", *paths).decode().split()
        if len(found) > most:
            raise PolicyctlError(f"more than {most:,} commits changed {', '.join(paths)}")
        return found[::-1]

    def _refuse_detours(self, revision: str) -> None:
        """Raise Refused where the directory, or one above it, was a link or a submodule at the commit."""
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
            inside = _listed(repository, entry.id, ())
            yield from self._with_submodules(one._replace(path=f"{entry.path}/{one.path}", below=entry.path) for one in inside)


class Head(NamedTuple):
    """The commit that is checked out: its id, its first line, and whether a directory is not as it has it."""

    commit: str
    subject: str
    dirty: bool


def head(directory: Path) -> Head | None:
    """The commit that a directory is at; None without git, a repository or a commit: nothing depends on it."""
    from policyctl.load.git.checkout import differs, links_to

    try:
        repository = find_repository(directory)
        if repository is None:
            return None
        commit = commit_of(repository, "HEAD")
        _, _, message = repository.contents([commit])[0].partition(b"\n\n")
        folder = repository.path_of(directory)
        changed = differs(repository, commit, [folder, *links_to(repository, directory)] if folder else [])
    except PolicyctlError:
        return None
    subject = message.decode(errors="replace").strip().partition("\n")[0]
    return Head(commit, subject.strip()[:_LONGEST_SUBJECT], changed)


def checked_out(directory: Path) -> tuple[str, ...]:
    """The commit that is checked out, then its parents; nothing without git, a repository or a commit."""
    try:
        repository = find_repository(directory)
        if repository is None:
            return ()
        commit = commit_of(repository, "HEAD")
        lines, _, _ = repository.contents([commit])[0].partition(b"\n\n")
    except PolicyctlError:
        return ()
    return (commit, *(line[7:].decode() for line in lines.split(b"\n") if line.startswith(b"parent ")))


def merge_base(directory: Path, revision: str) -> str:
    """The id of the commit at which the checked out branch left a revision.

    Raises UsageError for an unknown revision, PolicyctlError without git, a repository, or a common commit.
    """
    return merge_base_of(_named_in(directory)[0], revision)


def default_branch(directory: Path) -> str | None:
    """The branch that changes are merged into: what `origin` has checked out, else what is checked out here. None where git
    cannot tell, or no plain name says it."""
    for reference, before in (("refs/remotes/origin/HEAD", "refs/remotes/origin/"), ("HEAD", "refs/heads/")):
        try:
            found = _named_in(directory)[0].output("symbolic-ref", "--quiet", reference)
        except PolicyctlError:
            continue
        name = found.decode(errors="replace").strip().removeprefix(before)
        return name if _BRANCH.fullmatch(name) else None
    return None


def _named_in(directory: Path) -> tuple[Repository, str]:
    if (found := named_in(directory)) is None:
        raise PolicyctlError(f"{directory} is in no git repository, so there is no revision to compare with")
    return found


def _listed(repository: Repository, commit: str, paths: Sequence[str], *, inside: bool = True) -> Iterator[TreeEntry]:
    """The lines of `git ls-tree`, `mode type object<tab>path`, as entries; directories are left out, and what is `inside`
    them is listed unless only the paths themselves are asked for."""
    listing = repository.output("ls-tree", *(["-r"] if inside else []), "-z", "--full-tree", commit, "--", *paths)
    for line in os.fsdecode(listing).split("\0"):
        if line:
            facts, _, path = line.partition("\t")
            mode, kind, identifier = facts.split()
            if kind != "tree":
                yield TreeEntry(path, _KINDS.get(mode, "file"), identifier)


def _indexed(repository: Repository, paths: Sequence[str]) -> Iterator[TreeEntry]:
    for line in os.fsdecode(repository.output("ls-files", "-s", "-z", "--full-name", "--", *paths)).split("\0"):
        if line:
            facts, _, path = line.partition("\t")
            mode, identifier, _ = facts.split()
            yield TreeEntry(path, _KINDS.get(mode, "file"), identifier)


def _on_the_way(path: str, listed: Callable[[Sequence[str]], Iterable[TreeEntry]]) -> TreeEntry | None:
    """The entry of a file, or the link or submodule in its place or on the way to it, among those that are `listed`."""
    above = [str(one) for one in (PurePosixPath(path), *PurePosixPath(path).parents)][:-1]
    found = {entry.path: entry for entry in (listed(above) if above else ())}
    return next((entry for one in above if (entry := found.get(one)) and (one == path or entry.kind != "file")), None)


def _by_home(entries: Iterable[TreeEntry]) -> dict[str, list[TreeEntry]]:
    groups: defaultdict[str, list[TreeEntry]] = defaultdict(list)
    for entry in entries:
        groups[entry.below].append(entry)
    return groups
