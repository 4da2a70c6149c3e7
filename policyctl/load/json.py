"""JSON text as one plain document, and what is wrong with text that is not JSON.

JSON goes through `json`, not through YAML: YAML parsers refuse the surrogate pairs that JSON writes for emoji.
"""

from __future__ import annotations

import json
from typing import Any

from policyctl.errors import InvalidInput, Mark, Problem
from policyctl.load.yaml import MAX_DEPTH, RawDocument
from policyctl.policy.findings import format_path

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
        raise InvalidInput([json_problem(error, file)]) from None
    except RecursionError:
        raise InvalidInput([_too_deep(file)]) from None
    except ValueError:  # an integer of more digits than Python converts
        raise InvalidInput([Problem(Mark(file, 1, 1), "P004", "a number has too many digits; shorten it")]) from None
    if _is_deep(data):
        raise InvalidInput([_too_deep(file)])
    problems = _duplicates(twice, text, file)
    problems += [
        Problem(_path_of(text, text.find(name), file), "P004", f"{name} is not a number in JSON; write one")
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
    found = [
        Problem(_second(text, key, file), "P003", f"duplicate key {format_path(key)}; keep one")
        for key in keys[:MAX_DUPLICATES]
    ]
    if len(keys) > MAX_DUPLICATES:
        found.append(Problem(Mark(file, 1, 1), "P003", f"{len(keys) - MAX_DUPLICATES:,} more duplicate keys"))
    return found


def _second(text: str, key: str, file: str) -> Mark:
    """Where a key that is written twice stands the second time (the first time when it is spelled differently)."""
    written = json.dumps(key)
    first = text.find(written)
    second = text.find(written, first + 1)
    return _path_of(text, second if second >= 0 else max(first, 0), file)


def _path_of(text: str, position: int, file: str) -> Mark:
    position = max(position, 0)
    return Mark(file, text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position))


_WORDS = {"True": "true", "False": "false", "None": "null", "undefined": "null", "yes": "true", "no": "false"}
_SEPARATORS = {"Expecting ',' delimiter": "comma", "Expecting ':' delimiter": "colon"}


def json_problem(error: json.JSONDecodeError, file: str) -> Problem:
    """The problem behind an error of the JSON parser."""
    position, message = _slip(error)
    return Problem(error_position(error.doc, position, file), "P002", message)


def error_position(text: str, position: int, file: str) -> Mark:
    """The mark of a position in a text."""
    position = max(position, 0)
    return Mark(file, text.count("\n", 0, position) + 1, position - text.rfind("\n", 0, position))


def _slip(error: json.JSONDecodeError) -> tuple[int, str]:
    text, at = error.doc, error.pos
    here, before = text[at : at + 1], text[:at].rstrip()
    if "trailing comma" in error.msg or (here in ("}", "]") and before.endswith(",")):  # Python 3.13 has a message for it
        comma = at if here == "," else len(before) - 1
        return comma, "no comma may stand after the last item; remove it"
    if not text[at:].strip() and not error.msg.startswith("Unterminated"):
        return at, "the text ends too early; add the closing brackets and braces"
    if here == "\n" and error.msg.startswith("Invalid control character"):
        return text.rfind('"', 0, at), 'this " is not closed on its line; add the closing "'
    if here == "'":
        return at, 'texts stand in double quotes in JSON; write "'
    if here == "#" or text[at : at + 2] in ("//", "/*"):
        return at, "JSON has no comments; remove this one, or make the file YAML"
    return at, _message(error, text[at:])


def _message(error: json.JSONDecodeError, rest: str) -> str:
    if error.msg in _SEPARATORS:
        return f"a {_SEPARATORS[error.msg]} is missing before this; add it"
    if error.msg.startswith("Unterminated string"):
        return 'this " is never closed; add the closing "'
    if error.msg.startswith("Invalid control character"):
        return "a text cannot hold a control character; write a tab as \\t"
    if error.msg.startswith("Invalid \\"):
        return f"{rest[:2]} means nothing in JSON; write \\{rest[:2]}"
    if error.msg == "Extra data":
        return "the document ends above this; remove what follows, or move it to a file of its own"
    if error.msg.startswith("Expecting property name"):
        return "a key must stand in double quotes in JSON; quote it"
    word = next((word for word in _WORDS if rest.startswith(word)), None)
    if word:
        return f"{word} is not a value in JSON (write {_WORDS[word]})"
    return "this is not a value in JSON; write a number, a text in double quotes, true, false or null"
