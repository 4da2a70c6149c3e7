"""Applying a plan: batch by batch, each write preceded by a look at what it replaces and followed by a check."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import NamedTuple

from policyctl.errors import Conflict, LostAnswer, NotFound, PolicyctlError, RemoteError
from policyctl.plan.change import Change, has_extras, keep_unknown_fields
from policyctl.plan.outcome import LiveState, Outcome, Schedule, drifted_fields, live_state
from policyctl.plan.plan import Plan
from policyctl.policy.document import Document
from policyctl.policy.live import LivePolicy, LiveRows
from policyctl.reconcile.observe import Witnesses, look_up
from policyctl.reconcile.verify import WAITS
from policyctl.remote.backoff import Backoff
from policyctl.remote.protocol import Writer
from policyctl.report.format import position_name
from policyctl.report.plan_text import sides

TRIES = 3


@dataclass(frozen=True, slots=True)
class ChangeWriter:
    """What carrying out changes needs: the remote, both ways of reading it, time, and when to stop."""

    writer: Writer
    witnesses: Witnesses
    patience: Backoff
    stopped: Callable[[], bool]
    on_begin: Callable[[Change], None]

    def carry_out(self, change: Change, observed: LiveRows) -> Outcome:
        """Write, if `observed` says that it is to be done. What went wrong with the write is resolved by looking again.

        A write whose answer was lost is sent again only when the change was looked for as long as `verify` does, and an add
        only when the list does not have it either. All of that happens within the budget of one request.
        """
        outcome, problem = Outcome(change, "failed"), None
        end = due = self.patience.clock() + self.patience.budget
        for _ in range(TRIES):
            if (settled := _settled(outcome, observed, problem)) is not None:
                return settled
            if problem is not None and (why_not := self._why_not_again(change, problem, due, end)) is not None:
                return replace(outcome, reason=f"{problem}; {why_not}")
            outcome, problem = self._write(outcome, observed.live.get(change.name))
            if problem is None:
                return outcome
            due = self.patience.clock() + ((problem.after or 0.0) if isinstance(problem, LostAnswer) else 0.0)
            try:
                observed = self._look_again(change, problem, due if due <= end else 0.0)
            except RemoteError as error:
                return replace(outcome, reason=f"{problem}; and what became of it cannot be read: {error}")
        times = f" (sent {TRIES} times, and no look shows it)" if isinstance(problem, LostAnswer) else ""
        return _settled(outcome, observed, problem) or replace(outcome, reason=f"{problem}{times}")

    def _write(self, outcome: Outcome, live: LivePolicy | None) -> tuple[Outcome, RemoteError | None]:
        """Send it: an outcome and, where looking again must tell what it is, the problem."""
        change = outcome.change
        try:
            self.on_begin(change)
        except PolicyctlError as error:
            return replace(outcome, reason=str(error)), None
        document = change.after
        if document is not None and live is not None:
            document = keep_unknown_fields(live.document, document)
            outcome = replace(outcome, written=document if has_extras(document) else None)
        try:
            identifier = _send(document, live, self.writer)
        except LostAnswer as error:
            return replace(outcome, sent=outcome.sent + 1), error
        except (Conflict, NotFound) as error:
            return replace(outcome, sent=1), error  # who refuses a second one has not taken two before
        except PolicyctlError as error:
            return replace(outcome, sent=outcome.sent + 1, reason=str(error)), None
        return replace(outcome, status="applied", sent=outcome.sent + 1, id=identifier), None

    def _look_again(self, change: Change, problem: RemoteError, due: float) -> LiveRows:
        """Look what became of a write, not before `due`; for a while, unless another writer was met: that shows at once."""
        waits = () if isinstance(problem, Conflict) else WAITS
        if (seconds := due - self.patience.clock()) > 0:
            self.patience.sleep(seconds)
        observed = look_up(self.writer, {change.name})
        for wait in waits:
            if self.stopped() or not _is_open(change, observed):
                break
            self.patience.sleep(wait)
            observed = look_up(self.writer, {change.name})
        return observed

    def _why_not_again(self, change: Change, problem: RemoteError, due: float, end: float) -> str | None:
        """Why a write must not be sent again; None when it may."""
        if not isinstance(problem, LostAnswer):
            return None
        if self.stopped():
            return "interrupted before it was sent again"
        if change.action == "add" and problem.slow:
            return "it may still be carried out, so it was not sent again; plan again to see"
        if not due <= self.patience.clock() <= end:
            return "there was no time left to send it again"
        if change.action != "add":
            return None
        try:
            return self.witnesses.lists(change.name)
        except RemoteError as error:
            return f"and what became of it cannot be read: {error}"


def _settled(outcome: Outcome, observed: LiveRows, problem: RemoteError | None) -> Outcome | None:
    """What a look says became of a change; None when it is still to be done."""
    change = outcome.change
    obstacle, live = observed.obstacles().get(change.name), observed.live.get(change.name)
    lost = isinstance(problem, LostAnswer)
    if obstacle is not None:
        return replace(outcome, reason=f"{problem}; {obstacle}" if lost else obstacle)
    match live_state(change, live):
        case LiveState.ALREADY:
            return replace(outcome, status="applied" if lost else "already")
        case LiveState.STALE:
            neither = f"{problem}; the policy is neither as it was nor as it is wanted"
            why = neither if lost else "changed since the plan was made"
            return replace(outcome, reason=f"{why} ({moved_by_another(change, live)}); plan again")
        case LiveState.DO:
            return None


def _is_open(change: Change, observed: LiveRows) -> bool:
    """Whether a later look may say more: nothing happened yet, or a row is not whole yet."""
    if any(row.name == change.name for row in observed.unreadable):
        return True
    return change.name not in observed.obstacles() and live_state(change, observed.live.get(change.name)) is LiveState.DO


def _send(document: Document | None, live: LivePolicy | None, writer: Writer) -> str | None:
    if document is None:
        assert live is not None  # noqa: S101 - LiveState.DO means that the policy is there
        writer.remove(live.id, live.version)
    elif live is None:
        return writer.add(document)
    else:
        writer.update(live.id, document, live.version)
    return None


def moved_by_another(change: Change, live: LivePolicy | None) -> str:
    """Which fields of the live policy changed since the plan was made, from what to what."""
    return ", ".join(
        f"{position_name(field.path)}: {before} → {after}"
        for field in drifted_fields(change, live)
        for before, after in [sides(field)]
    )


BATCH = 64  # changes that one look-up covers; the time between look and write is that of one batch


def stale_changes(plan: Plan, observed: LiveRows) -> tuple[str, ...]:
    """What makes a saved plan stale, one line a change: a live policy that is neither as the plan saw it nor as it wants it."""
    obstacles = observed.obstacles()
    stale = [
        f"{change.name}: {moved_by_another(change, live)}"
        for change in plan.changes
        if live_state(change, live := observed.live.get(change.name)) is LiveState.STALE and change.name not in obstacles
    ]
    stale += [f"{change.name}: {obstacles[change.name]}" for change in plan.changes if change.name in obstacles]
    return tuple(stale)


def apply_changes(
    changes: Sequence[Change],
    writer: Writer,
    *,
    parallelism: int,
    on_outcome: Callable[[Outcome], None],
    stopped: Callable[[], bool],
    on_begin: Callable[[Change], None] = lambda _: None,
    patience: Backoff = Backoff(),
) -> list[Outcome]:
    """Carry out changes and say what became of each; never raises for what one change runs into.

    `on_begin` is called directly before a change's write; what it raises (PolicyctlError) is why that write is not made.
    `stopped` is asked before every write; once it says yes nothing new is begun, and what was begun is finished. `patience`
    is how long a write whose answer was lost is looked for and sent again.
    """
    schedule, outcomes = Schedule(changes), []
    work = ChangeWriter(writer, Witnesses(writer), patience, stopped, on_begin)
    with ThreadPoolExecutor(parallelism) as pool:
        while batch := schedule.batch(BATCH):
            look = _look(batch, work)

            def carry_out(change: Change, look: _Look | RemoteError = look) -> Outcome:
                if stopped():
                    return Outcome(change, "skipped", "interrupted")
                if reason := schedule.why_skip(change):
                    return Outcome(change, "skipped", reason)
                if isinstance(look, RemoteError):
                    return Outcome(change, "failed", str(look))
                if reason := look.why_not(change, work.witnesses):
                    return Outcome(change, "failed", reason)
                return work.carry_out(change, look.observed)

            for outcome in pool.map(carry_out, batch):
                schedule.finish(outcome)
                outcomes.append(outcome)
                on_outcome(outcome)
    return outcomes


class _Look(NamedTuple):
    """What a look-up found of a batch of changes, and by name where the remote's list says otherwise."""

    observed: LiveRows
    doubts: dict[str, str]

    def why_not(self, change: Change, witnesses: Witnesses) -> str | None:
        """Why a change must not be carried out, whatever the look-up says of it."""
        return self.doubts.get(change.name) or witnesses.why_not(change)


def _look(batch: list[Change], work: ChangeWriter) -> _Look | RemoteError:
    try:
        observed = look_up(work.writer, {change.name for change in batch})
        return _Look(observed, work.witnesses.doubts(batch, observed))
    except RemoteError as error:
        return error
