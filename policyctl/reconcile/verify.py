"""Reading back what apply did."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from policyctl.core.apply import GOOD, Outcome, Verdict, judge, missed
from policyctl.core.change import Change
from policyctl.errors import RemoteError
from policyctl.model.live import Observed
from policyctl.reconcile.observe import look_up
from policyctl.remote.protocol import Reader

WAITS = (0.2, 0.5, 1.0)  # seconds between re-reads, for a remote that shows a write late


def verify(outcomes: Iterable[Outcome], reader: Reader, sleep: Callable[[float], None]) -> list[str]:
    """What did not take, one line each; empty when the remote is as the applied changes wanted it.

    It is read by name, because a list may be cut short: then a removed policy would seem gone, an added one lost.
    """
    pending = [outcome.change for outcome in outcomes if outcome.status in GOOD]
    unverified: list[str] = []
    for wait in (*WAITS, None) if pending else ():
        try:
            observed = look_up(reader, {change.name for change in pending})
        except RemoteError as error:
            unverified = [f"the result could not be read back: {error}"]
        else:
            pending, unverified = _left(pending, observed)
        if not unverified or wait is None:
            break
        sleep(wait)
    return unverified


def _left(changes: Iterable[Change], observed: Observed) -> tuple[list[Change], list[str]]:
    """The changes that are not as they should be, and a line for each. Twins are never as they should be."""
    twins = {twins.name: twins.ids for twins in observed.twins}
    left, lines = [], []
    for change in changes:
        live = observed.live.get(change.name)
        if change.name in twins:
            ids = ", ".join(twins[change.name])
            lines.append(f"{change.name} is there {len(twins[change.name])} times (ids {ids}); remove all but one by id")
        elif judge(change, live) is not Verdict.ALREADY:
            lines.append(f"{change.name} did not take: {', '.join(missed(change, live))}")
        else:
            continue
        left.append(change)
    return left, lines
