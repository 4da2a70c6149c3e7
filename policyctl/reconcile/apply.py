"""Applying a reviewed plan, in one order: stale check, lock, stale check again, write and record each change, verify.

The rules are in manual/architecture.md, safety rules 5, 6 and 8.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from policyctl.errors import Conflict, Incomplete, LostAnswer, NotFound, PolicyctlError, RemoteError
from policyctl.plan.diff import has_extras
from policyctl.plan.plan import (
    GOOD,
    Change,
    LiveState,
    ModelTest,
    Outcome,
    Schedule,
    document_to_write,
    is_open,
    live_state,
    why_too_early,
)
from policyctl.plan.safety import Review
from policyctl.plan.settings import Override
from policyctl.policy.document import Document
from policyctl.policy.live import Live, LiveRows
from policyctl.policy.names import Kind, virtual_model
from policyctl.reconcile.audit import Audit, Recording, recording
from policyctl.reconcile.observe import WAITS, Witnesses, look_up, verify
from policyctl.reconcile.plan import moved_by_another, raise_if_refused, raise_if_stale, stale_changes
from policyctl.remote import Backoff, Writer
from policyctl.remote.open import Access, apply_lock_for, open_writer, require_writable
from policyctl.remote.sqlite import LockWait
from policyctl.report.format import count

TRIES = 3  # of one write, when its answer is lost
BATCH = 64  # changes that one look-up covers; the time between look and write is that of one batch
LOCK_SECONDS = 30.0  # how long to wait for another apply on the same embedded remote


@dataclass(frozen=True, slots=True)
class ApplySettings:
    """How to carry out a plan.

    `command` is shown to other processes that wait for the lock. `in_scope` are the names that the directory manages: others
    may come and go during the apply. `test_models` has the platform test the models that were written. `admit` is called
    directly before the first write: it raises PolicyctlError if nothing may be written, and returns overrides for the audit.
    `begins` is called directly before each write, by several threads; if it raises PolicyctlError, that write is not made.
    """

    parallelism: int = 1
    lock_seconds: float = LOCK_SECONDS
    command: str = "policyctl apply"
    audit: Audit | None = None
    in_scope: Callable[[str], bool] = lambda _: True
    test_models: bool = False
    admit: Callable[[], tuple[Override, ...]] = lambda: ()
    begins: Callable[[], None] = lambda: None
    patience: Backoff = field(default_factory=Backoff)


class ApplyEvents:
    """What an apply reports while it runs, and when it should stop. A caller overrides what it is interested in."""

    def message(self, line: str) -> None:
        """A line for people: which process is waited for, or what could not be recorded."""

    def writing(self) -> AbstractContextManager[object]:
        """Entered before the first write and left after `finished`."""
        return nullcontext()

    def progress(self, _label: str, _total: int | None) -> AbstractContextManager[object]:
        """Entered for each step: `Applying` so many changes, then `Verifying`."""
        return nullcontext()

    def outcome(self, outcome: Outcome) -> None:
        """A change is done."""

    def stopped(self) -> bool:
        """Whether to stop: nothing new is begun, and what was begun is finished."""
        return False

    def finished(self, applied: Applied) -> None:
        """Everything is written and verified."""


class Applied(NamedTuple):
    """What an apply did: an outcome for each change, a line for each one that is not on the remote as it should be, the names
    of those whose outcome the audit lacks, and what was reported of written models where that was asked for."""

    outcomes: list[Outcome]
    unverified: list[str]
    unrecorded: list[str]
    tested: Sequence[ModelTest] = ()

    @property
    def is_verified(self) -> bool:
        """Whether every change is on the remote, and was read back."""
        return not self.unverified and all(outcome.status in GOOD for outcome in self.outcomes)

    def raise_if_incomplete(self) -> None:
        """Raise Incomplete unless every change is on the remote, verified and recorded."""
        if not self.is_verified:
            raise Incomplete("not everything was applied; see above, then plan again")
        if self.unrecorded:
            raise Incomplete(f"the audit lacks what became of {count(len(self.unrecorded), 'change')}; see above")


def apply_plan(
    review: Review, url: str, access: Access, settings: ApplySettings = ApplySettings(), events: ApplyEvents = ApplyEvents()
) -> Applied:
    """Carry out a reviewed plan on the remote at `url`.

    Raises UsageError for a remote that cannot be written, Refused for a plan that a safety rule refuses or when the lock is
    held for longer than `lock_seconds`, StalePlan when its policies changed since it was made, and what `admit` raises: all
    before any write. What was written is read back, also by an apply that is stopped.
    """
    require_writable(url)
    raise_if_refused(review)
    raise_if_stale(review.stale)
    plan, wait = review.plan, LockWait(settings.lock_seconds)
    with apply_lock_for(url, settings.command, wait, events.message), open_writer(url, access) as writer:
        if writer.embedded:  # another apply may have written while this one waited
            raise_if_stale(stale_changes(plan, look_up(writer, {change.name for change in plan.changes})))
        overrides = settings.admit()
        with recording(settings.audit, plan, access.directory, events.message, overrides) as record, events.writing():
            applied = _write_and_verify(review, writer, settings, events, record)
            events.finished(applied)
    return applied


def _write_and_verify(
    review: Review, writer: Writer, settings: ApplySettings, events: ApplyEvents, record: Recording
) -> Applied:
    def done(outcome: Outcome) -> None:
        record.finished(outcome)
        events.outcome(outcome)

    def begin(change: Change) -> None:
        record.begun(change)  # first: where that fails nothing is written, so no approval is used
        settings.begins()

    changes = review.plan.changes
    with events.progress("Applying", len(changes)):
        outcomes = apply_changes(
            changes,
            writer,
            parallelism=settings.parallelism,
            on_outcome=done,
            stopped=events.stopped,
            on_begin=begin,
            patience=settings.patience,
        )
    with events.progress("Verifying", None):
        seen = review.live, settings.in_scope, review.policies_before, review.models_before
        unverified = verify(outcomes, writer, settings.patience.sleep, *seen, stopped=events.stopped)
    if not settings.test_models:
        return Applied(outcomes, unverified, record.lost)
    with events.progress("Testing models", None):
        return Applied(outcomes, unverified, record.lost, tuple(test_models(outcomes, writer, events.stopped)))


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
    """Carry out changes in the order that they need, and return an outcome for each. A change that fails does not raise.

    `on_begin` is called directly before each write; if it raises PolicyctlError, that write is not made. `stopped` is asked
    before each write; once it is true nothing new is begun, and what was begun is finished. `patience` limits how long a write
    whose answer was lost is looked for and sent again.
    """
    schedule, outcomes = Schedule(changes), []
    work = ChangeWriter(writer, Witnesses(writer), patience, stopped, on_begin)
    with ThreadPoolExecutor(parallelism) as pool:
        while batch := schedule.batch(BATCH):
            look = _look(batch, work, schedule)

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
    """What a look-up found for a batch of changes, and by name the disagreements with the remote's list."""

    observed: LiveRows
    doubts: dict[str, str]

    def why_not(self, change: Change, witnesses: Witnesses) -> str | None:
        """Why a change must not be carried out, whatever was looked up."""
        return self.doubts.get(change.name) or witnesses.why_not(change)


