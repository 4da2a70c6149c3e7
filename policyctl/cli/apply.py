"""policyctl apply."""

from __future__ import annotations

import re
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import click

from policyctl.cli.console import Console
from policyctl.cli.environments import Pace, with_environments, with_pace
from policyctl.cli.github_actions import view_of, write_outcome_summary, write_plan_summary, write_stop_summary
from policyctl.cli.history import with_audit
from policyctl.cli.options import NAMES, NumberRange, Options, with_options
from policyctl.cli.review import Before, raise_if_unsafe, read_consumers_of, review_directory, with_idle_settings
from policyctl.cli.selection import Overrides, raise_if_idle, with_selection
from policyctl.cli.session import Session, open_session
from policyctl.errors import Refused, StalePlan, UsageError
from policyctl.load.atomic import read_bounded
from policyctl.load.environment import Environment, leaves
from policyctl.load.selector import EnvironmentFilter
from policyctl.load.unread import listed
from policyctl.plan.approval import NONE
from policyctl.plan.change import Outcome
from policyctl.plan.plan import Plan, Selection
from policyctl.plan.safety import Review
from policyctl.plan.saved_plan import MAX_BYTES, BadPlan, read_plan
from policyctl.reconcile.apply import LOCK_SECONDS, Applied, ApplyEvents, ApplySettings, apply_plan
from policyctl.reconcile.audit import Audit
from policyctl.reconcile.plan import raise_if_stale, review_saved
from policyctl.remote.open import require_writable
from policyctl.report.format import Style, count, escape, value
from policyctl.report.outcomes import apply_text, outcome_line
from policyctl.report.plan_text import elided, plan_text

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")

EPILOG = """\b
Example:
  policyctl apply
  policyctl apply --env prod --yes
  policyctl plan --out plan.json && policyctl apply plan.json --yes"""


@click.command("apply", epilog=EPILOG)
@click.argument("planfile", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--parallelism",
    type=click.IntRange(1, 64),
    default=4,
    show_default=True,
    help="Changes at once; of several environments, environments at once.",
)
@click.option(
    "--expect-digest",
    metavar="DIGEST",
    help="Apply only if the plan made now has this digest (sha256:…); none: only if it is empty.",
)
@click.option(
    "--lock-timeout",
    type=NumberRange(min=0),
    default=LOCK_SECONDS,
    show_default=True,
    metavar="SECONDS",
    help="How long to wait for another apply on the same embedded remote.",
)
@click.option(
    "--base",
    metavar="REVISION",
    help="Treat a change back to what a policy was where this branch left REVISION as a restoration, which the guards "
    "max_traffic_shift and deny_new accept.",
)
@click.option(
    "--validate-models",
    is_flag=True,
    help="Have the platform test the models that were written, and report the result. It calls each one, which costs money.",
)
@click.option("--resume", metavar="RUN", help="Apply the environments that an interrupted run left; policyctl runs lists runs.")
@with_audit
@with_selection
@with_options(*NAMES)
@with_environments
@with_pace
def apply(
    options: Options,
    planfile: Path | None,
    yes: bool,
    parallelism: int,
    expect_digest: str | None,
    lock_timeout: float,
    base: str | None,
    validate_models: bool,
    resume: str | None,
    selection: Selection,
    overrides: Overrides,
    audit: Audit | None,
    chosen: EnvironmentFilter,
    pace: Pace,
) -> int:
    """Make the remote match the files: add, update, remove, then read back and verify.

    With a PLANFILE (from plan --out) exactly that plan is applied, or refused when the remote changed since. It can be
    applied again after an interruption.
    """
    _check_expectation(expect_digest, planfile)
    base = None if base is None or not base.strip("0") else base  # CI services give 000… for the first push of a branch
    settings = ApplySettings(parallelism, lock_timeout, audit=audit, test_models=validate_models)
    if chosen.several or resume is not None:
        if planfile is not None:
            raise UsageError("a saved plan is for one environment; leave out --all, -l, further --env and --resume")
        from policyctl.cli.fleet import open_fleet
        from policyctl.cli.fleet_apply import FleetApproval, apply_several, resumed

        left = chosen if resume is None else resumed(options, chosen, resume)
        fleet = open_fleet(options, left, selection, overrides, base=base)
        return apply_several(fleet, replace(pace, parallelism=parallelism), settings, FleetApproval(yes, expect_digest, resume))
    if planfile is None:
        session = open_session(options)
        require_writable(session.url)
        review = review_directory(session, selection, overrides, base=base)
    else:
        session, review = _read_saved(options, planfile, selection, overrides, base)
    _show(session, review, planfile, expect_digest)
    if validate_models and not any(change.kind == "model" and change.after for change in review.plan.changes):
        session.console.say("--validate-models does nothing: the plan adds or updates no model")
    return confirm_and_apply(review, session, settings, yes=yes)


def _show(session: Session, review: Review, planfile: Path | None, expected: str | None) -> None:
    """Print the plan. Raises StalePlan for one that the remote has moved on from, or that is not the approved one."""
    console = session.console
    console.result(plan_text(review, session.remote, console.out_style, verbose=console.verbose))
    if unapproved := _unapproved(review.plan, expected):
        write_stop_summary(unapproved, console)
    write_plan_summary(view_of(review, session.remote, session.options.dir, console), planfile, console)
    raise_if_stale(review.stale, listed=True)
    if unapproved:
        raise StalePlan(unapproved)


