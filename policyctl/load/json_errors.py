"""Why a text is not JSON, in words: what to change, at the place where it is."""

from __future__ import annotations

import json

from policyctl.errors import Mark, Problem

_WORDS = {"True": "true", "False": "false", "None": "null", "undefined": "null", "yes": "true", "no": "false"}
_SEPARATORS = {"Expecting ',' delimiter": "comma", "Expecting ':' delimiter": "colon"}


def syntax_problem(error: json.JSONDecodeError, file: str) -> Problem:
    """The problem behind an error of the JSON parser."""
    position, message = _slip(error)
    return Problem(place(error.doc, position, file), "P002", message)


def place(text: str, position: int, file: str) -> Mark:
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
