"""Carrying out a plan: what makes it stale, then batch by batch, each write preceded by a look at what it replaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

from policyctl.core.apply import Outcome, Schedule, Verdict, judge, moved
from policyctl.core.carry import carry_unknown
from policyctl.core.change import Change
from policyctl.core.plan import Plan
from policyctl.errors import Conflict, LostAnswer, NotFound, PolicyctlError, RemoteError
from policyctl.model.live import Live, Observed
from policyctl.reconcile.observe import look_up
from policyctl.remote.protocol import Writer
from policyctl.report.fields import sides

BATCH = 64  # changes that one look-up covers; the time between look and write is that of one batch
TRIES = 3


def stale_changes(plan: Plan, observed: Observed) -> tuple[str, ...]:
    """What makes a saved plan stale, one line a change: a live policy that is neither as the plan saw it nor as it wants it."""
    stale = [
        f"{change.name}: {_moves(change, live)}"
        for change in plan.changes
        if judge(change, live := observed.live.get(change.name)) is Verdict.STALE
    ]
    twins = {twins.name for twins in observed.twins}
    stale += [f"{change.name}: the remote has several of that name now" for change in plan.changes if change.name in twins]
    return tuple(stale)


def _moves(change: Change, live: Live | None) -> str:
    """Which fields of the live policy changed since the plan was made, from what to what."""
    return ", ".join(f"{field.path}: {before} → {after}" for field in moved(change, live) for before, after in [sides(field)])


def apply_changes(
    changes: Sequence[Change],
    writer: Writer,
    *,
    parallelism: int,
    on_outcome: Callable[[Outcome], None],
    stopped: Callable[[], bool],
    on_begin: Callable[[Change], None] = lambda _: None,
) -> list[Outcome]:
    """Carry out changes and say what became of each; never raises for what one change runs into.

    `on_begin` is called directly before a change's write; what it raises (PolicyctlError) is why that write is not made.
    `stopped` is asked before every write; once it says yes nothing new is begun, and what was begun is finished.
    """
    schedule, outcomes = Schedule(changes), []
    with ThreadPoolExecutor(parallelism) as pool:
        while batch := schedule.batch(BATCH):
            observed = _look(batch, writer)

            def carry_out(change: Change, observed: Observed | RemoteError = observed) -> Outcome:
                if stopped():
                    return Outcome(change, "skipped", "interrupted")
                if reason := schedule.why_skip(change):
                    return Outcome(change, "skipped", reason)
                if isinstance(observed, RemoteError):
                    return Outcome(change, "failed", str(observed))
                return _carry_out(change, observed, writer, on_begin)

            for outcome in pool.map(carry_out, batch):
                schedule.finish(outcome)
                outcomes.append(outcome)
                on_outcome(outcome)
    return outcomes


def _look(batch: list[Change], writer: Writer) -> Observed | RemoteError:
    try:
        return look_up(writer, {change.name for change in batch})
    except RemoteError as error:
        return error


def _carry_out(change: Change, observed: Observed, writer: Writer, on_begin: Callable[[Change], None]) -> Outcome:
    """One change. A write whose answer was lost, or that met another writer, is resolved by looking again."""
    problem: RemoteError | None = None
    for tries_left in reversed(range(TRIES + 1)):
        if any(twins.name == change.name for twins in observed.twins):
            return Outcome(change, "failed", "the remote has several policies of that name now")
        live = observed.live.get(change.name)
        verdict = judge(change, live)
        if verdict is Verdict.ALREADY:
            return Outcome(change, "applied" if isinstance(problem, LostAnswer) else "already")
        if verdict is Verdict.STALE:
            return Outcome(change, "failed", f"moved since the plan was made ({_moves(change, live)}); plan again")
        if not tries_left:
            break
        try:
            on_begin(change)
            _write(change, live, writer)
        except (LostAnswer, Conflict, NotFound) as error:
            problem = error
        except PolicyctlError as error:
            return Outcome(change, "failed", str(error))
        else:
            return Outcome(change, "applied")
        try:
            observed = look_up(writer, {change.name})
        except RemoteError as error:
            return Outcome(change, "failed", f"{problem}; and what became of it cannot be read: {error}")
    return Outcome(change, "failed", str(problem))


def _write(change: Change, live: Live | None, writer: Writer) -> None:
    if change.after is None:
        assert live is not None  # noqa: S101 - judge said DO, so the policy is there
        writer.remove(live.id, live.version)
    elif live is None:
        writer.add(change.after)
    else:
        writer.update(live.id, carry_unknown(live.document, change.after), live.version)
