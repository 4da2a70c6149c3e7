"""policyctl plan."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from policyctl.cli.console import Console
from policyctl.cli.github import subject_of, tell_plan
from policyctl.cli.opening import Place, find_place
from policyctl.cli.options import NAMES, Options, with_options
from policyctl.cli.reviewing import raise_if_unsafe, review_directory
from policyctl.cli.selecting import Overrides, with_selection
from policyctl.core.approval import Terms
from policyctl.core.guards import Review
from policyctl.core.plan import Selection
from policyctl.errors import PolicyctlError, UsageError
from policyctl.model.complaints import did_you_mean
from policyctl.report.plain import count
from policyctl.report.renderings import FORMS, Form, render
from policyctl.report.subject import Subject

if TYPE_CHECKING:
    from policyctl.load.base import Base

EPILOG = """\b
Example:
  policyctl plan
  policyctl plan --env prod --detailed-exitcode
  policyctl plan --remote git:origin/main
  policyctl plan --format json | jq -r '.changes[].name'
  policyctl plan --out plan.json --report markdown=plan.md
  policyctl plan --base origin/main --out plan.json
  policyctl plan --out plan.json && policyctl apply plan.json"""


Reports = tuple[tuple[Form, Path], ...]


def _reports(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> Reports:
    return tuple(map(_report, values))


def _report(text: str) -> tuple[Form, Path]:
    """`markdown=plan.md`: a format, and the file to write it to."""
    word, _, path = text.partition("=")
    form = next((form for form in FORMS if form == word), None)
    if form is None:
        raise click.BadParameter(f"there is no format {word}{did_you_mean(word, FORMS)}; known: {', '.join(FORMS)}")
    if not path:
        raise click.BadParameter(f"write {form}=FILE")
    return form, Path(path)


@click.command("plan", epilog=EPILOG)
@click.option("--format", "form", type=click.Choice(FORMS), default="text", show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Save the plan, for apply.")
@click.option(
    "--report",
    "reports",
    multiple=True,
    callback=_reports,
    metavar="FORMAT=FILE",
    help=f"Write the plan in this format ({', '.join(FORMS)}) too; repeatable.",
)
@click.option("--detailed-exitcode", is_flag=True, help="Exit with 2 when there are changes.")
@click.option(
    "--base",
    metavar="REVISION",
    help="Take remote, auth and safety settings from where this branch left REVISION, and say first what it changes in them.",
)
@click.option("--test", "tests", is_flag=True, help="Run the scenario tests too; a plan with a failed one approves nothing.")
@with_selection
@with_options(*NAMES)
def command(
    options: Options,
    form: Form,
    out: Path | None,
    reports: Reports,
    detailed_exitcode: bool,
    base: str | None,
    tests: bool,
    selection: Selection,
    overrides: Overrides,
) -> int:
    """Show what apply would change, field by field. Nothing is written to the remote.

    Long runs that a change leaves as they are read as …, and of a long effect the first rows are shown; -v shows both whole,
    and each policy as it will be.
    """
    return plan(options, form, out, reports, detailed_exitcode, base, tests, selection, overrides)


def plan(
    options: Options,
    form: Form,
    out: Path | None,
    reports: Reports,
    detailed_exitcode: bool,
    base: str | None,
    tests: bool,
    selection: Selection,
    overrides: Overrides,
) -> int:
    _raise_if_one_file([*([out] if out else []), *(path for _, path in reports)])
    console = Console(options)
    held = None if base is None else _read_base(options, base)
    place = find_place(options, base=held)
    review = review_directory(options, place, console, selection, overrides, base=base, tests=tests)
    if held is not None:
        review = _as_merged(review, place, held)
    subject = subject_of(review, place.remote, options.dir, console)
    if out is not None or reports:
        _write_files(out, reports, subject)
    console.result(render(form, subject, console.out_style))
    tell_plan(subject, out, console)
    raise_if_unsafe(review, listed=form == "text")
    if review.failed_tests:
        raise PolicyctlError(f"{count(len(review.failed_tests), 'scenario test')} failed; policyctl test shows how")
    return 2 if detailed_exitcode and review.plan.changes else 0


def _raise_if_one_file(paths: list[Path]) -> None:
    """Raise UsageError when two outputs go to one file: the one that is written last would be all that is left."""
    twice = [path for path, times in Counter(map(Path.absolute, paths)).items() if times > 1]
    if twice:
        raise UsageError(f"--out and --report write {twice[0]} more than once; give each a file of its own")


def _read_base(options: Options, revision: str) -> Base:
    from policyctl.load.base import read_base  # with git behind it

    return read_base(options.dir, revision)


def _write_files(out: Path | None, reports: Reports, subject: Subject) -> None:
    """Write the plan for apply, and its renderings, where they are asked for."""
    from policyctl.core.saved import write_plan  # with pydantic behind it
    from policyctl.load.files import write_atomically

    if out is not None:
        write_atomically(out, write_plan(subject.review.plan), private=True)
    for form, path in reports:
        write_atomically(path, render(form, subject))


def _as_merged(review: Review, place: Place, base: Base) -> Review:
    """The review with what the branch changes in the settings. The plan is one under the branch's own configuration, so that
    its digest is that of the same plan after the merge."""
    merged = place.config.environment(place.environment.name)
    held = place.environment.settings.guard_exceptions
    later = [one for one in merged.settings.guard_exceptions if one not in held]
    notes = [f"the exception from {one.guard} for {one.policy} counts after its merge: {one.reason}" for one in later]
    plan = replace(review.plan, config=merged.digest, settings=merged.decides)
    terms = Terms(place.environment.access, merged.access, merged.rules)
    settings = base.settings(place.config, place.environment.name)
    return replace(review, plan=plan, settings=settings, terms=terms, notes=(*review.notes, *notes))