def _unapproved(plan: Plan, expected: str | None) -> str | None:
    """Why a plan is not the approved one; None when it is, or when none is expected."""
    if expected == NONE and plan.changes:
        return (
            "no merged pull request has approved this plan; nothing was written. Read the plan, then approve its digest, "
            f"{plan.digest}"
        )
    if expected not in (None, NONE, plan.digest):
        moved = f", which covers what it does to the traffic of {listed(plan.traffic)}," if plan.traffic else ""
        return (
            f"this is not the plan that was approved: its digest{moved} is {plan.digest}, not {expected}; nothing was "
            "written. Have this plan approved by a new pull request, or start this by hand with its digest"
        )
    return None


def _check_expectation(digest: str | None, planfile: Path | None) -> None:
    """Raise UsageError for an impossible digest. An empty one counts as such: a missing step output is not an approval."""
    if digest is None:
        return
    if planfile is not None:
        raise UsageError("--expect-digest is for a plan made now; a saved plan is applied as it is")
    if digest != NONE and not _DIGEST.fullmatch(digest):
        raise UsageError("--expect-digest takes sha256: and 64 hexadecimal digits, as plan --format json prints them, or none")


def _read_saved(
    options: Options, planfile: Path, selection: Selection, overrides: Overrides, base: str | None
) -> tuple[Session, Review]:
    """A saved plan, checked against its environment, the remote as it is now, and the safety rules."""
    if selection != Selection():
        raise UsageError("--only and --exclude belong to plan; a saved plan is applied as it is")
    plan = _read_plan(planfile)
    if options.environment is not None and options.environment != plan.environment:
        raise BadPlan(f"{planfile} is a plan for environment {plan.environment}, not for {options.environment}")
    session = open_session(options, plan.environment)
    require_writable(plan.remote)
    require_writable(session.url)
    with session.reader() as reader:
        if reader.identity != plan.remote:
            raise BadPlan(f"{planfile} is a plan for {plan.remote}, not for {reader.identity}")
        if session.environment.digest != plan.config:
            why = f"policyctl.yaml changed the settings of {plan.environment} since the plan was made; plan again"
            raise StalePlan("\n  ".join([why, *_moved_settings(plan, session.environment)]))
        loaded = session.read(lenient=True).loaded
        with session.console.progress.of("Comparing", "live policy") as step:
            plan = replace(plan, overrides=overrides.given)  # only overrides that are given now count
            before = Before(session, base)
            loaded = loaded._replace(declared=replace(loaded.declared, before=before.declared))
            settings = overrides.on(session.environment.settings)
            review = review_saved(reader, plan, loaded, settings, step, before.documents)
        review = read_consumers_of(review, reader, loaded, settings, session, overrides)
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
    try:
        text = read_bounded(path, MAX_BYTES).decode()
    except OSError as error:
        raise BadPlan(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadPlan(f"{path} is not a plan: it is not text; make one with plan --out") from None
    return read_plan(text, str(path))


def confirm_and_apply(
    review: Review,
    session: Session,
    settings: ApplySettings = ApplySettings(),
    *,
    yes: bool,
) -> int:
    """Ask whether to apply a plan that was printed already, apply it, and return the exit code.

    Raises UsageError or Refused before asking when the remote is read-only or the plan is refused, Incomplete when not
    everything was applied, and otherwise as `apply_plan` does.
    """
    require_writable(session.url)
    if why := session.environment.suspended:
        name = session.environment.name
        raise Refused(f"{name} is suspended, so nothing was written: {why}; remove suspend from it first")
    if review.refusals or not review.plan.changes:
        raise_if_unsafe(review)
        return 0
    changes = count(len(review.plan.changes), "change")
    if not session.console.confirm(f"Apply {changes} to {session.environment.name}?", yes=yes):
        session.console.say("declined; nothing was written")
        return 1
    command, in_scope = click.get_current_context().command_path, session.environment.settings.in_scope
    settings = replace(settings, command=command, in_scope=in_scope)
    events = ConsoleEvents(session.console)
    applied = apply_plan(review, session.url, session.access, settings, events)
    if events.signal is not None:
        return 128 + events.signal
    applied.raise_if_incomplete()
    raise_if_unsafe(review)
    return 0


class ConsoleEvents(ApplyEvents):
    """Shows an apply on the console, and lets SIGINT and SIGTERM end it when what was begun is finished."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._step: Callable[[Outcome], None] = lambda _: None
        self.signal: int | None = None

    def message(self, line: str) -> None:
        self._console.say(line)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Catch the first signal; the second one stops at once."""

        def handle(number: int, _: object) -> None:
            signal.signal(number, signal.SIG_DFL)  # first of all, so that a second one is never caught
            self.signal = self.signal or number

        numbers = (signal.SIGINT, signal.SIGTERM)
        previous = [signal.signal(number, handle) for number in numbers]
        try:
            yield
        finally:
            for number, handler in zip(numbers, previous, strict=True):
                signal.signal(number, handler)

    @contextmanager
    def progress(self, label: str, total: int | None) -> Iterator[None]:
        with self._console.progress.of(label, "change", total, stopped=self.stopped) as self._step:
            yield

    def outcome(self, outcome: Outcome) -> None:
        if self._console.draws:
            self._step(outcome)
        else:  # a line for each change
            self._console.say(outcome_line(outcome, self._console.err_style), painted=True)

    def stopped(self) -> bool:
        return self.signal is not None

    def finished(self, applied: Applied) -> None:
        parts = applied.outcomes, applied.unverified
        self._console.result(apply_text(*parts, self._console.out_style, applied.tested))
        write_outcome_summary(apply_text(*parts, Style(), applied.tested), self._console)
