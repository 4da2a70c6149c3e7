"""Measuring whole processes from outside, one after the other, in turns."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple


class Cost(NamedTuple):
    """What one process took: seconds by the clock, seconds of processor time, and the peak of its memory in MB.

    A second process that it started counts for its time; of the memory it is the larger one's.
    """

    seconds: float
    processor: float
    megabytes: float


class Work(NamedTuple):
    """Something to measure; `prepare` runs before each measurement and is not measured."""

    name: str
    command: Sequence[str]
    prepare: Callable[[], object] = lambda: None


def measure(command: Sequence[str]) -> Cost:
    """Run one command to its end, its output thrown away. Raises RuntimeError when it fails."""
    silent = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    begin = time.perf_counter()
    pid = os.posix_spawnp(command[0], list(command), os.environ, file_actions=silent)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - begin
    if (code := os.waitstatus_to_exitcode(status)) != 0:
        raise RuntimeError(f"{' '.join(command)} exited with {code}")
    return Cost(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def in_turns(works: Sequence[Work], rounds: int) -> dict[str, list[Cost]]:
    """Measure each work `rounds` times, all of them in every round, so that a machine that slows down slows all alike."""
    found: dict[str, list[Cost]] = {work.name: [] for work in works}
    for _ in range(rounds):
        for work in works:
            work.prepare()
            found[work.name].append(measure(work.command))
    return found


class Measured(NamedTuple):
    """Medians: of the ratios to another work, by the clock and by processor time, of the seconds; and the highest peak."""

    ratio: float
    processor_ratio: float
    seconds: float
    megabytes: float


def against(costs: Sequence[Cost], base: Sequence[Cost]) -> Measured:
    """What one work took, as a multiple of what another took in the same rounds."""
    pairs = list(zip(costs, base, strict=True))
    return Measured(
        statistics.median(cost.seconds / other.seconds for cost, other in pairs),
        statistics.median(cost.processor / other.processor for cost, other in pairs),
        statistics.median(cost.seconds for cost in costs),
        max(cost.megabytes for cost in costs),
    )
