"""The policy directory of a command that names none: the nearest one, as git finds its repository."""

from __future__ import annotations

import os
from pathlib import Path

from policyctl.load.git.place import repository_top
from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.source import SUFFIXES

USUAL = "policies"


def nearest_directory() -> Path:
    """The directory `policies` here, else the nearest one upward in the repository that holds any file of ours.

    Inside a policy directory (one called `policies`, or with a policyctl.yaml and no `policies` in it) it is that one.
    Without any it is `policies` here. Outside a repository nothing above the working directory is looked at.
    """
    usual = Path(USUAL)
    if usual.is_dir():
        return usual
    try:
        here = Path.cwd()
    except FileNotFoundError:  # the working directory was deleted
        return usual
    top = repository_top(here) or here
    for folder in (here, *here.parents):
        found = next((one for one in (folder / USUAL, folder) if _is_policy_directory(one)), None)
        if found is not None:
            return Path(os.path.relpath(found, here))
        if folder == top:
            break
    return usual


def _is_policy_directory(folder: Path) -> bool:
    try:
        names = os.listdir(folder)
    except OSError:
        return False
    if folder.name == USUAL:
        return CONFIG_FILE in names or _holds_files(folder)
    return CONFIG_FILE in names and any(name.endswith(SUFFIXES) and name != CONFIG_FILE for name in names)


def _holds_files(folder: Path) -> bool:
    """Whether any file below a directory would be read, by its name."""
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(name.endswith(SUFFIXES) and not name.startswith(".") for name in names):
            return True
    return False
