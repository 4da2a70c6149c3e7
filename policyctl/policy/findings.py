"""A finding: what is wrong with a file's data, at a path into it, and the likely fix.

`load` turns the path into a line and a column.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Iterable
from typing import Any, Literal, NamedTuple

from policyctl.errors import Severity
from policyctl.policy.memo import late_pattern
from policyctl.policy.names import POLICY_PREFIX, bare_name

FieldPath = tuple[str | int, ...]
HIDDEN = "***"
_USERINFO = late_pattern(r"://[^/\s]*@")  # up to the last @ of the authority: a password may hold one, unescaped, and quotes


class Finding(NamedTuple):
    """One thing wrong: where in the data (at the key itself or at its value), the rule's code, the sentence."""

    path: FieldPath
    code: str
    message: str
    at: Literal["key", "value"] = "value"
    severity: Severity = "error"


def did_you_mean(word: str, known: Iterable[str], prefix: str = "", cutoff: float = 0.6) -> str:
    """` (did you mean x?)` for a near miss, else an empty string. Ignores `prefix` when comparing, so that
    a shared prefix does not make every name a near miss."""
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
    """A value for use in a message: one short line without control characters."""
    text = json.dumps(value, default=repr) if not isinstance(value, float) else repr(value)
    text = without_userinfo(text)
    return text if len(text) <= limit else text[: limit - 1] + "…"


_NAME = late_pattern(r"[\w./:@+~-]*")


def as_one_word(name: str) -> str:
    """A name that others chose, for a sentence: in quotes if it has unusual characters, so that its end is visible."""
    return name if _NAME.fullmatch(name) else json.dumps(name, ensure_ascii=False)


def listed_files(files: Iterable[str]) -> str:
    """`listed`, of files that others named."""
    return listed([*map(as_one_word, files)])


MOST_LISTED = 10


def listed(names: Collection[str], most: int = MOST_LISTED) -> str:
    """The first names or files, and how many more there are: `a, b, c and 1,890 more`."""
    more = f" and {len(names) - most:,} more" if len(names) > most else ""
    return ", ".join([*names][:most]) + more


def which_of(names: Collection[str], every: Iterable[str]) -> str:
    """Which of them all are meant, none left out: `all`, `all but prod`, or their names, whichever is shorter."""
    chosen = {*names}
    others = [name for name in every if name not in chosen]
    return min(", ".join(names), f"all but {', '.join(others)}" if others else "all", key=len)


_LONGEST = 60  # characters of a value that a hint repeats
_NUMBERS = ("int_type", "float_type")
_MAPPINGS = ("model_type", "model_attributes_type", "dict_type")
_LISTS = ("tuple_type", "list_type")
_SWITCHES = {"yes": "true", "on": "true", "true": "true", "no": "false", "off": "false", "false": "false"}
_MODES = {
    "loadbalance": "round-robin roundrobin random weighted balance load balancing loadbalancer",
    "fallback": "failover fail-over priority backup",
    "single": "none retry",
}
_MISSING = {
    "attempts": "add it: the gateway refuses a retry without it",
    "spec_version": "write spec_version: v1",
    "kind": "write kind: model",
    "mode": "write mode: loadbalance, fallback or single",
    "strategy": "write strategy: {mode: loadbalance}, or fallback, or single",
    "targets": "list at least one target",
    "model_name": "name a model, or make the target a group with strategy and targets",
}
# The mapping that a scalar most likely means.
_SHORTHANDS: dict[str, Callable[[Any], str | None]] = {
    "strategy": lambda value: f"{{mode: {value}}}" if isinstance(value, str) and value in _MODES else None,
    "retry": lambda value: f"{{attempts: {value}}}" if type(value) is int else None,
    "cache": lambda value: f"{{mode: {value}}}" if isinstance(value, str) and value.isidentifier() else None,
    "targets[]": lambda value: f"model_name: {value}" if isinstance(value, str) and "/" in value and " " not in value else None,
}


_WORDS = {
    "targets": "models fallbacks endpoints backends",
    "model_name": "model_id",
    "weight": "share ratio percent percentage traffic",
    "mode": "type kind",
    "retry": "retries",
    "attempts": "tries count max_attempts max_retries",
    "on_status_codes": "codes on_codes status_code",
    "display_name": "title label",
}


