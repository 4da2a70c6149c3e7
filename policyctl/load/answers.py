"""What models answer, as files write it: in scenario tests and in guards."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PlainValidator, WithJsonSchema
from pydantic_core import PydanticCustomError

from policyctl.effect.profile import ANSWERS, BROKEN_WORDS, Answer, RetryAfter, is_served, read_answer
from policyctl.model.complaints import did_you_mean, show

_FAILURES = "a status from 300 to 999, refused, connect-timeout, broken-body or cut-stream"


def wrong(message: str, got: str) -> PydanticCustomError:
    """An error whose message, with `{got}` in it, follows the name of the field."""
    return PydanticCustomError("scenario", message, {"got": got})


def _check_answer(value: Any) -> Answer:
    if type(value) is int or (isinstance(value, str) and not value.isdigit()):
        try:
            return read_answer(str(value))
        except ValueError:
            pass
    guess = did_you_mean(value, BROKEN_WORDS) if isinstance(value, str) else ""
    raise wrong(f"must be {ANSWERS}, got {{got}}", f"{show(value)}{guess}")


def _check_key(key: Any) -> Answer:
    return _check_answer(int(key) if isinstance(key, str) and key.isascii() and key.isdigit() and len(key) < 4 else key)


def _check_failure(value: Any) -> Answer:
    try:
        answer = _check_answer(value)
    except PydanticCustomError:
        guess = did_you_mean(value, BROKEN_WORDS) if isinstance(value, str) else ""
        raise wrong(f"must be {_FAILURES}, got {{got}}", f"{show(value)}{guess}") from None
    if isinstance(answer, RetryAfter) or (isinstance(answer, int) and is_served(answer)):
        raise wrong(f"must be {_FAILURES}, got {{got}}", show(value))
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
