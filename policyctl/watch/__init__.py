"""Continuous mode: looks at environments again and again, and applies what their settings allow.

Here is what a watch knows of its environments, for those who look at it: metrics, the status page, notifications.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import StrEnum
from typing import NamedTuple


class State(StrEnum):
    """How an environment is, beside the files."""

    IN_SYNC = "in_sync"
    PENDING = "pending"  # Git moved, and it is not applied yet
    DRIFTED = "drifted"  # the remote moved
    CONFLICT = "conflict"  # both moved
    FIGHTING = "fighting"  # another tool undoes what is applied
    REFUSED = "refused"  # by limits, guards, protection, or a test
    FAILED = "failed"
    SUSPENDED = "suspended"


SETTLED = (State.IN_SYNC, State.SUSPENDED)
FAILING = (State.FAILED, State.REFUSED)


@dataclass(frozen=True, slots=True)
class EnvironmentStatus:
    """An environment as it was when it was last looked at. Times are aware, in UTC."""

    name: str
    state: State
    since: datetime
    """When this state began."""
    labels: Mapping[str, str] = field(default_factory=dict)
    changes: int = 0
    digest: str = ""
    """The digest of the plan; empty without changes."""
    reason: str = ""
    """Why it is in this state, in one line without secrets."""
    waits_for: str = ""
    """What an allowed apply waits for: an approval, a window, a pause after a failure. Empty if nothing waits."""
    revision: str = ""
    looked_at: datetime | None = None
    succeeded_at: datetime | None = None
    """When it was last looked at without a failure, also of an apply before, that still holds."""
    next_look_at: datetime | None = None
    interval: float = 0.0
    """Seconds between two looks; 0 if that is not known."""


class SourceStatus(NamedTuple):
    """The files that are watched: which revision is in use, when they were last read, and why they could not be since."""

    revision: str = ""
    read_at: datetime | None = None
    error: str = ""


class Transition(NamedTuple):
    """An environment that is in another state, or has another plan in the same one, than when it was looked at before."""

    before: State | None
    now: EnvironmentStatus


class Watcher:
    """What is informed of a watch. Its methods are called from several threads, and must return at once and never raise."""

    def transition(self, transition: Transition) -> None:
        """An environment is in another state, or has another plan in the same one."""

    def source(self, source: SourceStatus) -> None:
        """There is another revision, or the source cannot be read, or can be read again."""

    def worked(self, action: str, result: str, seconds: float) -> None:
        """A `look`, an `apply` or a `heal` took so long, and was `done`, `refused` or `failed`."""

    def turned(self, due: int, lag: float) -> None:
        """The loop turned: so many environments are due, and the one that waits longest has done so for `lag` seconds."""

    def stopping(self) -> None:
        """The watch ends once what was begun is finished. May be called by any thread."""


class Board:
    """The states of all environments, written by the watch and read by threads that show them."""

    def __init__(self, on_transition: Callable[[Transition], None] = lambda _: None) -> None:
        self._lock = threading.Lock()
        self._environments: dict[str, EnvironmentStatus] = {}
        self._on_transition = on_transition
        self.source = SourceStatus()
        self.stopping = False
        self.leads = True  # unless another watch of the same does

    def put(self, status: EnvironmentStatus) -> None:
        """Note what a look or an apply found. A state that goes on keeps the time of its beginning."""
        with self._lock:
            before = self._environments.get(status.name)
            if before is not None and before.state is status.state:
                status = replace(status, since=before.since)
            self._environments[status.name] = status
        if before is None or (before.state, before.digest) != (status.state, status.digest):
            self._on_transition(Transition(None if before is None else before.state, status))

    def restore(self, status: EnvironmentStatus) -> None:
        """Note what was known before a restart; it is not a transition."""
        with self._lock:
            self._environments[status.name] = status

    def of(self, name: str) -> EnvironmentStatus | None:
        """How an environment was when it was last looked at; None if it was not yet."""
        with self._lock:
            return self._environments.get(name)

    def fails_again(self, status: EnvironmentStatus) -> bool:
        """Whether a failed apply is one that failed before."""
        before = self.of(status.name)
        return (
            status.state is State.FAILED
            and before is not None
            and (before.state, before.digest) == (status.state, status.digest)
        )

    def keep(self, names: frozenset[str]) -> None:
        """Forget the environments that are not among these any more."""
        with self._lock:
            self._environments = {name: one for name, one in self._environments.items() if name in names}

    def environments(self) -> list[EnvironmentStatus]:
        """All environments, by name."""
        with self._lock:
            return [self._environments[name] for name in sorted(self._environments)]


def advice(now: EnvironmentStatus) -> str:
    """What a person may do, as a command; empty if there is nothing to do."""
    if now.waits_for and now.state in (State.PENDING, State.DRIFTED):
        return ""
    command = {
        State.PENDING: "apply",
        State.DRIFTED: "drift",
        State.CONFLICT: "drift",
        State.FIGHTING: "drift",
        State.REFUSED: "plan",
    }.get(now.state)
    return "" if command is None else f"policyctl {command} --env {now.name}"
