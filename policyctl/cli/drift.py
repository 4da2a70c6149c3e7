"""policyctl drift."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from policyctl.cli import completion
from policyctl.cli.environments import Pace, with_environments, with_pace
from policyctl.cli.options import NAMES, Options, audit_option, with_form, with_options
from policyctl.cli.selection import Overrides, raise_if_idle
from policyctl.cli.session import Session, open_session
from policyctl.errors import Incomplete, UsageError
from policyctl.load.environment import EnvironmentFilter
from policyctl.load.urls import is_git
from policyctl.plan.drift import DriftReport
from policyctl.plan.fleet import EnvironmentResult
from policyctl.plan.plan import Selection
from policyctl.policy.document import digest
from policyctl.reconcile.drift import Evidence, FoundDrift, drift_of
from policyctl.reconcile.plan import KnownModels, plan_directory
from policyctl.report.drift import drift_data, drift_json, drift_markdown, drift_text, drifts_text, without_writer

if TYPE_CHECKING:
    from policyctl.cli.fleet import Fleet
    from policyctl.reconcile.audit import AuditRecord

EPILOG = """\b
Example:
  policyctl drift
  policyctl drift anygem --env prod --audit audit.jsonl
  policyctl drift --all --format markdown >> "$GITHUB_STEP_SUMMARY"
  policyctl drift --adopt --patch adopt.patch && git apply adopt.patch"""


@click.command("drift", epilog=EPILOG)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=completion.names)
@audit_option("What apply --audit adds to, a file or a PostgreSQL database; what it has is certain, and wins over Git history.")
@with_form("text", "json", "markdown")
@click.option(
    "--detailed-exitcode", is_flag=True, help="Exit with 2 when something differs; with --adopt when an edit is taken over."
)
@click.option("--parallelism", type=click.IntRange(1, 64), default=4, show_default=True, help="Environments at once.")
@click.option("--adopt", is_flag=True, help="Take what the remote moved over into the files, as a patch.")
@click.option(
    "--patch",
    type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
    metavar="FILE",
    help="Where to write the patch, for git apply; - is standard output.",
)
@click.option("--pr", "request", is_flag=True, help="Open or update a pull request with the edits (in CI of GitHub or GitLab).")
@click.option("--shared", is_flag=True, help="Also adopt into files that are for other environments too.")
@with_options(*NAMES)
@with_environments
@with_pace
def drift(
    options: Options,
    names: tuple[str, ...],
    record: AuditRecord | None,
    form: str,
    detailed_exitcode: bool,
    parallelism: int,
    adopt: bool,
    patch: Path | None,
    request: bool,
    shared: bool,
    chosen: EnvironmentFilter,
    pace: Pace,
) -> int:
    """Show for each policy that differs who moved: Git (the change is not applied yet), the remote (it was edited by hand or
    by another tool), or both, field by field. Nothing is written. NAME, which may be a glob, selects some policies.

    This rests on Git history, where what is live is searched among all versions that the files had, and on the audit record,
    if one is given. The output shows which. Git history needs the whole clone, not a shallow one.

    With --adopt what the remote moved becomes a patch of the files: each value is changed where it is, comments and templates
    stay. A policy that is named takes the remote's side of a conflict too.
    """
    selection = Selection(only=names)
    _check_adoption(adopt, patch, shared, request, form, chosen)
    if chosen.several:
        from policyctl.cli.fleet import open_fleet

        fleet = open_fleet(options, chosen, selection, deep=False)
        return _several(fleet, pace._replace(parallelism=parallelism), record, form, detailed=detailed_exitcode)
    session = open_session(options)
    found = drift_in(session, selection, Evidence(options.dir, session.config, record))
    if adopt:
        from policyctl.cli.adopt import adopt_edits  # with git and pages behind it

        done = adopt_edits(found, session, names, patch, shared=shared, request=request)
        return 2 if detailed_exitcode and done.files else 0
    _show(found.report, session, form)
    if found.report.blocked:
        raise Incomplete(_blocked(found.report))
    return 2 if detailed_exitcode and found.report.drifts else 0


def _show(report: DriftReport, session: Session, form: str) -> None:
    if form == "text":
        shown = drift_text(report, session.remote, session.console.out_style)
    else:
        rendered = drift_json if form == "json" else drift_markdown
        shown = rendered([_result(report, session)], {report.environment: report})
    session.console.result(shown)


def _check_adoption(adopt: bool, patch: Path | None, shared: bool, request: bool, form: str, chosen: EnvironmentFilter) -> None:
    """Raise UsageError for options of an adoption that do not go together."""
    if adopt and patch is None and not request:
        raise UsageError("--adopt needs --patch FILE or --pr")
    given = [option for option, is_given in (("--patch", patch), ("--pr", request), ("--shared", shared)) if is_given]
    if not adopt and given:
        raise UsageError(f"{given[0]} needs --adopt")
    if adopt and chosen.several:
        raise UsageError("--adopt is for one environment; choose one with --env")
    if adopt and form != "text":
        raise UsageError(f"--format {form} is not for --adopt, which writes a patch")


def drift_in(session: Session, selection: Selection, evidence: Evidence) -> FoundDrift:
    """Who moved what in the session's environment. Raises UsageError for a git revision, which does not move, and otherwise
    as a plan does."""
    if is_git(session.url):
        raise UsageError(f"drift compares the files with a remote, and {session.remote} is a git revision; use plan or diff")
    files, loaded, unread = session.read()
    environment = session.environment
    with session.reader() as reader, session.console.progress.of("Comparing", "live policy") as step:
        models = KnownModels(reader, loaded.models)
        review = plan_directory(
            reader, loaded.desired, environment, environment.settings, selection, loaded.declared, step, unread, models=models
        )
        raise_if_idle(selection, Overrides(), loaded.names, review.live, only="")
        spell = models.speller(review.live | loaded.names)
        drifts = evidence.judge(review.plan.changes, environment, review, spell)
    return FoundDrift(drift_of(review, drifts, evidence), review, files, loaded, unread, spell)


def _result(report: DriftReport, session: Session) -> EnvironmentResult:
    """The result for a run over environments; equal drifts have an equal hash."""
    counts: dict[str, int] = {moved: number for moved, number in report.totals.items() if number}
    same = digest([drift_data(without_writer(one)) for one in report.drifts])
    found = EnvironmentResult(report.environment, "planned", remote=session.remote, alike=same, counts=counts)
    if report.blocked:
        return replace(found, status="failed", code=Incomplete.exit_code, reason=_blocked(report))
    return found


def _blocked(report: DriftReport) -> str:
    return f"rows on the remote block {', '.join(name for name, _ in report.blocked)}"


def _several(fleet: Fleet, pace: Pace, audit: AuditRecord | None, form: str, *, detailed: bool) -> int:
    """The drift of several environments, in one report."""
    from policyctl.cli.fleet import run_fleet

    evidence, reports = Evidence(fleet.options.dir, fleet.config, audit), dict[str, DriftReport]()

    def work(session: Session) -> EnvironmentResult:
        report = drift_in(session, fleet.selection, evidence).report
        reports[report.environment] = report
        return _result(report, session)

    found, console = run_fleet(fleet, "drift", work, pace), fleet.console
    if form == "json":
        console.result(drift_json(found.results, reports, found.left_out))
    elif form == "markdown":
        console.result(drift_markdown(found.results, reports))
    else:
        console.result(drifts_text(found, reports, console.out_style, verbose=console.verbose))
    return found.exit_code(detailed=detailed)
