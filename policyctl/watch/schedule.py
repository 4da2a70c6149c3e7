"""When each environment is looked at: once an interval, at a phase of its own, which a restart does not change."""

from __future__ import annotations

import hashlib
import heapq
import random
from collections.abc import Collection, Iterable, Mapping
from typing import NamedTuple

_JITTER = 0.02  # of an interval, so that environments of equal phases drift apart


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
