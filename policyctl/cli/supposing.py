"""What the command line supposes models to answer: --down, --rate, --trace and --timeout."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

from policyctl.cli.subjects import Subjects
from policyctl.effect.matching import fitting, names_of
from policyctl.effect.profile import Answer, Answers, answer_streamed, read_answer, with_rest
from policyctl.effect.tree import known_tree
from policyctl.errors import NotKnown, UsageError
from policyctl.model.complaints import did_you_mean
from policyctl.model.names import canonical_model, canonical_name, short_model
from policyctl.model.normal import model_names

Script = dict[str, Sequence[Answer]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Supposition:
    """What models answer, and how that was written."""

    answers: dict[str, Answers]
    given: tuple[str, ...]


def models_of(subjects: Subjects) -> tuple[str, ...]:
    """Every model that the policies name, the dead ones too, and those of the policies that they target."""
    found: dict[str, None] = {}
    for policy in subjects.policies:
        named = (name for name in model_names(policy.document) if canonical_name(name) not in subjects.known)
        found.update(dict.fromkeys(map(canonical_model, named)))
        with suppress(NotKnown):  # the view of that policy says so
            found.update(dict.fromkeys(known_tree(policy.document, subjects.known).models))
    return tuple(found)


def read_suppositions(down: Iterable[str], rate: Iterable[str], models: tuple[str, ...], streamed: bool) -> Supposition:
    """Models that are down, and models that fail part of their calls and answer the others with 200.

    `streamed` is whether requests ask for a stream.
    """
    read = _reader(streamed)
    chances: dict[str, dict[Answer, float]] = {}
    for text in down:
        for model, answer in _each("--down", text, models, read):
            if chances.setdefault(model, {answer: 1.0}) != {answer: 1.0}:
                raise UsageError(f"--down {text}: {short_model(model)} cannot be down in two ways at once")
    for text in rate:
        for model, (answer, share) in _each("--rate", text, models, lambda value: _read_rate(value, read)):
            own = chances.setdefault(model, {})
            own[answer] = own.get(answer, 0.0) + share
            if sum(own.values()) > 1 + 1e-9:
                raise UsageError(f"--rate {text}: {short_model(model)} would answer more than all of its calls")
    answers: dict[str, Answers] = {model: with_rest(own) for model, own in chances.items()}
    return Supposition(answers, (*(f"down {text}" for text in down), *(f"rate {text}" for text in rate)))


def read_scripts(trace: Iterable[str], models: tuple[str, ...], streamed: bool) -> Script:
    """The answers that models give, in order; `streamed` is whether the request asks for a stream."""
    read, script = _reader(streamed), Script()
    for text in trace:
        for model, answers in _each("--trace", text, models, lambda value: _read_script(value, read)):
            if model in script:
                raise UsageError(f"--trace {text}: {short_model(model)} has a script already; write one for each model")
            script[model] = answers
    return script


def read_timeouts(timeout: Iterable[str], models: tuple[str, ...]) -> dict[str, float]:
    """The models' own timeouts, in seconds."""
    return {model: seconds for text in timeout for model, seconds in _each("--timeout", text, models, _read_seconds)}


def _each(option: str, text: str, models: tuple[str, ...], read: Callable[[str], T]) -> list[tuple[str, T]]:
    """The models that a MODEL=VALUE means, each with the value."""
    pattern, equals, value = text.rpartition("=")
    if not equals or not pattern:
        raise UsageError(f"{option} takes MODEL=…, not {text!r}")
    found = fitting(pattern, models)
    if not found:
        known = sorted({name for model in models for name in names_of(model)})
        asked = ", ".join(sorted(map(short_model, models))) or "none"
        raise UsageError(f"{option} {text}: no model matches {pattern}{did_you_mean(pattern, known)}; models: {asked}")
    try:
        return [(model, read(value)) for model in found]
    except ValueError as error:
        raise UsageError(f"{option} {text}: {error}") from None


def _reader(streamed: bool) -> Callable[[str], Answer]:
    return (lambda text: answer_streamed(read_answer(text))) if streamed else read_answer


def _read_rate(text: str, read: Callable[[str], Answer]) -> tuple[Answer, float]:
    answer, _, rate = text.partition(":")
    try:
        share = float(rate)
    except ValueError:
        share = -1.0
    if not 0 < share <= 1:
        raise ValueError(f"{rate!r} is not a rate; write ANSWER:RATE with a rate above 0, at most 1")
    return read(answer), share


def _read_script(text: str, read: Callable[[str], Answer]) -> tuple[Answer, ...]:
    return tuple(read(answer.strip()) for answer in text.split(","))


def _read_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 < seconds < 1e9:
        raise ValueError(f"{text!r} is no timeout; write seconds, as 30")
    return seconds
