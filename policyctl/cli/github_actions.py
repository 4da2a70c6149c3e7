"""Running as a step of GitHub Actions: where the repository is, and the files for summaries and outputs."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from policyctl.cli.console import Console
from policyctl.errors import PolicyctlError
from policyctl.load.git.place import repository_top

if TYPE_CHECKING:
    from policyctl.plan.safety import Review
    from policyctl.report.plan_view import PlanView

_RUN = re.compile(r"https?://[\w.:-]+/[\w.-]+/[\w.-]+/actions/runs/\d+")


def is_github() -> bool:
    """Whether this is a step of a workflow; other services set one of the two variables."""
    return bool(os.environ.get("GITHUB_ACTIONS") and os.environ.get("GITHUB_WORKFLOW"))


def is_ci() -> bool:
    """Whether this is a run of a CI service, where what is read should be what was reviewed."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false") or is_github()


def repository_path(file: str) -> str:
    """A file's path from the repository's top, with `/`; an absolute one when it lies elsewhere."""
    path = Path(file).parent.resolve() / Path(file).name
    top = _top()
    return path.relative_to(top).as_posix() if path.is_relative_to(top) else path.as_posix()


def view_of(review: Review, remote: str, directory: Path, console: Console) -> PlanView:
    """A plan to show, with where it belongs; `remote` is as the user wrote it."""
    from policyctl.report.plan_view import PlanView

    return PlanView(review, remote, console.verbose, repository_path(str(directory)), run_page())


def write_plan_summary(view: PlanView, plan_file: Path | None, console: Console) -> None:
    """Leave a plan's summary and outputs for the workflow, where it asks for them.

    Raises PolicyctlError when the outputs cannot be written: what comes later decides by them.
    """
    if path := os.environ.get("GITHUB_OUTPUT"):
        from policyctl.report.plan_json import step_outputs

        try:
            _append(path, step_outputs(view.review, None if plan_file is None else str(plan_file)))
        except OSError as error:
            raise PolicyctlError(f"GITHUB_OUTPUT: {path} cannot be written: {error.strerror}") from None
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        from policyctl.report.plan_markdown import plan_markdown

        _summarise(path, lambda room: plan_markdown(view, room - 1) + "\n", console)


def write_stop_summary(why: str, console: Console) -> None:
    """Say in the step's summary, before the plan, why it is not carried out; where the workflow asks for one."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        from policyctl.report.markdown import alert

        _summarise(path, lambda _: alert(why), console)


def write_outcome_summary(text: str, console: Console) -> None:
    """Add what became of a plan to the step's summary, where the workflow asks for one."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        from policyctl.report.markdown import fenced

        _summarise(path, lambda room: fenced(text, room), console)


def run_page() -> str | None:
    """The page of the run of a workflow that this is part of, which has the files that it saved."""
    server, repository, run = (os.environ.get(f"GITHUB_{name}") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID"))
    url = f"{server}/{repository}/actions/runs/{run}"
    return url if _RUN.fullmatch(url) else None


def _summarise(path: str, text_within: Callable[[int], str], console: Console) -> None:
    """Add a text of at most so many bytes to a step's summary; that is for reading only, and stops nothing if it cannot be."""
    from policyctl.report.plan_markdown import LEAST_BYTES

    try:
        if (room := _room(path)) < LEAST_BYTES:
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
    from policyctl.report.markdown import SUMMARY_BYTES

    file = Path(path)
    return SUMMARY_BYTES - (file.stat().st_size if file.is_file() else 0)


def _top() -> Path:
    """The checkout of the workflow, else the repository around the working directory, else that directory."""
    if workspace := os.environ.get("GITHUB_WORKSPACE"):
        return Path(workspace).resolve()
    here = Path.cwd().resolve()
    return repository_top(here) or here
