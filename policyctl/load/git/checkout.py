"""What is checked out: the branch, the index of a directory, what is left out of it, and what differs from a commit."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from policyctl.errors import PolicyctlError, UsageError
from policyctl.load.git import plain_link
from policyctl.load.git.repository import Repository, find_repository
from policyctl.load.git.revision import commit_of, entries_at, required_repository

_SUBMODULE = "160000"
_FILES = ("100644", "100755")
_BRANCH = re.compile(r"[A-Za-z][\w./-]*", re.ASCII)  # plain names, safe in any text
_AT_ONCE = 500  # paths in one command line
_CONVERTING = ("working-tree-encoding", "filter", "ident")  # the attributes that change a file on checkout, besides line ends


class Absent(NamedTuple):
    """A path of the index that is missing on the disk: its repository, its path there, why it is missing, and the remedy.

    `id` is the object that the index has there; None for a submodule, whose content is unknown.
    """

    repository: Repository
    path: str
    why: str
    remedy: str
    id: str | None

    @property
    def file(self) -> Path:
        """Where the file would be."""
        return self.repository.top / self.path


@dataclass(frozen=True)
class Checkout:
    """What the index has below a directory, as absolute paths, and what of it is missing on the disk."""

    tracked: frozenset[str]
    absent: tuple[Absent, ...]


def checkout_of(directory: Path) -> Checkout | None:
    """The checkout of a directory; None outside a repository. Raises PolicyctlError if git cannot be asked."""
    repository = find_repository(directory)
    if repository is None:
        return None
    folder = repository.path_of(directory).removesuffix("/")
    tracked: set[str] = set()
    absent = tuple(_inspect(repository, [folder] if folder else [], tracked))
    return Checkout(frozenset(tracked), absent)


def absent_at(directory: Path, paths: Sequence[Path]) -> Absent | None:
    """The first of these paths, in the repository around a directory, that the checkout leaves out.

    Raises PolicyctlError if git cannot be asked.
    """
    repository = find_repository(directory)
    if repository is None or not paths:
        return None
    names = [path.relative_to(repository.top).as_posix() for path in paths]
    found = {absent.path: absent for absent in _inspect(repository, names, set())}
    return next((found[name] for name in names if name in found), None)


def is_as_committed(directory: Path, also: str, beside: Sequence[Path] = ()) -> bool:
    """Whether a directory equals the checked out commit, and so do files called `also` in it and above it, and those `beside`
    it. False if git cannot be asked or nothing was committed yet."""
    try:
        repository = find_repository(directory)
        if repository is None or any(map(Path.is_symlink, (directory / also, *beside))) or links_to(repository, directory):
            return False  # the target of a link may have changed
        folder = repository.path_of(directory).removesuffix("/")
        above = [str(parent / also) for parent in PurePosixPath(folder, also).parent.parents] if folder else []
        files = [str(Path(os.path.realpath(path)).relative_to(repository.top)) for path in beside]
        return not differs(repository, commit_of(repository, "HEAD"), [folder, *above, *files] if folder else [])
    except (PolicyctlError, ValueError):  # a file of another place
        return False


class Converted(NamedTuple):
    """A file whose content differs from the index although git considers it unchanged, and the reason."""

    file: str
    why: str


def converted(directory: Path, contents: Mapping[str, bytes]) -> Converted | None:
    """The first of these files that git converts on checkout; `contents` is by path, below the directory or above it.

    An edited file is what its author wrote, but one that git rewrites because of an attribute has content that is in no
    revision. Raises PolicyctlError if git cannot be asked.
    """
    for home, found in _indexed(directory, contents):
        other = {path: file for path, (file, identifier) in found.items() if not _is_blob(contents[file], identifier)}
        for path, why in _not_edited(home, list(other)) if other else ():
            return Converted(other[path], why)
    return None


def unlike_commit(directory: Path, contents: Mapping[str, bytes]) -> tuple[list[str], list[str]]:
    """Of these files those that the checked-out commit has with other content, whatever git takes for unchanged, and those that
    it does not have; `contents` is as for `converted`. Raises PolicyctlError if git cannot be asked."""
    found = dict[str, str]()
    for home, indexed in _indexed(directory, contents):
        for start in range(0, len(indexed), _AT_ONCE):
            some = entries_at(home, commit_of(home, "HEAD"), [*indexed][start : start + _AT_ONCE])
            found |= {indexed[entry.path][0]: entry.id for entry in some}
    other = [file for file, identifier in found.items() if not _is_blob(contents[file], identifier)]
    return other, [file for file in contents if file not in found]


def _indexed(directory: Path, files: Collection[str]) -> Iterator[tuple[Repository, dict[str, tuple[str, str]]]]:
    """Those of the files that an index has, with their objects, by their paths there: of the repository and its submodules."""
    repository = find_repository(directory)
    if repository is None:
        return
    places = {_place(file, directory): file for file in files}
    folder, top = repository.path_of(directory), f"{repository.top}/"
    others = [path.removeprefix(top) for path in places if path.startswith(top) and not path.startswith(top + folder)]
    for home, entries in _with_submodules(repository, [folder.removesuffix("/"), *others] if folder else []):
        there = ((entry, places.get(f"{home.top}/{entry.path}")) for entry in entries if entry.mode in _FILES)
        yield home, {entry.path: (file, entry.id) for entry, file in there if file is not None}


def _place(file: str, directory: Path) -> str:
    """The resolved path of a file. Quick for files below the directory that are not links themselves."""
    prefix = f"{directory}{os.sep}"
    if not file.startswith(prefix) or os.path.islink(file):
        return os.path.realpath(file)
    return f"{os.path.realpath(directory)}{os.sep}{file.removeprefix(prefix)}"


def _with_submodules(repository: Repository, paths: Sequence[str]) -> Iterator[tuple[Repository, list[_IndexEntry]]]:
    entries = list(_entries(repository, paths))
    yield repository, entries
    for entry in entries:
        if entry.mode == _SUBMODULE and (inside := _inside(repository, entry.path)):
            yield from _with_submodules(inside, ())


def _not_edited(repository: Repository, paths: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Which of these paths, all with other content than in the index, were not edited, each with the reason.

    A checkout uses the attributes of the index; those on the disk may have been rewritten too. If neither names a filter, git
    can list what it considers unchanged without running one: files checked out under attributes that are gone.
    """
    given = os.fsencode("".join(f"{path}\0" for path in paths))
    for where in ([], ["--cached"]):
        listed = repository.output("check-attr", *where, "-z", "--stdin", *_CONVERTING, given=given)
        fields = os.fsdecode(listed).split("\0")
        for path, attribute, value in zip(fields[::3], fields[1::3], fields[2::3], strict=False):
            if value not in ("unspecified", "unset"):
                shown = attribute if value == "set" else f"{attribute}={value}"
                yield path, f"git converts it on checkout ({shown} in .gitattributes)"
    for start in range(0, len(paths), _AT_ONCE):
        some = paths[start : start + _AT_ONCE]
        changed = os.fsdecode(repository.output("diff-files", "--name-only", "-z", "--", *some)).split("\0")
        for path in sorted(set(some).difference(changed)):
            yield path, "git considers it unchanged, so it was converted on an earlier checkout, or is marked as unchanged"


