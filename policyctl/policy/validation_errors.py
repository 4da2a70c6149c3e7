"""Pydantic's errors about a file's data in plain words, one line each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from policyctl.policy.findings import (
    HIDDEN,
    FieldPath,
    Finding,
    did_you_mean,
    format_path,
    key_meant,
    mode_meant,
    reason_required,
    scaled_weight,
    suggestion_for,
)
from policyctl.policy.schema import GROUP, LEAF, MAX_ATTEMPTS, MAX_DEPTH, MAX_TARGETS, GroupTarget, ModelTarget

# What a field must be: (its type, its range). Both end the sentence "<field> must be …".
_MUST_BE = {
    "weight": ("a number", "greater than 0 and at most 1"),
    "attempts": ("a whole number", f"from 0 to {MAX_ATTEMPTS}"),
    "use_retry_after_header": ("true or false", ""),
    "on_status_codes": ("a list of status codes", ""),
    "on_status_codes[]": ("a whole number", "from 100 to 599"),
    "max_removes": ("a whole number", "0 or more"),
    "max_change_percent": ("a number", "from 0 to 100"),
    "max_traffic_shift": ("a number", "from 0 to 100"),
    "max_failover_seconds": ("a number", "0 or more"),
    "max_wait_seconds": ("a number", "0 or more"),
}
_TYPES = {
    "string_type": "a string",
    "list_type": "a list",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "bool_type": "true or false",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "finite_number": "a finite number",
    "string_unicode": "valid Unicode text",
}
_RANGES = {"greater_than", "greater_than_equal", "less_than", "less_than_equal"}
_MAX_ROUNDS = 16  # a misspelled key below a misspelled key is found in the next round


def findings_of(data: Any, model: type[BaseModel]) -> list[Finding]:
    """Everything that is wrong with data by a model.

    A misspelled key is one finding, and does not hide what is wrong below it: that is checked as if the key were right.
    """
    found: list[Finding] = []
    written: dict[FieldPath, str] = {}  # by the path of a key as it was meant, the key as it was written
    for _ in range(_MAX_ROUNDS):
        details = _details(data, model)
        respelled = data
        for path, key, complaint in _misspelled(details, data, model):
            found.append(complaint._replace(path=_as_written((*path, complaint.path[-1]), written)))
            written[(*path, key)] = str(complaint.path[-1])
            respelled = _renamed(respelled, (*path, complaint.path[-1]), key)
        if respelled is data:
            break
        data = respelled
    found += [one._replace(path=_as_written(one.path, written)) for one in _describe(details, model)]
    return found


def _details(data: Any, model: type[BaseModel]) -> list[ErrorDetails]:
    try:
        model.model_validate(data)
    except ValidationError as error:
        return error.errors(include_url=False)
    return []


def _misspelled(details: list[ErrorDetails], data: Any, model: type[BaseModel]) -> Iterator[tuple[FieldPath, str, Finding]]:
    """Each unknown key that must mean one which is missing beside it: the path of its mapping, what it means, the complaint."""
    taken: set[FieldPath] = set()
    for detail in details:
        if detail["type"] != "extra_forbidden":
            continue
        *parent, key = detail["loc"]
        path = _path(tuple(parent))
        beside = _at(data, path)
        name = key_meant(str(key), _keys_at(model, tuple(parent)))
        if name is not None and isinstance(beside, dict) and name not in beside and (*path, name) not in taken:
            taken.add((*path, name))
            yield path, name, _finding(detail, model)


def _describe(details: list[ErrorDetails], model: type[BaseModel]) -> Iterator[Finding]:
    for detail in details:
        if detail["type"] == "too_short" and detail["input"]:
            continue  # pydantic counts the valid items only; the invalid ones have their own findings
        yield _key_finding(detail) if detail["loc"][-1:] == ("[key]",) else _finding(detail, model)


def _at(data: Any, path: FieldPath) -> Any:
    for part in path:
        data = data[part]
    return data


def _renamed(data: Any, path: FieldPath, name: str) -> Any:
    """The data with the key that a path ends in renamed, in its place; nothing of the old data is changed."""
    step, rest = path[0], path[1:]
    if isinstance(data, dict):
        if not rest:
            return {
                name if key == step else key: _after_colon(key, value, name) if key == step else value
                for key, value in data.items()
            }
        return {key: _renamed(value, rest, name) if key == step else value for key, value in data.items()}
    return [_renamed(item, rest, name) if position == step else item for position, item in enumerate(data)]


def _after_colon(key: str, value: Any, name: str) -> Any:
    """The value of a key written without the space, such as `{attempts:1}`."""
    text = key.removeprefix(f"{name}:")
    if value is not None or text == key:
        return value
    return int(text) if text.isdecimal() else float(text) if text.replace(".", "", 1).isdecimal() else text


def _as_written(path: FieldPath, written: Mapping[FieldPath, str]) -> FieldPath:
    return tuple(written.get(path[: depth + 1], part) for depth, part in enumerate(path))


def too_big(data: Any) -> Finding | None:
    """A complaint when groups are nested deeper than `MAX_DEPTH`, or when there are more targets than `MAX_TARGETS`; asked
    before pydantic, which would recurse."""
    level: list[tuple[FieldPath, Any]] = [(("policy",), data.get("policy"))]
    count = 0
    for _ in range(MAX_DEPTH + 1):
        below = [
            ((*path, "targets", position), target)
            for path, group in level
            if isinstance(group, dict) and isinstance(group.get("targets"), list)
            for position, target in enumerate(group["targets"])
        ]
        if (count := count + len(below)) > MAX_TARGETS:
            message = f"the policy has more than {MAX_TARGETS:,} targets; split it into several policies"
            return Finding(("policy", "targets"), "P109", message, "key")
        level = [(path, target) for path, target in below if isinstance(target, dict) and "targets" in target]
        if not level:
            return None
    return Finding(level[0][0], "P107", f"groups are nested more than {MAX_DEPTH} deep; flatten the policy", "value")


def _finding(detail: ErrorDetails, model: type[BaseModel]) -> Finding:
    kind, loc = detail["type"], detail["loc"]
    path = _path(loc)
    # Below auth a value may be a secret.
    value = HIDDEN if "auth" in path and path[-1] != "type" else detail["input"]
    field = _field(path)
    if kind == "extra_forbidden":
        return Finding(path, "P101", _unknown_key(str(loc[-1]), _keys_at(model, loc[:-1]), loc), "key")
    if kind == "missing":
        return Finding(path[:-1], "P102", f"missing key {path[-1]}{reason_required(str(path[-1]))}", "key")
    if kind in _RANGES or kind == "finite_number":
        expected = _MUST_BE.get(field, ("", ""))[1] or _range(detail)
        return Finding(
            path, "P103", f"{_describe_error(field)} must be {expected}, got {format_path(value)}{scaled_weight(field, value)}"
        )
    if kind == "literal_error":
        choices = _choices(detail)
        guess = (did_you_mean(value, choices) or mode_meant(value, choices)) if isinstance(value, str) else ""
        return Finding(path, "P105", f"{_describe_error(field)} must be {_or(choices)}, got {format_path(value)}{guess}")
    if kind == "too_short" or kind == "string_too_short":
        return Finding(path, "P106", f"{_describe_error(field)} must not be empty")
    if kind in ("secret", "remote"):
        return Finding(path, "P304", f"{_describe_error(field)} {detail['msg']}")
    if kind == "policy_name":
        return Finding(path, "P108", f"{detail['msg']}, got {format_path(value)}")
    if kind in _TYPES:
        expected = _MUST_BE.get(field, ("", ""))[0] or _TYPES[kind]
        return Finding(
            path,
            "P104",
            f"{_describe_error(field)} must be {expected}, got {format_path(value)}{suggestion_for(field, value, kind)}",
        )
    colon = "" if kind == "scenario" else ":"
    return Finding(path, "P109", f"{_describe_error(field)}{colon} {detail['msg'].removeprefix('Value error, ')}")


def _key_finding(detail: ErrorDetails) -> Finding:
    """A complaint about a key that is a user's own word; pydantic's location ends with it and `[key]`."""
    path = _path(detail["loc"][:-1])
    message = "must not be empty" if detail["type"].endswith("too_short") else detail["msg"]
    return Finding(path, "P109", f"a key of {_describe_error(_field(path[:-1]))} {message}", "key")


def _path(loc: tuple[str | int, ...]) -> FieldPath:
    """The path of pydantic's location: without the tags of unions (such as `LEAF`), which the data does not have."""
    return tuple(part for part in loc if not (isinstance(part, str) and part.startswith("<") and part.endswith(">")))


