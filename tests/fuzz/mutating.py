"""Good texts gone wrong: strategies that change a text, its bytes, or a plain value here and there."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from tests.conftest import ANYGEM

CASES = Path(__file__).parents[1] / "cases"
SEEDS = [ANYGEM, *(path.read_text("utf-8") for path in sorted((CASES / "valid").glob("*.yaml")))]
CONFIG = """\
default: dev
environments:
  dev: {remote: local, vars: {w: 0.5, codes: [429, 503]}}
  prod:
    remote: https://example.invalid/instances/x
    auth: {type: ibm_iam, api_key: "env:KEY"}
scope: ["virtual-policy/*"]
limits: {max_removes: 5, max_change_percent: 30}
guards: {max_calls: 6, survive: {any: provider, down_with: [429]}}
lint: {ignore: [P4]}
"""
# What readers of YAML and JSON stumble over.
NASTY = [
    *(
        "&a ",
        "*a",
        "<<: *a\n",
        "<<: [*a, {b: 1}]\n",
        "!!python/object:os.system ",
        "!secret ",
        "%YAML 1.1\n---\n",
        "%TAG ! tag:x,\n",
    ),
    *(
        "---\n",
        "...\n",
        "\t",
        "- ",
        "? ",
        ": ",
        "|\n",
        ">-\n",
        "#",
        " #",
        "'",
        '"',
        "{",
        "}",
        "[",
        "]",
        ",",
        "@",
        "`",
        "=",
        "~",
    ),
    *("\x00", "\ufeff", "\u2028", "\x85", "\r", "\x1b[2J", "\u202e", "\ud7ff", "\U0010ffff", "\\ud800", "\\x00", "\\N"),
    *(
        "9" * 500,
        "1" + "0" * 5000,
        "-0",
        "0x" + "f" * 300,
        "1e999",
        ".nan",
        ".inf",
        "0503",
        "12:30:45",
        "1_0",
        "no",
        "2024-13-45",
    ),
    *("{{", "}}", "{{ w }}", "{{ nope }}", "{% for %}", "{{ 1 if }}", "[" * 300, "{a: " * 250, "- " * 250, "? " * 250),
    *(
        "weight: 75\n",
        "polcy:\n",
        "targets: []\n",
        "null",
        "true",
        "[]",
        "{}",
        "# policyctl: ignore[P4]\n",
        "# policyctl: ignore\n",
    ),
]

_place = st.floats(0, 1, exclude_max=True)
_changes = st.lists(
    st.one_of(
        st.tuples(st.just("put"), _place, st.sampled_from(NASTY) | st.text(max_size=4)),
        st.tuples(st.just("cut"), _place, st.integers(1, 40)),
        st.tuples(st.just("twice"), _place, st.integers(1, 80)),
        st.tuples(st.just("move"), _place, st.integers(1, 30)),
    ),
    min_size=1,
    max_size=6,
)


def _changed(text: str, changes: list[tuple[str, float, Any]]) -> str:
    for how, where, what in changes:
        at = int(where * (len(text) + 1))
        if how == "put":
            text = text[:at] + what + text[at:]
        elif how == "cut":
            text = text[:at] + text[at + what :]
        elif how == "twice":
            text = text[: at + what] + text[at:]
        else:
            text = text[:at] + text[at + what :] + text[at : at + what]
    return text


def texts(*seeds: str) -> st.SearchStrategy[str]:
    """One of the seeds, changed in a few places."""
    return st.builds(_changed, st.sampled_from(seeds), _changes)


def contents(*seeds: str) -> st.SearchStrategy[bytes]:
    """The same as bytes, some of them flipped, or in another encoding."""
    flips = st.lists(st.tuples(_place, st.integers(0, 255)), max_size=3)
    encodings = st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-8-sig", "utf-16", "latin-1"])

    def flipped(text: str, encoding: str, where: list[tuple[float, int]]) -> bytes:
        content = bytearray(text.encode(encoding, "replace"))
        for place, byte in where:
            if content:
                content[int(place * len(content))] = byte
        return bytes(content)

    return st.builds(flipped, texts(*seeds), encodings, flips)


def values(seed: Any, other: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """A plain value with some of its parts replaced, removed or doubled."""

    def changed(changes: list[tuple[float, str, Any]]) -> Any:
        value = copy.deepcopy(seed)
        for where, how, new in changes:
            places = list(_places(value))
            if not places:
                break
            holder, key = places[int(where * len(places))]
            if how == "replace":
                holder[key] = new
            elif how == "remove":
                del holder[key]
            elif isinstance(holder, list):
                holder.append(copy.deepcopy(holder[key]))
            else:
                holder[f"{key}x"] = holder[key]
        return value

    change = st.tuples(_place, st.sampled_from(["replace", "remove", "double"]), other)
    return st.lists(change, min_size=1, max_size=4).map(changed)


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, child in list(items):
        yield value, key
        yield from _places(child)
