"""What a template may make: every value that one of its operators or filters gives is held against the same bounds."""

from __future__ import annotations

import math
from typing import Any

MAX_OUTPUT = 65_536  # characters and items of one value, at every depth
MAX_INT_BITS = 256


class BadTemplate(Exception):
    """A template that cannot be rendered; the message describes why, and what to do."""


def bounded(value: Any) -> Any:
    """The value itself. Raises BadTemplate where it, or anything in it, is larger than a template may make."""
    room, pending = MAX_OUTPUT, [value]
    while pending:
        item = pending.pop()
        if isinstance(item, int) and item.bit_length() > MAX_INT_BITS:
            raise BadTemplate("the template computes a number that is too large; simplify it")
        if isinstance(item, float) and not math.isfinite(item):
            raise BadTemplate(f"the template computes {item}, which is not a number that a file can hold; correct it")
        if isinstance(item, str | list | tuple | dict):
            room -= len(item)
            if room < 0:
                raise BadTemplate(f"the template gives more than {MAX_OUTPUT:,} characters; shorten it")
        if isinstance(item, dict):
            pending += [*item.keys(), *item.values()]
        elif isinstance(item, list | tuple):
            pending += item
    return value
