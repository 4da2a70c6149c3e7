"""The guards in policyctl.yaml, and how files write what a model answers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any

from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from policyctl.effect.gateway import ANSWERS, BROKEN_WORDS, Answer, RetryAfter, is_served, read_answer
from policyctl.plan.settings import Guard, GuardException, Guards, MinServed, Part, Survive
from policyctl.policy.findings import did_you_mean, format_path
from policyctl.policy.schema import FileModel

_FAILURES = "a status from 300 to 999, refused, connect-timeout, broken-body or cut-stream"


def invalid(message: str, got: str) -> PydanticCustomError:
    """An error whose message, with `{got}` in it, follows the name of the field."""
    return PydanticCustomError("scenario", message, {"got": got})


def _check_answer(value: Any) -> Answer:
    if type(value) is int or (isinstance(value, str) and not value.isdigit()):
        try:
            return read_answer(str(value))
        except ValueError:
            pass
    guess = did_you_mean(value, BROKEN_WORDS) if isinstance(value, str) else ""
    raise invalid(f"must be {ANSWERS}, got {{got}}", f"{format_path(value)}{guess}")


def _check_key(key: Any) -> Answer:
    return _check_answer(int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 4 else key)


def _check_failure(value: Any) -> Answer:
    try:
        answer = _check_answer(value)
    except PydanticCustomError:
        guess = did_you_mean(value, BROKEN_WORDS) if isinstance(value, str) else ""
        raise invalid(f"must be {_FAILURES}, got {{got}}", f"{format_path(value)}{guess}") from None
    if isinstance(answer, RetryAfter) or (isinstance(answer, int) and is_served(answer)):
        raise invalid(f"must be {_FAILURES}, got {{got}}", format_path(value))
    return answer


_WORDS = list(BROKEN_WORDS)
_TEMPLATE = {"type": "string", "pattern": r"\{\{"}
_AFTER = "429 after [0-9]{1,6} ?s"
_SCHEMA = {
    "anyOf": [
        {"type": "integer", "minimum": 200, "maximum": 999},
        {"enum": _WORDS},
        {"type": "string", "pattern": f"^{_AFTER}$"},
        _TEMPLATE,
    ]
}
_KEY_SCHEMA = {"type": "string", "pattern": f"^([2-9][0-9][0-9]|{_AFTER}|{'|'.join(_WORDS)})$"}
_FAILURE_SCHEMA = {"anyOf": [{"type": "integer", "minimum": 300, "maximum": 999}, {"enum": _WORDS}]}

OneAnswer = Annotated[Answer, PlainValidator(_check_answer), WithJsonSchema(_SCHEMA)]
AnswerKey = Annotated[Answer, PlainValidator(_check_key), WithJsonSchema(_KEY_SCHEMA)]
FailedAnswer = Annotated[Answer, PlainValidator(_check_failure), WithJsonSchema(_FAILURE_SCHEMA)]
FailedAnswers = Annotated[tuple[FailedAnswer, ...], Field(strict=False, min_length=1)]


Globs = Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(strict=False, min_length=1)]


class SurviveFile(FileModel):
    """With any one provider (or model) down with any of these answers, every request must be served."""

    any: Annotated[Part, Field(description="What is down: any one provider with all its models, or any one model.")]
    down_with: Annotated[
        FailedAnswers, Field(description="The failures to survive, each by itself: statuses or words such as refused.")
    ]


class MinServedFile(FileModel):
    """While any one provider (or model) fails a share of its calls with any of these answers, so much must be served."""

    share: Annotated[float, Field(alias="while", gt=0, lt=1, description="The share of its calls that fail, such as 0.1.")]
    of: Annotated[Part, Field(description="What fails: any one provider with all its models, or any one model.")]
    answers: Annotated[FailedAnswers, Field(alias="with", description="The failures, each by itself: a status or a word.")]
    at_least: Annotated[float, Field(ge=0, le=1, description="The part of the requests that must be served, such as 0.999.")]


class GuardsFile(FileModel):
    """What a changed policy may do to traffic. A guard that is absent asks for nothing."""

    max_traffic_shift: Annotated[
        float | None,
        Field(
            ge=0,
            le=100,
            allow_inf_nan=False,
            description="The percentage of a policy's requests that may move at most. Updates only.",
        ),
    ] = None
    max_calls: Annotated[int | None, Field(ge=1, description="The most calls of one request in the worst case.")] = None
    max_failover_seconds: Annotated[
        float | None,
        Field(ge=0, allow_inf_nan=False, description="The most seconds of back-off before the last failover of a request."),
    ] = None
    survive: Annotated[SurviveFile | None, Field(description="The outages in which every request must still be served.")] = None
    min_served: Annotated[
        MinServedFile | None, Field(description="The part of the requests that must be served while some calls fail.")
    ] = None
    deny_new: Annotated[
        Part | None,
        Field(description="No provider (or model) may become reachable that the live policy could not reach. Updates only."),
    ] = None
    allow_providers: Annotated[Globs | None, Field(description="Globs of the only providers that requests may reach.")] = None
    deny_providers: Annotated[Globs | None, Field(description="Globs of providers that no request may reach.")] = None


class GuardExceptionFile(FileModel):
    """Policies that a guard does not bind, and why."""

    policy: Annotated[str, Field(min_length=1, description="The name of the policy, or a glob.")]
    guard: Annotated[Guard, Field(description="The guard that does not bind these policies.")]
    reason: Annotated[str, Field(min_length=1, description="Why; plans show it.")]


GuardExceptions = Annotated[tuple[GuardExceptionFile, ...], Field(strict=False)]


def own_or_shared(key: str, own: FileModel | None, shared: FileModel | None) -> Any:
    """What an environment writes itself, else what is written for all, else None."""
    values = (getattr(file, key) for file in (own, shared) if file is not None)
    return next((value for value in values if value is not None), None)


def guards_of(own: GuardsFile | None, shared: GuardsFile | None) -> Guards:
    """The guards of an environment: each its own, else the shared one, else none."""
    found = {name: own_or_shared(name, own, shared) for name in Guards._fields}
    survive, least = found.pop("survive"), found.pop("min_served")
    return Guards(
        **found,
        survive=survive and Survive(survive.any, tuple(dict.fromkeys(survive.down_with))),
        min_served=least and MinServed(least.share, least.of, least.answers, least.at_least),
    )


def exceptions_of(files: Iterable[GuardExceptionFile]) -> tuple[GuardException, ...]:
    """The exceptions as they stand in the file."""
    return tuple(GuardException(file.guard, file.policy, file.reason) for file in files)
