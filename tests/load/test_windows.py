"""When something may be written: windows in time zones, and the settings that have them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.errors import InvalidInput
from policyctl.load.config import config_of
from policyctl.load.source import source_of
from policyctl.load.windows import (
    RetryWaits,
    WatchSettings,
    Window,
    cron_error,
    duration,
    seconds_of,
    writing_at,
    writing_by_hand,
)

OFFICE = Window("deny", "0 9 * * 1-5", 9 * 3600, "Europe/Berlin")
EVENING = Window("allow", "0 20 * * *", 4 * 3600, "Europe/Berlin")
NIGHT = Window("allow", "0 2 * * *", 3600)


def at(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


@pytest.mark.parametrize(
    ("windows", "now", "opens"),
    [
        ([], "2026-03-27T08:00", None),
        ([OFFICE], "2026-03-27T07:59:59", None),
        ([OFFICE], "2026-03-27T08:00", "2026-03-27T17:00"),  # Friday, winter time
        ([OFFICE], "2026-03-27T16:59:59.5", "2026-03-27T17:00"),
        ([OFFICE], "2026-03-27T17:00", None),
        ([OFFICE], "2026-03-28T08:00", None),  # Saturday
        ([OFFICE], "2026-03-30T07:00", "2026-03-30T16:00"),  # Monday, summer time
        ([EVENING], "2026-06-01T12:00", "2026-06-01T18:00"),
        ([EVENING], "2026-06-01T21:59", None),
        ([EVENING, NIGHT], "2026-06-01T23:00", "2026-06-02T02:00"),  # alternatives
        ([EVENING, NIGHT], "2026-06-01T02:30", None),
        ([EVENING, Window("deny", "0 18 * * *", 3600)], "2026-06-01T18:30", "2026-06-01T19:00"),  # deny beats allow
        ([EVENING, OFFICE], "2026-06-01T08:00", "2026-06-01T18:00"),  # not when the first reason ends: when both do
        ([Window("deny", "0 0 * * *", 86400)], "2026-06-01T08:00", "never"),
        ([Window("deny", "30 2 29 3 *", 3600, "Europe/Berlin")], "2026-03-29T00:45", None),  # 2:30 did not exist that day
    ],
)
def test_windows_govern_writing(windows: list[Window], now: str, opens: str | None) -> None:
    found = writing_at(windows, at(now))
    assert found.allowed is (opens is None)
    assert found.until == (None if opens in (None, "never") else at(str(opens)))


@given(st.integers(0, 366 * 86400), st.lists(st.sampled_from([OFFICE, EVENING, NIGHT])))
def test_when_it_opens_something_may_be_written_and_not_before(second: int, windows: list[Window]) -> None:
    moment = at("2026-01-01") + timedelta(seconds=second)
    found = writing_at(windows, moment)
    if found.until is not None:
        assert found.until > moment
        assert writing_at(windows, found.until).allowed
        assert not writing_at(windows, found.until - timedelta(seconds=1)).allowed


def test_a_person_keeps_to_deny_windows_that_are_not_manual() -> None:
    now = at("2026-03-27T09:00")
    assert not writing_by_hand([OFFICE], now).allowed
    assert writing_by_hand([OFFICE._replace(manual=True), EVENING], now).allowed


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("5m", 300), ("1d12h", 129600), ("", None), ("5", None), ("0s", None), ("32d", None), ("5m ", None)],
)
def test_durations(text: str, seconds: float | None) -> None:
    if seconds is None:
        with pytest.raises(ValueError, match="must be a duration"):
            seconds_of(text)
    else:
        assert seconds_of(text) == seconds
        assert seconds_of(duration(seconds)) == seconds


def test_waits_grow_up_to_the_longest() -> None:
    assert [RetryWaits(10, 3, 100).longest(times) for times in (1, 2, 3, 4, 10_000)] == [10, 30, 90, 100, 100]


CONFIG = """\
watch: {interval: 1m, retry: {first: 1s}}
templates:
  t: {remote: "sqlite:///{{ n }}.db", watch: {apply: on-merge, interval: 2m}}
fleet: [{from: n.csv, name: "e-{{ n }}", extends: t}]
environments:
  own: {watch: {heal: always, windows: [{kind: deny, at: "0 9 * * 1-5", for: 9h, zone: Europe/Berlin}]}}
  e-b: {watch: {approved: true}}
"""


def test_the_settings_of_an_environment_are_merged_by_key() -> None:
    config = config_of(source_of(CONFIG.encode(), "policyctl.yaml"), lambda path: (b"n\na\nb\n", path))
    found = {name: one.watch for name, one in config.environments.items()}
    shared = WatchSettings(interval=60, retry=RetryWaits(first=1))
    assert found["own"] == shared._replace(heal="always", windows=(OFFICE,))
    assert found["e-a"] == shared._replace(interval=120, apply="on-merge")
    assert found["e-b"] == shared._replace(interval=120, apply="on-merge", approved=True)


@pytest.mark.parametrize("text", ["0 9 * * 1-5", "*/5 0 1 Jan,DEC mon", "0 0 L * *", "0 0 * * fri#2"])
def test_times_in_cron_s_form_may_have_words(text: str) -> None:
    assert cron_error(text) is None


@pytest.mark.parametrize(
    ("setting", "what"),
    [
        ("windows: [{kind: deny, at: 61 * * * *, for: 1h}]", "must be a time in cron's form"),
        ("windows: [{kind: deny, at: '0 0 * * * *', for: 1h}]", "must be a time in cron's form"),
        ("windows: [{kind: deny, at: 0 0 30 2 *, for: 1h}]", "must be a time in cron's form"),
        ("windows: [{kind: deny, at: R 9 * * *, for: 1h}]", "must be a time in cron's form"),
        ("windows: [{kind: deny, at: 0 r(9-12) * * *, for: 1h}]", "must be a time in cron's form"),
        ("windows: [{kind: deny, at: 0 0 * * *, for: 1h, zone: Mars}]", "must be a time zone"),
        ("windows: [{kind: deny, at: 0 0 * * *, for: 1h, zone: localtime}]", "must be a time zone"),
        ("windows: [{kind: allow, at: 0 0 * * *, for: 1h, manual: true}]", "manual does nothing"),
        ("interval: 5", "must be a duration such as 90s"),
        ("heal: sometimes", "never"),
        ("appli: never", "apply"),
    ],
)
def test_what_is_wrong_is_named_with_its_line(setting: str, what: str) -> None:
    text = f"environments:\n  dev:\n    watch: {{{setting}}}\n"
    with pytest.raises(InvalidInput) as found:
        config_of(source_of(text.encode(), "policyctl.yaml"))
    (problem,) = found.value.problems
    assert str(problem.mark).startswith("policyctl.yaml:3:")
    assert what in problem.message
