"""The strict model of a policy file, and the JSON Schema (draft 2020-12) made from it for editors.

The format is the platform's own (its ADK's `kind: model` with a `policy`), with the limits that its gateway sets at run
time: a `retry` without `attempts` or a `strategy` without `mode` makes it refuse the whole policy, so both are required here.

It is the strict model's own schema with one thing added: `load` renders templates before it validates, so wherever the
format wants something other than free text, a string with a `{{ … }}` is also allowed.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Tag,
)
from pydantic_core import CoreSchema, PydanticCustomError
from pydantic_core.core_schema import definition_reference_schema, definitions_schema, no_info_plain_validator_function

from policyctl.policy.document import SERVER_KEYS, SERVER_PREFIXES
from policyctl.policy.findings import closest
from policyctl.policy.names import MAX_NAME_LENGTH, MODEL_PREFIX, POLICY_PREFIX, is_visible, name_error

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
    elif name.startswith((POLICY_PREFIX * 2, MODEL_PREFIX * 2)):
        complaint = f"model_name must have {name[: name.index('/') + 1]} once, at most"
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
