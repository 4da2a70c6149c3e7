"""Reading back what apply did."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from policyctl.core.apply import GOOD, Outcome, Verdict, judge, missed
from policyctl.errors import RemoteError
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
            live = look_up(reader, {change.name for change in pending}).live
        except RemoteError as error:
            unverified = [f"the result could not be read back: {error}"]
        else:
            pending = [change for change in pending if judge(change, live.get(change.name)) is not Verdict.ALREADY]
            unverified = [
                f"{change.name} did not take: {', '.join(missed(change, live.get(change.name)))}" for change in pending
            ]
        if not unverified or wait is None:
            break
        sleep(wait)
    return unverified
