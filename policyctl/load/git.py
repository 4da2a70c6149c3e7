"""Files as they were at a git revision, read from the object store: nothing is checked out, no hook or filter runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

from policyctl.errors import PolicyctlError, UsageError
from policyctl.load.source import Source, source_of

_SECONDS = 60


def read_at(path: Path, revision: str) -> Source | None:
    """A file as it was at a revision, None when it was not there. Its name is given as `REVISION:path`.

    Raises UsageError for an unknown revision, PolicyctlError when there is no git or the file lies in no repository, and
    InvalidInput when what the file held cannot be parsed.
    """
    folder = path.resolve().parent
    found = _git(folder, "rev-parse", "--verify", "--quiet", "--end-of-options", f"{revision}^{{commit}}")
    if found.returncode:
        _git_or_raise(folder, path, "rev-parse", "--git-dir")
        raise UsageError(f"git knows no revision {revision!r} (fetch it, or name another)")
    commit = found.stdout.decode().strip()
    blob = _git(folder, "cat-file", "blob", f"{commit}:./{path.name}")
    return None if blob.returncode else source_of(blob.stdout, f"{revision}:{path}")


def _git_or_raise(folder: Path, path: Path, *args: str) -> None:
    ran = _git(folder, *args)
    if ran.returncode:
        raise PolicyctlError(f"{path} is in no git repository, so there is no revision to compare with")


def _git(folder: Path, *args: str) -> subprocess.CompletedProcess[bytes]:
    try:
        return subprocess.run(["git", "-C", str(folder), *args], capture_output=True, timeout=_SECONDS, check=False)  # noqa: S603, S607 - git, by its name
    except FileNotFoundError:
        raise PolicyctlError("git is not installed, so no revision can be read") from None
    except subprocess.TimeoutExpired:
        raise PolicyctlError(f"git did not answer in {_SECONDS} s") from None
