"""policyctl apply."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click

from policyctl.cli.console import Console
from policyctl.cli.opening import Place, find_place, load_policies
from policyctl.cli.options import Options, with_options
from policyctl.cli.plan import raise_if_unsafe
from policyctl.cli.selecting import Overrides, with_selection
from policyctl.core.apply import GOOD, Outcome
from policyctl.core.guards import Review, review
from policyctl.core.plan import Plan, Selection
from policyctl.core.saved import BadPlan, read_plan
from policyctl.errors import Incomplete, StalePlan, UsageError
from policyctl.reconcile.apply import apply_changes, preflight
from policyctl.reconcile.observe import observe
from policyctl.reconcile.plan import plan_directory
from policyctl.reconcile.verify import verify
from policyctl.remote.open import open_reader, open_writer
from policyctl.report.apply_text import apply_text, outcome_line
from policyctl.report.plain import count
from policyctl.report.plan_text import plan_text

EPILOG = """\b
Example:
  policyctl apply
  policyctl apply --env prod --yes
  policyctl plan --out plan.json && policyctl apply plan.json --yes"""


@click.command("apply", epilog=EPILOG)
@click.argument("planfile", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option("--parallelism", type=click.IntRange(1, 64), default=4, show_default=True, help="Changes at once.")
@with_selection
@with_options
def command(
    options: Options, planfile: Path | None, yes: bool, parallelism: int, selection: Selection, overrides: Overrides
) -> int:
    """Make the remote what the files say: add, update, remove, then read back and verify.

    With a PLANFILE (from plan --out) exactly that plan is applied, or refused when the remote moved since. It can be
    applied again after it was interrupted.
    """
    return apply(options, planfile, yes, parallelism, selection, overrides)


def apply(
    options: Options, planfile: Path | None, yes: bool, parallelism: int, selection: Selection, overrides: Overrides
) -> int:
    console = Console(options)
    if planfile is None:
        place, reviewed = _plan_afresh(options, console, selection, overrides)
    else:
        place, reviewed = _read_saved(options, planfile, selection, overrides)
    console.result(plan_text(reviewed, place.remote, console.out_style, verbose=console.verbose))
    if reviewed.refusals or not reviewed.plan.changes:
        raise_if_unsafe(reviewed)
        return 0
    changes = count(len(reviewed.plan.changes), "change")
    if not console.confirm(f"Apply {changes} to {place.environment.name}?", yes=yes):
        console.say("declined; nothing was written")
        return 1
    return _carry_out(reviewed, place, console, parallelism)


def _plan_afresh(options: Options, console: Console, selection: Selection, overrides: Overrides) -> tuple[Place, Review]:
    place = find_place(options)
    loaded = load_policies(options, place, console)
    with open_reader(place.url) as reader:
        settings = overrides.on(place.environment.settings)
        return place, plan_directory(reader, loaded.policies, place.environment, settings, selection)


def _read_saved(options: Options, planfile: Path, selection: Selection, overrides: Overrides) -> tuple[Place, Review]:
    """A saved plan, held against the environment it is for, the remote as it is now, and the safety rules."""
    if selection != Selection():
        raise UsageError("--only and --exclude belong to plan; a saved plan is applied as it is")
    plan = _read_plan(planfile)
    if options.env is not None and options.env != plan.environment:
        raise BadPlan(f"{planfile} is a plan for environment {plan.environment}, not for {options.env}")
    place = find_place(options, plan.environment)
    with open_reader(place.url) as reader:
        if reader.identity != plan.remote:
            raise BadPlan(f"{planfile} is a plan for {plan.remote}, not for {reader.identity}")
        if place.environment.digest != plan.config:
            raise StalePlan(f"policyctl.yaml changed what holds for {plan.environment} since the plan was made; plan again")
        observed = observe(reader)
    preflight(plan, observed)
    return place, review(plan, observed, overrides.on(place.environment.settings))


def _read_plan(path: Path) -> Plan:
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise BadPlan(f"{path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadPlan(f"{path} is no plan: it is not text; make one with plan --out") from None
    return read_plan(text, str(path))


def _carry_out(reviewed: Review, place: Place, console: Console, parallelism: int) -> int:
    plan = reviewed.plan
    with open_writer(place.url) as writer, _stop_on_signals() as stopped:
        with _progress(console, len(plan.changes)) as on_outcome:
            outcomes = apply_changes(
                plan.changes,
                writer,
                parallelism=parallelism,
                on_outcome=on_outcome,
                stopped=lambda: stopped() is not None,
            )
        unverified = [] if stopped() else verify(outcomes, writer, time.sleep)
        console.result(apply_text(outcomes, unverified, console.out_style))
        if number := stopped():
            return 128 + number
    if unverified or any(outcome.status not in GOOD for outcome in outcomes):
        raise Incomplete("not everything was applied; see above, then plan again")
    raise_if_unsafe(reviewed)
    return 0


@contextmanager
def _progress(console: Console, total: int) -> Iterator[Callable[[Outcome], None]]:
    """A bar on a terminal, a line a change elsewhere."""
    stream = sys.stderr
    if not stream.isatty():
        yield lambda outcome: console.say(outcome_line(outcome, console.err_style))
        return
    with click.progressbar(length=total, label="Applying", file=stream) as bar:
        yield lambda _: bar.update(1)


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], int | None]]:
    """Let SIGINT and SIGTERM finish what was begun; the second one stops at once. Yields a function that gives the signal."""
    caught: list[int] = []

    def handle(number: int, _: object) -> None:
        caught.append(number)
        signal.signal(number, signal.SIG_DFL)

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, handle) for number in numbers]
    try:
        yield lambda: caught[0] if caught else None
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
