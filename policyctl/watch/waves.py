"""In which order the environments get a new revision: a wave begins when those before it ended well."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from typing import Protocol

from policyctl.load.windows import WatchSettings
from policyctl.watch.status import State

_DONE = (State.IN_SYNC, State.SUSPENDED)
_WAITS = (State.PENDING, State.DRIFTED)


class InWave(Protocol):
    """An environment, as far as waves are concerned."""

    @property
    def settings(self) -> WatchSettings: ...

    @property
    def wave(self) -> int: ...

    @property
    def max_failures(self) -> int | None: ...


class Waves:
    """How far one revision has come. Environments that are not applied by the watch hold nothing back."""

    def __init__(self, environments: Mapping[str, InWave]) -> None:
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
            if state not in _DONE:
                (self._waiting if state in _WAITS else self._failed).add(name)
        return self._open > before

    def why_not_yet(self, name: str) -> str:
        """Why an environment may not have the revision yet; empty if it may."""
        number = self._open
        if self._wave[name] <= number:
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
