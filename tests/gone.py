"""Checkouts that lack a part of what git's index has, each made by git itself."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.git_repo import SURROUNDINGS, commit, git

# The flags and directories below leave `policies/edge` (in it, beta.yaml) out of a repository at the top.


def sparse(top: Path) -> None:
    git(top, "sparse-checkout", "set", "--cone", "policies/core")


def sparse_by_patterns(top: Path) -> None:
    git(top, "sparse-checkout", "set", "--no-cone", "/*", "!edge/")


def skipped(top: Path) -> None:
    git(top, "update-index", "--skip-worktree", "policies/edge/beta.yaml")
    (top / "policies" / "edge" / "beta.yaml").unlink()


def assumed(top: Path) -> None:
    git(top, "update-index", "--assume-unchanged", "policies/edge/beta.yaml")
    (top / "policies" / "edge" / "beta.yaml").unlink()


def add_submodule(top: Path, path: str) -> Path:
    """Make a repository of what lies at a path, and that path a submodule of the repository at the top; the new repository."""
    source = top.parent / f"{top.name}-source"
    (top / path).rename(source)
    commit(source)
    git(top, "rm", "-r", "-q", "--cached", "--ignore-unmatch", path)
    allowed = {**SURROUNDINGS, "GIT_ALLOW_PROTOCOL": "file"}
    add = ["git", "-C", str(top), "submodule", "--quiet", "add", str(source), path]
    subprocess.run(add, env=allowed, capture_output=True, check=True)
    git(top, "commit", "-q", "-m", "a submodule")
    return source


def submodule(top: Path) -> None:
    add_submodule(top, "policies/edge")
    git(top, "submodule", "--quiet", "deinit", "--all", "--force")


# Each with what is left out, and a part of the command that mends it.
GAPS = {
    "a sparse checkout": (sparse, "policies/edge/beta.yaml", "git sparse-checkout disable"),
    "a sparse checkout by patterns": (sparse_by_patterns, "policies/edge/beta.yaml", "git sparse-checkout disable"),
    "skip-worktree": (
        skipped,
        "policies/edge/beta.yaml",
        "git update-index --no-skip-worktree policies/edge/beta.yaml && git checkout -- policies/edge/beta.yaml",
    ),
    "assume-unchanged": (
        assumed,
        "policies/edge/beta.yaml",
        "git update-index --no-assume-unchanged policies/edge/beta.yaml && git checkout -- policies/edge/beta.yaml",
    ),
    "a submodule": (submodule, "policies/edge", "git submodule update --init policies/edge"),
}
