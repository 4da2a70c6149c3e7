"""The strict model of a policy file: what a file may say, and nothing else.

The format is the platform's own (its ADK's `kind: model` with a `policy`), with the limits that its gateway sets at run
time: a `retry` without `attempts` or a `strategy` without `mode` makes it refuse the whole policy, so both are required here.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from policyctl.model.complaints import near
from policyctl.model.names import MAX_NAME_LENGTH, MODEL_PREFIX, POLICY_PREFIX, is_visible, name_complaint

Mode = Literal["loadbalance", "fallback", "single"]
LEAF, GROUP = "<leaf>", "<group>"  # tags of the target union; no key of the format looks like this
MAX_DEPTH = 64  # groups within groups; the gateway was seen to take 21
MAX_TARGETS = 1000  # of one policy, groups among them; no plan looks into a policy with more
MAX_ATTEMPTS = 100


def _check_name(name: str) -> str:
    if complaint := name_complaint(name):
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
    """JSON can say half of a surrogate pair, which no remote can be sent and no file can hold."""
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


class Strategy(FileModel):
    """How a group chooses among its targets."""

    mode: Annotated[
        Mode,
        Field(description="loadbalance draws one target by weight, fallback moves on when one fails, single uses the first."),
    ]
    on_status_codes: Annotated[
        StatusCodes | None,
        Field(description="The statuses after which a fallback moves on. Default: every status outside 200 to 299."),
    ] = None


class Retry(FileModel):
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


class Cache(FileModel):
    """The gateway's answer cache."""

    mode: Annotated[Text, Field(description="The kind of cache, for example simple.")]


class Leaf(FileModel):
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
        if any(near(str(key), ("targets", "strategy")) for key in value):
            return GROUP
    return GROUP if isinstance(value, Group) else LEAF


Target = Annotated[
    Annotated[Leaf, Tag(LEAF)] | Annotated["Group", Tag(GROUP)],
    Discriminator(_target_kind),
]
Targets = Annotated[tuple[Target, ...], Field(strict=False, min_length=1)]


class Group(FileModel):
    """A target that is a policy of its own: a strategy over targets, with its own retry and a weight."""

    strategy: Annotated[Strategy, Field(description="How the group chooses among its targets.")]
    retry: Annotated[
        Retry | None,
        Field(description="How often each target of the group is called again. Default: the retry around the group."),
    ] = None
    weight: Annotated[
        Weight | None, Field(description="The group's share of the requests of the group that it is in. Default: 1.")
    ] = None
    targets: Annotated[Targets, Field(description="Models, policies or groups; at least one.")]


class Body(FileModel):
    """The `policy` of a file: what the gateway runs."""

    strategy: Annotated[Strategy, Field(description="How the policy chooses among its targets.")]
    retry: Annotated[Retry | None, Field(description="How often each target is called again. Default: never.")] = None
    cache: Annotated[Cache | None, Field(description="The gateway's cache of answers. Default: none.")] = None
    targets: Annotated[Targets, Field(description="Models, policies or groups; at least one.")]


class PolicyFile(FileModel):
    """A model policy: several models that act as one."""

    spec_version: Annotated[Literal["v1"], Field(description="The version of the format.")]
    kind: Annotated[Literal["model"], Field(description="The platform's word for models and policies alike.")]
    name: Annotated[Name, AfterValidator(_check_name)]
    display_name: Annotated[Unicode | None, Field(description="The name that people see. Default: the canonical name.")] = None
    description: Annotated[Unicode | None, Field(description="What the policy is for. Default: the canonical name.")] = None
    policy: Annotated[Body, Field(description="What the gateway runs.")]
