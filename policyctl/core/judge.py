"""Whether a policy does what its scenario tests expect, and whether the tests fit the policies at all."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from policyctl.core.scenario import Amount, Expect, Scenario, Suite
from policyctl.effect.declared import NOTHING, Declared
from policyctl.effect.matching import fitting, names_of
from policyctl.effect.observe import Given, Observation, observe
from policyctl.effect.tree import UNFIT, Tree, known_tree
from policyctl.errors import NotKnown, PolicyctlError
from policyctl.model.complaints import Complaint, Path, did_you_mean
from policyctl.model.names import bare_name, short_model
from policyctl.model.normal import Document


class Failure(NamedTuple):
    """An expectation that does not hold: where it stands in the test's document, what it is about, and both values."""

    path: Path
    about: str
    expected: str
    got: str


class Verdict(NamedTuple):
    """What became of one test: it passed when nothing failed. `path` is its place in the document."""

    suite: Suite
    path: Path
    name: str
    failures: tuple[Failure, ...]


def judge(suite: Suite, policies: Mapping[str, Document], declared: Declared = NOTHING) -> Iterator[Verdict]:
    """The verdicts on the tests of a suite, in order.

    `policies` are all, by canonical name, that of the suite among them; `declared` are facts about models.
    """
    try:
        tree = known_tree(policies[suite.policy], policies, declared)
    except NotKnown as error:
        reason = str(error)
        for place, scenario in enumerate(suite.scenarios):
            path: Path = ("tests", place)
            yield Verdict(suite, path, scenario.name, (Failure(path, "policy", "one that can be evaluated", reason),))
        return
    for place, scenario in enumerate(suite.scenarios):
        path = ("tests", place)
        found = tuple(failure._replace(path=(*path, *failure.path)) for failure in _failures(scenario, tree))
        yield Verdict(suite, path, scenario.name, found)


def misfits(suite: Suite, policies: Mapping[str, Document]) -> Iterator[Complaint]:
    """What a suite says of things that are not there: its policy, and models that no request of that policy may come to.

    `never` may name what is not there: that it stays so is what it is for.
    """
    if suite.policy not in policies:
        name = bare_name(suite.policy)
        guess = did_you_mean(name, map(bare_name, policies)) or " (correct the name, or delete its tests)"
        yield Complaint(("policy",), "P205", f"there is no policy {name} to test{guess}")
        return
    try:
        models = known_tree(policies[suite.policy], policies).models
    except NotKnown:  # the test itself fails with that
        return
    known = sorted({name for model in models for name in names_of(model)})
    for path, pattern in _patterns(suite):
        if not fitting(pattern, models):
            guess = did_you_mean(pattern, known) or f" (it has {', '.join(map(short_model, models))})"
            message = f"{pattern} fits no model of {bare_name(suite.policy)}{guess}"
            yield Complaint(path, "P206", message, "value" if path[-1] == "served_by" else "key")


def _patterns(suite: Suite) -> Iterator[tuple[Path, str]]:
    for place, scenario in enumerate(suite.scenarios):
        yield from ((("tests", place, "given", pattern), pattern) for pattern in scenario.given)
        path: Path = ("tests", place, "expect", "served_by")
        by = scenario.expect.served_by
        if isinstance(by, str):
            yield path, by
        else:
            yield from (((*path, pattern), pattern) for pattern in by or ())


def _failures(scenario: Scenario, tree: Tree) -> Iterator[Failure]:
    try:
        seen = observe(tree, {**dict.fromkeys(tree.unfit, UNFIT), **_answers(scenario.given, tree.models)})
    except PolicyctlError as error:
        yield Failure(("given",), "given", "something that can be followed", str(error))
        return
    for check in _CHECKS:
        yield from check(scenario.expect, seen)


def _answers(given: Mapping[str, Given], models: tuple[str, ...]) -> dict[str, Given]:
    """Per model what it answers; of several that fit it the last one holds."""
    return {model: answers for pattern, answers in given.items() for model in fitting(pattern, models)}


def _status(expect: Expect, seen: Observation) -> Iterator[Failure]:
    path: Path = ("expect", "status")
    if isinstance(expect.status, int):
        if not Amount(1).holds(seen.statuses.get(expect.status, 0.0)):
            yield Failure(path, "status", str(expect.status), _parts(seen.statuses, "no answer"))
        return
    for status, amount in (expect.status or {}).items():
        got = seen.statuses.get(status, 0.0)
        if not amount.holds(got):
            yield Failure((*path, str(status)), f"status {status}", str(amount), _number(got))


def _served(expect: Expect, seen: Observation) -> Iterator[Failure]:
    if expect.served is not None and not expect.served.holds(seen.served):
        yield Failure(("expect", "served"), "served", str(expect.served), _number(seen.served))


def _served_by(expect: Expect, seen: Observation) -> Iterator[Failure]:
    path: Path = ("expect", "served_by")
    if isinstance(expect.served_by, str):
        if not Amount(1).holds(_sum(expect.served_by, seen.serves)):
            who: dict[str | None, float] = {short_model(model): share for model, share in seen.serves.items()}
            who[None] = 1 - sum(who.values())
            yield Failure(path, "served_by", expect.served_by, _parts(who, "nobody"))
        return
    for pattern, amount in (expect.served_by or {}).items():
        got = _sum(pattern, seen.serves)
        if not amount.holds(got):
            yield Failure((*path, pattern), f"served_by {pattern}", str(amount), _number(got))


def _never(expect: Expect, seen: Observation) -> Iterator[Failure]:
    for place, pattern in enumerate(expect.never):
        called = [model for model in fitting(pattern, seen.called) if not Amount(0).holds(seen.called[model])]
        if called:
            who = ", ".join(f"{short_model(model)} in {_number(seen.called[model])} of the requests" for model in called)
            yield Failure(("expect", "never", place), f"never {pattern}", "no call", f"calls to {who}")


def _most(expect: Expect, seen: Observation) -> Iterator[Failure]:
    for key, most, got in (
        ("max_calls", expect.max_calls, seen.max_calls),
        ("max_wait_seconds", expect.max_wait_seconds, seen.max_seconds),
    ):
        if most is not None and got > most:
            yield Failure(("expect", key), key, f"at most {_number(most)}", str(got))


_CHECKS = (_status, _served, _served_by, _never, _most)


def _sum(pattern: str, shares: Mapping[str, float]) -> float:
    return sum(shares[model] for model in fitting(pattern, shares))


def _parts(chances: Mapping[int | None, float] | Mapping[str | None, float], none: str) -> str:
    """`503 (0.75), 200 (0.25)`, the largest first; one that is all stands alone."""
    parts = sorted(((chance, name) for name, chance in chances.items() if not Amount(0).holds(chance)), key=_by_chance)
    words = [(none if name is None else str(name), _number(chance)) for chance, name in parts]
    return words[0][0] if len(words) == 1 else ", ".join(f"{word} ({number})" for word, number in words)


def _by_chance(part: tuple[float, object]) -> tuple[float, str]:
    return -part[0], str(part[1])


def _number(number: float) -> str:
    return f"{number:.9g}"
