"""Git repositories for tests, made with the git command."""

from __future__ import annotations

import atexit
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

# Nothing of the machine's own configuration decides what a test's repository is.
SURROUNDINGS = {
    **{name: value for name, value in os.environ.items() if not name.startswith("GIT_")},
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_CONFIG_NOSYSTEM": "1",
    # After each commit git would start two more processes, to see whether there is something to tidy up.
    "GIT_CONFIG_COUNT": "1",
    "GIT_CONFIG_KEY_0": "maintenance.auto",
    "GIT_CONFIG_VALUE_0": "false",
    "GIT_AUTHOR_NAME": "test",
    "GIT_AUTHOR_EMAIL": "test@example.invalid",
    "GIT_COMMITTER_NAME": "test",
    "GIT_COMMITTER_EMAIL": "test@example.invalid",
}


def git(folder: Path, *args: str) -> str:
    """What a git command prints in a folder."""
    ran = subprocess.run(["git", "-C", str(folder), *args], env=SURROUNDINGS, capture_output=True, text=True, check=True)
    return ran.stdout


def commit(folder: Path, below: str = ".") -> str:
    """Commit everything `below` a folder, which becomes a repository if it is none; the commit's id."""
    if not (folder / ".git").exists():
        shutil.copytree(_empty(), folder / ".git")
    git(folder, "add", "--all", "--force", "--", below)
    git(folder, "commit", "--quiet", "--allow-empty", "--message=x")
    return checked_out(folder)


@cache
def _empty() -> Path:
    """What git stores of a repository without a commit: made once, since a copy takes less time than git does."""
    folder = Path(tempfile.mkdtemp(prefix="policyctl-repository-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    git(folder, "init", "--quiet", "--initial-branch=main", "--template=")
    return folder / ".git"


def checked_out(folder: Path) -> str:
    """The id of the commit that is checked out; read here where one was just made, since git takes its time to start."""
    try:
        head = (folder / ".git" / "HEAD").read_text("ascii").strip()
        return (folder / ".git" / head.removeprefix("ref: ")).read_text("ascii").strip() if head.startswith("ref: ") else head
    except OSError:  # another directory has it: a worktree, a submodule
        return git(folder, "rev-parse", "HEAD").strip()
