"""Boards as a watch leaves them, for the tests of what shows them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from policyctl.watch import Board, EnvironmentStatus, SourceStatus, State

NOW = datetime(2026, 3, 2, 9, 30, tzinfo=UTC)
REASONS = {
    State.PENDING: "not applied yet: anygem, fast",
    State.DRIFTED: "edited on the remote: anygem",
    State.CONFLICT: "edited on both sides: anygem",
    State.FIGHTING: "healed 3 times in a row: another tool undoes it",
    State.REFUSED: "limits.max_removes is 5, and this plan removes 12",
    State.FAILED: "tenant.example:443 answered 503 Service Unavailable",
    State.SUSPENDED: "moves to another region, until 2026-04-01",
}


def status(name: str, state: State = State.IN_SYNC, *, age: int = 60, **more: object) -> EnvironmentStatus:
    """An environment that is in a state for `age` minutes."""
    values: dict[str, object] = {
        "labels": {"ring": "canary" if name.endswith("0") else "stable"},
        "changes": 0 if state in (State.IN_SYNC, State.SUSPENDED) else 2,
        "digest": "" if state is State.IN_SYNC else "sha256:12ab",
        "reason": REASONS.get(state, ""),
        "revision": "5f2c1d0",
        "looked_at": NOW - timedelta(seconds=20),
        "succeeded_at": NOW - timedelta(seconds=20),
        "next_look_at": NOW + timedelta(seconds=40),
        "interval": 60.0,
    }
    return EnvironmentStatus(name, state, NOW - timedelta(minutes=age), **(values | more))  # type: ignore[arg-type]


def board(*statuses: EnvironmentStatus) -> Board:
    """A board with these environments, of files that were just read."""
    made = Board()
    made.source = SourceStatus("5f2c1d0", NOW - timedelta(seconds=5))
    for one in statuses:
        made.put(one)
    return made


def fleet(size: int) -> Board:
    """Many environments, most of them in sync."""
    states = {17: State.DRIFTED, 101: State.PENDING, 250: State.FAILED, 499: State.SUSPENDED, 777: State.REFUSED}
    more = {number * 13: state for number, state in enumerate([State.CONFLICT, State.FIGHTING, State.DRIFTED], 40)}
    return board(
        *(status(f"tenant-{number:04}", (states | more).get(number, State.IN_SYNC), age=number + 1) for number in range(size))
    )
