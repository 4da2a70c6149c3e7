"""When a watch looks at an environment, and when it may write: the `watch` settings of policyctl.yaml, resolved."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from policyctl.errors import PolicyctlError
from policyctl.policy.memo import late_pattern

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

When = Literal["never", "on-merge", "always"]

_LONGEST = 31 * 86400
_STEPS = 100  # openings and closings that are followed to find the next time to write
_UNITS = {"d": 86400, "h": 3600, "m": 60, "s": 1}
_DURATION = late_pattern(r"(?:([0-9]{1,6})d)?(?:([0-9]{1,6})h)?(?:([0-9]{1,6})m)?(?:([0-9]{1,6})s)?")


def seconds_of(text: str) -> float:
    """The seconds of a duration such as 90s, 5m, 9h or 1d12h. Raises ValueError for anything else."""
    found = _DURATION.fullmatch(text)
    numbers = zip(found.groups("0"), _UNITS.values(), strict=True) if found else ()
    seconds = sum(int(number) * unit for number, unit in numbers)
    if not 0 < seconds <= _LONGEST:
        raise ValueError("must be a duration such as 90s, 5m, 9h or 1d12h, at most 31d")
    return float(seconds)


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
    apply in a deny window.
    """

    kind: Literal["deny", "allow"]
    at: str
    seconds: float
    zone: str = "UTC"
    manual: bool = False

    def __str__(self) -> str:
        return f"{self.kind} window ({self.at} for {duration(self.seconds)}, {self.zone})"

    def ends(self, now: datetime) -> datetime | None:
        """When the window that is open now ends, in UTC; None if it is not open. It lasts for its whole time, also where a
        zone puts its clocks forward or back."""
        try:
            began: datetime = self._times(now + timedelta(seconds=1)).get_prev(datetime)
        except ValueError:  # a day that never came
            return None
        end = began.astimezone(UTC) + timedelta(seconds=self.seconds)
        return end if end > now else None

    def begins(self, now: datetime) -> datetime | None:
        """When it opens next, in UTC; None for a day that does not come."""
        try:
            found: datetime = self._times(now).get_next(datetime)
        except ValueError:
            return None
        return found.astimezone(UTC)

    def _times(self, now: datetime) -> Any:
        if not _has_cron():
            raise PolicyctlError(f"the {self} needs croniter; install it with: pip install 'policyctl[watch]'")
        from croniter import croniter  # only where windows are configured

        return croniter(self.at, now.astimezone(_zone(self.zone)).replace(microsecond=0))


class Writing(NamedTuple):
    """Whether windows let something be written now; if not why, and from when on they do. That is None if it is not soon."""

    allowed: bool
    why: str = ""
    until: datetime | None = None


def writing_at(windows: Sequence[Window], now: datetime) -> Writing:
    """Whether something may be written at a time: not in a `deny` window, and with `allow` windows in one of them.

    Raises PolicyctlError for windows without croniter.
    """
    closed = _closed(windows, now)
    if closed is None:
        return Writing(True)
    why, until = closed
    for _ in range(_STEPS):
        if until is None or (again := _closed(windows, until)) is None:
            break
        until = again[1]
    else:
        until = None
    return Writing(
        False,
        f"{why}, and something may be written from {_time(until)} on" if until else f"{why}, and that does not end soon",
        until,
    )


def writing_by_hand(windows: Sequence[Window], now: datetime) -> Writing:
    """Whether a person may write: not in a `deny` window, unless it is `manual`. Raises as `writing_at`."""
    return writing_at([one for one in windows if one.kind == "deny" and not one.manual], now)


def _closed(windows: Sequence[Window], now: datetime) -> tuple[str, datetime | None] | None:
    """Why nothing may be written now, and when that reason ends; None if it may."""
    denied = [(end, one) for one in windows if one.kind == "deny" and (end := one.ends(now))]
    if denied:
        until, window = max(denied)
        return f"the {window} is open", until
    allowing = [one for one in windows if one.kind == "allow"]
    if not allowing or any(one.ends(now) for one in allowing):
        return None
    return "no allow window is open", min(filter(None, (one.begins(now) for one in allowing)), default=None)


def _time(when: datetime) -> str:
    return f"{when:%Y-%m-%d %H:%M} UTC"


def _has_cron() -> bool:
    return find_spec("croniter") is not None


def _zone(name: str) -> ZoneInfo:
    from zoneinfo import ZoneInfo

    return ZoneInfo(name)


_WORD = late_pattern(r"[a-z]+")
# Not all that croniter takes: `R` is another time whenever it is asked.
_WORDS = frozenset("jan feb mar apr may jun jul aug sep oct nov dec sun mon tue wed thu fri sat l".split())


def cron_error(text: str) -> str | None:
    """What is wrong with a time in cron's form: minute, hour, day of the month, month, day of the week. Without the extra
    `watch`, which other commands do not need, only the number of its parts and their words are checked."""
    is_cron = len(text.split()) == 5 and _WORDS.issuperset(_WORD.findall(text.lower()))
    if is_cron and _has_cron():
        from croniter import croniter

        try:
            croniter(text, datetime(2026, 1, 1, tzinfo=UTC)).get_next(datetime)
        except ValueError:  # also for a day that never comes, such as 30 February
            is_cron = False
    return None if is_cron else "must be a time in cron's form, minute hour day month weekday, such as 0 9 * * 1-5"


def zone_error(name: str) -> str | None:
    """What is wrong with the name of a time zone."""
    known = name != "localtime"  # another one on each machine
    try:
        _zone(name)
    except (KeyError, ValueError, OSError):  # one that is not found is a KeyError
        known = False
    return None if known else "must be a time zone such as Europe/Berlin, or UTC"


class RetryWaits(NamedTuple):
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
    approved: bool = False
    windows: tuple[Window, ...] = ()
    retry: RetryWaits = RetryWaits()

    @property
    def writes(self) -> tuple[object, ...]:
        """What decides whether it writes."""
        return self.apply, self.heal, self.approved, self.windows
