"""Asking, carrying out, verifying: what every command that writes to a remote does with its reviewed plan."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from policyctl.cli.auditing import Audit, Notes, noting
from policyctl.cli.console import Console
from policyctl.cli.github import tell_outcome
from policyctl.cli.opening import Place
from policyctl.cli.plan import raise_if_unsafe
from policyctl.core.apply import GOOD, Outcome
from policyctl.core.guards import Review
from policyctl.errors import Incomplete
from policyctl.reconcile.apply import apply_changes
from policyctl.reconcile.verify import verify
from policyctl.remote.open import open_writer, require_writable
from policyctl.report.apply_text import apply_text, outcome_line
from policyctl.report.plain import count
from policyctl.report.style import Style


def ask_and_carry_out(
    reviewed: Review, place: Place, console: Console, *, yes: bool, parallelism: int = 1, audit: Audit | None = None
) -> int:
    """Carry out a plan that was printed already, once somebody agrees, and return the exit code.

    Raises UsageError or Refused, before asking, for a remote that can only be read or a plan that must not be applied, and
    Incomplete when not all of it was.
    """
    require_writable(place.url)
    if reviewed.refusals or not reviewed.plan.changes:
        raise_if_unsafe(reviewed)
        return 0
    changes = count(len(reviewed.plan.changes), "change")
    if not console.confirm(f"Apply {changes} to {place.environment.name}?", yes=yes):
        console.say("declined; nothing was written")
        return 1
    with noting(audit, reviewed.plan, place.access.directory, console) as notes:
        code = _carry_out(reviewed, place, console, parallelism, notes)
    if notes.lost:
        raise Incomplete(f"the audit file lacks what became of {count(len(notes.lost), 'change')}; see above")
    return code


def _carry_out(reviewed: Review, place: Place, console: Console, parallelism: int, notes: Notes) -> int:
    plan = reviewed.plan
    with open_writer(place.url, place.access) as writer, _stop_on_signals() as stopped:

        def is_stopped() -> bool:
            return stopped() is not None

        with console.progress.of("Applying", "change", len(plan.changes), stopped=is_stopped) as step:
            tell = step if console.draws else _tell(console)

            def told(outcome: Outcome) -> None:
                notes.became(outcome)
                tell(outcome)

            outcomes = apply_changes(
                plan.changes,
                writer,
                parallelism=parallelism,
                on_outcome=told,
                stopped=is_stopped,
                on_begin=notes.begun,
            )
        with console.progress.of("Verifying", "change"):
            unverified = [] if stopped() else verify(outcomes, writer, time.sleep)
        console.result(apply_text(outcomes, unverified, console.out_style))
        tell_outcome(apply_text(outcomes, unverified, Style()), console)
        if number := stopped():
            return 128 + number
    if unverified or any(outcome.status not in GOOD for outcome in outcomes):
        raise Incomplete("not everything was applied; see above, then plan again")
    raise_if_unsafe(reviewed)
    return 0


def _tell(console: Console) -> Callable[[Outcome], None]:
    """Where no bar can be drawn, a line a change."""
    return lambda outcome: console.say(outcome_line(outcome, console.err_style))


@contextmanager
def _stop_on_signals() -> Iterator[Callable[[], int | None]]:
    """Let SIGINT and SIGTERM finish what was begun; the second one stops at once. Yields a function that gives the signal."""
    caught: list[int] = []

    def handle(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)  # before anybody is told, or a second one could come too early
        caught.append(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, handle) for number in numbers]
    try:
        yield lambda: caught[0] if caught else None
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)
