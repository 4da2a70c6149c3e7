"""Files as they were at a git revision, read from the object store: nothing is checked out, no hook or filter runs."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

from policyctl.errors import PolicyctlError, UsageError
from policyctl.load.source import Source, source_of
from policyctl.load.urls import revision_complaint
from policyctl.model.complaints import without_userinfo

_SECONDS = 60
_LONGEST_SUBJECT = 200  # characters
# A hook runs with these set, and they would lead away from the repository around the directory.
_LEADS_AWAY = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_PREFIX")
_BRANCH = re.compile(r"[A-Za-z][\w./-]*", re.ASCII)  # that means itself wherever it is written
_KINDS: dict[str, Literal["file", "link", "submodule"]] = {"120000": "link", "160000": "submodule"}


class Entry(NamedTuple):
    """What a path was at a revision: the path from the repository's top, what it was, its object's id, its size in bytes."""

    path: str
    kind: Literal["file", "link", "submodule"]
    id: str
    size: int


class Revision:
    """One commit of the repository around a directory. The directory itself need not be there any more.

    `folder` is the directory's path from the repository's top, with `/` at the end; empty for the top itself. `top` is where
    the repository lies.
    """

    def __init__(self, directory: Path, revision: str) -> None:
        """Raises UsageError for a revision that git does not know, PolicyctlError without git or a repository."""
        self._base = _existing(directory.resolve())
        below = directory.resolve().relative_to(self._base).parts
        self.commit = _commit(self._base, directory, revision)
        inside, _, prefix = _output(self._base, "rev-parse", "--is-inside-work-tree", "--show-prefix").partition(b"\n")
        if inside != b"true":
            raise PolicyctlError(
                f"{directory} is in no working tree, so it cannot be told which directory of the revision it is"
            )
        prefix = prefix.removesuffix(b"\n")
        self.folder = os.fsdecode(prefix) + "".join(f"{part}/" for part in below)
        whole = directory.resolve().parts
        self.top = Path(*whole[: len(whole) - self.folder.count("/")])

    def files(self) -> list[Entry]:
        """Everything below the directory, sorted by path; nothing when it was not there."""
        return self.entries([self.folder] if self.folder else [])

    def entries(self, paths: Sequence[str]) -> list[Entry]:
        """Everything at these paths (from the repository's top) and, where a path ends with `/`, below it; all without any."""
        listing = ("--literal-pathspecs", "ls-tree", "-r", "-z", "--long", "--full-tree", self.commit, "--", *paths)
        lines = os.fsdecode(_output(self._base, *listing)).split("\0")
        return sorted(_entry(line) for line in lines if line)

    def contents(self, entries: Sequence[Entry]) -> dict[str, bytes]:
        """What these files held, by path, in one go."""
        if not entries:
            return {}
        asked = "".join(f"{entry.id}\n" for entry in entries).encode()
        held = _objects(_output(self._base, "cat-file", "--batch", given=asked))
        return {entry.path: content for entry, content in zip(entries, held, strict=True)}


def read_at(path: Path, revision: str) -> Source | None:
    """A file as it was at a revision, None when it was not there. Its name is given as `REVISION:path`.

    Raises UsageError for an unknown revision, PolicyctlError when there is no git or the file lies in no repository, and
    InvalidInput when what the file held cannot be parsed.
    """
    folder = path.resolve().parent
    commit = _commit(folder, path, revision)
    blob = _git(folder, "cat-file", "blob", f"{commit}:./{path.name}")
    return None if blob.returncode else source_of(blob.stdout, f"{revision}:{path}")


def merge_base(directory: Path, revision: str) -> str:
    """The id of the commit at which the checked out branch left a revision.

    Raises UsageError for an unknown revision, PolicyctlError without git, a repository, or a common commit.
    """
    folder = _existing(directory.resolve())
    ran = _git(folder, "merge-base", _commit(folder, directory, revision), _commit(folder, directory, "HEAD"))
    if ran.returncode:
        raise PolicyctlError(
            f"the checked out commit has no commit in common with {revision}; fetch the whole history "
            "(actions/checkout: fetch-depth: 0, GitLab: GIT_DEPTH: 0)"
        )
    return ran.stdout.decode().strip()


def default_branch(directory: Path) -> str | None:
    """The branch that changes are merged into: what `origin` has checked out, else what is checked out here. None where git
    cannot tell, or no plain name says it."""
    folder = _existing(directory.resolve())
    for reference, before in (("refs/remotes/origin/HEAD", "refs/remotes/origin/"), ("HEAD", "refs/heads/")):
        try:
            name = _output(folder, "symbolic-ref", "--quiet", reference).decode(errors="replace").strip().removeprefix(before)
        except PolicyctlError:
            continue
        return name if _BRANCH.fullmatch(name) else None
    return None


class Head(NamedTuple):
    """The commit that is checked out: its id, its first line, and whether a directory is not as it has it."""

    commit: str
    subject: str
    dirty: bool


def head(directory: Path) -> Head | None:
    """The commit that a directory is at; None without git, a repository or a commit: nothing depends on it."""
    try:
        folder = _existing(directory.resolve())
        commit, _, subject = (
            _output(folder, "log", "-1", "--no-show-signature", "--format=%H %s").decode(errors="replace").partition(" ")
        )
        changed = _output(folder, "-c", "core.fsmonitor=false", "--no-optional-locks", "status", "--porcelain", "--", ".")
    except PolicyctlError:
        return None
    return Head(commit, subject.strip()[:_LONGEST_SUBJECT], bool(changed))


def _existing(path: Path) -> Path:
    """The directory, or the nearest one above it that there is."""
    return next(folder for folder in (path, *path.parents) if folder.is_dir())


def _commit(folder: Path, asked: Path, revision: str) -> str:
    """The id of the commit that a revision names, in the repository around a folder."""
    if complaint := revision_complaint(revision):
        raise UsageError(f"the git revision {complaint}")
    found = _git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if not found.returncode:
        return found.stdout.decode().split()[-1]
    if b"not a git repository" in _git(folder, "rev-parse", "--git-dir").stderr:
        raise PolicyctlError(f"{asked} is in no git repository, so there is no revision to compare with")
    _output(folder, "rev-parse", "--git-dir")
    raise UsageError(f"git knows no revision {revision!r} (fetch it, or name another)")


def _entry(line: str) -> Entry:
    """A line of `git ls-tree --long`: `mode type object size<tab>path`."""
    facts, _, path = line.partition("\t")
    mode, _, identifier, size = facts.split()
    return Entry(path, _KINDS.get(mode, "file"), identifier, 0 if size == "-" else int(size))


def _objects(output: bytes) -> Iterator[bytes]:
    """The objects that `git cat-file --batch` gave: each a line `object type size`, the content, and a line's end."""
    position = 0
    while position < len(output):
        end = output.index(b"\n", position)
        identifier, *rest = output[position:end].decode().split()
        if len(rest) != 2:
            raise PolicyctlError(f"git has no object {identifier} (fetch it; a partial clone may lack it)")
        start, position = end + 1, end + 2 + int(rest[1])
        yield output[start : position - 1]


def _output(folder: Path, *args: str, given: bytes | None = None) -> bytes:
    """What a git command prints. Raises PolicyctlError with git's own first line when it fails."""
    ran = _git(folder, *args, given=given)
    if ran.returncode:
        said = without_userinfo(ran.stderr.decode(errors="replace").strip().partition("\n")[0])
        raise PolicyctlError(f"git cannot read the repository around {folder}: {said.removeprefix('fatal: ')}")
    return ran.stdout


def _git(folder: Path, *args: str, given: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    surroundings = {name: value for name, value in os.environ.items() if name not in _LEADS_AWAY}
    try:
        return subprocess.run(  # noqa: S603 - no shell; what users give is a checked revision or a path after --
            ["git", "-C", str(folder), *args],  # noqa: S607 - git, by its name
            input=given or b"",
            env={**surroundings, "LC_ALL": "C", "GIT_TERMINAL_PROMPT": "0"},
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise PolicyctlError("git is not installed, so no revision can be read") from None
    except (OSError, ValueError) as error:
        raise PolicyctlError(f"git cannot be run: {error}") from None
    except subprocess.TimeoutExpired:
        raise PolicyctlError(f"git did not answer in {_SECONDS} s") from None
