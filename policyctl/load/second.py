"""A second process that does a part of the work, where there is a core for it."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable


def can_fork() -> bool:
    """Whether this process can be doubled, and there is a core for the other one."""
    if not hasattr(os, "fork") or threading.active_count() > 1:
        return False
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores > 1


def begin(work: Callable[[], Iterable[str]]) -> Callable[[], list[str]]:
    """Begin work in another process. The function that comes back waits for its result, lines of text.

    Where the other process fails, in whatever way, lines are missing at the end: that work is still to be done.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            lines = "".join(f"{line}\n" for line in work())  # first all: a full pipe stops who writes until it is read
            with open(writing, "w", encoding="ascii") as stream:
                stream.write(lines)
        finally:
            os._exit(0)  # nothing of the first process's may be flushed, closed or told twice
    os.close(writing)

    def result() -> list[str]:
        with open(reading, encoding="ascii") as stream:
            lines = stream.read().split("\n")
        os.waitpid(child, 0)
        return lines[:-1]  # what comes after the last line end is half a line

    return result
