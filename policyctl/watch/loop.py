"""The watch itself: reads the source, looks at each environment when it is due, and applies what may be applied.

One thread decides; looks and applies run in threads. Nothing here knows how a plan is made or applied: see `Work`.

What keeps a watch from a look or a write (`Holds`), and the order in which environments get a new revision (`Waves`), ask
nothing and do not wait: they are informed of what was found, and asked what is due.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

from policyctl.errors import PolicyctlError
from policyctl.load.windows import RetryWaits, duration
from policyctl.watch import SETTLED, Board, EnvironmentStatus, SourceStatus, State, Watcher
from policyctl.watch.look import (
    Clock,
    EnvironmentVisit,
    Heals,
    LookSchedule,
    Settled,
    Situation,
    Synced,
    Watched,
    Work,
    state_of,
    text_of,
    visit_environment,
)
from policyctl.watch.memory import Memory

_SPREAD = 0.03  # seconds for each environment that is looked at because of a new revision, so that they do not come at once
_HINT_SECONDS = 5.0  # the shortest time between two reads of the source, however many hints there are
_TURN_SECONDS = 5.0  # the longest time between two turns of the loop, which `/livez` looks at
_WAITS = (State.PENDING, State.DRIFTED)
_OPENS_AFTER = 5  # environments of one host that cannot be reached, before it is left alone
_PROBE_SECONDS = 60.0  # between two tries of a host that is left alone
_BRAKE = 0.05  # of the environments: when more writes failed within a round, nothing more is written in it


class Hold(NamedTuple):
    """Why an environment is not looked at, and for how many seconds; None: until its next turn."""

    reason: str
    seconds: float | None


class Circuit:
    """Leaves a host alone when several of its environments in a row could not reach it; one of them tries it each minute."""

    def __init__(self) -> None:
        self._failed: dict[str, set[str]] = {}
        self._probe: dict[str, float] = {}

    def wait(self, origin: str, now: float) -> float:
        """The seconds until an environment of a host may be tried; 0 lets the caller try it now."""
        if len(self._failed.get(origin, ())) < _OPENS_AFTER:
            return 0.0
        if (left := self._probe.get(origin, 0.0) - now) > 0:
            return left
        self._probe[origin] = now + _PROBE_SECONDS
        return 0.0

    def note(self, origin: str, name: str, now: float, *, reached: bool) -> None:
        """Note whether an environment reached its host."""
        if not origin:
            return
        if reached:
            self._failed.pop(origin, None)
            self._probe.pop(origin, None)
            return
        failed = self._failed.setdefault(origin, set())
        failed.add(name)
        if len(failed) == _OPENS_AFTER:
            self._probe[origin] = now + _PROBE_SECONDS


class Holds:
    """Failures, and what they forbid. Times are seconds of one clock. Not for several threads."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()  # noqa: S311 - spreads load
        self._failures: dict[str, int] = {}
        self._pauses: dict[str, float] = {}  # until when nothing is written
        self._logins: dict[str, str] = {}  # the credentials that were refused
        self._writes: dict[str, float] = {}  # when they last failed
        self._circuit = Circuit()

    def begin(self, names: Iterable[str]) -> None:
        """Forget what is known of these environments: there is a new revision."""
        for name in names:
            self.succeeded(name)
            self._logins.pop(name, None)

    def succeeded(self, name: str) -> None:
        """Note that nothing failed."""
        for known in (self._failures, self._pauses, self._writes):
            known.pop(name, None)

    def failed(self, name: str, now: float, retry: RetryWaits, *, wrote: bool) -> float:
        """Note a failure; the seconds until the next try, which are a random part of what the failures in a row are worth.
        After a failed write nothing is written until then."""
        times = self._failures[name] = self._failures.get(name, 0) + 1
        wait = self._rng.uniform(0, retry.longest(times))
        if wrote:
            self._pauses[name] = now + wait
            self._writes[name] = now
        return wait

    def reached(self, origin: str, name: str, now: float, *, reached: bool) -> None:
        """Note whether an environment reached its host."""
        self._circuit.note(origin, name, now, reached=reached)

    def refused_login(self, name: str, credentials: str) -> None:
        """Note that these credentials, of which this is a hash, were refused."""
        self._logins[name] = credentials

    def before_look(self, name: str, origin: str, now: float, credentials: str | None) -> Hold | None:
        """Why an environment is not looked at now; None lets the caller look. `credentials` are a hash of those that it has
        now, which is only needed once a login was refused (see `asks_for_credentials`)."""
        if name in self._logins:
            if self._logins[name] == credentials:
                return Hold("", None)
            del self._logins[name]
        if wait := self._circuit.wait(origin, now):
            return Hold(f"{origin} cannot be reached, so one environment tries it each {_PROBE_SECONDS:.0f} s", wait)
        return None

    def asks_for_credentials(self, name: str) -> bool:
        """Whether a login of the environment was refused."""
        return name in self._logins

    def pause(self, name: str, now: float) -> str:
        """Why an environment is not written because of its own failures; empty if it may be."""
        left = self._pauses.get(name, 0.0) - now
        return f"the end of a pause after a failure, in {duration(max(1, left))}" if left > 0 else ""

    def brake(self, name: str, now: float, interval: float, environments: int) -> str:
        """Why an environment is not written because of the failures of others; empty if it may be."""
        failed = sum(one != name and now - at < interval for one, at in self._writes.items())
        if failed > max(1, int(environments * _BRAKE)):
            return f"other environments: {failed:,} applies failed within {duration(interval)}"
        return ""


