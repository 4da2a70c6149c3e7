"""When environments are looked at, what holds that back, and in which order a revision goes through them."""

from __future__ import annotations

import random
from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from policyctl.load.windows import RetryWaits, WatchSettings
from policyctl.watch import State
from policyctl.watch.look import LookSchedule, Watched
from policyctl.watch.loop import Holds, Waves

ORIGIN = "https://host:443"
NAMES = [f"e{number}" for number in range(200)]
APPLIES = WatchSettings(apply="on-merge")


def looks(schedule: LookSchedule, begin: float, end: float) -> list[tuple[float, str]]:
    """What is looked at in a time, each in an instant."""
    found = []
    while (due := schedule.next_due()) is not None and due < end:
        name = schedule.take(max(begin, due))
        assert name is not None
        found.append((due, name))
        schedule.again(name, max(begin, due))
    return found


def made(seed: int = 1) -> LookSchedule:
    return LookSchedule(random.Random(seed))


def test_each_is_looked_at_once_an_interval_spread_over_it() -> None:
    schedule = made()
    schedule.keep(dict.fromkeys(NAMES, 60.0), 1000.0)
    found = looks(schedule, 1000.0, 1000.0 + 10 * 60)
    assert set(Counter(name for _, name in found).values()) <= {9, 10, 11}
    each_second = Counter(int(at) for at, _ in found)
    assert max(each_second.values()) < 15  # 3.3 on average


def test_a_restart_spreads_in_the_same_way() -> None:
    first, again = made(1), made(2)
    first.keep(dict.fromkeys(NAMES, 60.0), 1000.0)
    again.keep(dict.fromkeys(NAMES, 60.0), 1600.0)
    before = {name: at - 1000 for at, name in looks(first, 1000, 1060)}
    after = {name: at - 1600 for at, name in looks(again, 1600, 1660)}
    shared = before.keys() & after.keys()
    assert len(shared) > 190
    assert all(abs(before[name] - after[name]) <= 1.2 for name in shared)


def test_one_that_is_hastened_while_it_is_looked_at_is_looked_at_again() -> None:
    schedule = made()
    schedule.keep({"a": 60.0}, 0.0)
    schedule.hasten(["a"], 5.0)
    assert schedule.take(5.0) == "a"
    schedule.hasten(["a"], 5.1)
    assert schedule.take(5.1) is None
    assert schedule.again("a", 5.2) == 5.2
    assert schedule.again("a", 5.2) > 6


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["take", "again", "hasten", "keep"])), max_size=40))
def test_whatever_happens_none_is_lost_or_doubled(steps: list[tuple[str, str]]) -> None:
    schedule, held = made(), set[str]()
    schedule.keep(dict.fromkeys("abc", 10.0), 0.0)
    for now, (name, step) in enumerate(steps):
        if step == "take" and (taken := schedule.take(now)) is not None:
            assert taken not in held
            held.add(taken)
        elif step == "again" and held:
            schedule.again(held.pop(), now)
        elif step == "hasten":
            schedule.hasten([name], now)
    for name in held:
        schedule.again(name, 100)
    assert schedule.waiting(1000) == 3


def test_waits_grow_with_failures_and_a_success_begins_anew() -> None:
    holds, retry = Holds(random.Random(3)), RetryWaits(10, 3, 900)
    waits = [max(Holds(random.Random(seed)).failed("a", 0, retry, wrote=False) for seed in range(50))]
    assert 9 < waits[0] <= 10
    longest = [max(holds.failed(f"{number}", 0, retry, wrote=False) for number in range(100)) for _ in range(3)]
    assert longest[0] <= 10 < longest[1] <= 30 < longest[2] <= 90
    holds.succeeded("1")
    assert holds.failed("1", 0, retry, wrote=False) <= 10


def test_nothing_is_written_in_the_pause_after_a_failed_write() -> None:
    holds = Holds(random.Random(1))
    wait = holds.failed("a", 100.0, RetryWaits(), wrote=True)
    assert holds.pause("a", 100.0 + wait / 2)
    assert not holds.pause("a", 100.0 + wait)
    holds.failed("b", 100.0, RetryWaits(), wrote=False)  # a failed look pauses no write
    assert not holds.pause("b", 100.0)


