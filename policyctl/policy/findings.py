"""A finding: what is wrong with a file's data, at a path into it; `load` turns the path into a line and a column."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any, Literal, NamedTuple

from policyctl.errors import Severity
from policyctl.policy.names import POLICY_PREFIX, bare_name

FieldPath = tuple[str | int, ...]
HIDDEN = "***"
_USERINFO = re.compile(r"://[^/\s\"'@]*@")


class Finding(NamedTuple):
    """One thing wrong: where in the data (at the key itself or at its value), the rule's code, the sentence."""

    path: FieldPath
    code: str
    message: str
    at: Literal["key", "value"] = "value"
    severity: Severity = "error"


def did_you_mean(word: str, known: Iterable[str], prefix: str = "", cutoff: float = 0.6) -> str:
    """` (did you mean x?)` for a near miss, else an empty string. A `prefix` that all share must not make all look alike."""
    shared = prefix if word.startswith(prefix) else ""
    names = {name.removeprefix(shared): name for name in known}
    close = closest(word.removeprefix(shared), names, cutoff)
    return f" (did you mean {names[close[0]]}?)" if close else ""


def closest_name(name: str, known: Iterable[str]) -> str:
    """The same for a policy's name or glob; `known` are canonical names, and the guess is spelled as the name is."""
    names = known if name.startswith(POLICY_PREFIX) else map(bare_name, known)
    return did_you_mean(name, sorted(names), POLICY_PREFIX)


def closest(word: str, known: Iterable[str], cutoff: float = 0.6) -> list[str]:
    """The nearest of the known words, if one is near at all."""
    from difflib import get_close_matches  # nothing is looked for where all is well

    return get_close_matches(word, list(known), n=1, cutoff=cutoff)


def without_userinfo(text: str) -> str:
    """The text with `***` for the user and the password of every URL in it."""
    return _USERINFO.sub("://***@", text)


def format_path(value: Any, limit: int = 60) -> str:
    """A value as it may stand in a message: one line, nothing that a terminal acts on, not long."""
    text = json.dumps(value, default=repr) if not isinstance(value, float) else repr(value)
    text = without_userinfo(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"
