"""Carrying out one change: a write, and where its answer is lost, finding out what became of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from policyctl.core.apply import Outcome, Verdict, judge, moved
from policyctl.core.carry import carry_unknown
from policyctl.core.change import Change
from policyctl.core.extra import has_extras
from policyctl.errors import Conflict, LostAnswer, NotFound, PolicyctlError, RemoteError
from policyctl.model.live import Live, Observed
from policyctl.model.normal import Document
from policyctl.reconcile.observe import look_up
from policyctl.reconcile.verify import WAITS
from policyctl.reconcile.witnesses import Witnesses
from policyctl.remote.patience import Patience
from policyctl.remote.protocol import Writer
from policyctl.report.fields import sides
from policyctl.report.plain import place

TRIES = 3


@dataclass(frozen=True, slots=True)
class Work:
    """What carrying out changes needs: the remote, both ways of reading it, time, and when to stop."""

    writer: Writer
    witnesses: Witnesses
    patience: Patience
    stopped: Callable[[], bool]
    on_begin: Callable[[Change], None]

    def carry_out(self, change: Change, observed: Observed) -> Outcome:
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

    def _write(self, outcome: Outcome, live: Live | None) -> tuple[Outcome, RemoteError | None]:
        """Send it: an outcome and, where looking again must tell what it is, the problem."""
        change = outcome.change
        try:
            self.on_begin(change)
        except PolicyctlError as error:
            return replace(outcome, reason=str(error)), None
        document = change.after
        if document is not None and live is not None:
            document = carry_unknown(live.document, document)
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

    def _look_again(self, change: Change, problem: RemoteError, due: float) -> Observed:
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


def _settled(outcome: Outcome, observed: Observed, problem: RemoteError | None) -> Outcome | None:
    """What a look says became of a change; None when it is still to be done."""
    change = outcome.change
    obstacle, live = observed.obstacles().get(change.name), observed.live.get(change.name)
    lost = isinstance(problem, LostAnswer)
    if obstacle is not None:
        return replace(outcome, reason=f"{problem}; {obstacle}" if lost else obstacle)
    match judge(change, live):
        case Verdict.ALREADY:
            return replace(outcome, status="applied" if lost else "already")
        case Verdict.STALE:
            neither = f"{problem}; the policy is neither as it was nor as it is wanted"
            return replace(
                outcome, reason=f"{neither if lost else 'changed since the plan was made'} ({moves(change, live)}); plan again"
            )
        case Verdict.DO:
            return None


def _is_open(change: Change, observed: Observed) -> bool:
    """Whether a later look may say more: nothing happened yet, or a row is not whole yet."""
    if any(row.name == change.name for row in observed.unreadable):
        return True
    return change.name not in observed.obstacles() and judge(change, observed.live.get(change.name)) is Verdict.DO


def _send(document: Document | None, live: Live | None, writer: Writer) -> str | None:
    if document is None:
        assert live is not None  # noqa: S101 - judge said DO, so the policy is there
        writer.remove(live.id, live.version)
    elif live is None:
        return writer.add(document)
    else:
        writer.update(live.id, document, live.version)
    return None


def moves(change: Change, live: Live | None) -> str:
    """Which fields of the live policy changed since the plan was made, from what to what."""
    return ", ".join(
        f"{place(field.path)}: {before} → {after}" for field in moved(change, live) for before, after in [sides(field)]
    )