def _look(batch: list[Change], work: ChangeWriter, schedule: Schedule) -> _Look | RemoteError:
    """Look up the changes of a batch, and what was done before them: as long as `verify` does, until the remote shows it."""
    relied = schedule.relied_on(batch)
    names = {change.name for change in batch}.union(one.name for before in relied.values() for one in before)
    try:
        for wait in (*WAITS, None):
            observed = look_up(work.writer, names)
            early = {change.name: why for change in batch if (why := why_too_early(change, relied[change.name], observed))}
            if not early or wait is None or work.stopped():
                break
            work.patience.sleep(wait)
        schedule.shown(names - {one.name for name in early for one in relied[name]})
        return _Look(observed, work.witnesses.doubts(batch, observed) | early)
    except RemoteError as error:
        return error


@dataclass(frozen=True, slots=True)
class ChangeWriter:
    """Carries out single changes: the remote, both ways of reading it, the time it may take, and when to stop."""

    writer: Writer
    witnesses: Witnesses
    patience: Backoff
    stopped: Callable[[], bool]
    on_begin: Callable[[Change], None]

    def carry_out(self, change: Change, observed: LiveRows) -> Outcome:
        """Write a change that `observed` shows as still to be done. After a failed write, look again to find its outcome.

        A write whose answer was lost is sent again only after looking for as long as `verify` does, and an add only when the
        list does not have it either. All of that takes at most the budget of one request. See safety rule 6.
        """
        outcome, problem = Outcome(change, "failed"), None
        end = due = self.patience.clock() + self.patience.budget
        for _ in range(TRIES):
            if (seen := _outcome_seen(outcome, observed, problem)) is not None:
                return seen
            if problem is not None and (why_not := self._why_not_again(change, problem, due, end)) is not None:
                return replace(outcome, reason=f"{problem}; {why_not}")
            outcome, problem = self._write(outcome, observed.live.get(change.name))
            if problem is None:
                return outcome
            due = self.patience.clock() + ((problem.after or 0.0) if isinstance(problem, LostAnswer) else 0.0)
            try:
                observed = self._look_again(change, problem, due if due <= end else 0.0)
            except RemoteError as error:
                return replace(outcome, reason=f"{problem}; and its outcome cannot be read: {error}")
        times = f" (sent {TRIES} times, and never seen on the remote)" if isinstance(problem, LostAnswer) else ""
        return _outcome_seen(outcome, observed, problem) or replace(outcome, reason=f"{problem}{times}")

    def _write(self, outcome: Outcome, live: Live | None) -> tuple[Outcome, RemoteError | None]:
        """Send a change. Returns an outcome, and the problem if only another look can show what the outcome is."""
        change = outcome.change
        try:
            document = document_to_write(live, change.after) if change.after is not None else None
            self.on_begin(change)
        except PolicyctlError as error:
            return replace(outcome, reason=str(error)), None
        if document is not None and live is not None:
            outcome = replace(outcome, written=document if has_extras(document, change.kind) else None)
        try:
            identifier = _send(change.kind, document, live, self.writer)
        except LostAnswer as error:
            return replace(outcome, sent=outcome.sent + 1), error
        except (Conflict, NotFound) as error:
            return replace(outcome, sent=1), error  # a remote that refuses a second one has not accepted two before
        except PolicyctlError as error:
            return replace(outcome, sent=outcome.sent + 1, reason=str(error)), None
        return replace(outcome, status="applied", sent=outcome.sent + 1, id=identifier), None

    def _look_again(self, change: Change, problem: RemoteError, due: float) -> LiveRows:
        """Look up the outcome of a write, not before `due`, several times. After a conflict one look is enough."""
        waits = () if isinstance(problem, Conflict) else WAITS
        if (seconds := due - self.patience.clock()) > 0:
            self.patience.sleep(seconds)
        observed = look_up(self.writer, {change.name})
        for wait in waits:
            if self.stopped() or not is_open(change, observed):
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
            return f"and its outcome cannot be read: {error}"


