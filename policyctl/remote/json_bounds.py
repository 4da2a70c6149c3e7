"""JSON from a service, read within bounds of memory and nesting, whatever it sends; of bytes `bodies` takes care."""

from __future__ import annotations

import json
from typing import Any

MAX_MEMORY = 1024 * 1024 * 1024  # bytes, by an estimate from above: 64 MiB of policies need less
MAX_DEPTH = 200  # as in a file
_NOT_BRACKETS = bytes(set(range(256)) - set(b"[]{}"))


class TooMuch(Exception):
    """JSON that is not read; the message ends the sentence "it answered 200 with …"."""


def read_json(content: bytes) -> Any:
    """The value of a JSON text. Raises TooMuch, before anything is made of it where that can be, or ValueError."""
    count = content.count
    # What CPython takes: of an object, a list, a value with its place, and of every character where one is an emoji.
    memory = 232 * count(b"{") + 88 * count(b"[") + 80 * (count(b",") + count(b":")) + 4 * len(content)
    if memory > MAX_MEMORY:
        raise TooMuch(f"so many values that they would take more than {MAX_MEMORY >> 30} GiB of memory")
    deep = _may_be_deep(content)
    try:
        value = json.loads(content)
    except RecursionError:
        raise _too_deep() from None
    if deep and _is_deep(value):
        raise _too_deep()
    return value


def _too_deep() -> TooMuch:
    return TooMuch(f"JSON that is nested more than {MAX_DEPTH} deep")


def _may_be_deep(content: bytes) -> bool:
    """Whether brackets are left when pairs without any inside are taken away so many times. Those in text count as well."""
    brackets = content.translate(None, _NOT_BRACKETS)
    for _ in range(MAX_DEPTH):
        fewer = brackets.replace(b"[]", b"").replace(b"{}", b"")
        if len(fewer) == len(brackets):
            break
        brackets = fewer
    return bool(brackets)


def _is_deep(value: Any) -> bool:
    layer = [value]
    for _ in range(MAX_DEPTH):
        inner = (item.values() if isinstance(item, dict) else item for item in layer if isinstance(item, dict | list))
        layer = [item for items in inner for item in items]
    return any(isinstance(item, dict | list) for item in layer)
