"""JSON text as one plain document.

JSON goes through `json`, not through YAML: YAML parsers refuse the surrogate pairs that JSON writes for emoji.
"""

from __future__ import annotations

import json
from typing import Any

from policyctl.errors import InvalidInput, Mark, Problem
from policyctl.load.yaml_text import MAX_DEPTH, RawDocument
from policyctl.model.complaints import show

MAX_DUPLICATES = 100  # duplicate keys that are looked for in the text, each from its start; the others are counted


def read_json(text: str, file: str) -> list[RawDocument]:
    """The document of a JSON text; raises InvalidInput with one problem when the text cannot be parsed."""
    twice: list[str] = []
    constants: list[str] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in items:
            if key in mapping:
                twice.append(key)
            mapping.setdefault(key, value)
        return mapping

    try:
        data = json.loads(text, object_pairs_hook=pairs, parse_constant=constants.append)  # a constant is null from here on
    except json.JSONDecodeError as error:
        from policyctl.load.json_errors import syntax_problem  # most texts can be parsed

        raise InvalidInput([syntax_problem(error, file)]) from None
    except RecursionError:
        raise InvalidInput([_too_deep(file)]) from None
    except ValueError:  # an integer of more digits than Python converts
        raise InvalidInput([Problem(Mark(file, 1, 1), "P004", "a number has too many digits; shorten it")]) from None
    if _is_deep(data):
        raise InvalidInput([_too_deep(file)])
    problems = _duplicates(twice, text, file)
    problems += [
        Problem(_place(text, text.find(name), file), "P004", f"{name} is not a number in JSON; write one")
        for name in dict.fromkeys(constants)
    ]
    return [RawDocument(data, Mark(file, 1, 1), problems)]


def _is_deep(data: Any) -> bool:
    """Whether mappings and lists are nested more than `MAX_DEPTH` deep; level by level, since recursion has its own limit."""
    level = [data]
    for _ in range(MAX_DEPTH + 1):
        level = [child for item in level for child in _children(item) if isinstance(child, dict | list)]
        if not level:
            return False
    return True


def _children(item: Any) -> Any:
    return item.values() if isinstance(item, dict) else item if isinstance(item, list) else ()


def _too_deep(file: str) -> Problem:
    return Problem(Mark(file, 1, 1), "P005", f"nested more than {MAX_DEPTH} deep; flatten it")


def _duplicates(keys: list[str], text: str, file: str) -> list[Problem]:
    found = [Problem(_second(text, key, file), "P003", f"duplicate key {show(key)}; keep one") for key in keys[:MAX_DUPLICATES]]
    if len(keys) > MAX_DUPLICATES:
        found.append(Problem(Mark(file, 1, 1), "P003", f"{len(keys) - MAX_DUPLICATES:,} more duplicate keys"))
    return found


def _second(text: str, key: str, file: str) -> Mark:
    """Where a key that is written twice stands the second time (the first time when it is spelled differently)."""
    written = json.dumps(key)
    first = text.find(written)
    second = text.find(written, first + 1)
    return _place(text, second if second >= 0 else max(first, 0), file)


def _place(text: str, position: int, file: str) -> Mark:
    position = max(position, 0)
    return Mark(file, text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position))
