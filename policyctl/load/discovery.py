"""Which files there are: the policy directory of a command that names none, its policyctl.yaml, and what is below it; what
shows cheaply that any of them changed; and what a directory has, or should have, that was not read.

A gap never counts as a removal: policies that git has and the checkout leaves out, and files that only look like policies.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from policyctl.errors import InvalidInput, Mark, PolicyctlError, Problem
from policyctl.load.environment import NO_CONFIG, Config
from policyctl.load.git import is_ours, repository_top
from policyctl.load.kinds import CONFIG_FILE, Kind, is_test_file, kind_of
from policyctl.load.source import (
    SUFFIXES,
    link_in_directory_finding,
    read_bytes,
    read_source,
    redact_linked,
    refuse_link,
    source_of,
    unreadable,
)
from policyctl.policy.findings import as_one_word
from policyctl.policy.memo import late_pattern
from policyctl.policy.names import canonical_name, virtual_model
from policyctl.rules import severity_of

if TYPE_CHECKING:
    from policyctl.load.directory import Files, Loaded
    from policyctl.load.environment import Environment
    from policyctl.load.git.checkout import Absent, Checkout


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


CODES = frozenset({"P471", "P472", "P473"})  # what is found about files that are not read
CONFIG_LOOKALIKES = (*SUFFIXES, ".jsonc", ".json5", ".toml")
_LONGEST = 1024 * 1024  # bytes; larger unread files are not examined
_BEGINNING = 4096  # bytes that show the kind of a file
_MANY = 5000  # unread files to examine
_NAMED_LIKE_ONE = late_pattern(r"\.(ya?ml|json)([~._-]|$)|\.(jsonc|json5|yalm|ymal|yam)$", re.IGNORECASE)
# The first key of a mapping, after comments and a document's start.
_BEGINS_LIKE_ONE = late_pattern(
    rb"(\xef\xbb\xbf)?([^\S\n]*+(#[^\n]*|---[^\n]*|%[^\n]*)?\n)*+(\s*+\{|[\"']?(spec_version|kind|name|display_name|description|policy)[\"']?\s*:)"
)


def inspect_checkout(directory: Path) -> Checkout | None:
    """What git has of a directory; None outside a repository. Raises PolicyctlError if git cannot be asked."""
    if repository_top(directory.resolve()) is None:
        return None
    from policyctl.load.git.checkout import checkout_of  # imports subprocess

    return checkout_of(directory)


def missing_config(directory: Path, config: Path | None) -> Absent | None:
    """The policyctl.yaml that would apply to a directory, but that the checkout leaves out; `config` is the one found.

    None also if git cannot be asked.
    """
    start = Path(os.path.realpath(directory))  # unlike resolve(), accepts a link to itself
    top = repository_top(start)
    if top is None:
        return None
    from policyctl.load.git.checkout import absent_at

    folders = [folder for folder in (start, *start.parents) if folder.is_relative_to(top)]
    if config is not None:
        nearest = config.parent.resolve()
        folders = [folder for folder in folders if folder != nearest and folder.is_relative_to(nearest)]
    try:
        return absent_at(top, [folder / CONFIG_FILE for folder in folders])
    except PolicyctlError:
        return None


def gaps_of(directory: Path, checkout: Checkout | None, files: Files, environment: Environment) -> tuple[Absent, ...]:
    """Files that git has and the checkout leaves out, as far as they may contain policies of an environment."""
    return tuple(
        absent
        for absent in possible_gaps(directory, checkout)
        if absent.id is None or files.includes(shown(absent.file, directory), environment)
    )


def gap_problems(directory: Path, gaps: Iterable[Absent], codes: Collection[str]) -> Iterator[Problem]:
    """A warning for each reason why files of the index are missing, at the first of them."""
    by_reason: dict[str, list[Absent]] = {}
    for absent in gaps if "P471" in codes else ():
        by_reason.setdefault(absent.why, []).append(absent)
    for why, group in by_reason.items():
        more = f", and so are {len(group) - 1} more" if len(group) > 1 else ""
        message = f"is in git but not on this disk{more}: {why} ({group[0].remedy})"
        yield Problem(Mark(shown(group[0].file, directory)), "P471", message, severity_of("P471"))


def why_nothing(directory: Path, gaps: Iterable[Absent]) -> str:
    """Why a directory that git has files of is empty, as the end of a sentence; an empty text if git has none."""
    first = next(iter(gaps), None)
    return f"; git has {shown(first.file, directory)}, and {first.why} ({first.remedy})" if first else ""


def similar_names(files: Sequence[str]) -> Iterator[Problem]:
    """A warning for each of these unread files that looks like a policy file, by content or name."""
    for position, file in enumerate(files):
        name = os.path.basename(file)
        named_like_one = bool(_NAMED_LIKE_ONE.search(name))
        if not named_like_one and position > _MANY:
            continue
        names = _names_in(file, always=named_like_one)
        if names or (names is None and named_like_one and not name.startswith(".")):
            what = f"contains {', '.join(names)}" if names else "looks like a policy file"
            why = "hidden files are not" if name.startswith(".") else "only *.yaml, *.yml and *.json are"
            message = f"{what} but is not read: {why} (rename it, or move it elsewhere)"
            yield Problem(Mark(file), "P472", message, severity_of("P472"))


class ExpectedFile(NamedTuple):
    """The file of a policy that was not read, and why it was not."""

    file: str
    why: str

    def __str__(self) -> str:
        return f"{as_one_word(self.file)} has it, but {self.why}"


class UnreadFiles:
    """The policies of a directory that were not read for an environment, and their files."""

    def __init__(self, directory: Path, found: Found, files: Files, loaded: Loaded, environment: Environment) -> None:
        self._directory = directory
        self._found = found
        self._loaded = loaded
        self.gaps = gaps_of(directory, found.checkout, files, environment)

    @property
    def paths(self) -> list[str]:
        """The files that the checkout leaves out, as policyctl prints paths."""
        return [shown(absent.file, self._directory) for absent in self.gaps]

    @property
    def unasked(self) -> str | None:
        """Why git could not be asked about the directory, if there is a repository."""
        return self._found.unasked

    def where(self, name: str) -> ExpectedFile | None:
        """The unread file of the policy with that canonical name; None if there is none."""
        return self._places.get(name)

    @property
    def maybe(self) -> str | None:
        """A missing file that may contain any policy, as a sentence: a submodule, or a file that a partial clone lacks."""
        first = next((absent for absent in self.gaps if absent not in self._in_index), None)
        if first is None:
            return None
        file = as_one_word(shown(first.file, self._directory))
        return f"it may be in {file}, which is not on this disk: {first.why} ({first.remedy})"

    def untracked(self) -> list[str]:
        """The files that were read but are not in git; empty outside a repository."""
        checkout = self._found.checkout
        if checkout is None:
            return []
        top = self._directory.resolve()
        paths = {file: str(top / os.path.relpath(file, self._directory)) for file in self._loaded.included}
        return [file for file, path in paths.items() if path not in checkout.tracked]

    @cached_property
    def _places(self) -> dict[str, ExpectedFile]:
        return dict(reversed(list(self._all_places())))

    def _all_places(self) -> Iterator[tuple[str, ExpectedFile]]:
        for name, file in self._loaded.left_out.items():
            yield name, ExpectedFile(file, "include leaves that file out")
        for file in self._loaded.included:
            if is_test_file(file):
                yield from _places([file], "files called *.test.* hold tests only")
        yield from _places(self._found.others, "only *.yaml, *.yml and *.json are read")
        yield from _places(_below(self._found.hidden), "hidden files are not read")
        yield from self._in_git()

    def _in_git(self) -> Iterator[tuple[str, ExpectedFile]]:
        for absent, content in self._in_index.items():
            for name in _names(content, absent.path) or ():
                yield name, ExpectedFile(shown(absent.file, self._directory), f"{absent.why} ({absent.remedy})")

    @cached_property
    def _in_index(self) -> dict[Absent, bytes]:
        """The contents of the missing files of the index, as far as the repositories have them."""
        found: dict[Absent, bytes] = {}
        for repository in dict.fromkeys(absent.repository for absent in self.gaps):
            group = {absent: absent.id for absent in self.gaps if absent.repository == repository and absent.id}
            with suppress(PolicyctlError):  # a partial clone
                found |= dict(zip(group, repository.contents(list(group.values())), strict=True))
        return found


def possible_gaps(directory: Path, checkout: Checkout | None) -> Iterator[Absent]:
    """The absent files that may contain policies."""
    top = directory.resolve()
    for absent in checkout.absent if checkout else ():
        path = Path(os.path.relpath(absent.file, top))
        is_policy = absent.id is None or (path.suffix in SUFFIXES and path.name != CONFIG_FILE)
        if is_policy and not any(part.startswith(".") for part in path.parts):
            yield absent


def _places(files: Iterable[str], why: str) -> Iterator[tuple[str, ExpectedFile]]:
    for file in files:
        for name in _names_in(file, always=True) or ():
            yield name, ExpectedFile(file, why)


def _names_in(file: str, *, always: bool) -> list[str] | None:
    """The policies and virtual models of an unread file; None if it cannot be parsed.

    Unless `always`, only if it begins like a policy file.
    """
    try:
        if os.path.islink(file) or os.path.getsize(file) > _LONGEST:
            return []
        if not (always or _BEGINS_LIKE_ONE.match(_beginning(file))):
            return []
        content = read_bytes(file)
    except (InvalidInput, OSError):
        return []
    return _names(content, file) if b"policy" in content or b"model" in content else []


def _beginning(file: str) -> bytes:
    descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # opening a pipe would block
    try:
        return os.read(descriptor, _BEGINNING)
    finally:
        os.close(descriptor)


def _names(content: bytes, file: str) -> list[str] | None:
    try:
        documents = source_of(content, file).documents
    except InvalidInput:
        return None
    return [name for document in documents if (name := _name_of(document.data))]


def _name_of(data: object) -> str | None:
    """The canonical name of a document that is a policy or a virtual model, valid or not."""
    if not isinstance(data, Mapping) or not isinstance(name := data.get("name"), str) or not name:
        return None
    match kind_of(data):
        case Kind.MODEL:
            return virtual_model(name)
        case Kind.POLICY if isinstance(body := data.get("policy"), Mapping):
            return None if {"targets", "strategy"}.isdisjoint(body) else canonical_name(name)
    return None


def _below(paths: Iterable[str]) -> Iterator[str]:
    """These files and those below these directories, up to a limit; never git's own."""
    left = _MANY
    for path in paths:
        if os.path.isfile(path):
            yield path
        for folder, folders, files in os.walk(path):
            folders[:] = [name for name in folders if name != ".git"]
            for name in files[: max(left, 0)]:
                yield os.path.join(folder, name)
            left -= len(files)


def shown(path: Path, directory: Path) -> str:
    """A resolved path as policyctl prints it: relative to the directory as the user gave it."""
    relative = os.path.relpath(path, directory.resolve())
    return os.path.normpath(directory / relative) if relative.startswith("..") else str(directory / relative)
