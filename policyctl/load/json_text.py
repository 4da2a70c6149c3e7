"""JSON text as one plain document.

JSON goes through `json`, not through YAML: YAML parsers refuse the surrogate pairs that JSON writes for emoji.
"""

from __future__ import annotations

import json
from typing import Any

from policyctl.errors import InvalidInput, Mark, Problem
from policyctl.load.yaml_text import RawDocument
from policyctl.model.complaints import show


def read_json(text: str, file: str) -> list[RawDocument]:
    """The document of a JSON text; raises InvalidInput with one problem when the text cannot be parsed."""
    problems: list[Problem] = []

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        mapping: dict[str, Any] = {}
        for key, value in items:
            if key in mapping:
                problems.append(Problem(_second(text, key, file), "P003", f"duplicate key {show(key)}; keep one"))
            mapping.setdefault(key, value)
        return mapping

    def constant(name: str) -> Any:
        problems.append(Problem(_place(text, text.find(name), file), "P004", f"{name} is no JSON; write a number"))
        return None

    try:
        data = json.loads(text, object_pairs_hook=pairs, parse_constant=constant)
    except json.JSONDecodeError as error:
        message = f"this is not JSON: {error.msg[:1].lower()}{error.msg[1:]}"
        raise InvalidInput([Problem(_place(text, error.pos, file), "P002", message)]) from None
    except RecursionError:
        raise InvalidInput([Problem(Mark(file), "P005", "nested too deeply; flatten it")]) from None
    except ValueError as error:  # an integer of more digits than Python converts
        raise InvalidInput([Problem(Mark(file), "P004", f"a number is no usable value: {error}")]) from None
    return [RawDocument(data, Mark(file), problems)]


def _second(text: str, key: str, file: str) -> Mark:
    """Where a key that is written twice stands the second time (the first time when it is spelled differently)."""
    written = json.dumps(key)
    first = text.find(written)
    second = text.find(written, first + 1)
    return _place(text, second if second >= 0 else max(first, 0), file)


def _place(text: str, position: int, file: str) -> Mark:
    before = text[: max(position, 0)]
    return Mark(file, before.count("\n") + 1, len(before) - (before.rfind("\n") + 1) + 1)
