"""A policy as the text of a policy file, or why that is impossible.

The text loads as the same policy: a text that YAML 1.1 or 1.2 would read as something else is quoted, one with template
syntax is written as a template that renders to it, and invisible characters are escaped. The same policy always gives the
same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from pydantic import ValidationError

from policyctl.load.kinds import is_template
from policyctl.load.source import MAX_BYTES
from policyctl.load.template import MAX_TEMPLATE
from policyctl.load.yaml import resolve
from policyctl.policy.document import BODY_KEYS, PART_KEYS, TARGET_KEYS, Document
from policyctl.policy.findings import FieldPath, Finding
from policyctl.policy.names import canonical_name
from policyctl.policy.schema import PolicyFile
from policyctl.policy.validation_errors import findings_of, too_big

_GROUP_ORDER = ("model_name", "weight", "strategy", "retry", "cache", "targets")
_PART_ORDER = ("mode", "attempts", "on_status_codes", "use_retry_after_header")
# The first character and the content of plain scalars; YAML allows more, but every reader understands these.
_PLAIN = re.compile(r"[^\s\-?:,\[\]{}#&*!|>'\"%@`](?:[^:#]|:(?=[^\s:])|(?<=\S)#)*")


def policy_text(document: Document) -> str | list[Finding]:
    """The text of a policy file for a document, or every reason why there cannot be one.

    `document` is a live or a desired policy's; keys that the format does not know are left out. The findings have paths into
    the document.
    """
    if deep := too_big(document):
        return [deep]
    try:
        data = _file_data(document)
        PolicyFile.model_validate(data)
    except ValidationError:
        return findings_of(data, PolicyFile)
    except RecursionError:
        return [Finding(("policy",), "P107", "it is nested too deeply; flatten the policy")]
    if found := list(_bad_texts(data, ())):
        return found
    text = "".join(f"{line}\n" for line in _lines(data, ""))
    if len(text.encode()) > MAX_BYTES:
        return [Finding((), "P007", f"its file would have more than {MAX_BYTES // (1024 * 1024)} MiB; split the policy")]
    return text


def unrepresentable_reasons(found: Iterable[Finding]) -> list[str]:
    """Findings as lines for readers without a file to look at: `policy.targets[0].weight: weight must be …`."""
    return [_reason(_dotted(complaint.path), complaint.message) for complaint in found]


def _reason(place: str, message: str) -> str:
    return message if not place or message.startswith(f"{place} ") else f"{place}: {message}"


def _dotted(path: FieldPath) -> str:
    return "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in path).removeprefix(".")


def _file_data(document: Document) -> Document:
    """The file's data in the format's order: with all texts, without nulls and keys that the format does not know."""
    name = document["name"]
    texts = {key: document.get(key) for key in ("display_name", "description")}
    return {
        "spec_version": "v1",
        "kind": "model",
        "name": name,
        **{key: canonical_name(name) if text is None else text for key, text in texts.items()},
        "policy": _group(document.get("policy"), BODY_KEYS),
    }


def _group(group: Any, known: frozenset[str]) -> Any:
    if not isinstance(group, dict):
        return group
    written: Document = {}
    for key in _GROUP_ORDER:
        value = group.get(key)
        if value is None or key not in known:
            continue
        if key == "targets" and isinstance(value, list):
            written[key] = [_group(target, TARGET_KEYS) for target in value]
        elif key in PART_KEYS and isinstance(value, dict):
            written[key] = _part(value, PART_KEYS[key])
        else:
            written[key] = _number(value)
    return written


def _part(part: Document, known: frozenset[str]) -> Document:
    kept = {key: part[key] for key in _PART_ORDER if key in known and part.get(key) is not None}
    return {key: [*map(_number, value)] if isinstance(value, list) else _number(value) for key, value in kept.items()}


def _number(value: Any) -> Any:
    """A whole number without its point, as the normal form has it; everything else as it is."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _bad_texts(value: Any, path: FieldPath) -> Iterator[Finding]:
    """Texts that no file can hold: template syntax in more text than a template may be."""
    if isinstance(value, dict):
        for key, child in value.items():
            yield from _bad_texts(child, (*path, key))
    elif isinstance(value, list):
        for position, child in enumerate(value):
            yield from _bad_texts(child, (*path, position))
    elif isinstance(value, str) and is_template(value) and len(_template(value)) > MAX_TEMPLATE:
        message = f"it holds template syntax and is longer than the {MAX_TEMPLATE:,} characters that a template may have"
        yield Finding(path, "P015", f"{message}; shorten it")


def _lines(mapping: Document, indent: str) -> Iterator[str]:
    """A mapping in block style."""
    for key, value in mapping.items():
        if isinstance(value, dict):
            yield f"{indent}{key}:"
            yield from _lines(value, indent + "  ")
        elif key == "targets":
            yield f"{indent}{key}:"
            for target in value:
                first, *rest = _lines(target, indent + "    ")
                yield f"{indent}  - {first.lstrip(' ')}"
                yield from rest
        elif isinstance(value, list):
            yield f"{indent}{key}: [{', '.join(map(str, value))}]"
        else:
            yield f"{indent}{key}: {_scalar(value, indent + '  ')}"


def _scalar(value: str | float, indent: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        text = repr(value)
        # Without a point, `1e-07` is text to YAML 1.1.
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    if is_template(value):
        return _single_quoted(_template(value))
    if _is_plain(value):
        return value
    if _is_paragraph(value):
        lines = value.removesuffix("\n").split("\n")
        return "\n".join(["|" if value.endswith("\n") else "|-", *(f"{indent}{line}" if line else "" for line in lines)])
    return _single_quoted(value) if value.isprintable() and ('"' in value or "\\" in value) else _double_quoted(value)


def _is_plain(text: str) -> bool:
    """Whether a text needs no quotes: printable, on one line, and text to every YAML reader."""
    if not text.isprintable() or text != text.strip() or not _PLAIN.fullmatch(text):
        return False
    value, complaint = resolve(text)
    return complaint is None and value == text and isinstance(value, str)


def _is_paragraph(text: str) -> bool:
    """Whether a text of several lines can be a block: all visible, without white space that an editor would strip."""
    lines = text.removesuffix("\n").split("\n")
    visible = all(line.isprintable() and line == line.rstrip() for line in lines)
    return "\n" in text and visible and bool(lines[0].strip()) and lines[0][0] != " " and lines[-1] != ""


def _template(text: str) -> str:
    """A template that renders to the text: one expression, a string."""
    return "{{ " + _double_quoted(text) + " }}"


def _single_quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _double_quoted(text: str) -> str:
    """The text in double quotes, with escapes that YAML and templates read alike."""
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(char: str) -> str:
    if char == '"':
        return '\\"'
    return char if char.isprintable() and char != "\\" else char.encode("unicode_escape").decode()