def key_meant(key: str, known: Collection[str]) -> str | None:
    """Which of the known keys an unknown one must mean: by its letters, or as the word that other formats have for it."""
    if close := closest(key, known):
        return close[0]
    return next((ours for ours, words in _WORDS.items() if ours in known and key in words.split()), None)


def reason_required(key: str) -> str:
    """What to write for a key that is missing."""
    return f" ({_MISSING.get(key, 'add it')})"


def suggestion_for(field: str, value: Any, kind: str) -> str:
    """What to do about a value of the wrong type, or an empty string; `kind` is pydantic's name of what is wrong."""
    if isinstance(value, str) and (len(value) > _LONGEST or without_userinfo(value) != value):
        return ""  # nothing is repeated that may be a secret
    hint = _hint(field, value, kind)
    return f" ({hint})" if hint else ""


def scaled_weight(field: str, value: Any) -> str:
    """What was likely meant by a weight that is out of range."""
    if field != "weight":
        return ""
    if value == 0:
        return " (to drain a target, remove it)"
    return f" (did you mean {value / 100:g}?)" if 1 < value <= 100 and value == int(value) else ""


def mode_meant(word: str, modes: Collection[str]) -> str:
    """` (did you mean loadbalance?)` for the words that other tools have for one of these modes."""
    word = word.lower().replace("_", "-")
    meant = next((mode for mode, words in _MODES.items() if mode in modes and word in words.split()), None)
    return f" (did you mean {meant}?)" if meant else ""


def _hint(field: str, value: Any, kind: str) -> str | None:
    if value is None:
        return "give it a value" if field in _MISSING else "give it a value, or remove it"
    if kind in _NUMBERS and isinstance(value, str):
        return _number(value)
    if kind in (*_NUMBERS, "string_type") and isinstance(value, dict) and [*value.values()] == [None]:
        return f'write "{{{{ {next(iter(value))} }}}}", in quotes'
    if isinstance(value, float) and kind.startswith("int_") and value.is_integer():
        return f"did you mean {int(value)}?"
    if kind == "string_type" and isinstance(value, int | float):
        return "quote it"
    if kind == "bool_type" and isinstance(value, str) and value.lower() in _SWITCHES:
        return f"write {_SWITCHES[value.lower()]}, without quotes"
    if kind in _MAPPINGS:
        return _mapping(field, value)
    return _list(value) if kind in _LISTS else None


def _number(text: str) -> str | None:
    """`"0.5"`, `75%`, `0,5` and `0.5,` as numbers."""
    if re.fullmatch(r"\d+(\.\d+)?", text):
        return "remove the quotes"
    if found := re.fullmatch(r"(\d+(?:\.\d+)?) ?%", text):
        return f"write {float(found[1]) / 100:g}"
    if re.match(r"\d*\.?\d+#", text):
        return "put a space before the #"
    if found := re.fullmatch(r"(\d{1,9})/([1-9]\d{0,8})", text):
        return f'write {int(found[1]) / int(found[2]):.3g}, or "{{{{ {text} }}}}"'
    if re.fullmatch(r"\d*\.?\d+,", text):
        return "remove the comma"
    if re.fullmatch(r"\d+,\d+", text):
        return f"write {text.replace(',', '.')}"
    found = re.fullmatch(r"\{+ *([^{}]+?) *\}+", text)
    return f"write {{{{ {found[1]} }}}}" if found else None


def _mapping(field: str, value: Any) -> str | None:
    if isinstance(value, str) and (found := re.fullmatch(r"([a-z_]+):(?!//)(\S.*)", value)):
        return f"a space is missing after the colon: write {found[1]}: {found[2]}"
    if isinstance(value, str) and (found := re.fullmatch(r"([a-z_]+)[ =]+(\S+)", value)):
        return f"a colon is missing: write {found[1]}: {found[2]}"
    shorthand = _SHORTHANDS[field](value) if field in _SHORTHANDS else None
    if isinstance(value, list):
        return "remove the dashes" if value and all(isinstance(item, dict) for item in value) else None
    return f"write {shorthand}" if shorthand else None


def _list(value: Any) -> str | None:
    if isinstance(value, dict):
        return "begin each item with a dash"
    if isinstance(value, str) and "," in value:
        return f"write [{value}]"
    return None if isinstance(value, bool) else f"write [{format_path(value)}]"
