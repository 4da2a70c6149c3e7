"""apply of several environments: in waves, with one approval for all, and a record from which it can be resumed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from policyctl.cli.console import Console, first_signal
from policyctl.cli.environments import Pace
from policyctl.cli.fleet import Fleet, brakes_of, open_fleet, plan_fleet, run_fleet
from policyctl.cli.github_actions import fleet_view_of, write_fleet_summary, write_outcome_summary, write_stop_summary
from policyctl.cli.options import Options
from policyctl.cli.review import LED_ELSEWHERE, Expectation, raise_if_unsafe, resolved_base, within_windows
from policyctl.cli.selection import Overrides, read_to
from policyctl.cli.session import Session
from policyctl.errors import Incomplete, PolicyctlError, StalePlan, UsageError
from policyctl.load.environment import Environment, EnvironmentFilter, listed_names, parse_selector
from policyctl.load.source import read_bounded, state_folder
from policyctl.plan.approval import NONE
from policyctl.plan.fleet import ApprovedPlans, EnvironmentResult, FleetResult, WaveOf, read_approved, waves_of
from policyctl.plan.plan import Selection
from policyctl.reconcile.apply import Applied, ApplyEvents, ApplySettings, apply_plan
from policyctl.reconcile.fleet import Run, RunRecord, read_run
from policyctl.remote.open import require_writable
from policyctl.report.fleet import fleet_json, fleet_text
from policyctl.report.format import NONE_AFFECTED, Style, count
from policyctl.report.plan_text import apply_text

if TYPE_CHECKING:
    from policyctl.cli.apply import OutcomeOutput
    from policyctl.load.past import PastDirectory

_MAX_PLANS = 1 << 28  # bytes of the report of thousands of plans


class FleetEvents(ApplyEvents):
    """An apply of one environment among many: it stops with the run."""

    def __init__(self, fleet: Fleet, stopped: Callable[[], bool]) -> None:
        self._fleet, self._stopped = fleet, stopped

    def message(self, line: str) -> None:
        self._fleet.console.say(line)

    def stopped(self) -> bool:
        return self._stopped()


class FleetApproval(NamedTuple):
    """What a run may write: without being asked (`yes`), plans with one digest (`expected`), these plans (`plans`), or what an
    earlier run left."""

    yes: bool
    expected: Expectation | None = None
    resume: Run | None = None
    plans: ApprovedPlans | None = None


def approval_of(yes: bool, expected: Expectation | None, run: Run | None, file: Path | None) -> FleetApproval:
    """What a run may write. Approved plans in a file count for the digest that they have: it cannot approve what was not.

    Raises PolicyctlError for a file of anything else, and StalePlan if it has another digest than the one expected.
    """
    if file is None:
        return FleetApproval(yes, expected, run)
    try:
        plans = read_approved(read_bounded(file, _MAX_PLANS).decode(), str(file))
    except OSError as error:
        raise PolicyctlError(f"{file} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise PolicyctlError(f"{file} is not text") from None
    if expected is not None and expected.digest != plans.digest:
        raise StalePlan(f"the digest of the plans in {file} is {plans.digest}, not {expected.digest}; nothing was written")
    return FleetApproval(yes, expected or Expectation(plans.digest), run, plans)


def open_several(
    options: Options,
    chosen: EnvironmentFilter,
    planfile: Path | None,
    resume: str | None,
    selection: Selection,
    overrides: Overrides,
    base: str | None,
    past: PastDirectory | None,
) -> tuple[Fleet, Run | None]:
    """The environments that are chosen, or that a run left, and that run. Raises UsageError with a saved plan, which is for
    one environment."""
    if planfile is not None:
        raise UsageError("a saved plan is for one environment; leave out --all, -l, further --env and --resume")
    run = None if resume is None else resumed(options, chosen, selection, resume)
    if run is not None:
        chosen, selection, past = EnvironmentFilter(run.left), run.selection, read_to(options, run.to or None, base=base)
    commits = resolved_base(base, options, Console(options))
    return open_fleet(options, chosen, selection, overrides, base=commits, past=past), run


def apply_several(fleet: Fleet, pace: Pace, settings: ApplySettings, approval: FleetApproval, output: OutcomeOutput) -> int:
    """Plan and apply every environment, in waves, print the report and return the exit code.

    Without `yes`, or with an `expected` digest, all are planned first, and an environment whose plan is another one by then is
    not applied. With `yes` a resumed run does what was approved when it began. Raises StalePlan if the digest of all plans is
    not the expected one, and UsageError for a run that is resumed with other files than it began with.
    """
    fleet.audit = None if settings.audit is None else settings.audit.record
    if approval.resume is not None:
        _raise_if_edited(fleet, approval.resume)
        _withdraw(fleet, pace, approval.resume)
    if not fleet.names:
        fleet.console.say(NONE_AFFECTED)
        return 0
    _raise_if_led_elsewhere(fleet, approval)
    shown = None if approval.resume is None else approval.resume.shown
    if not approval.yes or approval.expected is not None:
        before = plan_fleet(fleet, Pace(pace.parallelism))
        if output.form == "text":
            plans = not (fleet.console.quiet and approval.yes)  # a question is about what was shown
            fleet.console.result(fleet_text(before, fleet.console.out_style, verbose=fleet.console.verbose, plans=plans))
        _report_plans(fleet, before, approval)
        targets = sum(bool(one.changes) and not one.failed for one in before.results)
        if not targets:
            output.put(fleet.console, fleet_json(before))
            return before.exit_code()
        if not fleet.console.confirm(f"Apply to {count(targets, 'environment')}?", yes=approval.yes):
            fleet.console.say("declined; nothing was written")
            return 1
        shown = {one.name: one.digest for one in before.results if one.digest and not one.failed}
    result, number = _apply(fleet, pace, settings, approval.resume, shown)
    output.put(fleet.console, fleet_json(result))
    write_outcome_summary(fleet_text(result, Style(), plans=False), fleet.console)
    if output.form == "text":
        style, verbose = fleet.console.out_style, fleet.console.verbose
        fleet.console.result(fleet_text(result, style, verbose=verbose, plans=shown is None and not fleet.console.quiet))
    fleet.raise_if_idle()
    return result.exit_code() if number is None else 128 + number


def _apply(
    fleet: Fleet, pace: Pace, settings: ApplySettings, resume: Run | None, shown: Mapping[str, str] | None
) -> tuple[FleetResult, int | None]:
    """The results, and the signal that ended the run early. `shown` are the digests that may be applied (None: any)."""
    brakes = brakes_of(fleet, pace)
    directory = fleet.options.dir
    to = "" if fleet.past is None else fleet.past.then.commit
    files = fleet.files.digest(fleet.config)
    run = resume or Run("", "apply", "", revision_of(directory), fleet.names, {}, fleet.selection, shown, to, files, pace.place)
    record = RunRecord(state_folder(directory), run)
    if not fleet.console.quiet:
        queue = "" if pace.place == "here" else " --on queue"
        fleet.console.say(f"run {record.id}; if it is interrupted: policyctl apply --resume {record.id}{queue}")

    def work(session: Session) -> EnvironmentResult:
        events = FleetEvents(fleet, lambda: brakes.signal is not None)
        return apply_one(fleet, session, settings, events, shown)

    try:
        if pace.place != "here":  # workers write
            settings.begins()
        with first_signal(brakes.interrupt):
            result = run_fleet(fleet, "apply", work, pace, fleet_waves(fleet), brakes, record, shown)
    finally:
        record.close()
    return result, brakes.signal


def apply_one(
    fleet: Fleet,
    session: Session,
    settings: ApplySettings,
    events: FleetEvents,
    shown: Mapping[str, str] | None,
    why_not: Callable[[Environment], str | None] | None = None,
) -> EnvironmentResult:
    """Plan and apply one environment, if its plan is one of those that were `shown` (None: whatever it is). For a watch
    `why_not` is asked directly before that; for a person it is a deny window, unless there is a reason."""
    require_writable(session.url)
    review = fleet.review(session)
    name = session.environment.name
    result = fleet.keep(review, name, session.remote)
    raise_if_unsafe(review)
    if not review.plan.changes:  # also of what a run that was killed wrote before it could record that
        return replace(result, status="applied")
    if shown is not None and shown.get(name) != review.plan.digest:
        why = "its plan is not the one that was shown any more; nothing was written, plan again"
        return replace(result, status="failed", code=StalePlan.exit_code, reason=why)
    if why_not is not None and (unwanted := why_not(session.environment)) is not None:
        return replace(result, status="not begun", reason=unwanted)
    own = within_windows(settings, session.environment, fleet.overrides.outside if why_not is None else None)
    own = replace(own, command="policyctl apply", in_scope=session.environment.settings.in_scope)
    applied = apply_plan(review, session.url, session.access, own, events)
    return with_outcome(result, applied)


def with_outcome(result: EnvironmentResult, applied: Applied) -> EnvironmentResult:
    text = apply_text(applied.outcomes, applied.unverified, Style(), applied.tested).rstrip("\n")
    try:
        applied.raise_if_incomplete()
    except Incomplete as error:
        reason = str(error) if applied.is_verified else text.partition("\n")[0]
        return replace(result, status="failed", code=error.exit_code, reason=reason, outcome=text)
    return replace(result, status="applied", outcome=text)


def _raise_if_led_elsewhere(fleet: Fleet, approval: FleetApproval) -> None:
    """Raise StalePlan, before anything logs in, unless each remote is reached in the way that was approved."""
    if (expected := approval.expected) is not None:
        from policyctl.load.base_config import access_and_rules  # imports subprocess

        expected.raise_if_led_elsewhere(lambda: access_and_rules(fleet.options.dir, fleet.config, fleet.names)[0])
    if approval.plans is None:
        return
    parts = approval.plans.parts
    found = [one for name in fleet.names if (one := fleet.config.environments.get(name)) is not None and one.logs_in]
    if led := [one.name for one in found if one.name not in parts or fleet.access_of(one) != parts[one.name][1]]:
        names = listed_names(led)
        raise StalePlan(
            f"{LED_ELSEWHERE} than in the approved plans, or not in them, so nothing logged in: {names}; plan again"
        )


def _report_plans(fleet: Fleet, before: FleetResult, approval: FleetApproval) -> None:
    """Write the plans to the step summary. Raises StalePlan unless they are what was approved."""
    expected = None if approval.expected is None else approval.expected.digest
    why = _why_unapproved(before, expected, approval.plans)
    if why is not None:
        write_stop_summary(why, fleet.console)
    write_fleet_summary(fleet_view_of(before, fleet.options.dir), None, fleet.console)
    if why is not None:
        raise StalePlan(why)


def _why_unapproved(before: FleetResult, expected: str | None, plans: ApprovedPlans | None) -> str | None:
    """Why these are not the plans that were approved; `none` approves plans without changes only. With the approved `plans` it
    names the environments that differ.

    The digest of all is `none` as well where a plan failed, which approves nothing of the others.
    """
    changed = [one.name for one in before.results if one.changes]
    if expected is None or (not changed if expected == NONE else before.digest == expected):
        return None
    if expected == NONE:
        why = f"no merged pull request has approved the plans of {listed_names(changed)}"
        then = f"Read them, then approve the digest of all, {before.digest}"
        if before.digest == NONE:
            then = "Correct what failed, then plan again"
        return f"{why}; nothing was written. {then}"
    where = "" if plans is None else f" ({'; '.join(plans.differences(before))})"
    hint = "" if plans is not None else ". --plans FILE, with the report of the approved plans, would name the environments"
    return (
        f"these are not the plans that were approved{where}: the digest of all is {before.digest}, not {expected}; nothing was "
        f"written. Have them approved by a new pull request, or start this by hand with that digest{hint}"
    )


def fleet_waves(fleet: Fleet) -> list[WaveOf]:
    """The environments of this run in the configured waves, or in those by default."""
    labels = fleet.config.labels

    def taking(selector: str | None) -> Callable[[str], bool]:
        wanted = () if selector is None else parse_selector(selector)
        return lambda name: all(one.fits(labels[name]) for one in wanted)

    waves = [(taking(wave.label), wave.max_failures) for wave in fleet.config.waves]
    return waves_of(fleet.names, waves, by_default=True)


def resumed(options: Options, chosen: EnvironmentFilter, selection: Selection, run: str) -> Run:
    """The run that is to be resumed. Raises UsageError when it left nothing, when environments or policies are chosen too, and
    for a run at another commit."""
    if chosen.several or chosen.names or selection != Selection():
        raise UsageError("--resume does what a run left; leave out the options that choose environments or policies")
    record, now = read_run(state_folder(options.dir), run), revision_of(options.dir)
    if record.revision != now:
        there, here = record.revision[:12] or "no commit", now[:12] or "none"
        raise UsageError(f"run {run} was at {there}, and this is {here}; start a new apply")
    if not record.left:
        raise UsageError(f"run {run} has nothing left to do; policyctl runs {run} shows it")
    return record


def _raise_if_edited(fleet: Fleet, run: Run) -> None:
    """Raise UsageError if files were edited since a run began: the environments would be applied from two states of them."""
    if run.files and run.files != fleet.files.digest(fleet.config):
        edited = f"files in {fleet.options.dir}, or its policyctl.yaml, were edited since run {run.id} began"
        raise UsageError(f"{edited}; undo that (git status shows it), or start a new apply")


def _withdraw(fleet: Fleet, pace: Pace, run: Run) -> None:
    """Withdraw what a run left in a queue. Raises UsageError for a run that is resumed in another place than it began in: what
    it left there would be applied too; and Refused for one that another process is at work on."""
    RunRecord(state_folder(fleet.options.dir), run).close()
    if run.on != pace.place:
        how = "with" if run.on == "queue" else "without"
        raise UsageError(f"run {run.id} began {how} --on queue, so resume it {how} --on queue")
    if pace.withdraw is not None:
        pace.withdraw(run.id, fleet.console.say)


def revision_of(directory: Path) -> str:
    """The commit that is checked out; empty outside a repository."""
    from policyctl.load.git.revision import Revision

    try:
        return Revision(directory, "HEAD").commit
    except PolicyctlError:
        return ""
