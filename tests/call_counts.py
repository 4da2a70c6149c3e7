"""Counting calls of a function, without touching it."""

from __future__ import annotations

import sys
import threading
from collections import Counter
from collections.abc import Callable
from types import FrameType
from typing import Any


def calls(work: Callable[[], object], *functions: Callable[..., Any], threads: bool = False) -> list[int]:
    """Do the work, and say how often it called each of these functions: in this thread, with `threads` also in one that it
    starts."""
    found: Counter[object] = Counter()
    wanted = {function.__code__ for function in functions}

    def note(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and frame.f_code in wanted:
            found[frame.f_code] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    if threads:
        threading.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(before)
        if threads:
            threading.setprofile(None)
    return [found[function.__code__] for function in functions]
