"""The one place that runs git, so that nothing in a checkout decides which repository it reads or makes it run anything.

Whoever wrote the files of a checkout may be hostile. So the repository is found here, by its `.git` alone, and every call
names it. Only commands that read objects, refs and the index are run, and never one that converts or compares contents: a
filter, a text conversion or a diff program of the configuration has nothing to do. Nothing is fetched.
"""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from policyctl.errors import PolicyctlError, Refused
from policyctl.load.git.place import git_folder, is_ours, repository_top
from policyctl.policy.findings import without_userinfo

_SECONDS = 60
WHOLE_HISTORY = "fetch the whole history (actions/checkout: fetch-depth: 0, GitLab: GIT_DEPTH: 0)"
_WHOLE_CLONE = "fetch everything with git fetch --refetch --no-filter (actions/checkout: leave out filter and sparse-checkout)"

# Instead of every GIT_* of the environment: a hook's lead to another repository or index, others to programs.
_INSTEAD = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_GRAFT_FILE": os.devnull,
    "GIT_NO_LAZY_FETCH": "1",  # since git 2.45; before it, no protocol that a promisor remote could have is allowed
    "GIT_ALLOW_PROTOCOL": "",
    "GIT_LITERAL_PATHSPECS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
}
_SETTINGS = (
    "safe.bareRepository=explicit",
    "core.fsmonitor=false",
    f"core.hooksPath={os.devnull}",
    f"core.attributesFile={os.devnull}",
    "core.untrackedCache=false",
    "fetch.bundleURI=",
)
_OVER = tuple(word for setting in _SETTINGS for word in ("-c", setting))


class MissingObject(PolicyctlError):
    """The repository does not hold an object that it should: it is a partial clone, or damaged."""


