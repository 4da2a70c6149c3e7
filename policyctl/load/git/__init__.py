"""Git: which repository a directory is in, what it holds at a revision, and what a checkout leaves out.

Nothing is checked out or fetched, and nothing that a checkout holds is run. This module only looks at the file system.
"""

from __future__ import annotations

import os
import re
from contextlib import suppress
from pathlib import Path

_MAX_POINTER = 8192  # bytes of a file that only names something
_BRANCHES = "ref: refs/heads/"
FULL_ID = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


def repository_top(folder: Path) -> Path | None:
    """The nearest directory, from an absolute path upward, that has a `.git`.

    Nothing else makes a repository: a commit can contain files called HEAD, objects and refs, but nothing called `.git`.
    """
    above = str(folder)
    while not os.path.lexists(os.path.join(above, ".git")):  # called often, so without a Path for each
        if (up := os.path.dirname(above)) == above:
            return None
        above = up
    return Path(above)


def git_folder(top: Path) -> Path:
    """Where git stores the repository whose working tree has its `.git` here."""
    path = top / ".git"
    if path.is_dir():
        return path
    text = _text(path) or ""
    return top / text.removeprefix("gitdir:").strip() if text.startswith("gitdir:") else path  # git's own message is better


def _shared(folder: Path) -> Path:
    """Where a repository keeps what all its worktrees share; `folder` is where git stores that of one of them."""
    there = _text(folder / "commondir")
    return folder if there is None else folder / there


def _text(path: Path) -> str | None:
    try:
        with open(path, "rb") as stream:
            return os.fsdecode(stream.read(_MAX_POINTER)).removesuffix("\n")
    except OSError:
        return None


def is_shallow(folder: Path) -> bool:
    """Whether the repository that git stores there is a shallow clone, whose history is incomplete."""
    return (_shared(folder) / "shallow").exists()


def index_stamp(folder: Path) -> tuple[int, ...]:
    """What is another one once git wrote the index of the working tree that it stores there; zeros without one."""
    try:
        found = os.stat(folder / "index")
    except OSError:
        return 0, 0, 0, 0
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def plain_head(folder: Path) -> str | None:
    """What the files of a repository that git stores there plainly have as the id of the checked out commit; None if git has to
    be asked, since the branch is packed, new, or stored in another way."""
    found = _text(folder / "HEAD") or ""
    if found.startswith(_BRANCHES) and ".." not in found:
        found = _text(_shared(folder) / found.removeprefix("ref: ")) or ""
    return found if FULL_ID.fullmatch(found) else None


def plain_link(folder: Path, reference: str) -> str | None:
    """What the files of a repository that git stores there plainly have as the target of a symbolic reference; empty if it is
    not one, and None if git has to be asked."""
    file = (folder if reference == "HEAD" else _shared(folder)) / reference
    if file.is_symlink() or _has_tables(folder):
        return None
    found = _text(file) or ""
    return found.removeprefix("ref: ") if found.startswith("ref: ") else ""


def plainly_lacks(folder: Path, reference: str) -> bool:
    """Whether the files of a repository that git stores there plainly have no such reference, with its name in full."""
    shared = _shared(folder)
    if _has_tables(folder) or any(os.path.lexists(place / reference) for place in (folder, shared)):
        return False
    try:
        return os.fsencode(f" {reference}\n") not in (shared / "packed-refs").read_bytes()
    except FileNotFoundError:
        return True
    except OSError:
        return False


def _has_tables(folder: Path) -> bool:
    """Whether a repository has its references in tables, which only git reads."""
    return (_shared(folder) / "reftable").exists()


def is_ours(top: Path) -> bool:
    """Whether the working tree, its `.git` and its target belong to the user, by git's own rule.

    For root they may also belong to the user who called sudo.
    """
    user = os.geteuid()
    owners = {user}
    if user == 0 and (caller := os.environ.get("SUDO_UID", "")).isdecimal():
        owners.add(int(caller))
    try:
        return all(path.lstat().st_uid in owners for path in (top, top / ".git", git_folder(top)))
    except OSError:
        return False


def as_named(directory: Path) -> Path:
    """The absolute path with no link followed, not even one in the shell's working directory (PWD), if that is known."""
    here = os.environ.get("PWD", "")
    with suppress(OSError):
        if os.path.isabs(here) and ".." not in directory.parts and os.path.samefile(here, os.curdir):
            return Path(os.path.abspath(os.path.join(here, directory)))
    return Path(os.path.abspath(directory))


def resolved(path: Path) -> Path | None:
    """The resolved path; None for a link that leads back to itself, which Python before 3.13 refuses to resolve."""
    try:
        return path.resolve()
    except RuntimeError:
        return None