def _outcome_seen(outcome: Outcome, observed: LiveRows, problem: RemoteError | None) -> Outcome | None:
    """The outcome of a change as a look-up shows it; None when it is still to be done."""
    change = outcome.change
    obstacle, live = observed.obstacles().get(change.name), observed.live.get(change.name)
    lost = isinstance(problem, LostAnswer)
    if obstacle is not None:
        return replace(outcome, reason=f"{problem}; {obstacle}" if lost else obstacle)
    match live_state(change, live):
        case LiveState.ALREADY:
            return replace(outcome, status="applied" if lost else "already")
        case LiveState.STALE:
            neither = f"{problem}; the policy is neither as it was nor as planned"
            why = neither if lost else "changed since the plan was made"
            return replace(outcome, reason=f"{why} ({moved_by_another(change, live)}); plan again")
        case LiveState.DO:
            return None


def _send(kind: Kind, document: Document | None, live: Live | None, writer: Writer) -> str | None:
    if document is None:
        assert live is not None  # noqa: S101 - LiveState.DO means that it is there
        writer.remove(live.id, live.version, kind)
    elif live is None:
        return writer.add(document, kind)
    else:
        writer.update(live.id, document, live.version, kind)
    return None


_SUBJECTS = ("model", "model_name")  # the keys of a report that name what was tested
_PASSED = frozenset({"passed", "pass", "success", "succeeded", "ok"})


def test_models(outcomes: Sequence[Outcome], writer: Writer, stopped: Callable[[], bool]) -> Iterator[ModelTest]:
    """What the platform reports of each model that was written, when it is asked to test it.

    No failure of a test raises: the model is written, whatever comes of it.
    """
    for outcome in outcomes:
        change = outcome.change
        if change.kind != "model" or change.after is None or outcome.status != "applied":
            continue
        if stopped():
            yield ModelTest(change.name, "skipped", "interrupted")
        elif change.after.get("model_type") == "embedding":
            yield ModelTest(change.name, "skipped", "the platform does not test embedding models")
        else:
            yield _test_one(change.name, writer)


def _test_one(name: str, writer: Writer) -> ModelTest:
    try:
        report = writer.test_model(name)
    except RemoteError as error:
        return ModelTest(name, "not known", f"the test itself failed: {error}")
    if report is None:
        return ModelTest(name, "skipped", "this remote does not test models")
    if (about := _tested_subject(report)) is not None and virtual_model(about) != name:
        return ModelTest(name, "not known", f"the report is about {about}")
    status = report.get("overall_status") if isinstance(report, dict) else None
    tests = report.get("tests") if isinstance(report, dict) else None
    failed = [test for test in tests if _is_failed(test)] if isinstance(tests, list) else []
    if failed:
        return ModelTest(name, "failed", "; ".join(f"{test.get('test_name')}: {test.get('message')}" for test in failed))
    if not isinstance(status, str) or not isinstance(tests, list):
        return ModelTest(name, "not known", "the report has neither a status nor tests")
    if not tests:
        return ModelTest(name, "skipped", "no test was made")
    if status.casefold() not in _PASSED:
        return ModelTest(name, "failed", status)
    passed = sum(_test_status(test) in _PASSED for test in tests)
    return ModelTest(name, "passed", f"{passed} of {len(tests)}") if passed else ModelTest(name, "skipped", "no test was made")


def _tested_subject(report: Any) -> str | None:
    """The model that a report names; None where it names none."""
    named = (report.get(key) for key in _SUBJECTS) if isinstance(report, dict) else ()
    return next((str(one) for one in named if one), None)


def _is_failed(test: Any) -> bool:
    return isinstance(test, dict) and _test_status(test) not in _PASSED | {"skipped"}


def _test_status(test: Any) -> str:
    return str(test.get("status")).casefold() if isinstance(test, dict) else ""
