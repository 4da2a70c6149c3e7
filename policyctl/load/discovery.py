"""Which files there are: the policy directory of a command that names none, its policyctl.yaml, and what is below it; and what
shows cheaply that any of them changed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from policyctl.errors import InvalidInput, Mark, PolicyctlError, Problem
from policyctl.load.environment import NO_CONFIG, Config
from policyctl.load.git import is_ours, repository_top
from policyctl.load.kinds import CONFIG_FILE
from policyctl.load.source import SUFFIXES, link_in_directory_finding, read_source, redact_linked, refuse_link, unreadable
from policyctl.load.unread import CONFIG_LOOKALIKES, inspect_checkout, possible_gaps, similar_names, why_nothing

if TYPE_CHECKING:
    from policyctl.load.git.checkout import Checkout

_HIDDEN_CONFIGS = frozenset(f".policyctl{suffix}" for suffix in SUFFIXES)
Stamp = tuple[str, int, int, int]
MAX_FOLDERS = 64  # maximum directory depth


class Found:
    """What is below a directory: policy files, configurations, and problems with the rest.

    `others` are regular files that policyctl does not read, `hidden` are paths whose name begins with a dot. `checkout` is what
    git has of the directory; `unasked` is the reason when there is a repository but git cannot be asked.
    """

    def __init__(self, files: Iterable[str] = (), configs: Iterable[Path] = (), problems: Iterable[Problem] = ()) -> None:
        self.files = list(files)
        self.configs = list(configs)
        self.problems = list(problems)
        self.others: list[str] = []
        self.hidden: list[str] = []
        self.checkout: Checkout | None = None
        self.unasked: str | None = None


def find_files(root: Path, *, may_be_empty: bool = False) -> Found:
    """Everything below a directory that matters to policyctl, sorted; hidden files are left out.

    The problems include files that look like policies but are not read. Raises InvalidInput when the directory does not exist
    or has no policy file, unless it `may_be_empty`: nothing to read must never mean "remove everything".
    """
    refuse_link(root)
    found = Found()
    try:
        found.checkout = inspect_checkout(root)
    except PolicyctlError as error:
        found.unasked = str(error)
    if root.is_dir():
        _walk(root, root.resolve(), found, MAX_FOLDERS)
    missing = _nothing_there(root) if not found.files and not found.problems else None
    if missing and not (may_be_empty and (root.is_dir() or not root.exists())):
        remedy = "; write one, or name another directory with --dir" if root.is_dir() else ""
        why = missing + (why_nothing(root, possible_gaps(root, found.checkout)) or remedy)
        raise InvalidInput([Problem(Mark(str(root)), "P016", why)])
    found.problems += similar_names([*found.others, *(path for path in found.hidden if path.endswith(SUFFIXES))])
    return found


def _nothing_there(root: Path) -> str:
    """Why a directory has nothing to read."""
    if root.is_dir():
        return "contains no policy file (*.yaml, *.yml or *.json)"
    if root.exists():
        return "is not a directory; name one with --dir"
    return "the directory does not exist; create it with policyctl init, or name another with --dir"


def _walk(folder: Path, top: Path, found: Found, deeper: int) -> None:
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        found.problems.append(Problem(Mark(str(folder)), "P001", unreadable(folder, error)))
        return
    prefix = str(folder / "_")[:-1]
    for entry in entries:
        name, path = entry.name, prefix + entry.name
        stem, suffix = os.path.splitext(name)
        if name.startswith("."):
            found.hidden.append(path)
            if name in _HIDDEN_CONFIGS:
                found.problems.append(Problem(Mark(path), "P017", f"the configuration is called {CONFIG_FILE}; rename it"))
        elif name == CONFIG_FILE:
            found.configs.append(Path(path))
        elif entry.is_symlink() and (complaint := link_in_directory_finding(Path(path), top)):
            if suffix in SUFFIXES or Path(path).is_dir():  # the entry itself would fail on a link to itself
                found.problems.append(Problem(Mark(path), "P008", complaint))
        elif entry.is_dir() and not deeper:
            message = f"is nested more than {MAX_FOLDERS} directories deep; flatten the directory"
            found.problems.append(Problem(Mark(path), "P005", message))
        elif entry.is_dir():
            _walk(Path(path), top, found, deeper - 1)
        else:
            _take(path, stem, suffix, found)


def _take(path: str, stem: str, suffix: str, found: Found) -> None:
    if stem.casefold() == "policyctl" and suffix.casefold() in CONFIG_LOOKALIKES:
        found.problems.append(Problem(Mark(path), "P017", f"the configuration is called {CONFIG_FILE}; rename it"))
    elif suffix in SUFFIXES:
        found.files.append(path)
    elif suffix.casefold() in SUFFIXES:
        message = f"only *.yaml, *.yml and *.json are read, so this file is ignored; rename it to {stem}{suffix.casefold()}"
        found.problems.append(Problem(Mark(path), "P020", message))
    else:
        found.others.append(path)


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


def stamps(directory: Path, suffixes: tuple[str, ...] = SUFFIXES) -> Iterator[Stamp]:
    """The stamps of the files below a directory, and of the configuration above it."""
    pending = [str(directory)]
    while pending:
        folder = pending.pop()
        try:
            entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=True) and not entry.name.startswith("."):
                pending.append(entry.path)
            elif entry.name.endswith(suffixes):
                yield stamp(entry.path)
    for above in (directory.absolute(), *directory.absolute().parents):
        yield stamp(str(above / CONFIG_FILE))


def stamp(path: str) -> Stamp:
    """The time, size and number of a file; zeros if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return path, 0, 0, 0
    return path, found.st_mtime_ns, found.st_size, found.st_ino