def test_a_host_that_cannot_be_reached_is_tried_by_one_environment_a_minute() -> None:
    holds = Holds()
    for name in "abcde":
        assert holds.before_look(name, ORIGIN, 0.0, None) is None
        holds.reached(ORIGIN, name, 0.0, reached=False)
    hold = holds.before_look("f", ORIGIN, 10.0, None)
    assert hold is not None
    assert hold.seconds == 50.0
    assert holds.before_look("f", "https://other:443", 10.0, None) is None
    assert holds.before_look("a", ORIGIN, 60.0, None) is None  # the probe
    assert holds.before_look("b", ORIGIN, 61.0, None) is not None
    holds.reached(ORIGIN, "a", 62.0, reached=True)
    assert holds.before_look("b", ORIGIN, 62.0, None) is None


def test_a_refused_login_is_tried_again_with_other_credentials_or_a_new_revision() -> None:
    holds = Holds()
    holds.refused_login("a", "hash of one")
    assert holds.asks_for_credentials("a")
    assert holds.before_look("a", ORIGIN, 0.0, "hash of one") is not None
    assert holds.before_look("a", ORIGIN, 0.0, "hash of another") is None
    holds.refused_login("a", "hash of one")
    holds.begin(["a"])
    assert holds.before_look("a", ORIGIN, 0.0, None) is None


def test_too_many_failed_writes_hold_the_others_back_for_an_interval() -> None:
    holds = Holds()
    for name in NAMES[:11]:
        holds.failed(name, 0.0, RetryWaits(), wrote=True)
    assert holds.brake("other", 59.0, 60.0, len(NAMES)).startswith("other environments: 11 applies failed")
    assert not holds.brake("other", 60.0, 60.0, len(NAMES))
    assert not holds.brake(NAMES[0], 59.0, 60.0, len(NAMES))  # 10 others are 5 %


def test_remotes_without_a_host_are_each_their_own() -> None:
    holds = Holds()
    for name in "abcdefgh":
        holds.reached("", name, 0.0, reached=False)
    assert holds.before_look("a", "", 1.0, None) is None


def waves_of(*waves: int, most: int | None = 0, settings: WatchSettings = APPLIES) -> Waves:
    return Waves({f"e{place}": Watched(settings, {}, wave, most) for place, wave in enumerate(waves)})


def test_a_wave_waits_for_the_one_before() -> None:
    waves = waves_of(1, 2, 2, 3)
    assert [bool(waves.why_not_yet(f"e{place}")) for place in range(4)] == [False, True, True, True]
    assert waves.note("e0", State.IN_SYNC)
    assert waves.waiting == {"e1", "e2"}
    assert not waves.note("e1", State.IN_SYNC)
    assert waves.why_not_yet("e3") == "wave 2, which is not done yet"
    assert waves.note("e2", State.SUSPENDED)
    assert not waves.why_not_yet("e3")


def test_failures_hold_later_waves_until_they_are_mended() -> None:
    waves = waves_of(1, 1, 2)
    waves.note("e0", State.FAILED)
    waves.note("e1", State.IN_SYNC)
    assert waves.why_not_yet("e2") == "wave 1, in which 1 failed"
    assert waves.note("e0", State.IN_SYNC)
    assert not waves.why_not_yet("e2")


def test_some_failures_may_be_allowed_but_nothing_may_be_waiting() -> None:
    waves = waves_of(1, 1, 2, most=1)
    waves.note("e0", State.REFUSED)
    waves.note("e1", State.PENDING)  # for its window
    assert waves.why_not_yet("e2")
    waves.note("e1", State.IN_SYNC)
    assert not waves.why_not_yet("e2")


def test_those_that_are_not_applied_hold_nothing_back() -> None:
    assert not waves_of(1, 2, settings=WatchSettings()).why_not_yet("e1")


def test_one_that_the_revision_is_not_for_waits_for_nothing() -> None:
    assert not waves_of(1, 2).why_not_yet("another")


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers())
def test_whatever_order_they_end_in_all_get_it(numbers: list[int], seed: int) -> None:
    waves, rng = waves_of(*numbers), random.Random(seed)
    left = [f"e{place}" for place in range(len(numbers))]
    while left:
        ready = [name for name in left if not waves.why_not_yet(name)]
        assert ready
        assert len({numbers[int(name[1:])] for name in ready}) == 1
        name = rng.choice(ready)
        waves.note(name, State.IN_SYNC)
        left.remove(name)
