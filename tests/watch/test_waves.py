"""In which order a revision goes through the environments."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from policyctl.load.windows import WatchSettings
from policyctl.watch.status import State
from policyctl.watch.waves import Waves
from policyctl.watch.work import Watched

APPLIES = WatchSettings(apply="on-merge")


def made(*waves: int, most: int | None = 0, settings: WatchSettings = APPLIES) -> Waves:
    return Waves({f"e{place}": Watched(settings, {}, wave, most) for place, wave in enumerate(waves)})


def test_a_wave_waits_for_the_one_before() -> None:
    waves = made(1, 2, 2, 3)
    assert [bool(waves.why_not_yet(f"e{place}")) for place in range(4)] == [False, True, True, True]
    assert waves.note("e0", State.IN_SYNC)
    assert waves.waiting == {"e1", "e2"}
    assert not waves.note("e1", State.IN_SYNC)
    assert waves.why_not_yet("e3") == "wave 2, which is not done yet"
    assert waves.note("e2", State.SUSPENDED)
    assert not waves.why_not_yet("e3")


def test_failures_hold_later_waves_until_they_are_mended() -> None:
    waves = made(1, 1, 2)
    waves.note("e0", State.FAILED)
    waves.note("e1", State.IN_SYNC)
    assert waves.why_not_yet("e2") == "wave 1, in which 1 failed"
    assert waves.note("e0", State.IN_SYNC)
    assert not waves.why_not_yet("e2")


def test_some_failures_may_be_allowed_but_nothing_may_be_waiting() -> None:
    waves = made(1, 1, 2, most=1)
    waves.note("e0", State.REFUSED)
    waves.note("e1", State.PENDING)  # for its window
    assert waves.why_not_yet("e2")
    waves.note("e1", State.IN_SYNC)
    assert not waves.why_not_yet("e2")


def test_those_that_are_not_applied_hold_nothing_back() -> None:
    assert not made(1, 2, settings=WatchSettings()).why_not_yet("e1")


def test_one_that_the_revision_is_not_for_waits_for_nothing() -> None:
    assert not made(1, 2).why_not_yet("another")


@given(st.lists(st.integers(1, 4), min_size=1, max_size=12), st.integers())
def test_whatever_order_they_end_in_all_get_it(numbers: list[int], seed: int) -> None:
    waves, rng = made(*numbers), random.Random(seed)
    left = [f"e{place}" for place in range(len(numbers))]
    while left:
        ready = [name for name in left if not waves.why_not_yet(name)]
        assert ready
        assert len({numbers[int(name[1:])] for name in ready}) == 1
        name = rng.choice(ready)
        waves.note(name, State.IN_SYNC)
        left.remove(name)
