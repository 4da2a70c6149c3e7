"""A policy or a virtual model as the text of a file, or why that is impossible.

The text loads as the same document: a text that YAML 1.1 or 1.2 would read as something else is quoted, one with template
syntax is written as a template that renders to it, and invisible characters are escaped. The same document always gives
the same bytes.
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
from policyctl.plan.diff import fields_between, unknown_model_fields
from policyctl.plan.plan import Desired
from policyctl.policy.document import BODY_KEYS, PART_KEYS, TARGET_KEYS, Document
from policyctl.policy.findings import FieldPath, Finding
from policyctl.policy.live import Live
from policyctl.policy.model_settings import (
    SECRETS,
    SET,
    SETTINGS,
    hidden_in,
    is_placeholder,
    secrets_in,
    what_is_secret,
    with_snake_case,
)
from policyctl.policy.names import canonical_name, kind_of
from policyctl.policy.schema import PolicyFile, findings_of, too_big
from policyctl.policy.virtual_model import UNNAMED, USUAL_TYPE, LiveModel, VirtualModel, normal_form, settled

_GROUP_ORDER = ("model_name", "weight", "strategy", "retry", "cache", "targets")
_PART_ORDER = ("mode", "attempts", "on_status_codes", "use_retry_after_header")
_SETTINGS_ORDER = tuple(SETTINGS)
_WORD = re.compile(r"[\w./-]{1,40}", re.ASCII)  # what may be an item of a list on one line
_SURROGATE = re.compile("[\ud800-\udfff]")
_LONGEST_KEY = 500  # characters; YAML takes 1,024 with escapes
# The first character and the content of plain scalars; YAML allows more, but every reader understands these.
_PLAIN = re.compile(r"[^\s\-?:,\[\]{}#&*!|>'\"%@`](?:[^:#]|:(?=[^\s:])|(?<=\S)#)*")


def file_text(one: Desired | Live) -> str | list[Finding]:
    """The text of the file of a policy or virtual model, or every reason why there cannot be one."""
    return model_text(one.document) if isinstance(one, VirtualModel | LiveModel) else policy_text(one.document)


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
    return text_of(data)


def normal_text(normal: Document) -> str | None:
    """The YAML of a policy's or virtual model's normal form, in the order of a file, to be read by people.

    It need not be valid: a live policy may be what no file may be. None for what YAML cannot hold.
    """
    if kind_of(normal["name"]) == "model":
        data: Document = {"spec_version": "v1", "kind": "model", **{key: _sorted(value) for key, value in normal.items()}}
    elif too_big(normal):
        return None
    else:
        data = _file_data(normal)
    text = text_of(data)
    return text if isinstance(text, str) else None


def text_of(data: Document) -> str | list[Finding]:
    """The text that loads as this data, or what in it no file can hold."""
    if found := list(_bad_texts(data, ())):
        return found
    text = "".join(f"{line}\n" for line in lines_of(data, ""))
    if len(text.encode()) > MAX_BYTES:
        return [Finding((), "P007", f"its file would have more than {MAX_BYTES // (1024 * 1024)} MiB; shorten it")]
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


def model_text(document: Document) -> str | list[Finding]:
    """The text of a virtual model's file for a document, or every reason why there cannot be one.

    `document` is a live or a desired model's. The text has no secrets, nothing that the platform derives, and the connection
    by its `app_id`: what is left out is kept by every update (see `kept_by_updates`).
    """
    from policyctl.policy.model_schema import read_model  # few directories have any

    if hidden := list(_hidden_secrets(document)):
        return hidden
    data = _model_data(document)
    model, found = read_model(data, "")
    if model is None:
        return [one for one in found if one.severity == "error"]
    normal = normal_form(document)
    again = settled(model.document, LiveModel(model.name, "", document))
    if differing := fields_between(normal, again):
        return [Finding((), "P104", f"a file cannot hold its {field.path} as it is on the remote") for field in differing]
    return text_of(data)


def _model_data(document: Document) -> Document:
    """The file's data in the format's order, without what is the default anyway."""
    normal = normal_form(document)
    name, shown = normal["name"], secrets_in(document.get("provider_config"))
    settings = {key: value for key, value in normal.get("provider_config", {}).items() if key not in SECRETS}
    if is_placeholder(shown.get("api_key")):
        settings["api_key"] = shown["api_key"]
    data: Document = {"spec_version": "v1", "kind": "model", "name": name}
    data |= {key: normal[key] for key in ("display_name", "description") if normal[key] != name}
    if "app_id" in normal and not _is_unnamed(normal["app_id"]):
        data["app_id"] = normal["app_id"]
    if settings:
        data["provider_config"] = {key: _sorted(settings[key]) for key in sorted(settings, key=_SETTINGS_ORDER.index)}
    data |= {key: _sorted(normal[key]) for key in ("config", "tags") if key in normal}
    return data if normal["model_type"] == USUAL_TYPE else data | {"model_type": normal["model_type"]}


def _is_unnamed(connection: Any) -> bool:
    return isinstance(connection, str) and connection.startswith(UNNAMED)


def _sorted(value: Any) -> Any:
    """The same value with the keys of its mappings in order, so that the same model gives the same bytes."""
    if isinstance(value, dict):
        return {key: _sorted(value[key]) for key in sorted(value)}
    return [*map(_sorted, value)] if isinstance(value, list) else value


def _hidden_secrets(document: Document) -> Iterator[Finding]:
    """Secrets within settings: a file must not hold them, and without them it would not be the same model."""
    config = document.get("provider_config")
    spelled = with_snake_case(config) if isinstance(config, dict) else {}
    settings = {key: value for key, value in spelled.items() if key in SETTINGS and key not in SECRETS}
    for part, given in (("provider_config", settings), ("config", document.get("config"))):
        for path, value, shown in hidden_in(given, (part,)):
            key = path[-1]
            if shown == SET or not isinstance(value, str):
                yield Finding(path, "P110", f"{key} may be a secret, which no file can hold; remove it on the remote")
            else:
                yield Finding(path, "P110", f"{key} has {what_is_secret(value)}, which no file can hold")


def kept_by_updates(document: Document) -> tuple[str, ...]:
    """The fields of the format that a live model has and its file does not, by path: secrets of its own, and a connection
    whose `app_id` cannot be found."""
    secrets = secrets_in(document.get("provider_config"))
    own = [key for key in sorted(secrets) if not (key == "api_key" and is_placeholder(secrets[key]))]
    return (*(("app_id",) if _is_unnamed(document.get("app_id")) else ()), *(f"provider_config.{key}" for key in own))


def what_files_lack(document: Document) -> tuple[str, ...]:
    """What a live model has and its file does not, in words."""
    kept = [_WORDS.get(path) or f"its own {path.rpartition('.')[2]}" for path in kept_by_updates(document)]
    return (*kept, *sorted(unknown_model_fields(document)))


_WORDS = {"app_id": "a connection whose app_id cannot be found"}


def _bad_texts(value: Any, path: FieldPath) -> Iterator[Finding]:
    """Texts that no file can hold: template syntax in more text than a template may be, and what is not Unicode."""
    if isinstance(value, dict):
        for key, child in value.items():
            if len(key) > _LONGEST_KEY or not _is_unicode(key):
                yield Finding(path, "P104", f"it has a key that is not Unicode text of {_LONGEST_KEY} characters, at most")
            else:
                yield from _bad_texts(child, (*path, key))
    elif isinstance(value, list):
        for position, child in enumerate(value):
            yield from _bad_texts(child, (*path, position))
    elif isinstance(value, str) and not _is_unicode(value):
        yield Finding(path, "P104", "it is not valid Unicode text")
    elif isinstance(value, str) and is_template(value) and len(_template(value)) > MAX_TEMPLATE:
        message = f"it holds template syntax and is longer than the {MAX_TEMPLATE:,} characters that a template may have"
        yield Finding(path, "P015", f"{message}; shorten it")


def _is_unicode(text: str) -> bool:
    return _SURROGATE.search(text) is None


def lines_of(mapping: Document, indent: str) -> Iterator[str]:
    """A mapping in block style."""
    for key, value in mapping.items():
        head = f"{indent}{key_text(key)}:"
        if (line := _one_line(value, indent + "  ")) is not None:
            yield f"{head} {line}"
        else:
            yield head
            yield from lines_of(value, indent + "  ") if isinstance(value, dict) else _items(value, indent + "  ")


def _items(values: list[Any], indent: str) -> Iterator[str]:
    """A list in block style."""
    for value in values:
        if (line := _one_line(value, indent + "  ")) is not None:
            yield f"{indent}- {line}"
        else:
            inner = indent + "  "
            first, *rest = lines_of(value, inner) if isinstance(value, dict) else _items(value, inner)
            yield f"{indent}- {first.removeprefix(inner)}"
            yield from rest


def _one_line(value: Any, indent: str) -> str | None:
    """A scalar, an empty collection or a short list of numbers or words as one value; None for what needs lines of its own."""
    if isinstance(value, dict):
        return None if value else "{}"
    if not isinstance(value, list):
        return scalar_text(value, indent)
    if not all(isinstance(item, int | float) or (isinstance(item, str) and _WORD.fullmatch(item)) for item in value):
        return None
    return f"[{', '.join(scalar_text(item, '') for item in value)}]"


def scalar_text(value: str | float | None, indent: str) -> str:
    """A scalar as it is written; a text of several lines as a block with this indent."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, str):
        text = repr(value)
        # Without a point, `1e-07` is text to YAML 1.1.
        return text.replace("e", ".0e") if "e" in text and "." not in text else text
    if is_template(value):
        return _single_quoted(_template(value))
    if is_plain(value):
        return value
    if _is_paragraph(value):
        lines = value.removesuffix("\n").split("\n")
        return "\n".join(["|" if value.endswith("\n") else "|-", *(f"{indent}{line}" if line else "" for line in lines)])
    return quoted(value)


def key_text(key: str) -> str:
    """A key as it is written."""
    return key if is_plain(key) else _double_quoted(key)


def quoted(text: str) -> str:
    """A text in quotes, with as few escapes as possible."""
    return _single_quoted(text) if text.isprintable() and ('"' in text or "\\" in text) else _double_quoted(text)


def is_word(text: str) -> bool:
    """Whether a text may be an item of a list on one line."""
    return bool(_WORD.fullmatch(text))


def is_plain(text: str) -> bool:
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
