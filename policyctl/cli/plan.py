"""policyctl plan, diff and show: what apply would change, with its effect on traffic or as unified YAML; also of a saved plan.

A saved plan is input, so everything in it that can be computed again is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import click

from policyctl.cli.console import Console, fleet_view_of, view_of, write_fleet_summary, write_plan_summary
from policyctl.cli.environments import Pace, with_environments, with_pace, with_queue
from policyctl.cli.options import ALL, NAMES, Options, audit_option, complete_names, with_form, with_options
from policyctl.cli.review import (
    LED_ELSEWHERE,
    Before,
    access_of,
    as_merged,
    gone_back,
    raise_if_unsafe,
    read_consumers_of,
    review_directory,
    with_idle_settings,
    without_edited,
)
from policyctl.cli.selection import Overrides, raise_if_idle, read_to, with_past, with_selection
from policyctl.cli.session import Session, open_session
from policyctl.errors import PolicyctlError, StalePlan, UsageError
from policyctl.load.environment import Environment, EnvironmentFilter, leaves
from policyctl.load.source import read_bounded, write_atomically
from policyctl.load.urls import is_git
from policyctl.plan.plan import Plan, Selection
from policyctl.plan.safety import Review
from policyctl.policy.findings import did_you_mean, listed
from policyctl.policy.live import observe_rows
from policyctl.policy.virtual_model import VirtualModelRow
from policyctl.reconcile.plan import KnownModels, plan_directory, raise_if_blocked, review_saved
from policyctl.remote.open import require_writable
from policyctl.report.format import Style, count, escape, value
from policyctl.report.plan_text import elided, plan_diff, plan_text
from policyctl.report.plan_view import PlanView

if TYPE_CHECKING:
    from policyctl.cli.fleet import Fleet
    from policyctl.load.base_config import BaseCommits, BaseConfig
    from policyctl.plan.fleet import FleetResult
    from policyctl.reconcile.audit import AuditRecord
    from policyctl.report.fleet import FleetView

Form = Literal["text", "json", "markdown", "html", "csv", "junit"]
FORMS: tuple[Form, ...] = get_args(Form)
ONLY_SEVERAL: tuple[Form, ...] = ("csv", "junit")
OF_ONE: tuple[Form, ...] = tuple(form for form in FORMS if form not in ONLY_SEVERAL)


def render_plan(form: Form, view: PlanView, style: Style = Style(), *, quiet: bool = False) -> str:
    """The plan in one format; `style` colours the text of a terminal, of which `quiet` leaves the problems and the summary."""
    if form == "json":
        from policyctl.report.plan_json import plan_json

        return plan_json(view.review)
    if form == "html":
        from policyctl.report.plan_html import plan_html  # imports jinja2

        return plan_html(view)
    if form == "markdown":
        from policyctl.report.plan_markdown import plan_markdown

        return plan_markdown(view)
    return plan_text(view.review, view.remote, style, verbose=view.verbose, quiet=quiet)


def render_fleet(form: str, view: FleetView, style: Style = Style(), *, verbose: bool = False, quiet: bool = False) -> str:
    """The report of a run: text (of which `quiet` leaves the plans out), json, markdown, html, csv or junit."""
    if form == "markdown":
        from policyctl.report.plan_markdown import fleet_markdown

        return fleet_markdown(view)
    if form == "html":
        from policyctl.report.plan_html import fleet_html  # imports jinja2

        return fleet_html(view)
    from policyctl.report.fleet import fleet_csv, fleet_json, fleet_junit, fleet_text

    renders: dict[str, Callable[[FleetResult], str]] = {"json": fleet_json, "csv": fleet_csv, "junit": fleet_junit}
    return renders[form](view.fleet) if form in renders else fleet_text(view.fleet, style, verbose=verbose, plans=not quiet)


EPILOG = """\b
Example:
  policyctl plan
  policyctl plan --env prod --detailed-exitcode
  policyctl plan --remote git:origin/main
  policyctl plan --format json | jq -r '.changes[].name'
  policyctl plan --out plan.json --report markdown=plan.md
  policyctl plan --base origin/main --out plan.json
  policyctl plan --to HEAD~1
  policyctl plan --out plan.json && policyctl show plan.json && policyctl apply plan.json"""


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
@with_form(*FORMS, about="csv and junit are for several environments.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Save the plan, for apply; of several environments their digests, for ci.",
)
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
@audit_option("What apply --audit adds to; it shows who moved what, and with --base what is a restoration.")
@with_past
@click.option("--test", "tests", is_flag=True, help="Run the scenario tests too; a plan with a failed one approves nothing.")
@click.option(
    "--parallelism",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Environments at once, if there are several.  [default: 4]",
)
@with_selection
@with_options(*ALL)
@with_environments
@with_pace
@with_queue
def plan(
    options: Options,
    form: Form,
    out: Path | None,
    reports: Reports,
    detailed_exitcode: bool,
    base: str | None,
    record: AuditRecord | None,
    to: str | None,
    tests: bool,
    parallelism: int | None,
    selection: Selection,
    overrides: Overrides,
    chosen: EnvironmentFilter,
    pace: Pace,
) -> int:
    """Show what apply would change, field by field. Nothing is written to the remote.

    Unchanged runs of long values are shortened to …, and of a long effect only the first rows are shown; -v shows everything,
    and each policy as it will be.
    """
    output = _Output(form, out, reports, detailed_exitcode)
    _raise_if_one_file(output)
    held, commits = (None, None) if base is None else _read_base(options, base)
    past = read_to(options, to, base=base, tests=tests)
    if chosen.several:
        from policyctl.cli.fleet import open_fleet

        fleet = open_fleet(options, chosen, selection, overrides, held=held, tests=tests, past=past, marks=bool(out))
        return _plan_several(fleet, pace._replace(parallelism=parallelism or pace.parallelism), output, record)
    _raise_if_for_several(output, parallelism)
    session = open_session(options, base=held, past=past)
    review = review_directory(session, selection, overrides, base=commits, tests=tests, audit=record)
    review = _completed(review, session, held, output)
    console, pages = session.console, {form, *(one for one, _ in reports)} & {"markdown", "html"}
    view = view_of(review, session.remote, options.dir, console, page=bool(pages))
    if out is not None or reports:
        _write_files(out, reports, view)
    console.result(render_plan(form, view, console.out_style, quiet=console.quiet))
    write_plan_summary(view, out, console)
    raise_if_unsafe(review, listed=form == "text")
    if review.branch.failed_tests:
        raise PolicyctlError(f"{count(len(review.branch.failed_tests), 'scenario test')} failed; policyctl test shows how")
    return 2 if detailed_exitcode and review.plan.changes else 0


class _Output(NamedTuple):
    """Where a plan goes: its format on standard output, the file for apply, the reports; `detailed` is --detailed-exitcode."""

    form: Form
    out: Path | None
    reports: Reports
    detailed: bool


def _completed(review: Review, session: Session, held: BaseConfig | None, output: _Output) -> Review:
    """The review with what the branch changes in the settings, and for another command how the remote is reached."""
    review = review if held is None else as_merged(review, session, held)
    access = ""
    if output.out is not None or "json" in (output.form, *(form for form, _ in output.reports)):
        with suppress(PolicyctlError):  # such as of a directory that is a link
            access = access_of(session)
    return review._replace(plan=review.plan._replace(access=access))


def _plan_several(fleet: Fleet, pace: Pace, output: _Output, record: AuditRecord | None) -> int:
    """Plan several environments and report them together."""
    from policyctl.cli.fleet import plan_fleet
    from policyctl.plan.fleet import write_plans

    fleet.audit = record
    result, console = plan_fleet(fleet, pace), fleet.console
    view = fleet_view_of(result, fleet.options.dir)
    if output.out is not None:
        write_atomically(output.out, write_plans(result), private=True)
    for form, path in output.reports:
        write_atomically(path, render_fleet(form, view))
    console.result(render_fleet(output.form, view, console.out_style, verbose=console.verbose, quiet=console.quiet))
    write_fleet_summary(view, output.out, console)
    return result.exit_code(detailed=output.detailed)


def _raise_if_for_several(output: _Output, parallelism: int | None) -> None:
    """Raise UsageError for what only a plan of several environments has."""
    forms = [form for form in (output.form, *(form for form, _ in output.reports)) if form in ONLY_SEVERAL]
    found = "--parallelism" if parallelism is not None else f"the format {forms[0]}" if forms else None
    if found:
        raise UsageError(f"{found} is for several environments; choose them with --all, -l or --env")


def _raise_if_one_file(output: _Output) -> None:
    """Raise UsageError when two outputs go to one file: only the last one written would be left."""
    paths = [*([output.out] if output.out else []), *(path for _, path in output.reports)]
    twice = [path for path, times in Counter(map(Path.absolute, paths)).items() if times > 1]
    if twice:
        raise UsageError(f"--out and --report write {twice[0]} more than once; give each a file of its own")


def _read_base(options: Options, revision: str) -> tuple[BaseConfig, BaseCommits]:
    from policyctl.load.base_config import read_base  # imports subprocess

    held = read_base(options.dir, revision)
    return held, held.commits


def _write_files(out: Path | None, reports: Reports, view: PlanView) -> None:
    """Write the plan for apply, and the reports."""
    from policyctl.plan.saved_plan import write_plan  # imports pydantic
    from policyctl.remote.store import timestamp

    if out is not None:
        made = view.review.plan._replace(made=timestamp(datetime.now(UTC)))
        write_atomically(out, write_plan(made), private=True)
    for form, path in reports:
        write_atomically(path, render_plan(form, view))


DIFF_EPILOG = """\b
Example:
  policyctl diff
  policyctl diff anygem --env prod
  policyctl diff 'virtual-model/*' --detailed-exitcode
  policyctl diff --remote git:origin/main | less"""


@click.command("diff", epilog=DIFF_EPILOG)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_names)
@click.option("--detailed-exitcode", is_flag=True, help="Exit with 2 when there are differences.")
@with_options(*NAMES)
def diff(options: Options, names: tuple[str, ...], detailed_exitcode: bool) -> int:
    """Show what is live and what the files want as unified YAML, for each policy that apply would change, and for each virtual
    model where they are managed. NAME, which may be a glob, selects some of them.

    Both sides are in one normal form, so order and spelling that mean nothing make no difference. Of a secret only that it is
    set is shown. What the changes do to traffic, and whether they may be applied, is shown by plan.
    """
    session, selection = open_session(options), Selection(only=names)
    _, loaded, unread = session.read(as_committed=is_git(session.url))
    settings, environment = session.environment.settings, session.environment
    with session.reader() as reader, session.console.progress.of("Comparing", "live policy") as step:
        models = KnownModels(reader, loaded.models)
        review = plan_directory(
            reader, loaded.desired, environment, settings, selection, loaded.declared, step, unread, models=models
        )
    raise_if_idle(selection, Overrides(), loaded.names, review.live, only="")
    session.console.result(plan_diff(review.plan.changes, session.console.out_style))
    if review.refusals:
        session.console.say(
            f"note  plan refuses this by {count(len(review.refusals), 'safety rule')}; policyctl plan shows why"
        )
    raise_if_blocked(review)
    return 2 if detailed_exitcode and review.plan.changes else 0


SHOW_EPILOG = """\b
Example:
  policyctl plan --out plan.json
  policyctl show plan.json
  policyctl show plan.json --format html > plan.html"""


@click.command("show", epilog=SHOW_EPILOG)
@click.argument("planfile", type=click.Path(path_type=Path, dir_okay=False))
@with_form(*OF_ONE)
@with_options("color", "verbose")
def show(options: Options, planfile: Path, form: Form) -> int:
    """Show a plan that plan --out saved, offline: what it changes, and what these changes do to traffic by themselves.

    The file is checked as apply checks it, but neither the remote nor the files of the directory are read. So whether the
    safety rules allow it, whether the remote changed since, and which other policies it affects is left to apply, and a page
    that is made like this approves nothing.
    """
    plan, console = _read_plan(planfile), Console(options)
    console.result(render_plan(form, view_of(_alone(plan), plan.remote, options.dir, console), console.out_style))
    return 0


def _alone(plan: Plan) -> Review:
    """The review of a saved plan from nothing but the plan."""
    from policyctl.plan.effects import Comparison, effects_of, policies_around  # imports the effect engine

    observed = observe_rows(_rows_before(plan))._replace(whole=False)
    before, after = policies_around(plan, observed)
    effects = effects_of(plan, observed, Comparison(before, after, live=observed.live))
    when = f"made at {plan.made[:19].replace('T', ' ')} UTC" if plan.made else "which does not say when it was made"
    offline = f"this is a saved plan, {when}; the remote was not looked at, and may have changed since"
    others = sorted(plan.traffic.keys() - {change.name for change in plan.changes})
    notes = [f"it also moves the traffic of {listed(others)}, by way of what it changes"] if others else []
    notes += [f"this goes back to the files of {plan.to[:12]}"] if plan.to else []
    return Review(
        plan,
        notes=tuple(notes),
        live=frozenset(observed.live),
        effects=effects,
        policies=after,
        policies_before=before,
        models_before=observed.models,
        all_read=False,
        models=plan.has_models,
        offline=offline,
    )


def _rows_before(plan: Plan) -> Iterator[dict[str, Any]]:
    """What the plan replaces, as rows of a remote."""
    for change in plan.changes:
        if change.before is not None:
            row = {**change.before, "id": change.id}
            yield VirtualModelRow(row) if change.kind == "model" else row


def read_saved(
    options: Options,
    planfile: Path,
    selection: Selection,
    overrides: Overrides,
    base: BaseCommits | None,
    audit: AuditRecord | None = None,
) -> tuple[Session, Review]:
    """A saved plan, checked against its environment, the remote as it is now, and the safety rules."""
    from policyctl.plan.saved_plan import BadPlan  # imports pydantic

    if selection != Selection():
        raise UsageError("--only and --exclude belong to plan; a saved plan is applied as it is")
    plan = _read_plan(planfile)
    if options.environment is not None and options.environment != plan.environment:
        raise BadPlan(f"{planfile} is a plan for environment {plan.environment}, not for {options.environment}")
    past = read_to(options, plan.to or None)
    session = open_session(options, plan.environment, past=past)
    require_writable(plan.remote)
    require_writable(session.url)
    with session.reader() as reader:
        if reader.identity != plan.remote:
            raise BadPlan(f"{planfile} is a plan for {plan.remote}, not for {reader.identity}")
        if session.environment.digest != plan.config:
            why = f"policyctl.yaml changed the settings of {plan.environment} since the plan was made; plan again"
            raise StalePlan("\n  ".join([why, *_moved_settings(plan, session.environment)]))
        if plan.access not in ("", access_of(session)):
            raise StalePlan(f"{LED_ELSEWHERE} since the plan of {plan.environment} was made; plan again")
        loaded = session.read(lenient=True).loaded
        with session.console.progress.of("Comparing", "live policy") as step:
            plan = plan._replace(overrides=overrides.given)  # only overrides that are given now count
            before = Before(session, base, audit)
            loaded = loaded._replace(declared=loaded.declared._replace(before=before.declared))
            settings = overrides.on(session.environment.settings)
            models = KnownModels(reader, loaded.models)
            review = review_saved(reader, plan, loaded, settings, step, before.documents)
            review = without_edited(review, session, settings, models.speller(review.live | loaded.names), audit, base)
        review = read_consumers_of(review, reader, loaded, settings, session, overrides)
    if past is not None:
        review = gone_back(review, past)
    names = loaded.names | {change.name for change in plan.changes}
    raise_if_idle(selection, overrides, names, review.live | names)  # policies that were removed already were live
    return session, with_idle_settings(review, session, names, overrides)


def _moved_settings(plan: Plan, now: Environment) -> Iterator[str]:
    """The settings that changed since a plan was made, from what to what; none when the plan does not have them."""
    before, after = dict(leaves(plan.settings)), dict(leaves(now.decides))
    for path in dict.fromkeys([*before, *after]) if before else ():
        if before.get(path) != after.get(path):
            old, new = (_describe(path, values.get(path)) for values in (before, after))
            yield "{}: {} → {}".format(path, *elided(old, new))


def _describe(path: str, item: Any) -> str:
    """A setting's value as text; that of a variable is text already."""
    return escape(item) if path.startswith("vars.") and item is not None else value(item, longest=None)


def _read_plan(path: Path) -> Plan:
    from policyctl.plan.saved_plan import MAX_BYTES, BadPlan, read_plan

    try:
        text = read_bounded(path, MAX_BYTES).decode()
    except OSError as error:
        raise BadPlan(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadPlan(f"{path} is not a plan: it is not text; make one with plan --out") from None
    return read_plan(text, str(path))
