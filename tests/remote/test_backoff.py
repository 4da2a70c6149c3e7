"""How long a remote is asked again."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policyctl.remote import Backoff, RetryBudget
from tests.remote.http_helpers import Clock

ASKED = st.lists(st.none() | st.floats(0, 200), max_size=40)


def again(waiting: RetryBudget, clock: Clock, asked: float | None) -> bool:
    """Wait as a request does; whether it is tried again."""
    wait = waiting.next(asked)
    if wait is not None:
        clock.sleep(wait)
    return wait is not None


@given(ASKED, st.floats(0, 1))
def test_waits_stay_in_the_budget_and_never_fall_short_of_what_was_asked(asked: list[float | None], chance: float) -> None:
    clock = Clock()
    waiting = Backoff(sleep=clock.sleep, clock=clock.now, chance=lambda: chance).begin()
    granted = []
    for seconds in asked:
        if (wait := waiting.next(seconds)) is None:
            break
        clock.sleep(wait)
        granted.append((seconds or 0.0, wait))
    assert sum(clock.slept) <= 90
    assert all(least <= wait <= least + 10 for least, wait in granted)


def test_a_failure_is_tried_five_times_and_a_refusal_until_the_budget_ends() -> None:
    clock = Clock()
    waiting = Backoff(sleep=clock.sleep, clock=clock.now, chance=lambda: 0.0).begin()
    assert [again(waiting, clock, None) for _ in range(6)] == [True] * 4 + [False] * 2
    waiting = Backoff(sleep=clock.sleep, clock=clock.now, chance=lambda: 0.0).begin()
    assert [again(waiting, clock, 10.0) for _ in range(12)] == [True] * 9 + [False] * 3


def test_waits_double_up_to_the_longest() -> None:
    clock = Clock()
    waiting = clock.patience(budget=1000.0, tries=9).begin()
    while again(waiting, clock, None):
        pass
    assert clock.slept == [0.5, 1.0, 2.0, 4.0, 8.0, 10.0, 10.0, 10.0]


def test_time_that_the_answers_took_counts() -> None:
    clock = Clock()
    waiting = clock.patience().begin()
    clock.time += 89.6
    assert waiting.next(None) is None
