"""The policy directory of a command that names none, and the policyctl.yaml of a directory: the nearest, as git finds its
repository."""

from __future__ import annotations

import os
from pathlib import Path

from policyctl.errors import InvalidInput
from policyctl.load.environment import NO_CONFIG, Config
from policyctl.load.git import is_ours, repository_top
from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.source import SUFFIXES, read_source, redact_linked, refuse_link

USUAL = "policies"


def nearest_directory() -> Path:
    """The directory `policies` here, else the nearest policy directory upward in the repository.

    Inside a policy directory (called `policies`, or with a policyctl.yaml and no `policies` below it) it is that directory.
    Without any, it is `policies` here. Outside a repository, only the working directory is searched.
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
    """Whether any file below a directory has the name of a policy file."""
    for _, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        if any(name.endswith(SUFFIXES) and not name.startswith(".") for name in names):
            return True
    return False


def find_config(start: Path, within: Path | None = None) -> Path | None:
    """The nearest policyctl.yaml, from a directory upward to the top of the repository.

    Outside a repository the search ends at the policy directory: `within` if `start` is below it, else `start` itself. Raises
    PolicyctlError for a file above that directory in a repository of another user.
    """
    start, within = _absolute(start), _absolute(within or start)
    if not start.is_relative_to(within):
        within = start
    top = repository_top(within)
    for folder in (start, *start.parents):
        if os.path.lexists(folder / CONFIG_FILE):
            if top is not None and not folder.is_relative_to(within) and not is_ours(top):
                from policyctl.load.git.repository import require_trust  # git itself is asked

                require_trust(top)
            return _as_given(folder / CONFIG_FILE)
        if folder == (top or within):
            break
    return None


def load_config(path: Path | None) -> Config:
    """Read and check a policyctl.yaml. Raises InvalidInput with every problem; no path gives the built-in `local`."""
    if path is None:
        return NO_CONFIG
    from policyctl.load.config import config_of  # its models are built only where there is a file to read

    refuse_link(path, path.parent)
    try:
        return config_of(read_source(path))
    except InvalidInput as error:
        raise InvalidInput(redact_linked(error.problems)) from None


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _as_given(path: Path) -> Path:
    """The path relative to the working directory if it is below it, as a person would write it."""
    try:
        return path.relative_to(Path.cwd())
    except ValueError:
        return path