def _range(detail: ErrorDetails) -> str:
    """The bound that a number is outside of: `1 or more`."""
    bounds = detail.get("ctx", {})
    if "ge" in bounds:
        return f"{bounds['ge']:g} or more"
    return f"{bounds['le']:g} or less" if "le" in bounds else detail["msg"].removeprefix("Input should be ")


def _field(path: FieldPath) -> str:
    """The field that a path ends in; `name[]` for an item of a list."""
    if not path:
        return "the document"
    if isinstance(path[-1], int):
        return f"{_field(path[:-1])}[]"
    return path[-1]


def _describe_error(field: str) -> str:
    return {"on_status_codes[]": "a status code", "targets[]": "a target"}.get(field, field.replace("[]", " item"))


def _unknown_key(key: str, known: list[str], loc: tuple[str | int, ...]) -> str:
    if LEAF in loc[-2:] and key in GroupTarget.model_fields and key not in ModelTarget.model_fields:
        return f"a target with model_name takes no {key} (make it a group with strategy and targets)"
    if GROUP in loc[-2:] and key == "cache":
        return "a nested group takes no cache (only the whole policy has one)"
    word, colon, value = key.partition(":")
    if colon and word in known:
        return (
            f"a space is missing after the colon (write {word}: {'…' if 'auth' in loc else format_path(value).strip(chr(34))})"
        )
    meant = key_meant(key, known)
    return f"unknown key {format_path(key)}" + (f" (did you mean {meant}?)" if meant else f" (known: {', '.join(known)})")


