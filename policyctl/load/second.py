"""A second process that does a part of the work, where there is a core for it."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from typing import Any


def can_fork() -> bool:
    """Whether this process can be doubled, and there is a core for the other one."""
    if not hasattr(os, "fork") or threading.active_count() > 1:
        return False
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return cores > 1


def begin(work: Callable[[], Any]) -> Callable[[], Any]:
    """Begin work in another process. The function that comes back waits for its result, a plain value.

    It gives None when the other process failed, in whatever way: then nothing is known, and the work is still to be done.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with open(writing, "wb") as stream:
                stream.write(json.dumps(work()).encode())
        finally:
            os._exit(0)  # nothing of the first process's may be flushed, closed or told twice
    os.close(writing)

    def result() -> Any:
        with open(reading, "rb") as stream:
            text = stream.read()
        os.waitpid(child, 0)
        try:
            return json.loads(text)
        except ValueError:
            return None

    return result
