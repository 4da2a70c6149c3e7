"""A watch over environments that exist only in memory, by a clock that only moves when nothing is running."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from policyctl.load.windows import WatchSettings
from policyctl.plan.drift import Moved
from policyctl.plan.fleet import EnvironmentResult
from policyctl.watch import Board, SourceStatus, Transition, Watcher
from policyctl.watch.look import Clock, CredentialsMark, Look, LookSchedule, Settled, Synced, Watched
from policyctl.watch.loop import Holds, WatchLoop
from policyctl.watch.memory import Memory, StateFolder

BEGIN = datetime(2026, 11, 27, 6, tzinfo=UTC)


class SimulatedClock(Clock):
    """Pauses at once. What is to happen at a time (seconds from the beginning) happens there."""

    def __init__(self) -> None:
        self.at = 0.0
        self.events: list[tuple[float, int, Callable[[], object]]] = []

    def now(self) -> datetime:
        return BEGIN + timedelta(seconds=self.at)

    def seconds(self) -> float:
        return self.at

    def then(self, at: float, what: Callable[[], object]) -> None:
        heapq.heappush(self.events, (at, len(self.events), what))

    def pause(self, running: Collection[Future[Any]], seconds: float, *_: Future[None]) -> None:
        if running:
            wait(running, return_when=FIRST_COMPLETED)
            return
        until = self.at + max(seconds, 1e-6)
        if self.events and self.events[0][0] <= until:
            self.at, _number, what = heapq.heappop(self.events)
            what()
        else:
            self.at = until


@dataclass
class Tenant:
    """A remote: what it has, and what was written to it when. It cannot be written or read while it is `broken`."""

    has: str = ""
    settings: WatchSettings = field(default_factory=WatchSettings)
    wave: int = 1
    broken: str = ""
    refused: bool = False
    key: str = "good"
    suspended: str = ""
    written: list[float] = field(default_factory=list)
    looked: list[float] = field(default_factory=list)


class SimulatedWork:
    """Files that want one text of every tenant. A tenant's text that no revision had was put there by hand."""

    def __init__(self, clock: SimulatedClock, tenants: Mapping[str, Tenant], wanted: str = "one") -> None:
        self.clock, self.tenants, self.wanted, self.used = clock, tenants, wanted, ""
        self.had = {wanted, ""}
        self.concerns: Callable[[str], bool] = lambda _: True  # the environments that the next revision is for
        self.stopped = False

    def push(self, wanted: str) -> None:
        self.wanted = wanted
        self.had.add(wanted)

    def fetch(self) -> str:
        return self.wanted

    @property
    def commit(self) -> str:
        return self.used

    def open(self, revision: str) -> Mapping[str, Watched]:
        self.used = revision
        return {
            name: Watched(one.settings, {}, one.wave, 0, "" if one.suspended else "https://host:443", self.wants(name))
            for name, one in self.tenants.items()
        }

    def wants(self, name: str) -> str:
        return self.used if self.concerns(name) else "one"

    def look(self, name: str, _own: Watched, *, synced: Synced) -> Look:
        tenant = self.tenants[name]
        tenant.looked.append(self.clock.at)
        if tenant.suspended:
            return Look(EnvironmentResult(name, "suspended", reason=tenant.suspended))
        failed = EnvironmentResult(name, "failed", reason=f"{name} is broken")
        if tenant.broken in ("login", "unreachable"):
            return Look(failed, {}, "login" if tenant.broken == "login" else "unreachable")
        wanted = self.wants(name)
        if tenant.has == wanted:
            return Look(EnvironmentResult(name, "planned"), {}, "", wanted, tenant.has)
        moved: Moved = "git" if tenant.has in self.had and synced.files != wanted else "remote"
        digest = f"{tenant.has}→{wanted}"
        result = EnvironmentResult(name, "planned", digest=digest, counts={"update": 1})
        return Look(result, {"policy": moved}, "refused" if tenant.refused else "", wanted, tenant.has)

    def unapproved(self, _name: str, _look: Look) -> str | None:
        return None

    def new_access(self, _name: str, _own: Watched, _synced: Synced) -> str | None:
        return "no approval shows it"

    def uncommitted(self) -> str | None:
        return None

    def outdated(self) -> str | None:
        return None if self.used == self.wanted else "the newest files, which are not in use yet"

    def owes(self, _name: str) -> bool:
        return False

    def settle(self, _name: str, _look: Look) -> Settled | None:
        return None

    def apply(self, name: str, look: Look) -> EnvironmentResult:
        tenant = self.tenants[name]
        if tenant.broken == "write":
            return EnvironmentResult(name, "failed", reason=f"{name} cannot be written")
        tenant.written.append(self.clock.at)
        tenant.has = look.fingerprint
        return EnvironmentResult(name, "applied")

    def credentials(self, name: str) -> CredentialsMark:
        return CredentialsMark(self.tenants[name].key, "file:key")

    def stop(self) -> None:
        self.stopped = True


class Seen(Watcher):
    """What a watch showed."""

    def __init__(self) -> None:
        self.transitions: list[Transition] = []
        self.sources: list[SourceStatus] = []

    def transition(self, transition: Transition) -> None:
        self.transitions.append(transition)

    def source(self, source: SourceStatus) -> None:
        self.sources.append(source)

    def states(self, name: str) -> list[str]:
        return [one.now.state.value for one in self.transitions if one.now.name == name]


@dataclass
class Simulation:
    """A watch of tenants. `run` watches until a time, as one process; what is remembered is in `folder`."""

    tenants: dict[str, Tenant]
    folder: Path | None = None
    clock: SimulatedClock = field(default_factory=SimulatedClock)
    seen: Seen = field(default_factory=Seen)

    def __post_init__(self) -> None:
        self.work = SimulatedWork(self.clock, self.tenants)

    def at(self, seconds: float, what: Callable[[], object]) -> None:
        self.clock.then(seconds, what)

    def edit(self, seconds: float, name: str, has: str) -> None:
        """Somebody edits a tenant by hand."""
        self.at(seconds, lambda: setattr(self.tenants[name], "has", has))

    def run(self, until: float, *, once: bool = False) -> Board:
        memory = Memory(None if self.folder is None else StateFolder(self.folder))

        def announce(transition: Transition) -> None:
            memory.announce(transition.now)
            self.seen.transition(transition)

        board = Board(announce)
        for status in memory.statuses():
            board.restore(status)
        rng = random.Random(7)
        schedule, holds = LookSchedule(rng), Holds(rng)
        loop = WatchLoop(self.work, board, memory, 10.0, 1, self.clock, schedule, holds, [self.seen])
        self.clock.then(until, loop.stop)
        loop.run(once=once)
        return board
