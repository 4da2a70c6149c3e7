"""When each environment is looked at, in which order they get a new revision, and what keeps a watch from a look or a write.

Nothing here asks anything or waits: it is informed of what was found, and asked what is due.
"""

from __future__ import annotations

import hashlib
import heapq
import random
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

from policyctl.load.windows import RetryWaits, duration
from policyctl.watch.look import Watched
from policyctl.watch.status import SETTLED, State

_JITTER = 0.02  # of an interval, so that environments of equal phases drift apart
_WAITS = (State.PENDING, State.DRIFTED)
_OPENS_AFTER = 5  # environments of one host that cannot be reached, before it is left alone
_PROBE_SECONDS = 60.0  # between two tries of a host that is left alone
_BRAKE = 0.05  # of the environments: when more writes failed within a round, nothing more is written in it


class _Turn(NamedTuple):
    due: float
    name: str
    number: int  # of the schedule's entries: older ones of a name do not count


class LookSchedule:
    """Which environment is due when. Times are seconds of one clock. Not for several threads."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()  # noqa: S311 - spreads load
        self._heap: list[_Turn] = []
        self._current: dict[str, _Turn] = {}
        self._intervals: dict[str, float] = {}
        self._hastened: set[str] = set()  # while they were taken
        self._number = 0

    def keep(self, intervals: Mapping[str, float], now: float, taken: Collection[str] = ()) -> None:
        """Look at these environments, each once an interval (in seconds), and at no others any more. Those that were `taken`
        come back by themselves."""
        for name in self._current.keys() - intervals.keys():
            del self._current[name]
        self._intervals = dict(intervals)
        self._hastened &= intervals.keys()
        for name in intervals:
            if name not in self._current and name not in taken:
                self.again(name, now)

    def again(self, name: str, now: float, after: float | None = None) -> float:
        """Look at an environment at its next phase, or after so many seconds if that is sooner; when that is."""
        if name not in self._intervals:
            return now
        if name in self._hastened:
            self._hastened.discard(name)
            return self._set(name, now)
        interval = self._intervals[name]
        phase = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64 * interval
        due = now + interval - (now - phase) % interval + self._rng.uniform(0, _JITTER) * interval
        return self._set(name, due if after is None else min(due, now + after))

    def hasten(self, names: Iterable[str], now: float, spread: float = 0.0) -> None:
        """Look at these environments within `spread` seconds, if they are not due sooner; at one that is being looked at, once
        more after that."""
        for name in names:
            if (turn := self._current.get(name)) is not None:
                self._set(name, min(turn.due, now + self._rng.uniform(0, spread)))
            elif name in self._intervals:
                self._hastened.add(name)

    def jittered(self, seconds: float) -> float:
        """A time of about so many seconds, so that many watches do not do the same at once."""
        return seconds * self._rng.uniform(0.9, 1.1)

    def take(self, now: float) -> str | None:
        """An environment that is due, which is then not in the schedule until `again`; None if none is."""
        while self._heap and self._heap[0].due <= now:
            turn = heapq.heappop(self._heap)
            if self._current.get(turn.name) is turn:
                del self._current[turn.name]
                return turn.name
        return None

    def next_due(self) -> float | None:
        """When the next environment is due; None if none is in the schedule."""
        while self._heap and self._current.get(self._heap[0].name) is not self._heap[0]:
            heapq.heappop(self._heap)
        return self._heap[0].due if self._heap else None

    def waiting(self, now: float) -> int:
        """How many environments are due."""
        due = self.next_due()
        return 0 if due is None or due > now else sum(turn.due <= now for turn in self._current.values())

    def _set(self, name: str, due: float) -> float:
        self._number += 1
        turn = self._current[name] = _Turn(due, name, self._number)
        heapq.heappush(self._heap, turn)
        return due


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


class Hold(NamedTuple):
    """Why an environment is not looked at, and for how many seconds; None: until its next turn."""

    reason: str
    seconds: float | None


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
