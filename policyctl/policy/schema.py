"""The strict model of a policy file, the JSON Schema (draft 2020-12) made from it for editors, and its errors in plain words.

The format is the platform's own (its ADK's `kind: model` with a `policy`), with the limits that its gateway sets at run
time: a `retry` without `attempts` or a `strategy` without `mode` makes it refuse the whole policy, so both are required here.

The JSON Schema is the strict model's own with one thing added: `load` renders templates before it validates, so wherever the
format wants something other than free text, a string with a `{{ … }}` is also allowed. Pydantic's errors about a file's data
are one line each.
"""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
    ValidationError,
)
from pydantic_core import CoreSchema, ErrorDetails, PydanticCustomError
from pydantic_core.core_schema import definition_reference_schema, definitions_schema, no_info_plain_validator_function

from policyctl.policy.document import SERVER_KEYS, SERVER_PREFIXES
from policyctl.policy.findings import (
    HIDDEN,
    FieldPath,
    Finding,
    closest,
    did_you_mean,
    format_path,
    key_meant,
    mode_meant,
    reason_required,
    scaled_weight,
    suggestion_for,
)
from policyctl.policy.names import MAX_NAME_LENGTH, MODEL_PREFIX, POLICY_PREFIX, PREFIXES, is_visible, name_error

Mode = Literal["loadbalance", "fallback", "single"]
LEAF, GROUP = "<leaf>", "<group>"  # tags of the target union; no key of the format looks like this
MAX_DEPTH = 64  # groups within groups; the gateway was seen to take 21
MAX_TARGETS = 1000  # of one policy, groups among them; no plan looks into a policy with more
MAX_ATTEMPTS = 100


def _check_name(name: str) -> str:
    if complaint := name_error(name):
        raise PydanticCustomError("policy_name", "{complaint}", {"complaint": complaint})
    return name


def _check_model_name(name: str) -> str:
    complaint = None
    if name != name.strip() or not is_visible(name):
        complaint = "model_name must not start or end with white space, or contain control characters or invisible ones"
    elif name.startswith(PREFIXES) and name.partition("/")[2].startswith(PREFIXES):
        complaint = f"model_name must have one of {POLICY_PREFIX} and {MODEL_PREFIX}, once, at most"
    elif "  " in name:
        complaint = "model_name must not contain several spaces in a row"
    elif len(name) > MAX_NAME_LENGTH:
        complaint = f"model_name must have at most {MAX_NAME_LENGTH} characters, has {len(name)}"
    if complaint is not None:
        raise PydanticCustomError("policy_name", "{complaint}", {"complaint": complaint})
    return name


def _check_unicode(text: str) -> str:
    """JSON can escape half of a surrogate pair, which can be neither sent nor stored."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise PydanticCustomError("string_unicode", "not Unicode") from None
    return text


Name = Annotated[str, Field(description="The policy's name; virtual-policy/ is added when missing.")]
Weight = Annotated[
    float,
    Field(
        gt=0,
        le=1,
        allow_inf_nan=False,
        description="Share of the requests, relative to the sum of the weights of its group.",
    ),
]
StatusCode = Annotated[int, Field(ge=100, le=599)]
StatusCodes = Annotated[tuple[StatusCode, ...], Field(strict=False)]
Unicode = Annotated[str, AfterValidator(_check_unicode)]
Text = Annotated[Unicode, Field(min_length=1)]


class FileModel(BaseModel):
    """The base of everything that is read from a file: frozen, strict, no unknown keys."""

    # Built when first used: most models are only parts of another, which is built whole.
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, defer_build=True)


class _BuiltApart:
    """Has pydantic build a nested model when a file first has one, and not with the model around it."""

    def __get_pydantic_core_schema__(self, source: type[BaseModel], handler: GetCoreSchemaHandler) -> CoreSchema:
        return no_info_plain_validator_function(source.model_validate)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        model = schema["function"]["function"].__self__
        model.model_rebuild()
        name = f"{model.__module__}.{model.__qualname__}:{id(model)}"  # as pydantic names models
        return handler(definitions_schema(definition_reference_schema(name), [{**model.__pydantic_core_schema__, "ref": name}]))


AnyModel = TypeVar("AnyModel", bound=BaseModel)
Apart = Annotated[AnyModel, _BuiltApart()]
"""A part that most files lack, in a model with many of them: building them all takes a tenth of the time of a short run."""


class StrategySettings(FileModel):
    """How a group chooses among its targets."""

    mode: Annotated[
        Mode,
        Field(description="loadbalance draws one target by weight, fallback moves on when one fails, single uses the first."),
    ]
    on_status_codes: Annotated[
        StatusCodes | None,
        Field(description="The statuses after which a fallback moves on. Default: every status outside 200 to 299."),
    ] = None


class RetrySettings(FileModel):
    """How often each target is called again before its answer counts."""

    attempts: Annotated[
        int,
        Field(ge=0, le=MAX_ATTEMPTS, description="Repeats after the first call, with waits of 1, 2, 4, … s."),
    ]
    on_status_codes: Annotated[
        StatusCodes | None,
        Field(description="The statuses after which a target is called again. Default: 429, 500, 502, 503 and 504."),
    ] = None
    use_retry_after_header: Annotated[
        bool | None,
        Field(description="Wait as long as the Retry-After header of a 429 asks, at most 60 s in total. Default: false."),
    ] = None


class CacheSettings(FileModel):
    """The gateway's answer cache."""

    mode: Annotated[Text, Field(description="The kind of cache, for example simple.")]