class Waves:
    """How far one revision has come, in the environments that it is for. Those that are not applied by the watch hold nothing
    back."""

    def __init__(self, environments: Mapping[str, Watched]) -> None:
        self._wave = {name: one.wave for name, one in environments.items()}
        self._most = {one.wave: one.max_failures for one in environments.values()}
        own = {name for name, one in environments.items() if one.settings.apply != "never"}
        self._waiting = own
        self._failed: set[str] = set()

    def note(self, name: str, state: State) -> bool:
        """Note how an environment is at this revision; whether that lets another wave begin."""
        before = self._open
        if name in self._waiting or name in self._failed:
            for names in (self._waiting, self._failed):
                names.discard(name)
            if state not in SETTLED:
                (self._waiting if state in _WAITS else self._failed).add(name)
        return self._open > before

    def why_not_yet(self, name: str) -> str:
        """Why an environment may not have the revision yet; empty if it may."""
        number = self._open
        if self._wave.get(name, 0) <= number:
            return ""
        failed = sum(self._wave[one] == number for one in self._failed)
        if not any(self._wave[one] == number for one in self._waiting):
            return f"wave {number}, in which {failed:,} failed"
        return f"wave {number}, which is not done yet"

    @property
    def waiting(self) -> frozenset[str]:
        """The environments of the last wave that has begun which do not have the revision yet."""
        return frozenset(name for name in self._waiting if self._wave[name] == self._open)

    @property
    def _open(self) -> int:
        """The number of the last wave that may have the revision."""
        waiting = Counter(self._wave[name] for name in self._waiting)
        failed: defaultdict[int, int] = defaultdict(int)
        for name in self._failed:
            failed[self._wave[name]] += 1
        numbers = sorted(self._most)
        for number in numbers:
            most = self._most[number]
            if waiting[number] or (most is not None and failed[number] > most):
                return number
        return numbers[-1] if numbers else 0


