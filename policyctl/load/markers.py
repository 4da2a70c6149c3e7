"""Whether there is a template at all, and what it may use: told without jinja2, which most files need not."""

from __future__ import annotations

from typing import Any

MAX_VARIABLES = 65_536  # characters of all variables of an environment together
_MARKERS = ("{{", "{%", "{#")
_BYTES = tuple(marker.encode() for marker in _MARKERS)


def is_templated(content: bytes) -> bool:
    """Whether what a file says depends on the environment."""
    return b"{" in content and any(marker in content for marker in _BYTES)


def is_template(text: str) -> bool:
    """Whether a scalar holds template syntax at all."""
    return "{" in text and any(marker in text for marker in _MARKERS)


def has_template(value: Any) -> bool:
    """Whether a plain value holds a template in any of its scalars (keys never count)."""
    if isinstance(value, str):
        return is_template(value)
    if isinstance(value, dict):
        return any(map(has_template, value.values()))
    return isinstance(value, list) and any(map(has_template, value))
