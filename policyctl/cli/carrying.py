"""Asking, carrying out, verifying: what every command that writes to a remote does with its reviewed plan."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

import click

from policyctl.cli.console import Console
from policyctl.cli.github import tell_outcome
from policyctl.cli.opening import Place
from policyctl.cli.plan import raise_if_unsafe
from policyctl.core.apply import GOOD, Outcome
from policyctl.core.guards import Review
from policyctl.errors import Incomplete
from policyctl.reconcile.apply import apply_changes, preflight
from policyctl.reconcile.observe import look_up
from policyctl.reconcile.verify import verify
from policyctl.remote.lock import Waiting
from policyctl.remote.open import alone, open_writer, require_writable
from policyctl.remote.protocol import Writer
from policyctl.report.apply_text import apply_text, outcome_line
from policyctl.report.plain import count, plain
from policyctl.report.style import Style

LOCK_SECONDS = 30.0  # how long somebody else's apply on an embedded remote is waited for


def ask_and_carry_out(
    reviewed: Review,
    place: Place,
    console: Console,
    *,
    yes: bool,
    parallelism: int = 1,
    lock_seconds: float = LOCK_SECONDS,
) -> int:
    """Carry out a plan that was printed already, once somebody agrees, and return the exit code.

    Raises UsageError or Refused, before asking, for a remote that can only be read or a plan that must not be applied, and
    Incomplete when not all of it was. On an embedded remote somebody else's apply is waited for: Refused when that takes
    more than `lock_seconds`, StalePlan when the policies of this plan moved meanwhile.
    """
    require_writable(place.url)
    if reviewed.refusals or not reviewed.plan.changes:
        raise_if_unsafe(reviewed)
        return 0
    changes = count(len(reviewed.plan.changes), "change")
    if not console.confirm(f"Apply {changes} to {place.environment.name}?", yes=yes):
        console.say("declined; nothing was written")
        return 1
    with _alone(place, console, lock_seconds), open_writer(place.url, place.access) as writer:
        if writer.embedded:
            preflight(reviewed.plan, look_up(writer, {change.name for change in reviewed.plan.changes}))
        return _carry_out(reviewed, writer, console, parallelism)


def _alone(place: Place, console: Console, seconds: float) -> AbstractContextManager[None]:
    command = click.get_current_context().command_path
    return alone(place.url, command, Waiting(seconds), lambda line: console.say(plain(line)))


def _carry_out(reviewed: Review, writer: Writer, console: Console, parallelism: int) -> int:
    plan = reviewed.plan
    with _stop_on_signals() as stopped:
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
        tell_outcome(apply_text(outcomes, unverified, Style()), console)
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
