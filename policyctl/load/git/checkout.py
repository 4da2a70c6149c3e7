"""What git's index has of a directory, and what of it the disk lacks though it was not deleted."""

from __future__ import annotations

import hashlib
import os
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from policyctl.errors import PolicyctlError
from policyctl.load.git.names import commit_of
from policyctl.load.git.repository import Repository, find_repository

_SUBMODULE = "160000"


class Absent(NamedTuple):
    """A path of the index that is not on the disk: from which repository, its path in it, why, and what mends it.

    `id` is the object that the index has there; None for a submodule, of which nothing more is known.
    """

    repository: Repository
    path: str
    why: str
    remedy: str
    id: str | None

    @property
    def file(self) -> Path:
        """Where it would be."""
        return self.repository.top / self.path


@dataclass(frozen=True)
class Checkout:
    """What the index has below a directory, as absolute paths, and what of it is not there."""

    tracked: frozenset[str]
    absent: tuple[Absent, ...]


def checkout_of(directory: Path) -> Checkout | None:
    """What git knows of a directory; None outside a repository. Raises PolicyctlError where git cannot be asked."""
    repository = find_repository(directory)
    if repository is None:
        return None
    folder = repository.path_of(directory).removesuffix("/")
    tracked: set[str] = set()
    absent = tuple(_look(repository, [folder] if folder else [], tracked))
    return Checkout(frozenset(tracked), absent)


def absent_at(directory: Path, paths: Sequence[Path]) -> Absent | None:
    """The first of these paths, in the repository around a directory, that the index has and the disk lacks.

    Raises PolicyctlError where git cannot be asked.
    """
    repository = find_repository(directory)
    if repository is None or not paths:
        return None
    names = [path.relative_to(repository.top).as_posix() for path in paths]
    found = {absent.path: absent for absent in _look(repository, names, set())}
    return next((found[name] for name in names if name in found), None)


def is_as_committed(directory: Path, also: str) -> bool:
    """Whether a directory is as the checked out commit has it, and so are files called `also` in it and above it.

    False where git cannot be asked, or nothing was committed yet.
    """
    try:
        repository = find_repository(directory)
        if repository is None:
            return False
        if (directory / also).is_symlink() or links_to(repository, directory):  # what it leads to may have changed
            return False
        folder = repository.path_of(directory).removesuffix("/")
        above = [str(parent / also) for parent in PurePosixPath(folder, also).parent.parents] if folder else []
        return not differs(repository, commit_of(repository, "HEAD"), [folder, *above] if folder else [])
    except PolicyctlError:
        return False


def links_to(repository: Repository, directory: Path) -> list[str]:
    """The links of a repository on the way to a directory, as it is named, by their paths from the top."""
    named = Path(os.path.abspath(directory))
    inside = [path for path in (named, *named.parents) if repository.top in path.parents]
    return [path.relative_to(repository.top).as_posix() for path in inside if path.is_symlink()]


def differs(repository: Repository, commit: str, paths: Sequence[str]) -> bool:
    """Whether anything at or below these paths (from the top; without any, anything at all) is not as a commit has it.

    Asked by ids: git compares its index with the commit, and a file that was touched since is hashed here, as it is. Git
    itself would run the filters that a checkout asks for.
    """
    if repository.output("ls-files", "--others", "--exclude-standard", "-z", "--", *paths):
        return True
    changes = repository.output("diff-index", "--raw", "-z", "--no-renames", "--ignore-submodules=dirty", commit, "--", *paths)
    fields = os.fsdecode(changes).split("\0")
    if not all(_is_same(repository, facts, path) for facts, path in zip(fields[::2], fields[1::2], strict=False)):
        return True
    inside = ((_inside(repository, entry.path), entry.id) for entry in _entries(repository, paths) if entry.mode == _SUBMODULE)
    return any(differs(submodule, identifier, ()) for submodule, identifier in inside if submodule is not None)


def _is_same(repository: Repository, facts: str, path: str) -> bool:
    """Whether a file of `git diff-index`, `:mode mode id id status`, is only younger than the index."""
    was, now, before, after, status = facts.removeprefix(":").split()
    if status != "M" or was != now or after.strip("0"):
        return False
    file = repository.top / path
    try:
        content = os.fsencode(os.readlink(file)) if file.is_symlink() else file.read_bytes()
    except OSError:
        return False
    return any(_blob_id(text, before) == before for text in (content, content.replace(b"\r\n", b"\n")))


def _blob_id(content: bytes, like: str) -> str:
    new = hashlib.sha1 if len(like) == 40 else hashlib.sha256  # git's own choice; nothing is secured by it here
    return new(b"blob %d\0" % len(content) + content).hexdigest()


class _IndexEntry(NamedTuple):
    """A line of the index; `flag` is H, S where the disk need not have it, in lower case where it is taken for unchanged."""

    flag: str
    mode: str
    id: str
    path: str


def _entries(repository: Repository, paths: Sequence[str]) -> Iterator[_IndexEntry]:
    listing = os.fsdecode(repository.output("ls-files", "-z", "-s", "-v", "--full-name", "--", *paths))
    for line in listing.split("\0"):
        if line:
            facts, _, path = line.partition("\t")
            flag, mode, identifier, _ = facts.split()
            yield _IndexEntry(flag, mode, identifier, path)


def _look(repository: Repository, paths: Sequence[str], tracked: set[str]) -> Iterator[Absent]:
    """The absent entries of an index, and those of the submodules in it; what it has is added to `tracked`."""
    for flag, mode, identifier, path in _entries(repository, paths):
        file = repository.top / path
        tracked.add(str(file))
        if mode == _SUBMODULE:
            if inside := _inside(repository, path):
                for absent in _look(inside, (), tracked):
                    yield absent._replace(remedy=f"in {path}: {absent.remedy}")
            else:
                remedy = f"git submodule update --init {shlex.quote(path)}; actions/checkout: submodules: true"
                yield Absent(repository, path, "this submodule is not checked out", remedy, None)
        elif (flag == "S" or flag.islower()) and not os.path.lexists(file):
            yield Absent(repository, path, *_hidden_by(repository, flag, path), identifier)


def _inside(repository: Repository, path: str) -> Repository | None:
    """The repository of a submodule; None where it is not checked out."""
    home = repository.top / path
    return find_repository(home) if os.path.lexists(home / ".git") else None


def _hidden_by(repository: Repository, flag: str, path: str) -> tuple[str, str]:
    """Why git does not mind that a file is not there, and what brings it back."""
    if flag in "Ss" and repository.is_sparse:
        return "this sparse checkout leaves it out", "git sparse-checkout disable"
    option = "skip-worktree" if flag in "Ss" else "assume-unchanged"
    quoted = shlex.quote(path)
    return f"it is marked {option}", f"git update-index --no-{option} {quoted} && git checkout -- {quoted}"
