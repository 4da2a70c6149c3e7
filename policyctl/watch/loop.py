"""The watch itself: reads the source, looks at each environment when it is due, and applies what may be applied.

One thread decides; looks and applies run in threads. Nothing here knows how a plan is made or applied: see `Work`.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple, Protocol

from policyctl.errors import PolicyctlError
from policyctl.load.windows import WatchSettings, duration
from policyctl.plan.fleet import EnvironmentResult
from policyctl.watch.decide import Decision, Look, Situation, decide, state_of
from policyctl.watch.memory import Memory
from policyctl.watch.schedule import Circuit, Failures, Schedule
from policyctl.watch.status import Board, EnvironmentStatus, SourceStatus, State
from policyctl.watch.waves import Waves

_SPREAD = 5.0  # seconds within which the environments of a new revision are looked at, for each hundred of them
_BRAKE = 0.05  # of the environments: when more applies failed within a round, nothing more is applied in it
_HINT_SECONDS = 5.0  # the shortest time between two reads of the source, however many hints there are
_TURN_SECONDS = 10.0  # the longest time between two turns of the loop, which `/livez` looks at


class Watched(NamedTuple):
    """An environment of the revision in use: its settings and labels, the number of its wave and how many of that may fail, and
    the host of its remote."""

    settings: WatchSettings
    labels: Mapping[str, str] = {}
    wave: int = 1
    max_failures: int | None = None
    origin: str = ""


class Work(Protocol):
    """What a watch does with a source and with environments. All but `stop` is called in threads."""

    def fetch(self) -> str:
        """Bring the source up to date, and return the revision that it has now. Raises PolicyctlError."""

    def open(self, revision: str) -> Mapping[str, Watched]:
        """Use this revision from now on; its environments. Nothing else is running meanwhile. Raises PolicyctlError when it
        cannot be used; the one before then stays in use."""

    def look(self, name: str) -> Look:
        """Plan an environment. Never raises."""

    def unapproved(self, name: str, look: Look) -> str | None:
        """Why the plan of a look is not approved; None if it is."""

    def apply(self, name: str, look: Look) -> EnvironmentResult:
        """Apply the plan of a look, or nothing if it is another one by now. Never raises."""

    def credentials(self, name: str) -> str:
        """A hash of the credentials of an environment, as they are now."""

    def stop(self) -> None:
        """Begin nothing new in what runs now, and finish what was begun."""


class Clock:
    """The time, and waiting; a test has its own."""

    def now(self) -> datetime:
        return datetime.now(UTC)

    def seconds(self) -> float:
        """Seconds of a clock that is never set back."""
        return time.monotonic()

    def pause(self, futures: Collection[Future[Any]], seconds: float) -> None:
        """Wait until one of these is done, for so many seconds at most."""
        wait(futures, timeout=seconds, return_when=FIRST_COMPLETED)


class Visit(NamedTuple):
    """One look at an environment and what came of it: the decision, and the result of an apply, if there was one."""

    look: Look
    decision: Decision
    applied: EnvironmentResult | None
    seconds: float


class Reports(Protocol):
    """Who is told of each visit and of each turn of the loop, beside the board: metrics."""

    def visited(self, visit: Visit, lag: float) -> None: ...

    def turned(self, due: int) -> None: ...


@dataclass
class Watch:
    """A running watch. `poll` is how often the source is read, in seconds."""

    work: Work
    board: Board
    memory: Memory
    poll: float = 30.0
    parallelism: int = 4
    clock: Clock = field(default_factory=Clock)
    schedule: Schedule = field(default_factory=Schedule)
    failures: Failures = field(default_factory=Failures)
    reports: Sequence[Reports] = ()

    def __post_init__(self) -> None:
        self.turned_at = self.clock.seconds()
        self._environments: Mapping[str, Watched] = {}
        self._circuit = Circuit()
        self._running: dict[Future[Visit], tuple[str, float]] = {}
        self._fetching: Future[str] | None = None
        self._opening = ""  # a revision to be used once nothing is running
        self._poll_at = 0.0
        self._hinted: Future[None] = Future()
        self._stopped: Future[None] = Future()
        self._refused_logins: dict[str, str] = {}  # the credentials that were refused, by environment
        self._waves = Waves({})
        self._failed_applies: dict[str, float] = {}

    def stop(self) -> None:
        """End the loop once what was begun is finished. May be called by a signal handler."""
        self.board.stopping = True
        self.work.stop()
        if not self._stopped.done():
            self._stopped.set_result(None)

    def hint(self) -> None:
        """Read the source at once, or soon if it was just read. For one thread besides that of the loop."""
        if not self._hinted.done():
            self._hinted.set_result(None)

    @property
    def revision(self) -> str:
        return self.board.source.revision

    def run(self, *, once: bool = False) -> None:
        """Watch until `stop`; with `once` until each environment was looked at once. Raises PolicyctlError with `once` when the
        source cannot be used."""
        with ThreadPoolExecutor(self.parallelism + 1) as self._pool:
            seen: set[str] = set()
            while not self.board.stopping:
                seconds = self._turn(seen, once=once)
                if once and not self._busy and self._is_seen(seen):
                    break
                self.clock.pause(self._awaited, seconds)
            while self._running:
                self.clock.pause([*self._running], _TURN_SECONDS)
                self.turned_at = self.clock.seconds()
                self._finish(seen)
                for report in self.reports:
                    report.turned(0)
        self.memory.save()

    def _is_seen(self, seen: set[str]) -> bool:
        if self.board.source.error:
            raise PolicyctlError(self.board.source.error)
        return bool(self.revision) and seen >= self._environments.keys()

    @property
    def _busy(self) -> bool:
        return bool(self._running or self._fetching or self._opening)

    @property
    def _awaited(self) -> list[Future[Any]]:
        others = [self._fetching, None if self._hinted.done() else self._hinted]
        return [self._stopped, *self._running, *(one for one in others if one is not None)]

    def _turn(self, seen: set[str], *, once: bool) -> float:
        """Do everything that is due. Returns the seconds until something else is."""
        now = self.turned_at = self.clock.seconds()
        self._finish(seen)
        self._read_source(now)
        if not self._opening:
            self._begin_due(seen, once=once)
        for report in self.reports:
            report.turned(self.schedule.waiting(now))
        self.memory.save()
        due = [at for at in (self.schedule.next_due(), self._next_read) if at is not None]
        full = len(self._running) >= self.parallelism or self._opening
        return max(0.0, min(_TURN_SECONDS, (self._next_read if full else min(due)) - self.clock.seconds()))

    def _read_source(self, now: float) -> None:
        """Fetch when it is time to, and use a new revision as soon as nothing is running."""
        if self._fetching is not None and self._fetching.done():
            fetching, self._fetching = self._fetching, None
            self._poll_at = now + self.poll
            try:
                revision = fetching.result()
                self.board.source = SourceStatus(self.revision, self.clock.now())
                self._opening = revision if revision != self.revision else ""
            except PolicyctlError as error:
                self._source_failed(str(error))
        elif self._fetching is None and now >= self._next_read and not self._opening:
            self._hinted = Future()
            self._fetching = self._pool.submit(self.work.fetch)
        if self._opening and not self._running:
            self._use(self._opening, now)
            self._opening = ""

    @property
    def _next_read(self) -> float:
        return self._poll_at - max(0.0, self.poll - _HINT_SECONDS) * self._hinted.done()

    def _source_failed(self, why: str) -> None:
        self.board.source = self.board.source._replace(error=why)

    def _use(self, revision: str, now: float) -> None:
        """Begin to use another revision. Its environments are looked at soon, those of the first wave before the others."""
        try:
            self._environments = self.work.open(revision)
        except PolicyctlError as error:
            self._source_failed(str(error))
            return
        self.board.source = SourceStatus(revision, self.clock.now())
        names = self._environments.keys()
        self.board.keep(frozenset(names))
        self.memory.keep(names)
        self.failures.reset(names)
        self._refused_logins.clear()
        self._failed_applies.clear()
        self._waves = Waves(self._environments)
        self.schedule.keep({name: one.settings.interval for name, one in self._environments.items()}, now)
        self.schedule.hasten(names, now, _SPREAD * (len(names) // 100))

    def _begin_due(self, seen: set[str], *, once: bool) -> None:
        while len(self._running) < self.parallelism:
            now = self.clock.seconds()
            due = self.schedule.next_due()
            name = self.schedule.take(now)
            if name is None or due is None:
                return
            if once and name in seen:
                continue
            origin = self._environments[name].origin
            if left := self._circuit.wait(origin, now):
                self.schedule.again(name, now, left)
            elif self._refused_logins.get(name) == self.work.credentials(name):
                self.schedule.again(name, now)
            else:
                self._refused_logins.pop(name, None)
                task = partial(self._visit, name, self._situation(name))
                self._running[self._pool.submit(task)] = name, now - due

    def _situation(self, name: str) -> Situation:
        """What decides beside the plan, as it is when a visit begins."""
        return Situation(
            self.clock.now(),
            self.memory.heals(name),
            self._waves.why_not_yet(name),
            self._braked(name),
            lambda look: self.work.unapproved(name, look),
        )

    def _braked(self, name: str) -> str:
        """Why nothing is applied any more for a while; empty if it is."""
        now, interval = self.clock.seconds(), self._environments[name].settings.interval
        failed = sum(one != name and now - at < interval for one, at in self._failed_applies.items())
        if failed <= max(1, int(len(self._environments) * _BRAKE)):
            return ""
        return f"other environments: {failed:,} applies failed within {duration(interval)}"

    def _visit(self, name: str, situation: Situation) -> Visit:
        """Look at an environment, and apply its plan if that may be done. In a thread."""
        began = self.clock.seconds()
        look = self.work.look(name)
        try:
            decision = decide(look, self._environments[name].settings, situation)
        except PolicyctlError as error:
            decision = Decision(False, str(error))
        applied = self.work.apply(name, look) if decision.apply and not self.board.stopping else None
        return Visit(look, decision, applied, self.clock.seconds() - began)

    def _finish(self, seen: set[str]) -> None:
        """Note what came of the visits that are done."""
        for future in [one for one in self._running if one.done()]:
            name, lag = self._running.pop(future)
            visit = future.result()
            seen.add(name)
            if name in self._environments:
                self._note(name, visit)
                for report in self.reports:
                    report.visited(visit, lag)

    def _note(self, name: str, visit: Visit) -> None:
        now, own = self.clock.seconds(), self._environments[name]
        look, applied = visit.look, visit.applied
        failed = bool(look.problem) or (applied is not None and applied.failed)
        self._circuit.note(own.origin, name, now, reached=look.problem != "unreachable")
        if look.problem == "login":
            self._refused_logins[name] = self.work.credentials(name)
        after = None
        if failed and look.problem != "refused":
            after = self.failures.wait_after(name, own.settings.retry)
        elif not failed:
            self.failures.reset([name])
        if visit.decision.until is not None:
            after = max(0.0, (visit.decision.until - self.clock.now()).total_seconds())
        self._count(name, visit, now)
        status = self._status(name, visit, failed=failed)
        due = self.schedule.again(name, now, after)
        next_look = datetime.fromtimestamp(self.clock.now().timestamp() + due - now, UTC)
        if self._waves.note(name, status.state):
            self.schedule.hasten(self._waves.waiting, now, _SPREAD)
        self.board.put(replace(status, next_look_at=next_look))

    def _count(self, name: str, visit: Visit, now: float) -> None:
        """Keep count of heals in a row, and of applies that failed."""
        if visit.applied is None:
            if not visit.look.moved and not visit.look.problem:
                self.memory.set_heals(name, 0)
            return
        if visit.applied.failed:
            self._failed_applies[name] = now
        else:
            self._failed_applies.pop(name, None)
        if "remote" in visit.look.sides:
            self.memory.set_heals(name, self.memory.heals(name) + 1)

    def _status(self, name: str, visit: Visit, *, failed: bool) -> EnvironmentStatus:
        look, applied, now = visit.look, visit.applied, self.clock.now()
        state, reason = state_of(look)
        changes, digest = look.result.changes, look.result.digest if look.result.changes else ""
        if applied is not None:
            done = not applied.failed
            state, reason = (State.IN_SYNC, f"applied: {reason}") if done else (State.FAILED, applied.reason)
            changes, digest = (0, "") if done else (changes, digest)
        before = self.board.of(name)
        succeeded = now if not failed else None if before is None else before.succeeded_at
        return EnvironmentStatus(
            name,
            visit.decision.state or state,
            self.memory.since(name, visit.decision.state or state, now),
            dict(self._environments[name].labels),
            changes,
            digest,
            reason,
            visit.decision.waits_for,
            self.revision,
            now,
            succeeded,
            interval=self._environments[name].settings.interval,
        )