class ModelTarget(FileModel):
    """A target that is one model, or another policy."""

    model_name: Annotated[
        Text,
        AfterValidator(_check_model_name),
        Field(description="virtual-model/<provider>/<model>, or another policy's name."),
    ]
    weight: Annotated[
        Weight | None,
        Field(
            description="The target's share of the requests under loadbalance, relative to the sum of the weights of its "
            "group. Default: 1."
        ),
    ] = None


def _target_kind(value: Any) -> str:
    """Which shape a target means to be. `model_name` decides, so that one typo gives one problem."""
    if isinstance(value, dict):
        if "model_name" in value:
            return LEAF
        if not value.keys().isdisjoint(("targets", "strategy", "retry")):
            return GROUP
        if any(closest(str(key), ("targets", "strategy")) for key in value):
            return GROUP
    return GROUP if isinstance(value, GroupTarget) else LEAF


Target = Annotated[
    Annotated[ModelTarget, Tag(LEAF)] | Annotated["GroupTarget", Tag(GROUP)],
    Discriminator(_target_kind),
]
Targets = Annotated[tuple[Target, ...], Field(strict=False, min_length=1)]


class GroupTarget(FileModel):
    """A target that is a nested group: a strategy over targets, with its own retry and a weight."""

    strategy: Annotated[StrategySettings, Field(description="How the group chooses among its targets.")]
    retry: Annotated[
        RetrySettings | None,
        Field(description="How often each target of the group is called again. Default: the retry around the group."),
    ] = None
    weight: Annotated[
        Weight | None, Field(description="The group's share of the requests of the group that it is in. Default: 1.")
    ] = None
    targets: Annotated[Targets, Field(description="Models, policies or groups; at least one.")]


class PolicyBody(FileModel):
    """The `policy` of a file: what the gateway runs."""

    strategy: Annotated[StrategySettings, Field(description="How the policy chooses among its targets.")]
    retry: Annotated[RetrySettings | None, Field(description="How often each target is called again. Default: never.")] = None
    cache: Annotated[CacheSettings | None, Field(description="The gateway's cache of answers. Default: none.")] = None
    targets: Annotated[Targets, Field(description="Models, policies or groups; at least one.")]


class PolicyFile(FileModel):
    """A model policy: several models that act as one."""

    spec_version: Annotated[Literal["v1"], Field(description="The version of the format.")]
    kind: Annotated[Literal["model"], Field(description="The platform's word for models and policies alike.")]
    name: Annotated[Name, AfterValidator(_check_name)]
    display_name: Annotated[Unicode | None, Field(description="The name that people see. Default: the canonical name.")] = None
    description: Annotated[Unicode | None, Field(description="What the policy is for. Default: the canonical name.")] = None
    policy: Annotated[PolicyBody, Field(description="What the gateway runs.")]


DIALECT = "https://json-schema.org/draft/2020-12/schema"
_TEMPLATE = {"type": "string", "pattern": r"\{\{", "description": "A template, rendered before validation."}
_NEVER_TEMPLATED = ("kind", "spec_version")


def policy_schema() -> dict[str, Any]:
    """The schema of one policy document, as a plain value."""
    schema = templated_schema(PolicyFile, "policyctl policy file")
    # What the platform's own CLI leaves in an exported file; accepted and left out.
    schema["properties"] |= {key: {} for key in SERVER_KEYS if key not in schema["properties"]}
    schema["patternProperties"] = {f"^{prefix}": {} for prefix in SERVER_PREFIXES}
    return schema


def templated_schema(model: type[BaseModel], title: str) -> dict[str, Any]:
    """The schema of a kind of document that may contain templates."""
    schema = model_schema(model, title)
    for definition in [schema, *schema["$defs"].values()]:
        fields = definition.get("properties", {})
        fields.update((name, _or_template(field)) for name, field in fields.items() if name not in _NEVER_TEMPLATED)
    schema["$defs"]["Template"] = _TEMPLATE
    return schema


def model_schema(model: type[BaseModel], title: str) -> dict[str, Any]:
    """A pydantic model's schema with its dialect and title; class names and field titles are left out."""
    schema = model.model_json_schema()
    _untitle(schema)
    return {"$schema": DIALECT, "title": title, **schema}


def _or_template(field: dict[str, Any]) -> dict[str, Any]:
    """The field's schema with a template beside each thing that is not free text; descriptions stay outermost."""
    about = {key: field[key] for key in ("description",) if key in field}
    rest = {key: value for key, value in field.items() if key not in ("description", "default")}
    choices = rest.get("anyOf") or rest.get("oneOf") or [rest]
    if any(choice.get("type") == "string" and "enum" not in choice for choice in choices):
        return {**about, **rest}
    choices = [
        {**choice, "items": _or_template(choice["items"])} if choice.get("type") == "array" else choice for choice in choices
    ]
    return {**about, "anyOf": [*choices, {"$ref": "#/$defs/Template"}]}


def _untitle(node: Any) -> None:
    if isinstance(node, dict):
        if isinstance(node.get("title"), str):
            del node["title"]
        for value in node.values():
            _untitle(value)
    elif isinstance(node, list):
        for value in node:
            _untitle(value)


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
