"""When each environment is looked at: once an interval, at a phase of its own, which a restart does not change."""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from policyctl.load.windows import Retry

_JITTER = 0.02  # of an interval, so that environments of equal phases drift apart
_OPENS_AFTER = 5  # environments of one host in a row that cannot be reached, before it is left alone
_PROBE_SECONDS = 60.0  # between two tries of a host that is left alone


class _Turn(NamedTuple):
    due: float
    name: str
    number: int  # of the schedule's entries: older ones of a name do not count


class Schedule:
    """Which environment is due when. Times are seconds of one clock. Not for several threads."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()  # noqa: S311 - spreads load
        self._heap: list[_Turn] = []
        self._current: dict[str, _Turn] = {}
        self._intervals: dict[str, float] = {}
        self._number = 0

    def keep(self, intervals: Mapping[str, float], now: float) -> None:
        """Look at these environments, each once an interval (in seconds), and at no others any more."""
        for name in self._current.keys() - intervals.keys():
            del self._current[name]
        self._intervals = dict(intervals)
        for name in intervals:
            if name not in self._current:
                self.again(name, now)

    def again(self, name: str, now: float, after: float | None = None) -> float:
        """Look at an environment at its next phase, or after so many seconds if that is sooner; when that is."""
        if name not in self._intervals:
            return now
        interval = self._intervals[name]
        phase = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8]) / 2**64 * interval
        due = now + interval - (now - phase) % interval + self._rng.uniform(0, _JITTER) * interval
        return self._set(name, due if after is None else min(due, now + after))

    def hasten(self, names: Iterable[str], now: float, spread: float = 0.0) -> None:
        """Look at these environments within `spread` seconds, however soon they are due."""
        for name in names:
            if (turn := self._current.get(name)) is not None:
                self._set(name, min(turn.due, now + self._rng.uniform(0, spread)))

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
        return sum(turn.due <= now for turn in self._current.values())

    def _set(self, name: str, due: float) -> float:
        self._number += 1
        turn = self._current[name] = _Turn(due, name, self._number)
        heapq.heappush(self._heap, turn)
        return due


class Failures:
    """How many times in a row each environment failed, and how long to wait for the next try."""

    def __init__(self, rng: random.Random | None = None) -> None:
        self._rng = rng or random.Random()  # noqa: S311 - spreads load
        self._times: dict[str, int] = {}

    def wait_after(self, name: str, retry: Retry) -> float:
        """Note a failure; the seconds until the next try: a random part of what the failures in a row are worth."""
        self._times[name] = self._times.get(name, 0) + 1
        return self._rng.uniform(0.1, 1.0) * retry.longest(self._times[name])

    def reset(self, names: Iterable[str]) -> None:
        """Begin anew with these environments: they did not fail, or there is a new revision."""
        for name in names:
            self._times.pop(name, None)


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
        if reached:
            self._failed.pop(origin, None)
            self._probe.pop(origin, None)
            return
        failed = self._failed.setdefault(origin, set())
        failed.add(name)
        if len(failed) == _OPENS_AFTER:
            self._probe[origin] = now + _PROBE_SECONDS
