"""Confirming, applying and verifying: what every command that writes to a remote does with its reviewed plan."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import click

from policyctl.cli.audit import Audit, AuditNotes, recording
from policyctl.cli.console import Console
from policyctl.cli.github_actions import write_outcome_summary
from policyctl.cli.review import raise_if_unsafe
from policyctl.cli.session import Session
from policyctl.errors import Incomplete, StalePlan
from policyctl.plan.outcome import GOOD, Outcome
from policyctl.plan.safety import Review
from policyctl.reconcile.apply import apply_changes, stale_changes
from policyctl.reconcile.observe import look_up
from policyctl.reconcile.verify import verify
from policyctl.remote.lock import LockWait
from policyctl.remote.open import apply_lock_for, open_writer, require_writable
from policyctl.remote.protocol import Writer
from policyctl.report.format import Style, count
from policyctl.report.outcomes import apply_text, outcome_line

LOCK_SECONDS = 30.0  # how long somebody else's apply on an embedded remote is waited for


def confirm_and_apply(
    reviewed: Review,
    place: Session,
    console: Console,
    *,
    yes: bool,
    parallelism: int = 1,
    lock_seconds: float = LOCK_SECONDS,
    audit: Audit | None = None,
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
    with _lock(place, console, lock_seconds), open_writer(place.url, place.access) as writer:
        if writer.embedded:
            changed = {change.name for change in reviewed.plan.changes}
            raise_if_stale(stale_changes(reviewed.plan, look_up(writer, changed)))
        with recording(audit, reviewed.plan, place.access.directory, console) as notes:
            code = _apply(reviewed, place, writer, console, parallelism, notes)
    if notes.lost and not code:  # an interruption stays one; what the file lacks was told as it came
        raise Incomplete(f"the audit file lacks what became of {count(len(notes.lost), 'change')}; see above")
    return code


def raise_if_stale(stale: Sequence[str], *, listed: bool = False) -> None:
    """Raise StalePlan for what moved since a plan was made (see `stale_changes`), before any write.

    What the printed plan has `listed` is not printed again.
    """
    if stale:
        said = "the remote moved since the plan was made; nothing was written, plan again"
        raise StalePlan(f"{said} (see above)" if listed else "\n  ".join([said, *stale]))


def _lock(place: Session, console: Console, seconds: float) -> AbstractContextManager[None]:
    command = click.get_current_context().command_path
    return apply_lock_for(place.url, command, LockWait(seconds), console.say)


def _apply(reviewed: Review, place: Session, writer: Writer, console: Console, parallelism: int, notes: AuditNotes) -> int:
    plan = reviewed.plan
    with _stop_on_signals() as stopped:

        def is_stopped() -> bool:
            return stopped() is not None

        with console.progress.of("Applying", "change", len(plan.changes), stopped=is_stopped) as step:
            tell = step if console.draws else _report(console)

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
            in_scope = place.environment.settings.in_scope
            unverified = [] if stopped() else verify(outcomes, writer, time.sleep, reviewed.live, in_scope)
        console.result(apply_text(outcomes, unverified, console.out_style))
        write_outcome_summary(apply_text(outcomes, unverified, Style()), console)
        if number := stopped():
            return 128 + number
    if unverified or any(outcome.status not in GOOD for outcome in outcomes):
        raise Incomplete("not everything was applied; see above, then plan again")
    raise_if_unsafe(reviewed)
    return 0


def _report(console: Console) -> Callable[[Outcome], None]:
    """Where no bar can be drawn, a line a change."""
    return lambda outcome: console.say(outcome_line(outcome, console.err_style), painted=True)


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
