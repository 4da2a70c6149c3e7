"""policyctl plan."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import click

from policyctl.cli.github_actions import view_of, write_plan_summary
from policyctl.cli.options import NAMES, Options, with_options
from policyctl.cli.review import raise_if_unsafe, review_directory
from policyctl.cli.selection import Overrides, with_selection
from policyctl.cli.session import Session, open_session
from policyctl.errors import PolicyctlError, UsageError
from policyctl.plan.approval import Terms
from policyctl.plan.plan import Selection
from policyctl.plan.safety import Review
from policyctl.policy.findings import did_you_mean
from policyctl.report.format import Style, count
from policyctl.report.plan_text import plan_text
from policyctl.report.plan_view import PlanView

if TYPE_CHECKING:
    from policyctl.load.base_config import BaseConfig


Form = Literal["text", "json", "markdown", "html"]
FORMS: tuple[Form, ...] = get_args(Form)


def render_plan(form: Form, view: PlanView, style: Style = Style()) -> str:
    """The plan in one format; `style` colours the text of a terminal."""
    if form == "json":
        from policyctl.report.plan_json import plan_json

        return plan_json(view.review)
    if form == "html":
        from policyctl.report.plan_html import plan_html  # imports jinja2

        return plan_html(view)
    if form == "markdown":
        from policyctl.report.plan_markdown import plan_markdown

        return plan_markdown(view)
    return plan_text(view.review, view.remote, style, verbose=view.verbose)


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
        raise click.BadParameter(f"unknown format {word}{did_you_mean(word, FORMS)}; known: {', '.join(FORMS)}")
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
    help="Take remote, auth and safety settings from where this branch left REVISION, and show what it changes in them.",
)
@click.option("--test", "tests", is_flag=True, help="Run the scenario tests too; a plan with a failed one approves nothing.")
@with_selection
@with_options(*NAMES)
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
    """Show what apply would change, field by field. Nothing is written to the remote.

    Unchanged runs of long values are shortened to …, and of a long effect only the first rows are shown; -v shows everything,
    and each policy as it will be.
    """
    _raise_if_one_file([*([out] if out else []), *(path for _, path in reports)])
    held = None if base is None else _read_base(options, base)
    session = open_session(options, base=held)
    review = review_directory(session, selection, overrides, base=base, tests=tests)
    if held is not None:
        review = _as_merged(review, session, held)
    view, console = view_of(review, session.remote, options.dir, session.console), session.console
    if out is not None or reports:
        _write_files(out, reports, view)
    console.result(render_plan(form, view, console.out_style))
    write_plan_summary(view, out, console)
    raise_if_unsafe(review, listed=form == "text")
    if review.branch.failed_tests:
        raise PolicyctlError(f"{count(len(review.branch.failed_tests), 'scenario test')} failed; policyctl test shows how")
    return 2 if detailed_exitcode and review.plan.changes else 0


def _raise_if_one_file(paths: list[Path]) -> None:
    """Raise UsageError when two outputs go to one file: only the last one written would be left."""
    twice = [path for path, times in Counter(map(Path.absolute, paths)).items() if times > 1]
    if twice:
        raise UsageError(f"--out and --report write {twice[0]} more than once; give each a file of its own")


def _read_base(options: Options, revision: str) -> BaseConfig:
    from policyctl.load.base_config import read_base  # imports subprocess

    return read_base(options.dir, revision)


def _write_files(out: Path | None, reports: Reports, view: PlanView) -> None:
    """Write the plan for apply, and the reports."""
    from policyctl.load.atomic import write_atomically
    from policyctl.plan.saved_plan import write_plan  # imports pydantic

    if out is not None:
        write_atomically(out, write_plan(view.review.plan), private=True)
    for form, path in reports:
        write_atomically(path, render_plan(form, view))


def _as_merged(review: Review, session: Session, base: BaseConfig) -> Review:
    """The review with the settings that the branch changes. The plan gets the branch's own configuration, so that its digest
    is that of the same plan after the merge."""
    from policyctl.load.referred import access_now  # with git behind it

    merged = session.config.environment(session.environment.name)
    held = session.environment.settings.guard_exceptions
    new = [one for one in merged.settings.guard_exceptions if one not in held]
    notes = [f"the exception from {one.guard} for {one.policy} takes effect after its merge: {one.reason}" for one in new]
    plan = replace(review.plan, config=merged.digest, settings=merged.decides)
    now = access_now(session.options.dir, session.config, merged)
    terms = Terms(base.access(session.environment), now, merged.rules)
    settings = base.settings(session.config, session.environment.name)
    return replace(
        review, plan=plan, branch=replace(review.branch, settings=settings, terms=terms), notes=(*review.notes, *notes)
    )
