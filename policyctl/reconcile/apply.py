"""Carrying out a plan: what makes it stale, then batch by batch, each write preceded by a look at what it replaces."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from policyctl.core.apply import Outcome, Schedule, Verdict, judge
from policyctl.core.change import Change
from policyctl.core.plan import Plan
from policyctl.errors import RemoteError
from policyctl.model.live import Observed
from policyctl.reconcile.observe import look_up
from policyctl.reconcile.witnesses import Witnesses
from policyctl.reconcile.writing import Work, moves
from policyctl.remote.patience import Patience
from policyctl.remote.protocol import Writer

BATCH = 64  # changes that one look-up covers; the time between look and write is that of one batch


def stale_changes(plan: Plan, observed: Observed) -> tuple[str, ...]:
    """What makes a saved plan stale, one line a change: a live policy that is neither as the plan saw it nor as it wants it."""
    obstacles = observed.obstacles()
    stale = [
        f"{change.name}: {moves(change, live)}"
        for change in plan.changes
        if judge(change, live := observed.live.get(change.name)) is Verdict.STALE and change.name not in obstacles
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
    patience: Patience = Patience(),
) -> list[Outcome]:
    """Carry out changes and say what became of each; never raises for what one change runs into.

    `on_begin` is called directly before a change's write; what it raises (PolicyctlError) is why that write is not made.
    `stopped` is asked before every write; once it says yes nothing new is begun, and what was begun is finished. `patience`
    is how long a write whose answer was lost is looked for and sent again.
    """
    schedule, outcomes = Schedule(changes), []
    work = Work(writer, Witnesses(writer), patience, stopped, on_begin)
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

    observed: Observed
    doubts: dict[str, str]

    def why_not(self, change: Change, witnesses: Witnesses) -> str | None:
        """Why a change must not be carried out, whatever the look-up says of it."""
        return self.doubts.get(change.name) or witnesses.why_not(change)


def _look(batch: list[Change], work: Work) -> _Look | RemoteError:
    try:
        observed = look_up(work.writer, {change.name for change in batch})
        return _Look(observed, work.witnesses.doubts(batch, observed))
    except RemoteError as error:
        return error