def _choices(detail: ErrorDetails) -> list[str]:
    expected = str(detail.get("ctx", {}).get("expected", ""))
    return [word.strip("' ") for word in expected.replace(" or ", ",").split(",")]


def _or(choices: list[str]) -> str:
    return choices[0] if len(choices) == 1 else f"{', '.join(choices[:-1])} or {choices[-1]}"


def _keys_at(model: type[BaseModel], loc: tuple[str | int, ...]) -> list[str]:
    """The keys that the model knows at a pydantic location."""
    here: Any = model
    named = False  # the next part is a name of the user's, such as an environment's
    for part in loc:
        if named or isinstance(part, int):
            named = False
        elif part == LEAF:
            here = ModelTarget
        elif part == GROUP:
            here = GroupTarget
        elif isinstance(here, type) and issubclass(here, BaseModel):
            known = here.model_fields.get(str(part))
            here = _model_in(known.annotation) if known else None
            named = known is not None and _is_mapping(known.annotation)
    return list(here.model_fields) if isinstance(here, type) and issubclass(here, BaseModel) else []


def _is_mapping(annotation: Any) -> bool:
    """Whether an annotation is `dict[str, Model]`, with conditions or None beside it or not."""
    return get_origin(annotation) is dict or any(map(_is_mapping, get_args(annotation)))


def _model_in(annotation: Any) -> Any:
    """The first model class inside an annotation such as `dict[str, Model]` or `Model | None`."""
    if isinstance(annotation, type) and not get_args(annotation):
        return annotation if issubclass(annotation, BaseModel) else None
    return next((found for part in get_args(annotation) if (found := _model_in(part))), None)