@dataclass(frozen=True)
class Repository:
    """A repository with a working tree: the directory that has its `.git`, and where git keeps it."""

    top: Path
    git_folder: Path

    def path_of(self, directory: Path) -> str:
        """Where a directory lies now, links followed, from the top, with `/` at its end; empty for the top itself.

        Only for what is on the disk: which directory of a revision it is, `named_in` decides. Raises PolicyctlError for one
        that lies in git's own directory.
        """
        return _folder(directory, directory.resolve().relative_to(self.top))

    def output(self, *args: str, given: bytes = b"") -> bytes:
        """What a git command prints. Raises PolicyctlError with git's own first line when it fails."""
        ran = self.run(*args, given=given)
        if ran.returncode:
            self.fail(ran.stderr)
        return ran.stdout

    def fail(self, stderr: bytes) -> None:
        """Raise PolicyctlError for what git printed when it failed."""
        said = without_userinfo(stderr.decode(errors="replace").strip())
        if "promisor remote" in said:
            raise MissingObject(f"{self.top} is a partial clone, which lacks something that is needed here; {_WHOLE_CLONE}")
        first = said.partition("\n")[0].removeprefix("fatal: ")
        raise PolicyctlError(f"git cannot read the repository around {self.top}: {first}")

    def run(self, *args: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run one git command on this repository; its paths are relative to the top, and never patterns."""
        where = (f"--git-dir={self.git_folder}", f"--work-tree={self.top}", "--no-pager")
        return _run(self.top, (*_OVER, *where, *args), _INSTEAD, given)

    def sizes(self, ids: Sequence[str]) -> list[int | None]:
        """The sizes of objects, in bytes; None for one that the repository does not hold."""
        if not ids:
            return []
        try:
            lines = self.output("cat-file", "--batch-check=%(objectsize)", given=_lines(ids)).decode().splitlines()
        except MissingObject:
            return [None] * len(ids)
        return [None if line.endswith("missing") else int(line) for line in lines]

    def contents(self, ids: Sequence[str]) -> list[bytes]:
        """What objects hold, in one go. Raises MissingObject when the repository does not hold all of them."""
        if not ids:
            return []
        found = list(self._objects(self.output("cat-file", "--batch", given=_lines(ids))))
        if len(found) != len(ids):
            raise PolicyctlError(f"git did not give all that was asked for of the repository {self.top}")
        return found

    def _objects(self, output: bytes) -> Iterator[bytes]:
        """The objects that `git cat-file --batch` gave: each a line `object type size`, the content, and a line's end."""
        position = 0
        while position < len(output):
            end = output.index(b"\n", position)
            identifier, *rest = output[position:end].decode().split()
            if len(rest) != 2:
                raise MissingObject(f"git has no object {identifier} in {self.top}; {_WHOLE_CLONE}")
            start, position = end + 1, end + 2 + int(rest[1])
            yield output[start : position - 1]

    @cached_property
    def is_sparse(self) -> bool:
        """Whether its checkout is meant to leave files out."""
        return self.run("config", "--type=bool", "--get", "core.sparseCheckout").stdout.strip() == b"true"

    @cached_property
    def is_shallow(self) -> bool:
        """Whether the history ends early."""
        return self.output("rev-parse", "--is-shallow-repository").strip() == b"true"


def find_repository(directory: Path) -> Repository | None:
    """The repository around a directory, which need not be there; None outside of one.

    Raises PolicyctlError for one that git would not touch, since it belongs to another user.
    """
    top = repository_top(directory.resolve())
    return None if top is None else _repository_at(top)


def _repository_at(top: Path) -> Repository:
    top = top.resolve()
    require_trust(top)
    return Repository(top, git_folder(top))


def named_in(directory: Path) -> tuple[Repository, str] | None:
    """The repository that a directory's path, as it is named, leads into, and the path from its top as `path_of` writes it;
    None outside of one.

    Whoever brings a link or a submodule to that path would choose the directory, or the history, that a revision is read
    from. So this raises Refused for either. Links above the top are the machine's own. Raises PolicyctlError as
    `find_repository` and `path_of` do.
    """
    path = _as_named(directory)
    top = repository_top(path)
    if top is None:
        return None
    repository = _repository_at(top)
    below = path.relative_to(top)
    if _resolved(directory) != repository.top / below:
        raise Refused(
            f"{directory} is a link or lies behind one, so a revision cannot show what it was; "
            "replace the link by the directory, or name the directory that it leads to"
        )
    if _is_brought(top):
        raise Refused(
            f"{directory} is in a submodule, or in a repository that a link leads to ({repository.top}), and each branch "
            "chooses which; keep the policies in the repository itself"
        )
    return repository, _folder(directory, below)


def _as_named(directory: Path) -> Path:
    """The absolute path, with no link followed: not even one that the shell took to the working directory, where it says so."""
    here = os.environ.get("PWD", "")
    with suppress(OSError):
        if os.path.isabs(here) and ".." not in directory.parts and os.path.samefile(here, os.curdir):
            return Path(os.path.abspath(os.path.join(here, directory)))
    return Path(os.path.abspath(directory))


def _resolved(path: Path) -> Path | None:
    """Where a path leads; None for a link that leads back to itself, which Python before 3.13 refuses to resolve."""
    try:
        return path.resolve()
    except RuntimeError:
        return None


def _is_brought(top: Path) -> bool:
    """Whether another repository around this one has it as a submodule, or has a link on the way to it."""
    above = repository_top(top.parent)
    if above is None:
        return False
    ways = [path for path in (top, *top.parents) if above in path.parents and (path == top or path.is_symlink())]
    paths = [path.relative_to(above).as_posix() for path in ways]
    listed = os.fsdecode(_repository_at(above).output("ls-files", "-s", "-z", "--", *paths)).split("\0")
    return any(line.startswith(("120000 ", "160000 ")) and line.partition("\t")[2] in paths for line in listed)


def _folder(directory: Path, below: Path) -> str:
    if ".git" in below.parts:
        raise PolicyctlError(f"{directory} is in no working tree, so it is not a directory of any revision")
    return "".join(f"{part}/" for part in below.parts)


def require_trust(top: Path) -> None:
    """Raise PolicyctlError for a repository of another user, unless git was told to trust it (`safe.directory`)."""
    if is_ours(top):
        return
    # Here alone git finds the repository by itself, and with the user's own configuration: that is where trust is written.
    alone = {**_kept("GIT_CONFIG"), "GIT_CEILING_DIRECTORIES": str(top.parent), "GIT_TERMINAL_PROMPT": "0"}
    ran = _run(top, (*_OVER[:2], "rev-parse", "--git-dir"), alone)
    if b"dubious ownership" in ran.stderr or b"unsafe repository" in ran.stderr:
        raise PolicyctlError(
            f"the repository {top} belongs to another user, so git does not trust it (dubious ownership); "
            f"if you do: git config --global --add safe.directory {shlex.quote(str(top))}"
        )
    if ran.returncode:
        Repository(top, git_folder(top)).fail(ran.stderr)


def _lines(ids: Sequence[str]) -> bytes:
    return "".join(f"{identifier}\n" for identifier in ids).encode()


def _kept(prefix: str) -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if name.startswith(prefix)}


def _run(folder: Path, args: Sequence[str], more: dict[str, str], given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    surroundings = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # A relative entry would lead to a program called git in the checkout.
    surroundings["PATH"] = os.pathsep.join(filter(os.path.isabs, os.get_exec_path()))
    try:
        return subprocess.run(  # noqa: S603 - no shell; what users give is a checked revision or a path after --
            ["git", "-C", str(folder), *args],  # noqa: S607 - git, by its name
            input=given,
            env={**surroundings, **more, "LC_ALL": "C"},
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except FileNotFoundError:
        raise PolicyctlError("git is not installed, so the repository cannot be read; install git") from None
    except (OSError, ValueError) as error:
        raise PolicyctlError(f"git cannot be run: {error}") from None
    except subprocess.TimeoutExpired:
        raise PolicyctlError(f"git did not answer in {_SECONDS} s") from None
