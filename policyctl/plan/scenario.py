"""Scenario tests: what models answer, what is expected of a policy, and whether it holds."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Literal, NamedTuple, cast

from policyctl.effect.tree import NOTHING, UNFIT, DeclaredModels, Tree, tree_if_known
from policyctl.errors import NotKnown, PolicyctlError
from policyctl.policy.document import Document
from policyctl.policy.findings import FieldPath, Finding, did_you_mean
from policyctl.policy.memo import late_pattern
from policyctl.policy.names import bare_name, matching_models, model_names_in, short_model

if TYPE_CHECKING:
    from policyctl.effect.course import Given, Observation

Relation = Literal["=", ">", ">=", "<", "<="]
TOLERANCE = 1e-6  # numbers that differ by no more are equal: 0.333333 is a third

_AMOUNT = late_pattern(r"(>=|<=|>|<|=)?\s*([0-9]+(?:\.[0-9]+)?|\.[0-9]+)", re.ASCII)


class Amount(NamedTuple):
    """A part of all requests, from 0 to 1: exactly, or as a bound."""

    number: float
    relation: Relation = "="

    def holds(self, got: float) -> bool:
        """Whether a number matches, within `TOLERANCE`."""
        difference = got - self.number
        equal = abs(difference) <= TOLERANCE
        if self.relation == "=" or (equal and len(self.relation) == 2):
            return equal
        return not equal and (difference > 0) == (self.relation[0] == ">")

    def __str__(self) -> str:
        number = f"{self.number:.9g}"
        return number if self.relation == "=" else f"{self.relation} {number}"


def read_amount(text: str) -> Amount:
    """An amount as people write it: `0.75`, `>= 0.99`. Raises ValueError for anything else, and outside 0 to 1."""
    found = _AMOUNT.fullmatch(text.strip())
    if found is None or float(found[2]) > 1:
        raise ValueError(f"{text!r} is not a number from 0 to 1, or a comparison with one")
    return Amount(float(found[2]), cast(Relation, found[1] or "="))


class Expect(NamedTuple):
    """The expectations of a test; None and empty mean that anything is allowed.

    `status` is the status of every request, or the share of each status; `served` is the share that succeeds.
    `served_by` is what serves every request, or the share that each serves: models, providers or globs, as in `never`, which
    lists what must not be called at all. `max_calls` and `max_wait_seconds` bound the calls and the back-off of a request.
    """

    status: int | Mapping[int, Amount] | None = None
    served: Amount | None = None
    served_by: str | Mapping[str, Amount] | None = None
    never: tuple[str, ...] = ()
    max_calls: int | None = None
    max_wait_seconds: float | None = None


class Scenario(NamedTuple):
    """One test. `given` maps a model, provider or glob to what it answers; the last match of a model applies."""

    name: str
    given: Mapping[str, Given]
    expect: Expect


class Suite:
    """The tests of one document: the policy (canonical name), the file, and the index of the document in it."""

    __slots__ = ("file", "index", "policy", "scenarios")

    def __init__(self, policy: str, scenarios: tuple[Scenario, ...], file: str, index: int = 0) -> None:
        self.policy = policy
        self.scenarios = scenarios
        self.file = file
        self.index = index


class Mismatch(NamedTuple):
    """A failed expectation: its path in the document, what it is about, and both values."""

    path: FieldPath
    about: str
    expected: str
    got: str


class ScenarioResult(NamedTuple):
    """The result of one test, which passed if there are no `failures`. `path` is its place in the document."""

    suite: Suite
    path: FieldPath
    name: str
    failures: tuple[Mismatch, ...]


def run_suite(suite: Suite, policies: Mapping[str, Document], declared: DeclaredModels = NOTHING) -> Iterator[ScenarioResult]:
    """Run the tests of a suite; yields their results in order.

    `policies` are all policies by canonical name, with the suite's own; `declared` are the models' types and timeouts.
    """
    try:
        tree = tree_if_known(policies[suite.policy], policies, declared)
    except NotKnown as error:
        reason = str(error)
        for place, scenario in enumerate(suite.scenarios):
            path: FieldPath = ("tests", place)
            yield ScenarioResult(suite, path, scenario.name, (Mismatch(path, "policy", "one that can be evaluated", reason),))
        return
    for place, scenario in enumerate(suite.scenarios):
        path = ("tests", place)
        found = tuple(failure._replace(path=(*path, *failure.path)) for failure in _failures(scenario, tree))
        yield ScenarioResult(suite, path, scenario.name, found)


def misfits(suite: Suite, policies: Mapping[str, Document]) -> Iterator[Finding]:
    """Names in a suite that do not exist: its policy, and models that no request of that policy can reach.

    `never` may name what does not exist: that is its purpose.
    """
    if suite.policy not in policies:
        name = bare_name(suite.policy)
        guess = did_you_mean(name, map(bare_name, policies)) or " (correct the name, or delete its tests)"
        yield Finding(("policy",), "P205", f"there is no policy {name} to test{guess}")
        return
    try:
        models = tree_if_known(policies[suite.policy], policies).models
    except NotKnown:  # the test itself fails with that reason
        return
    known = sorted({name for model in models for name in model_names_in(model)})
    for path, pattern in _patterns(suite):
        if not matching_models(pattern, models):
            guess = did_you_mean(pattern, known) or f" (it has {', '.join(map(short_model, models))})"
            message = f"{pattern} fits no model of {bare_name(suite.policy)}{guess}"
            yield Finding(path, "P206", message, "value" if path[-1] == "served_by" else "key")


def _patterns(suite: Suite) -> Iterator[tuple[FieldPath, str]]:
    for place, scenario in enumerate(suite.scenarios):
        yield from ((("tests", place, "given", pattern), pattern) for pattern in scenario.given)
        path: FieldPath = ("tests", place, "expect", "served_by")
        by = scenario.expect.served_by
        if isinstance(by, str):
            yield path, by
        else:
            yield from (((*path, pattern), pattern) for pattern in by or ())


def _failures(scenario: Scenario, tree: Tree) -> Iterator[Mismatch]:
    from policyctl.effect.course import run_requests  # tests are read more often than they are run

    try:
        seen = run_requests(tree, {**dict.fromkeys(tree.unfit, UNFIT), **_answers(scenario.given, tree.models)})
    except PolicyctlError as error:
        yield Mismatch(("given",), "given", "something that can be followed", str(error))
        return
    for check in _CHECKS:
        yield from check(scenario.expect, seen)


def _answers(given: Mapping[str, Given], models: tuple[str, ...]) -> dict[str, Given]:
    """What each model answers; of several matches the last one applies."""
    return {model: answers for pattern, answers in given.items() for model in matching_models(pattern, models)}


def _status(expect: Expect, seen: Observation) -> Iterator[Mismatch]:
    path: FieldPath = ("expect", "status")
    if isinstance(expect.status, int):
        if not Amount(1).holds(seen.statuses.get(expect.status, 0.0)):
            yield Mismatch(path, "status", str(expect.status), _parts(seen.statuses, "no answer"))
        return
    for status, amount in (expect.status or {}).items():
        got = seen.statuses.get(status, 0.0)
        if not amount.holds(got):
            yield Mismatch((*path, str(status)), f"status {status}", str(amount), _number(got))


def _served(expect: Expect, seen: Observation) -> Iterator[Mismatch]:
    if expect.served is not None and not expect.served.holds(seen.served):
        yield Mismatch(("expect", "served"), "served", str(expect.served), _number(seen.served))


def _served_by(expect: Expect, seen: Observation) -> Iterator[Mismatch]:
    path: FieldPath = ("expect", "served_by")
    if isinstance(expect.served_by, str):
        if not Amount(1).holds(_sum(expect.served_by, seen.serves)):
            who: dict[str | None, float] = {short_model(model): share for model, share in seen.serves.items()}
            who[None] = 1 - sum(who.values())
            yield Mismatch(path, "served_by", expect.served_by, _parts(who, "no model"))
        return
    for pattern, amount in (expect.served_by or {}).items():
        got = _sum(pattern, seen.serves)
        if not amount.holds(got):
            yield Mismatch((*path, pattern), f"served_by {pattern}", str(amount), _number(got))


def _never(expect: Expect, seen: Observation) -> Iterator[Mismatch]:
    for place, pattern in enumerate(expect.never):
        called = [model for model in matching_models(pattern, seen.called) if not Amount(0).holds(seen.called[model])]
        if called:
            who = ", ".join(f"{short_model(model)} in {_number(seen.called[model])} of the requests" for model in called)
            yield Mismatch(("expect", "never", place), f"never {pattern}", "no call", f"calls to {who}")


def _most(expect: Expect, seen: Observation) -> Iterator[Mismatch]:
    for key, most, got in (
        ("max_calls", expect.max_calls, seen.max_calls),
        ("max_wait_seconds", expect.max_wait_seconds, seen.max_seconds),
    ):
        if most is not None and got > most:
            yield Mismatch(("expect", key), key, f"at most {_number(most)}", str(got))


_CHECKS = (_status, _served, _served_by, _never, _most)


def _sum(pattern: str, shares: Mapping[str, float]) -> float:
    return sum(shares[model] for model in matching_models(pattern, shares))


def _parts(chances: Mapping[int | None, float] | Mapping[str | None, float], none: str) -> str:
    """`503 (0.75), 200 (0.25)`, the largest first; a share of all is left out."""
    parts = sorted(((chance, name) for name, chance in chances.items() if not Amount(0).holds(chance)), key=_by_chance)
    words = [(none if name is None else str(name), _number(chance)) for chance, name in parts]
    return words[0][0] if len(words) == 1 else ", ".join(f"{word} ({number})" for word, number in words)


def _by_chance(part: tuple[float, object]) -> tuple[float, str]:
    return -part[0], str(part[1])


def _number(number: float) -> str:
    return f"{number:.9g}"