def links_to(repository: Repository, directory: Path) -> list[str]:
    """The links of a repository on a directory's path as written, by their paths from the top."""
    named = Path(os.path.abspath(directory))
    inside = [path for path in (named, *named.parents) if repository.top in path.parents]
    return [path.relative_to(repository.top).as_posix() for path in inside if path.is_symlink()]


def differs(repository: Repository, commit: str, paths: Sequence[str]) -> bool:
    """Whether anything at or below these paths (from the top; all paths if empty) differs from a commit.

    git compares its index with the commit by ids, and files touched since are hashed here: git itself would run the filters
    of the checkout.
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
    """Whether a file of `git diff-index`, `:mode mode id id status`, is merely newer than the index, with the same content."""
    was, now, before, after, status = facts.removeprefix(":").split()
    if status != "M" or was != now or after.strip("0"):
        return False
    file = repository.top / path
    try:
        content = os.fsencode(os.readlink(file)) if file.is_symlink() else file.read_bytes()
    except OSError:
        return False
    return _is_blob(content, before)


def _is_blob(content: bytes, identifier: str) -> bool:
    """Whether a file has the content of an object, apart from Windows line ends, which a checkout may add."""
    return any(_blob_id(text, identifier) == identifier for text in (content, content.replace(b"\r\n", b"\n")))


def _blob_id(content: bytes, like: str) -> str:
    new = hashlib.sha1 if len(like) == 40 else hashlib.sha256  # git's own choice, not used for security here
    return new(b"blob %d\0" % len(content) + content).hexdigest()


class _IndexEntry(NamedTuple):
    """A line of the index; `flag` is H, or S for skip-worktree, in lower case for assume-unchanged."""

    flag: str
    mode: str
    id: str
    path: str


def _entries(repository: Repository, paths: Sequence[str]) -> Iterator[_IndexEntry]:
    listing = os.fsdecode(repository.of_index("ls-files", "-z", "-s", "-v", "--full-name", "--", *paths))
    for line in listing.split("\0"):
        if line:
            facts, _, path = line.partition("\t")
            flag, mode, identifier, _ = facts.split()
            yield _IndexEntry(flag, mode, identifier, path)


def _inspect(repository: Repository, paths: Sequence[str], tracked: set[str]) -> Iterator[Absent]:
    """The absent entries of an index and of its submodules; every path of the index is added to `tracked`."""
    for flag, mode, identifier, path in _entries(repository, paths):
        file = repository.top / path
        tracked.add(str(file))
        if mode == _SUBMODULE:
            if inside := _inside(repository, path):
                for absent in _inspect(inside, (), tracked):
                    yield absent._replace(remedy=f"in {path}: {absent.remedy}")
            else:
                remedy = f"git submodule update --init {shlex.quote(path)}; actions/checkout: submodules: true"
                yield Absent(repository, path, "this submodule is not checked out", remedy, None)
        elif (flag == "S" or flag.islower()) and not os.path.lexists(file):
            yield Absent(repository, path, *_hidden_by(repository, flag, path), identifier)


def _inside(repository: Repository, path: str) -> Repository | None:
    """The repository of a submodule; None if it is not checked out."""
    home = repository.top / path
    return find_repository(home) if os.path.lexists(home / ".git") else None


def _hidden_by(repository: Repository, flag: str, path: str) -> tuple[str, str]:
    """Why git accepts that a file is missing, and the command that restores it."""
    if flag in "Ss" and repository.is_sparse:
        return "this sparse checkout leaves it out", "git sparse-checkout disable"
    option = "skip-worktree" if flag in "Ss" else "assume-unchanged"
    quoted = shlex.quote(path)
    return f"it is marked {option}", f"git update-index --no-{option} {quoted} && git checkout -- {quoted}"


_LONGEST_SUBJECT = 200  # characters


class Head(NamedTuple):
    """The checked out commit: its id, the first line of its message, and whether a directory has uncommitted changes."""

    commit: str
    subject: str
    dirty: bool


def head(directory: Path) -> Head | None:
    """The checked out commit of a directory; None without git, a repository or a commit, since it is only shown."""
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


def is_committed(path: Path) -> bool:
    """Whether the checked-out commit has a file: then it may hold anything that the author of a branch wrote. So it may where a
    link leads to such a file. Raises PolicyctlError if git cannot be asked."""
    named = path.absolute()
    return any(map(_is_at_head, dict.fromkeys((named.parent.resolve() / named.name, Path(os.path.realpath(named))))))


def _is_at_head(file: Path) -> bool:
    repository = find_repository(file.parent)
    if repository is None:
        return False
    try:
        commit = commit_of(repository, "HEAD")
    except UsageError:  # without a commit
        return False
    below = file.relative_to(repository.top).as_posix()
    return next(entries_at(repository, commit, [below]), None) is not None


def checked_out(directory: Path) -> tuple[str, ...]:
    """The checked out commit, then its parents; empty without git, a repository or a commit."""
    try:
        repository = find_repository(directory)
        if repository is None:
            return ()
        commit = commit_of(repository, "HEAD")
        lines, _, _ = repository.contents([commit])[0].partition(b"\n\n")
    except PolicyctlError:
        return ()
    return (commit, *(line[7:].decode() for line in lines.split(b"\n") if line.startswith(b"parent ")))


def default_branch(directory: Path) -> str | None:
    """The branch that changes are merged into: the default branch of `origin`, else the checked out one; None if git does not
    know it, or its name has characters other than letters, digits and `_ . / -`."""
    with suppress(PolicyctlError):
        repository = required_repository(directory)[0]
        for reference, before in (("refs/remotes/origin/HEAD", "refs/remotes/origin/"), ("HEAD", "refs/heads/")):
            if (found := plain_link(repository.git_folder, reference)) is None:
                found = repository.run("symbolic-ref", "--quiet", reference).stdout.decode(errors="replace").strip()
            if found:
                return name if _BRANCH.fullmatch(name := found.removeprefix(before)) else None
    return None


def checked_out_head(directory: Path) -> tuple[str, str]:
    """The branch and the commit that are checked out; empty where there is none."""
    try:
        repository = required_repository(directory)[0]
        commit = commit_of(repository, "HEAD")
        named = repository.run("symbolic-ref", "--quiet", "--short", "HEAD").stdout
    except PolicyctlError:
        return "", ""
    return named.decode(errors="replace").strip(), commit
