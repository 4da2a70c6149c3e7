"""The only module that runs git, so that nothing in a checkout chooses the repository or makes git run a program.

The files of a checkout may be hostile. So the repository is found here, by its `.git` alone, and every call names it. Only
commands that read objects, refs and the index are run, never one that converts or compares contents: filters, text
conversions and diff programs of the configuration do not run. Nothing is fetched into a checkout: a mirror, which has none, is
the one thing that `fetch_mirror` fills. See manual/threat-model.md.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from policyctl.errors import PolicyctlError, Refused
from policyctl.load.git import as_named, git_folder, index_stamp, is_ours, is_shallow, repository_top, resolved
from policyctl.policy.findings import without_userinfo
from policyctl.policy.memo import MOST

_SECONDS = 60
WHOLE_HISTORY = "fetch the whole history (actions/checkout: fetch-depth: 0, GitLab: GIT_DEPTH: 0)"
_WHOLE_CLONE = "fetch everything with git fetch --refetch --no-filter (actions/checkout: leave out filter and sparse-checkout)"

# These replace every GIT_* variable: a hook sets some that name another repository or index, others name programs.
_INSTEAD = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_GRAFT_FILE": os.devnull,
    "GIT_NO_LAZY_FETCH": "1",  # since git 2.45; older releases are stopped by allowing no protocol
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
    "advice.graftFileDeprecated=false",  # it would be the first line of each error
)
_OVER = tuple(word for setting in _SETTINGS for word in ("-c", setting))


class MissingObject(PolicyctlError):
    """The repository lacks an object: it is a partial clone, or damaged."""


_SHORT = 16 * 1024  # bytes of an output that is kept; of those at most as many as of anything that is remembered
_KNOWN: dict[tuple[Repository, tuple[int, ...], tuple[str, ...], bytes], bytes] = {}


@dataclass(frozen=True)
class Repository:
    """A repository with a working tree: the directory with its `.git`, and where git stores it."""

    top: Path
    git_folder: Path

    def path_of(self, directory: Path) -> str:
        """The path of a directory from the top, links followed, with `/` at its end; empty for the top itself.

        For what is on the disk; `named_in` finds the directory of a revision. Raises PolicyctlError for a directory inside
        git's own.
        """
        return _folder(directory, directory.resolve().relative_to(self.top))

    def output(self, *args: str, given: bytes = b"") -> bytes:
        """The output of a git command. Raises PolicyctlError with the first line of git's message when it fails."""
        ran = self.run(*args, given=given)
        if ran.returncode:
            self.fail(ran.stderr)
        return ran.stdout

    def fail(self, stderr: bytes) -> None:
        """Raise PolicyctlError for a git command that failed with this output."""
        message = without_userinfo(stderr.decode(errors="replace").strip())
        if "promisor remote" in message:
            raise MissingObject(f"{self.top} is a partial clone, which lacks an object that is needed; {_WHOLE_CLONE}")
        first = message.partition("\n")[0].removeprefix("fatal: ")
        raise PolicyctlError(f"git cannot read the repository around {self.top}: {first}")

    def run(self, *args: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        """Run one git command on this repository. Paths are relative to the top and are not patterns."""
        where = (f"--git-dir={self.git_folder}", f"--work-tree={self.top}", "--no-pager")
        return _run(self.top, (*_OVER, *where, *args), _INSTEAD, given)

    def is_ancestor(self, commit: str, of: str = "HEAD") -> bool:
        """Whether a commit is in the history of another one. One that is not here is in none."""
        return self.run("merge-base", "--is-ancestor", commit, of).returncode == 0

    def of_objects(self, *args: str, given: bytes = b"") -> bytes:
        """The output of a git command that names objects by their full ids, and nothing else of the repository: what they hold
        never changes, so it is run once. Raises as `output`; an object that is missing may be there the next time."""
        return self._once((), args, given)

    def of_history(self, *args: str, given: bytes = b"") -> bytes:
        """The same for one that follows the parents of commits too, of which more may be fetched into a shallow clone."""
        return self.output(*args, given=given) if self.is_shallow else self.of_objects(*args, given=given)

    def of_index(self, *args: str) -> bytes:
        """The output of a git command that reads the index and nothing else, run once for as long as git does not write it."""
        return self._once(index_stamp(self.git_folder), args)

    def _once(self, state: tuple[int, ...], args: tuple[str, ...], given: bytes = b"") -> bytes:
        key = (self, state, args, given)
        if (known := _KNOWN.get(key)) is None:
            known = self.output(*args, given=given)
            if len(given) + len(known) <= _SHORT and b" missing\n" not in known:
                if len(_KNOWN) >= MOST:
                    _KNOWN.clear()
                _KNOWN[key] = known
        return known

    def sizes(self, ids: Sequence[str]) -> list[int | None]:
        """The sizes of objects in bytes; None for an object that the repository lacks."""
        if not ids:
            return []
        try:
            lines = self.of_objects("cat-file", "--batch-check=%(objectsize)", given=_lines(ids)).decode().splitlines()
        except MissingObject:
            return [None] * len(ids)
        return [None if line.endswith("missing") else int(line) for line in lines]

    def contents(self, ids: Sequence[str]) -> list[bytes]:
        """The contents of objects, read together. Raises MissingObject if the repository lacks one."""
        if not ids:
            return []
        found = list(self._objects(self.of_objects("cat-file", "--batch", given=_lines(ids))))
        if len(found) != len(ids):
            raise PolicyctlError(f"git did not return all objects of the repository {self.top}")
        return found

    def _objects(self, output: bytes) -> Iterator[bytes]:
        """The objects in the output of `git cat-file --batch`: each a line `object type size`, the content, and a line feed."""
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
        """Whether this is a sparse checkout, which leaves files out."""
        return self.run("config", "--type=bool", "--get", "core.sparseCheckout").stdout.strip() == b"true"

    @cached_property
    def is_shallow(self) -> bool:
        """Whether this is a shallow clone, whose history is incomplete."""
        return is_shallow(self.git_folder)


def find_repository(directory: Path) -> Repository | None:
    """The repository around a directory, which need not exist; None outside a repository.

    Raises PolicyctlError for a repository of another user, which git would not read.
    """
    top = repository_top(directory.resolve())
    return None if top is None else _repository_at(top)


def _repository_at(top: Path) -> Repository:
    top = top.resolve()
    require_trust(top)
    return Repository(top, git_folder(top))


def named_in(directory: Path) -> tuple[Repository, str] | None:
    """The repository around a directory's path as written, and the path from its top as in `path_of`; None outside one.

    A branch that puts a link or a submodule on that path would choose the directory, or the history, that a revision is read
    from: both raise Refused. Links above the top belong to the machine. Raises PolicyctlError as `find_repository` and
    `path_of` do.
    """
    path = as_named(directory)
    top = repository_top(path)
    if top is None:
        return None
    repository = _repository_at(top)
    below = path.relative_to(top)
    if resolved(directory) != repository.top / below:
        raise Refused(
            f"{directory} is a link or below one, so its content at a revision is not known; "
            "replace the link by the directory, or name the directory that it leads to"
        )
    if _is_brought(top):
        raise Refused(
            f"{directory} is in a submodule, or in a repository that a link leads to ({repository.top}), which each "
            "branch chooses; keep the policies in the repository itself"
        )
    return repository, _folder(directory, below)


def _is_brought(top: Path) -> bool:
    """Whether a repository around this one has it as a submodule, or has a link on the path to it."""
    above = repository_top(top.parent)
    if above is None:
        return False
    ways = [path for path in (top, *top.parents) if above in path.parents and (path == top or path.is_symlink())]
    paths = [path.relative_to(above).as_posix() for path in ways]
    listed = os.fsdecode(_repository_at(above).output("ls-files", "-s", "-z", "--", *paths)).split("\0")
    return any(line.startswith(("120000 ", "160000 ")) and line.partition("\t")[2] in paths for line in listed)


def _folder(directory: Path, below: Path) -> str:
    if ".git" in below.parts:
        raise PolicyctlError(f"{directory} is not in a working tree, so it is not a directory of any revision")
    return "".join(f"{part}/" for part in below.parts)


def require_trust(top: Path) -> None:
    """Raise PolicyctlError for a repository of another user, unless git is configured to trust it (`safe.directory`)."""
    if is_ours(top):
        return
    # Only here git finds the repository itself, with the user's own configuration, which has `safe.directory`.
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


_FETCH_SECONDS, _LOOK_SECONDS = 900, 0.2  # at most; between two looks whether to stop
_MIRRORED = "refs/heads/mirrored"
# The mirror and its configuration are our own, and what is fetched is not looked at. So the user's configuration holds, with
# its proxies and the helpers that know credentials.
_KEPT = ("GIT_SSH", "GIT_ASKPASS", "GIT_PROXY", "GIT_CONFIG", "GIT_SSL_CAINFO")
_FETCHING = {"GIT_TERMINAL_PROMPT": "0", "GIT_ALLOW_PROTOCOL": "https:ssh:file", "GIT_OPTIONAL_LOCKS": "0"}


def fetch_mirror(top: Path, source: str, ref: str, stopped: Callable[[], bool] = lambda: False) -> str:
    """Fetch a reference of a repository, with its history, into a mirror, which is created if it does not exist.

    The mirror is a working tree without files at `top`. Its HEAD, whose id is returned, is what was fetched. Raises
    PolicyctlError with git's message, and once it was `stopped`.
    """
    if (top / ".git").exists():
        _tidy(top / ".git")
    else:
        _make_mirror(stopped, top)
    name = ref if ref == "HEAD" or ref.startswith("refs/") else f"refs/heads/{ref}"
    options = ("--quiet", "--force", "--no-tags", "--no-recurse-submodules", "--no-auto-maintenance", "--no-write-fetch-head")
    where = (f"--git-dir={top / '.git'}", "--no-pager")
    _mirror(stopped, top, *where, "fetch", *options, "--", source, f"+{name}:{_MIRRORED}")
    repository = Repository(top.resolve(), top.resolve() / ".git")
    return repository.output("rev-parse", "--verify", f"{_MIRRORED}^{{commit}}").decode().strip()


def _make_mirror(stopped: Callable[[], bool], top: Path) -> None:
    """Make the mirror aside, so that it is whole once it is there."""
    with tempfile.TemporaryDirectory(dir=top, prefix="new-") as folder:
        made = Path(folder, "mirror")
        _mirror(stopped, top.parent, "init", "--quiet", "--bare", "--template=", "--initial-branch=mirrored", str(made))
        with suppress(OSError):  # another process made it meanwhile
            made.rename(top / ".git")


def _tidy(mirror: Path) -> None:
    """Remove what a git that was killed left in a mirror: locks, with which every later fetch fails, and parts of packs.

    What is older than the longest fetch is of none that runs.
    """
    for pattern in ("*.lock", "refs/**/*.lock", "objects/pack/tmp_*"):
        for left in mirror.glob(pattern):
            with suppress(OSError):
                if time.time() - left.stat().st_mtime > _FETCH_SECONDS:
                    left.unlink()


def _mirror(stopped: Callable[[], bool], folder: Path, *args: str) -> None:
    """Run a git command that makes or fills a mirror; end it, with the programs that it runs, once `stopped`."""
    kept = {name: value for prefix in _KEPT for name, value in _kept(prefix).items()}
    command, surroundings = ["git", "-C", str(folder), *_OVER, *args], _surroundings(kept | _FETCHING)
    end = time.monotonic() + _FETCH_SECONDS
    with _explained(), subprocess.Popen(  # noqa: S603 - as in `_run`
        command, env=surroundings, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:  # fmt: skip
        while True:
            try:
                _, errors = process.communicate(timeout=_LOOK_SECONDS)
                break
            except subprocess.TimeoutExpired:
                if stopped() or time.monotonic() > end:
                    os.killpg(process.pid, signal.SIGKILL)
                    why = "it was stopped" if stopped() else f"git did not answer in {_FETCH_SECONDS:g} s"
                    raise PolicyctlError(f"the source cannot be fetched: {why}") from None
    if process.returncode:
        lines = without_userinfo(errors.decode(errors="replace").strip()).splitlines()
        first = next((line for line in lines if line.startswith("fatal: ")), lines[0] if lines else "it failed")
        raise PolicyctlError(f"the source cannot be fetched: {first.removeprefix('fatal: ')}")


def _run(
    folder: Path, args: Sequence[str], more: dict[str, str], given: bytes = b"", seconds: float = _SECONDS
) -> subprocess.CompletedProcess[bytes]:
    command = ["git", "-C", str(folder), *args]  # the git that the user has on PATH is the one to ask
    try:
        with _explained():
            return subprocess.run(  # noqa: S603 - no shell; what users give is a checked revision or a path after --
                command,
                input=given or None,
                stdin=None if given else subprocess.DEVNULL,
                env=_surroundings(more),
                capture_output=True,
                timeout=seconds,
                check=False,
            )
    except subprocess.TimeoutExpired:
        raise PolicyctlError(f"git did not answer in {seconds:g} s") from None


def _surroundings(more: dict[str, str]) -> dict[str, str]:
    """The environment variables of a git command."""
    found = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    # A relative entry could find a program called git in the checkout.
    found["PATH"] = os.pathsep.join(filter(os.path.isabs, os.get_exec_path()))
    return {**found, **more, "LC_ALL": "C"}


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise PolicyctlError("git is not installed, so the repository cannot be read; install git") from None
    except (OSError, ValueError) as error:
        raise PolicyctlError(f"git cannot be run: {error}") from None