@dataclass
class WatchLoop:
    """A running watch. `poll` is how often the source is read, in seconds."""

    work: Work
    board: Board
    memory: Memory
    poll: float = 30.0
    parallelism: int = 4
    clock: Clock = field(default_factory=Clock)
    schedule: LookSchedule = field(default_factory=LookSchedule)
    holds: Holds = field(default_factory=Holds)
    watchers: Sequence[Watcher] = ()

    def __post_init__(self) -> None:
        self._environments: Mapping[str, Watched] = {}
        self._written: Mapping[str, Watched] = {}  # the same, as the revision has them
        self._running: dict[Future[EnvironmentVisit], str] = {}
        self._seen: set[str] = set()
        self._looked: dict[str, str] = {}  # by environment, the revision of the last look
        self._fetching: Future[str] | None = None
        self._poll_at = self._read_at = 0.0
        self._hinted, self._stopped = Future[None](), Future[None]()
        self._waves, self._once = Waves({}), False
        self.turned_at = self.clock.seconds()

    def stop(self, _signal: int = 0) -> None:
        """End the loop once what was begun is finished. From any thread, but not by a signal handler."""
        self.board.stopping = True
        for watcher in self.watchers:
            watcher.stopping()
        self.work.stop()
        if not self._stopped.done():
            self._stopped.set_result(None)

    @property
    def revision(self) -> str:
        return self.board.source.revision

    def run(self, *, once: bool = False) -> None:
        """Watch until `stop`; with `once` until each environment was looked at once. Raises PolicyctlError with `once` when the
        source cannot be used."""
        self._once = once
        with ThreadPoolExecutor(self.parallelism + 1) as self._pool:
            try:
                self._run()
            except BaseException:
                self.stop()  # what cannot be noted any more must not be done
                raise

    def _run(self) -> None:
        while not self.board.stopping:
            seconds = self._turn(once=self._once)
            if self._once and not self._busy:
                if self._is_seen():
                    break
                seconds = 0.0
            self.clock.pause(self._awaited, seconds, self._stopped, self._hinted)
        while self._running:
            wait(self._running, timeout=_TURN_SECONDS)
            self._finish()
            self._turned(self.clock.seconds())

    def _is_seen(self) -> bool:
        """Whether every environment was looked at. If not, those of the next wave are due."""
        if self.board.source.error:
            raise PolicyctlError(self.board.source.error)
        left = [name for name in self._environments if name not in self._seen]
        if left:
            first = min(self._environments[name].wave for name in left)
            self.schedule.hasten([one for one in left if self._environments[one].wave == first], self.clock.seconds())
        return bool(self.revision) and not left

    @property
    def _busy(self) -> bool:
        return bool(self._running or self._fetching)

    @property
    def _awaited(self) -> list[Future[Any]]:
        return [*self._running, *([] if self._fetching is None else [self._fetching])]

    def _turn(self, *, once: bool) -> float:
        """Do everything that is due. Returns the seconds until something else is."""
        now = self.clock.seconds()
        self._finish()
        self._read_source(now, once=once)
        self._begin_due(once=once)
        now, next_due = self.clock.seconds(), self.schedule.next_due()
        self._turned(now)
        waits = [_TURN_SECONDS] if self._fetching is not None else [_TURN_SECONDS, self._next_read - now]
        if next_due is not None and len(self._running) < self.parallelism:
            waits.append(next_due - now)
        return max(0.0, min(waits))

    def _turned(self, now: float) -> None:
        self.turned_at = now
        next_due = self.schedule.next_due()
        lag = 0.0 if next_due is None else max(0.0, now - next_due)
        for watcher in self.watchers:
            watcher.turned(self.schedule.waiting(now), lag)

    def hint(self) -> None:
        """Read the source at once, or soon if it was just read. For one thread besides that of the loop."""
        if not self._hinted.done():
            self._hinted.set_result(None)

    @property
    def _next_read(self) -> float:
        return min(self._poll_at, self._read_at + _HINT_SECONDS) if self._hinted.done() else self._poll_at

    def _read_source(self, now: float, *, once: bool) -> None:
        """Fetch when it is time to, and use a new revision for what begins from then on."""
        if self._fetching is not None and self._fetching.done():
            fetching, self._fetching = self._fetching, None
            self._read_at, self._poll_at = now, now + self.schedule.jittered(self.poll)
            try:
                revision = fetching.result()
            except Exception as error:  # noqa: BLE001 - a boundary: the revision in use stays
                self._source_failed(text_of(error))
                return
            if revision != self.revision:
                self._use(revision, now, once=once)
            else:
                self._source_read()
        elif self._fetching is None and now >= self._next_read and not (once and self.revision):
            self._hinted = Future()
            self._fetching = self._pool.submit(self.work.fetch)

    def _source_read(self) -> None:
        """Note that the files in use are those of the source."""
        had, self.board.source = self.board.source, self.board.source._replace(read_at=self.clock.now(), error="")
        if had.error:
            self._show_source()

    def _source_failed(self, why: str) -> None:
        if self.board.source.error != why:
            self.board.source = self.board.source._replace(error=why)
            self._show_source()

    def _show_source(self) -> None:
        for watcher in self.watchers if not (self._once and self.board.source.error) else ():  # which is raised
            watcher.source(self.board.source)

    def _use(self, revision: str, now: float, *, once: bool) -> None:
        """Begin to use another revision. The environments that it affects are looked at soon, those of the first wave first."""
        try:
            found = self.work.open(revision)
        except Exception as error:  # noqa: BLE001 - a boundary: the revision in use stays
            self._source_failed(text_of(error))
            return
        self._written, found = found, self.memory.held(found, self.work.commit)
        before, self._environments = self._environments, found
        affected = [name for name, one in found.items() if name not in before or before[name].fingerprint != one.fingerprint]
        if before or self.memory.revision != revision:
            for name in affected:
                self.memory.set_synced(name, files="")
        self.memory.set_revision(revision)
        self.memory.keep(found.keys())
        self.board.source = SourceStatus(revision, self.clock.now())
        self.board.keep(frozenset(found))
        self.holds.begin(found)
        late = {name for name in found if (known := self.board.of(name)) is None or known.state not in SETTLED}
        self._waves = Waves({name: found[name] for name in found if name in late or name in {*affected}})
        self._show_source()
        running = frozenset(self._running.values())
        self.schedule.keep({name: one.settings.interval for name, one in found.items()}, now, running)
        first = [name for name in affected if not before or not self._waves.why_not_yet(name)]
        if not once:  # which goes wave by wave
            self.schedule.hasten(first, now, _SPREAD * len(first))

    def _begin_due(self, *, once: bool) -> None:
        while len(self._running) < self.parallelism and not self.board.stopping:
            now = self.clock.seconds()
            name = self.schedule.take(now)
            if name is None:
                return
            if once and name in self._seen:
                continue
            own = self._environments[name]
            asks = self.holds.asks_for_credentials(name)
            credentials = self.work.credentials(name).mark if asks else None
            hold = self.holds.before_look(name, own.origin, now, credentials)
            if hold is None:
                situation = self._situation(name, now)
                known = self.board.of(name)
                calm = known is not None and known.state is State.IN_SYNC and self._looked.get(name) == self.revision
                self._looked[name] = self.revision
                self._running[self._pool.submit(self._visit, name, own, situation, calm)] = name
            else:
                self._leave(name, hold, self.schedule.again(name, now, hold.seconds))

    def _leave(self, name: str, hold: Hold, due: float) -> None:
        """Note that an environment was not looked at."""
        self._seen.add(name)
        known = self.board.of(name) or EnvironmentStatus(name, State.FAILED, self.clock.now())
        if hold.reason:
            known = replace(known, state=State.FAILED, since=self.clock.now(), reason=hold.reason)
        own = self._environments[name]
        known = replace(known, labels=dict(own.labels), interval=own.settings.interval)
        self.board.put(replace(known, next_look_at=self._time_of(due)))

    def _situation(self, name: str, now: float) -> Situation:
        """What decides beside the plan, as it is when a visit begins."""
        own = self._environments[name]
        return Situation(
            self.clock.now(),
            self.memory.heals(name).now(self.clock.now().timestamp(), own.settings.interval).times,
            self._waves.why_not_yet(name),
            self.holds.brake(name, now, own.settings.interval, len(self._environments)),
            self.holds.pause(name, now),
            lambda look: self.work.unapproved(name, look),
            self.work.outdated,
            self.work.uncommitted,
            self.memory.synced(name),
        )

    def _visit(self, name: str, own: Watched, situation: Situation, calm: bool) -> EnvironmentVisit:
        def may_write() -> bool:
            return not self.board.stopping and self._environments.get(name) == own

        begin = partial(self.memory.begin, name)
        return visit_environment(self.work, self.clock, name, own, situation, may_write, begin, calm=calm)

    def _finish(self) -> None:
        """Note what came of the visits that are done."""
        for future in [one for one in self._running if one.done()]:
            name, visit = self._running.pop(future), future.result()
            self._seen.add(name)
            if self.board.stopping and visit.applied is None and visit.look.problem:  # by the stop, most likely
                continue
            if name in self._environments:
                self._note(name, visit)

    def _note(self, name: str, visit: EnvironmentVisit) -> None:
        now, own = self.clock.seconds(), self._environments[name]
        look, after = visit.look, None
        if visit.access == own.access != (known := self.memory.synced(name)).access:
            commit = known.commit if own.settings.approved else self.work.commit
            self.memory.set_synced(name, **Synced(access=own.access, commit=commit)._asdict())
        if look.fingerprint not in ("", own.fingerprint) or visit.access not in ("", own.access):  # not in use any more
            if visit.in_sync and visit.access == self.memory.synced(name).access:
                self.memory.see_in_sync(name, "", "", look.base)
            self._seen.discard(name)
            self.schedule.again(name, now, 0.0)
            self._report(visit)
            return
        self.holds.reached(own.origin, name, now, reached=look.problem != "unreachable")
        if look.problem == "login":
            self.holds.refused_login(name, self.work.credentials(name).mark)
        elif visit.failed and look.problem != "refused":
            after = self.holds.failed(name, now, own.settings.retry, wrote=visit.applied is not None)
        elif visit.decision.state is not State.FAILED:
            self.holds.succeeded(name)
        if visit.decision.until is not None:
            after = max(0.0, (visit.decision.until - self.clock.now()).total_seconds())
        self._remember(name, visit)
        status = self._status(name, visit)
        due = self.schedule.again(name, now, after)
        if self._waves.note(name, status.state):
            names = self._waves.waiting
            self.schedule.hasten(names, now, _SPREAD * len(names))
        if visit.applied is not None and not self.board.fails_again(status):  # what was found is shown too, before what became
            found = self._status(name, visit._replace(applied=None))
            self.board.put(replace(found, waits_for="the apply that follows"))
        self.board.put(replace(status, next_look_at=self._time_of(due)))
        self._report(visit)

    def _remember(self, name: str, visit: EnvironmentVisit) -> None:
        """Keep count of heals in a row, and note when the remote has what the files want."""
        done = visit.applied is not None and not visit.applied.failed
        in_sync = visit.in_sync and not done
        if visit.settled is not None:
            self._settle(name, visit.settled)
        heals, now = self.memory.heals(name), self.clock.now().timestamp()
        interval = self._environments[name].settings.interval
        if visit.applied is not None and "remote" in visit.look.sides:
            self.memory.set_heals(name, Heals(heals.now(now, interval).times + 1, now))
        elif in_sync and heals.times:
            self.memory.set_heals(name, heals.in_sync(now, interval))
        if done or in_sync:
            look = visit.look
            self.memory.see_in_sync(name, look.fingerprint, look.rows if in_sync else "", look.base)

    def _settle(self, name: str, settled: Settled) -> None:
        """Note which settings are approved. If they changed, and are those of the revision, which need no approvals, follow
        these: no commit decides so about an environment that it brings."""
        before, written = self.memory.synced(name).commit, self._written[name]
        self.memory.set_synced(name, commit=settled.commit)
        if before and settled.changed and settled.commit == self.work.commit and not written.settings.approved:
            self._environments = self.memory.released(name, self._written, settled.commit)

    def _status(self, name: str, visit: EnvironmentVisit) -> EnvironmentStatus:
        look, applied, now = visit.look, visit.applied, self.clock.now()
        state, reason = state_of(look)
        changes, digest = look.result.changes, look.result.digest if look.result.changes else ""
        if applied is not None:
            done = not applied.failed
            state, reason = (State.IN_SYNC, f"applied: {reason}") if done else (State.FAILED, applied.reason)
            changes, digest = (0, "") if done else (changes, digest)
        if look.problem == "login":
            where = self.work.credentials(name).where
            reason += f"; it is tried again when {where or 'auth'} changes, or with a new revision"
        before = self.board.of(name)
        if visit.decision.state is State.FAILED and before is not None:  # what failed still holds
            reason = before.reason
        fails = visit.failed or visit.decision.state is State.FAILED
        succeeded = now if not fails else None if before is None else before.succeeded_at
        state, labels = visit.decision.state or state, dict(self._environments[name].labels)
        waits, revision = visit.decision.waits_for, self.revision
        found = EnvironmentStatus(name, state, now, labels, changes, digest, reason, waits, revision, now, succeeded)
        return replace(found, interval=self._environments[name].settings.interval)

    def _report(self, visit: EnvironmentVisit) -> None:
        look, applied = visit.look, visit.applied
        result = "refused" if look.problem == "refused" else "failed" if look.problem else "done"
        for watcher in self.watchers:
            watcher.worked("look", result, visit.seconds)
            if applied is not None:
                action = "heal" if "remote" in look.sides else "apply"
                watcher.worked(action, "failed" if applied.failed else "done", visit.wrote)

    def _time_of(self, due: float) -> datetime:
        return datetime.fromtimestamp(self.clock.now().timestamp() + due - self.clock.seconds(), UTC)
