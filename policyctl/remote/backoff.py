"""How long a remote is asked again: exponential backoff with full jitter, within a budget of time."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Backoff:
    """The limits, in seconds, and the clock, the sleep and the chance that a test may replace.

    The n-th wait is drawn evenly between 0 and `first` × 2ⁿ (at most `longest`): full jitter, so that many clients that
    failed together do not come back together. A wait that the remote asks for is kept to, and does not count as a try.
    """

    tries: int = 5
    first: float = 0.5
    longest: float = 10.0
    budget: float = 90.0
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random

    def begin(self) -> RetryBudget:
        """Start the clock of one request."""
        return RetryBudget(self)


class RetryBudget:
    """The waits of one request."""

    def __init__(self, patience: Backoff) -> None:
        self._patience = patience
        self._end = patience.clock() + patience.budget
        self._waits = 0
        self._failures = 0

    def again(self, asked: float | None) -> bool:
        """Wait before the next try (at least the seconds `asked` by the remote); False, at once, when it is not worth it."""
        patience = self._patience
        if asked is None:
            self._failures += 1
            if self._failures >= patience.tries:
                return False
        wait = (asked or 0.0) + patience.chance() * min(patience.longest, patience.first * 2**self._waits)
        if patience.clock() + wait > self._end:
            return False
        self._waits += 1
        patience.sleep(wait)
        return True
