"""Running as a step of GitHub Actions: where the repository is, and the files for summaries and outputs."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from policyctl.cli.console import Console
from policyctl.errors import PolicyctlError
from policyctl.load.git import repository_top
from policyctl.policy.memo import late_pattern

if TYPE_CHECKING:
    from policyctl.plan.fleet import FleetResult
    from policyctl.plan.safety import Review
    from policyctl.report.fleet import FleetView
    from policyctl.report.plan_view import PlanView, Provenance

_LONGEST_MOMENT = 11  # digits of a number of seconds that is a date
_RUN = late_pattern(r"https?://[\w.:-]+/[\w.-]+/[\w.-]+/actions/runs/\d+")


def is_github() -> bool:
    """Whether this is a step of a GitHub workflow; other services may set one of the two variables."""
    return bool(os.environ.get("GITHUB_ACTIONS") and os.environ.get("GITHUB_WORKFLOW"))


def is_ci() -> bool:
    """Whether this runs on a CI service, where only reviewed files should be read."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false") or is_github()


def repository_path(file: str) -> str:
    """A file's path from the repository's top, with `/`; an absolute path when it is not in the repository."""
    path = Path(file).parent.resolve() / Path(file).name
    top = _top()
    return path.relative_to(top).as_posix() if path.is_relative_to(top) else path.as_posix()


def view_of(review: Review, remote: str, directory: Path, console: Console, *, page: bool = False) -> PlanView:
    """A plan to show, with its directory and CI run; `remote` is as the user wrote it. A `page` shows its provenance."""
    from policyctl.report.plan_view import NO_PROVENANCE, PlanView

    made = provenance(directory) if page or os.environ.get("GITHUB_STEP_SUMMARY") else NO_PROVENANCE
    return PlanView(review, remote, console.verbose, repository_path(str(directory)), run_page(), made)


def fleet_view_of(fleet: FleetResult, directory: Path) -> FleetView:
    """The plans of several environments to show, with their directory, CI run and provenance."""
    from policyctl.report.fleet import FleetView

    return FleetView(fleet, repository_path(str(directory)), run_page(), provenance(directory))


def provenance(directory: Path) -> Provenance:
    """When and where a page is made: what the CI service names, else the commit and branch that are checked out.

    The address of a repository may have a password, so outside a CI service the repository is not named.
    """
    from importlib.metadata import version

    from policyctl.ci import origin_in
    from policyctl.report.plan_view import Provenance

    seconds = os.environ.get("SOURCE_DATE_EPOCH", "")
    is_moment = seconds.isdecimal() and len(seconds) <= _LONGEST_MOMENT
    now = datetime.fromtimestamp(int(seconds), UTC) if is_moment else datetime.now(UTC)
    origin = origin_in(os.environ)
    if not origin.commit:
        from policyctl.load.git.checkout import checked_out_head  # imports subprocess

        branch, commit = checked_out_head(directory)
        origin = origin._replace(branch=branch, commit=commit)
    return Provenance(now.strftime("%Y-%m-%d %H:%M UTC"), *origin, version("policyctl"))


def write_plan_summary(view: PlanView, plan_file: Path | None, console: Console) -> None:
    """Write a plan's step summary and step outputs, if the workflow has files for them.

    Raises PolicyctlError when the outputs cannot be written, because later steps depend on them.
    """
    if path := os.environ.get("GITHUB_OUTPUT"):
        from policyctl.report.plan_json import step_outputs

        _write_outputs(path, step_outputs(view.review, None if plan_file is None else str(plan_file)))
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        from policyctl.report.plan_markdown import plan_markdown

        _summarise(path, lambda room: plan_markdown(view, room - 1) + "\n", console)


def write_fleet_summary(view: FleetView, plan_file: Path | None, console: Console) -> None:
    """The same for the plans of several environments."""
    if path := os.environ.get("GITHUB_OUTPUT"):
        from policyctl.report.fleet import fleet_outputs

        _write_outputs(path, fleet_outputs(view.fleet, None if plan_file is None else str(plan_file)))
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        from policyctl.report.plan_markdown import fleet_markdown

        _summarise(path, lambda room: fleet_markdown(view, room - 1) + "\n", console)


def write_stop_summary(why: str, console: Console) -> None:
    """Write to the step summary why the plan that follows is not applied."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        from policyctl.report.markdown import alert

        _summarise(path, lambda _: alert(why), console)


def write_outcome_summary(text: str, console: Console) -> None:
    """Add the outcome of an apply to the step summary."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        from policyctl.report.markdown import fenced

        _summarise(path, lambda room: fenced(text, room), console)


def run_page() -> str | None:
    """The web page of this workflow run, which has the files that it saved; None outside GitHub."""
    server, repository, run = (os.environ.get(f"GITHUB_{name}") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID"))
    url = f"{server}/{repository}/actions/runs/{run}"
    return url if _RUN.fullmatch(url) else None


def _write_outputs(path: str, text: str) -> None:
    try:
        _append(path, text)
    except OSError as error:
        raise PolicyctlError(f"GITHUB_OUTPUT: {path} cannot be written: {error.strerror}") from None


def _summarise(path: str, text_within: Callable[[int], str], console: Console) -> None:
    """Add a text to the step summary, given the bytes left. The summary is for people only, so a failure stops nothing."""
    from policyctl.report.plan_markdown import LEAST_BYTES

    try:
        if (room := _room(path)) < LEAST_BYTES:
            console.say("GITHUB_STEP_SUMMARY: the step summary is full, so this is not in it")
        else:
            _append(path, text_within(room))
    except OSError as error:
        console.say(f"GITHUB_STEP_SUMMARY: {path} cannot be written: {error.strerror}; so the summary is missing")


def _append(path: str, text: str) -> None:
    with open(path, "a", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(text)


def _room(path: str) -> int:
    """How many bytes may still be added to the step summary."""
    from policyctl.report.markdown import SUMMARY_BYTES

    file = Path(path)
    return SUMMARY_BYTES - (file.stat().st_size if file.is_file() else 0)


def _top() -> Path:
    """The checkout of the workflow, else the repository around the working directory, else that directory."""
    if workspace := os.environ.get("GITHUB_WORKSPACE"):
        return Path(workspace).resolve()
    here = Path.cwd().resolve()
    return repository_top(here) or here
