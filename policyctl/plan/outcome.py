"""The rules of an apply, without doing anything: what may run, what a live policy means for it, what is skipped."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, auto
from typing import Literal

from policyctl.plan.change import Change
from policyctl.plan.diff import FieldChange, fields_between
from policyctl.plan.order import Queue
from policyctl.policy.document import Document, canonical_text, normal_form
from policyctl.policy.live import LivePolicy

Status = Literal["applied", "already", "failed", "skipped"]
GOOD: frozenset[Status] = frozenset({"applied", "already"})


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one change, and why where it did not take.

    `sent` is how many of its writes may have been carried out; `id` is what the remote called a policy that was added, where
    it said so. `written` is the document of an update that keeps fields which the format does not know.
    """

    change: Change
    status: Status
    reason: str = ""
    sent: int = 0
    id: str | None = None
    written: Document | None = None


class LiveState(Enum):
    """What the live policy says about a change."""

    DO = auto()  # live is as the plan saw it
    ALREADY = auto()  # live is as the plan wants it
    STALE = auto()  # live is neither


def live_state(change: Change, live: LivePolicy | None) -> LiveState:
    """Compare the live policy of that name (None: there is none) with what the change replaces and what it wants.

    Asked three times: for all changes before the first write, for each directly before its write, and to find out what
    became of a write whose answer was lost.
    """
    if live is None:
        if change.after is None:
            return LiveState.ALREADY
        return LiveState.DO if change.before is None else LiveState.STALE
    if change.after is not None and live.text == canonical_text(normal_form(change.after)):
        return LiveState.ALREADY
    if change.before is None or live.text != canonical_text(change.before):
        return LiveState.STALE
    return LiveState.DO if live.id == change.id else LiveState.STALE


def drifted_fields(change: Change, live: LivePolicy | None) -> tuple[FieldChange, ...]:
    """Which fields of the live policy moved since the plan was made; for a stale change."""
    if live is None:
        return (FieldChange("policy", "live", None),)
    if change.before is None:
        return (FieldChange("policy", None, "live"),)
    fields = fields_between(change.before, live.document)
    return fields or (FieldChange("id", change.id, live.id),)


def unapplied_fields(change: Change, live: LivePolicy | None) -> tuple[str, ...]:
    """Which fields of the live policy are not as the change wants them; for one that did not take."""
    if live is None:
        return ("it is not there",)
    if change.after is None:
        return ("it is still there",)
    return tuple(field.path for field in fields_between(live.document, change.after))


class Schedule:
    """Which changes may run now. A change waits for those that must come before it, and is skipped when one of them failed."""

    def __init__(self, changes: Iterable[Change]) -> None:
        self._queue = Queue(changes)
        self._bad: set[str] = set()

    def batch(self, size: int) -> list[Change]:
        """Up to `size` changes that may run at once. Each is handed out once; empty when all have been."""
        return self._queue.take(size)

    def finish(self, outcome: Outcome) -> None:
        """Take note of what became of a change that was handed out."""
        if outcome.status not in GOOD:
            self._bad.add(outcome.change.name)
        self._queue.finish(outcome.change.name)

    def why_skip(self, change: Change) -> str | None:
        """Why a change must not run although its turn has come: something it needs did not work."""
        failed = sorted(self._queue.needs[change.name] & self._bad)
        return f"{', '.join(failed)} did not work" if failed else None
