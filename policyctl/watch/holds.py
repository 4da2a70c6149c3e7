"""What keeps a watch from looking at an environment, or from writing it, for a while: failures before, of it or of its host."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import NamedTuple

from policyctl.load.windows import RetryWaits, duration

_OPENS_AFTER = 5  # environments of one host that cannot be reached, before it is left alone
_PROBE_SECONDS = 60.0  # between two tries of a host that is left alone
_BRAKE = 0.05  # of the environments: when more writes failed within a round, nothing more is written in it


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
