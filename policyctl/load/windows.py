"""When a watch looks at an environment, and when it may write: the `watch` settings of policyctl.yaml, resolved."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from policyctl.errors import PolicyctlError

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

When = Literal["never", "on-merge", "always"]

_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = re.compile(r"(?:([0-9]{1,6})d)?(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,6})s)?")


def seconds_of(text: str) -> int:
    """The seconds of a duration such as 90s, 5m, 9h or 1d12h. Raises ValueError for any other text, and for none at all."""
    match = _DURATION.fullmatch(text)
    seconds = (
        sum(int(number) * unit for number, unit in zip(match.groups("0"), (86400, 3600, 60, 1), strict=True)) if match else 0
    )
    if not seconds:
        raise ValueError(text)
    return seconds


def duration(seconds: float) -> str:
    """Seconds as a duration in its two largest units, such as 9h30m."""
    left, found = round(seconds), []
    for unit, length in _UNITS.items():
        number, left = divmod(left, length)
        if number:
            found.append(f"{number}{unit}")
    return "".join(found[:2]) or "0s"


class Window(NamedTuple):
    """A time that comes again: from each time that `at` (in cron's form) names in a zone, for some seconds.

    In a window of kind `deny` nothing is written, with windows of kind `allow` only in one of them. `manual` lets a person
    apply all the same.
    """

    kind: Literal["deny", "allow"]
    at: str
    seconds: int
    zone: str = "UTC"
    manual: bool = False

    def __str__(self) -> str:
        return f"{self.kind} {self.at} for {duration(self.seconds)} ({self.zone})"

    def ends(self, now: datetime) -> datetime | None:
        """When the window that is open now ends, in UTC; None if it is not open."""
        began: datetime = self._times(now + timedelta(seconds=1)).get_prev(datetime)
        end = began.astimezone(UTC) + timedelta(seconds=self.seconds)
        return end if end > now else None

    def begins(self, now: datetime) -> datetime:
        """When it opens next, in UTC."""
        found: datetime = self._times(now).get_next(datetime)
        return found.astimezone(UTC)

    def _times(self, now: datetime) -> Any:
        if not _has_cron():
            raise PolicyctlError(f"the window {self} needs croniter; install it with: pip install 'policyctl[watch]'")
        from croniter import croniter  # only where windows are configured

        return croniter(self.at, now.astimezone(_zone(self.zone)))


class Writing(NamedTuple):
    """Whether windows let something be written now, and if not why, until when, and whether a person may do it all the same."""

    allowed: bool
    why: str = ""
    until: datetime | None = None
    manual: bool = False


def writing_at(windows: Sequence[Window], now: datetime) -> Writing:
    """Whether something may be written at a time: not in a `deny` window, and with `allow` windows in one of them."""
    denied = [(end, one) for one in windows if one.kind == "deny" and (end := one.ends(now))]
    if denied:
        until = max(end for end, _ in denied)
        manual = all(one.manual for _, one in denied)
        return Writing(False, f"the window {denied[0][1]} is open until {_time(until)}", until, manual)
    allowing = [one for one in windows if one.kind == "allow"]
    if not allowing or any(one.ends(now) for one in allowing):
        return Writing(True)
    until = min(one.begins(now) for one in allowing)
    return Writing(False, f"no window that allows it is open until {_time(until)}", until, all(one.manual for one in allowing))


def _time(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC"


def _has_cron() -> bool:
    return find_spec("croniter") is not None


def _zone(name: str) -> ZoneInfo:
    from zoneinfo import ZoneInfo

    return ZoneInfo(name)


def cron_error(text: str) -> str | None:
    """What is wrong with a time in cron's form: minute, hour, day of the month, month, day of the week. Without the extra
    `watch`, which other commands do not need, only the number of its parts is checked."""
    is_cron = len(text.split()) == 5
    if is_cron and _has_cron():
        from croniter import croniter

        is_cron = croniter.is_valid(text)
    return None if is_cron else "must be a time in cron's form, minute hour day month weekday, such as 0 9 * * 1-5"


def zone_error(name: str) -> str | None:
    """What is wrong with the name of a time zone."""
    try:
        _zone(name)
    except (KeyError, ValueError, OSError):  # one that is not found is a KeyError
        return "must be a time zone such as Europe/Berlin, or UTC"
    return None


class Retry(NamedTuple):
    """How long to wait after failures in a row: `first` seconds, each time `factor` times as long, `most` at most."""

    first: float = 10.0
    factor: float = 3.0
    most: float = 900.0

    def longest(self, failures: int) -> float:
        """The longest wait after so many failures; the real one is a random part of it."""
        return min(self.most, self.first * self.factor ** min(failures - 1, 64))


class WatchSettings(NamedTuple):
    """How often a watch looks at an environment, what it applies by itself, and when.

    `apply` is for what Git moved, `heal` for what the remote moved. With `approved` a plan is applied only if a merged pull
    request approved it.
    """

    interval: float = 300.0
    apply: When = "never"
    heal: When = "never"
    approved: bool = True
    windows: tuple[Window, ...] = ()
    retry: Retry = Retry()
