"""Where the repository around a directory is, and whose: asked of the file system, without git."""

from __future__ import annotations

import os
from pathlib import Path

_MAX_POINTER = 8192  # bytes of a `.git` file


def repository_top(folder: Path) -> Path | None:
    """The nearest directory, from an absolute path upward, that has a `.git`.

    Nothing else makes a repository: a checkout may hold files called HEAD, objects and refs, but nothing called `.git`.
    """
    return next((above for above in (folder, *folder.parents) if os.path.lexists(above / ".git")), None)


def git_folder(top: Path) -> Path:
    """Where git keeps the repository whose working tree has its `.git` here."""
    path = top / ".git"
    if path.is_dir():
        return path
    try:
        with open(path, "rb") as stream:
            text = os.fsdecode(stream.read(_MAX_POINTER))
    except OSError:
        return path  # git says better what is wrong with it
    return top / text.removeprefix("gitdir:").strip() if text.startswith("gitdir:") else path


def is_ours(top: Path) -> bool:
    """Whether the working tree, its `.git` and where that leads belong to the user, by git's own rule.

    For root they may also belong to the user that sudo was called by.
    """
    user = os.geteuid()
    owners = {user}
    if user == 0 and (caller := os.environ.get("SUDO_UID", "")).isdecimal():
        owners.add(int(caller))
    try:
        return all(path.lstat().st_uid in owners for path in (top, top / ".git", git_folder(top)))
    except OSError:
        return False
