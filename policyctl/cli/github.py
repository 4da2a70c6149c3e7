"""Running as a step of GitHub Actions: where the repository is, and the files that a step leaves its results in."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from policyctl.cli.console import Console
from policyctl.errors import PolicyctlError

if TYPE_CHECKING:
    from policyctl.core.guards import Review

_LEAST = 1000  # bytes; with less room nothing that helps can be said


def is_github() -> bool:
    """Whether this is a step of a workflow; other services set one of the two variables."""
    return bool(os.environ.get("GITHUB_ACTIONS") and os.environ.get("GITHUB_WORKFLOW"))


def repository_path(file: str) -> str:
    """A file's path from the repository's top, with `/`; an absolute one when it lies elsewhere."""
    path = Path(file).parent.resolve() / Path(file).name
    top = _top()
    return path.relative_to(top).as_posix() if path.is_relative_to(top) else path.as_posix()


def tell_plan(review: Review, remote: str, plan_file: Path | None, console: Console) -> None:
    """Leave a plan's summary and outputs for the workflow, where it asks for them; `remote` is as the user wrote it.

    Raises PolicyctlError when the outputs cannot be written: what comes later decides by them.
    """
    if path := os.environ.get("GITHUB_OUTPUT"):
        from policyctl.report.github import step_outputs

        try:
            _append(path, step_outputs(review, None if plan_file is None else str(plan_file)))
        except OSError as error:
            raise PolicyctlError(f"GITHUB_OUTPUT: {path} cannot be written: {error.strerror}") from None
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        from policyctl.report.github import step_summary
        from policyctl.report.plan_text import plan_text
        from policyctl.report.style import Style

        text = plan_text(review, remote, Style(), verbose=console.verbose)
        _summarise(path, lambda room: step_summary(review, text, room), console)


def tell_outcome(text: str, console: Console) -> None:
    """Add what became of a plan to the step's summary, where the workflow asks for one."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        from policyctl.report.github import fenced

        _summarise(path, lambda room: fenced(text, room), console)


def _summarise(path: str, text_within: Callable[[int], str], console: Console) -> None:
    """Add a text of at most so many bytes to a step's summary; that is for reading only, and stops nothing if it cannot be."""
    try:
        if (room := _room(path)) < _LEAST:
            console.say("GITHUB_STEP_SUMMARY: the step's summary is full; this is not in it")
        else:
            _append(path, text_within(room))
    except OSError as error:
        console.say(f"GITHUB_STEP_SUMMARY: {path} cannot be written: {error.strerror}; there is no summary")


def _append(path: str, text: str) -> None:
    with open(path, "a", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(text)


def _room(path: str) -> int:
    """How much may still be added to a step's summary."""
    from policyctl.report.github import SUMMARY_BYTES

    file = Path(path)
    return SUMMARY_BYTES - (file.stat().st_size if file.is_file() else 0)


def _top() -> Path:
    """The checkout of the workflow, else the repository around the working directory, else that directory."""
    here = Path.cwd().resolve()
    if workspace := os.environ.get("GITHUB_WORKSPACE"):
        return Path(workspace).resolve()
    return next((folder for folder in (here, *here.parents) if (folder / ".git").exists()), here)
