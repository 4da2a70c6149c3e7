"""Git: which repository a directory is in, what it holds at a revision, and what a checkout leaves out.

Nothing is checked out or fetched, and nothing that a checkout holds is run. This module only looks at the file system.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

_MAX_POINTER = 8192  # bytes of a `.git` file


def repository_top(folder: Path) -> Path | None:
    """The nearest directory, from an absolute path upward, that has a `.git`.

    Nothing else makes a repository: a commit can contain files called HEAD, objects and refs, but nothing called `.git`.
    """
    return next((above for above in (folder, *folder.parents) if os.path.lexists(above / ".git")), None)


def git_folder(top: Path) -> Path:
    """Where git stores the repository whose working tree has its `.git` here."""
    path = top / ".git"
    if path.is_dir():
        return path
    try:
        with open(path, "rb") as stream:
            text = os.fsdecode(stream.read(_MAX_POINTER))
    except OSError:
        return path  # git's own message is better
    return top / text.removeprefix("gitdir:").strip() if text.startswith("gitdir:") else path


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
