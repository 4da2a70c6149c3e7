"""The worst case of a request: never exceeded by any script of answers, and attained by one."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.effect.course import Simulation, simulate
from policyctl.effect.gateway import ENDED, RetryAfter, waits_of
from policyctl.effect.tree import Balance, Fallback, Fixed, Leaf, Node, TargetPath, read_tree
from policyctl.effect.worst_case import Bound, Leg, Routes, max_calls, max_failover, max_latency, max_waits
from tests.effect.policies import MODELS, TIMEOUTS, bodies, body_of, document, scripts
from tests.examples import examples


def routes_of(body: dict[str, Any]) -> Routes:
    return Routes(read_tree(document(body)))


def paths_below(node: Node) -> set[TargetPath]:
    if isinstance(node, Leaf):
        return {node.path}
    return {path for target in node.targets for path in paths_below(target)} if isinstance(node, Fallback | Balance) else set()


def leads_on(node: Node) -> bool:
    """Whether a place where no model is asked lets the walk go on: it does not end it."""
    if isinstance(node, Fixed):
        return node.outcome != ENDED
    if isinstance(node, Balance):
        return bool(node.nothing) or any(map(leads_on, node.targets))
    return isinstance(node, Fallback) and all(map(leads_on, node.targets))


def points(node: Node, legs: list[Leg]) -> Iterator[float]:
    """The points that make the load balances draw what these legs need; uses the legs up."""
    if isinstance(node, Leaf):
        if legs and legs[0].path == node.path:  # others are not asked on the way
            del legs[0]
    elif isinstance(node, Balance):
        nexts = {legs[0].path} if legs else set()
        fits = [place for place, target in enumerate(node.targets) if paths_below(target) & nexts]
        empty = [place for place, target in enumerate(node.targets) if not paths_below(target)]
        place = (fits or [place for place in empty if leads_on(node.targets[place])] or empty or [0])[0]
        yield sum(node.shares[:place]) + node.shares[place] / 2
        yield from points(node.targets[place], legs)
    elif isinstance(node, Fallback):
        for target in node.targets:
            yield from points(target, legs)


def answers_of(leg: Leg, each: int) -> list[Any]:
    """What a model answers on a bound's leg: connections refused, then the status that leads on, with the longest `Retry-After`
    where the leg waits for one.
    """
    repeats = leg.calls // each - 1
    answers: list[Any] = ["refused"] * repeats + [leg.status]
    if leg.seconds == waits_of(repeats) + 60:
        answers[-1] = RetryAfter(59)
    elif leg.seconds != waits_of(repeats):
        answers[-2] = RetryAfter(59)
    return [answer for attempt in answers for answer in ([421] * (each - 1) + [attempt])]


def attain(routes: Routes, bound: Bound) -> tuple[Simulation, int]:
    """A walk of the bound's legs, and how many of them wait for a `Retry-After`: a second less than is counted for them."""
    script: dict[str, list[Any]] = {}
    for leg in bound.legs:
        script.setdefault(leg.model, []).extend(answers_of(leg, routes.attempt_calls))
    needed = points(routes.tree.root, list(bound.legs))
    waiting = sum(isinstance(answer, RetryAfter) for answers in script.values() for answer in answers)
    return simulate(routes.tree, script, lambda: next(needed, 0.5)), waiting


def before_the_last(walked: Simulation) -> int:
    """The seconds of back-off before the last target of a request is asked."""
    calls = walked.calls
    first = next((place for place, call in enumerate(calls) if call.path == calls[-1].path), 0)
    return sum(call.wait for call in calls[: first + 1])


@settings(max_examples=examples(120))
@given(body=bodies)
def test_bounds_are_attained(body: dict[str, Any]) -> None:
    routes = routes_of(body)
    calls, waits, failover, latency = max_calls(routes), max_waits(routes), max_failover(routes), max_latency(routes, TIMEOUTS)
    assert len(attain(routes, calls)[0].calls) == calls.value
    walked, waiting = attain(routes, waits)
    assert walked.waited == waits.value - waiting
    made = sum(leg.calls for leg in failover.legs)
    walked, waiting = attain(routes, failover)
    assert sum(call.wait for call in walked.calls[: made + 1]) == failover.value - waiting
    assert latency is not None
    worst, waiting = attain(routes, latency)
    assert sum(TIMEOUTS[call.model] for call in worst.calls) + worst.waited == pytest.approx(latency.value - waiting)


@settings(max_examples=examples(120))
@given(body=bodies, script=scripts, seed=st.integers(0, 999))
def test_bounds_are_never_exceeded(body: dict[str, Any], script: dict[str, list[Any]], seed: int) -> None:
    """By any answers but a 421 that no list of the policy has."""
    routes = routes_of(body)
    if routes.attempt_calls == 1:
        script = {model: [answer for answer in given if answer != 421] or [500] for model, given in script.items()}
    walked = simulate(routes.tree, script, Random(seed).random)
    assert len(walked.calls) <= max_calls(routes).value
    assert walked.waited <= max_waits(routes).value
    assert sum(TIMEOUTS[call.model] for call in walked.calls) + walked.waited <= (latency_of(routes) + 1e-9)
    assert before_the_last(walked) <= max_failover(routes).value


def latency_of(routes: Routes) -> float:
    bound = max_latency(routes, TIMEOUTS)
    assert bound is not None
    return bound.value


A, B, C = MODELS[:3]
# Half of the requests draw the first, which ends the walk, and half draw no target.
NOBODY_OR_ENDED = [{**body_of("single"), "weight": -1}, {"model_name": A, "weight": -1}]
PINNED = {
    "three targets with 5 attempts each": (body_of("fallback", A, B, C, attempts=5), 18, 93, 62),
    "a load balance is as bad as its worst target": (
        body_of("loadbalance", A, body_of("fallback", B, C), attempts=3),
        8,
        14,
        7,
    ),
    "an empty list never fails over": (body_of("fallback", A, B, codes=[], attempts=3), 4, 7, 0),
    "a list of codes that no target ends with": (body_of("fallback", A, B, codes=[205, 407], attempts=3), 4, 7, 0),
    "single is its first target": (body_of("single", A, B, attempts=2), 3, 3, 0),
    "an inner list that the outer one lacks": (
        body_of("fallback", body_of("fallback", A, B, codes=[429]), C, codes=[500], attempts=1),
        6,
        3,
        2,
    ),
    "a 204 that is asked again is never an outcome": (
        {**body_of("fallback", A, B, codes=[204]), "retry": {"attempts": 1, "on_status_codes": [204]}},
        2,
        1,
        0,
    ),
    "a draw that may draw nobody is passed over": (
        body_of("fallback", {"strategy": {"mode": "loadbalance"}, "targets": NOBODY_OR_ENDED}, B, attempts=1),
        2,
        1,
        0,
    ),
    "nobody is asked": (body_of("fallback"), 0, 0, 0),
    "a 421 on the list is sent twice": (body_of("fallback", A, B, codes=[421, 503]), 4, 0, 0),
    "a 421 on the list is sent twice in each attempt": (body_of("fallback", A, B, codes=[421, 503], attempts=1), 8, 2, 1),
    "a 421 on the list of a retry": ({**body_of("single", A), "retry": {"attempts": 2, "on_status_codes": [421]}}, 6, 3, 0),
    "a 421 on the list of a nested group": (body_of("loadbalance", A, body_of("fallback", B, C, codes=[421])), 4, 0, 0),
    "a 421 that no list has": (body_of("fallback", A, B), 2, 0, 0),
    "a 421 on the list of a retry without attempts": (
        {**body_of("fallback", A, B), "retry": {"attempts": 0, "on_status_codes": [421]}},
        2,
        0,
        0,
    ),
    "a Retry-After is waited for, after the last attempt too": (body_of("fallback", A, B, attempts=1, header=True), 4, 122, 61),
    "a Retry-After before an end without one": (
        body_of("fallback", A, B, codes=[503], attempts=3, header=True),
        8,
        # Both end without a 429 in the middle, with one at the end: 1 + 2 + 60, then 1 + 2 + 4 + 60.
        130,
        63,
    ),
    "many attempts wait longer than any Retry-After": (
        body_of("fallback", A, B, codes=[503], attempts=7, header=True),
        16,
        314,
        127,
    ),
    "a Retry-After that the retry does not list": (
        {
            **body_of("fallback", A, B),
            "retry": {"attempts": 2, "on_status_codes": [503], "use_retry_after_header": True},
        },
        6,
        6,
        3,
    ),
    "a Retry-After without attempts": (
        {**body_of("fallback", A, B), "retry": {"attempts": 0, "use_retry_after_header": True}},
        2,
        0,
        0,
    ),
}


@pytest.mark.parametrize("case", PINNED)
def test_the_worst_case_by_hand(case: str) -> None:
    """Calls are attempts + 1 for each target tried in turn, waits 2^attempts - 1 s, failover all waits but the last's."""
    body, calls, waits, failover = PINNED[case]
    routes = routes_of(body)
    assert (max_calls(routes).value, max_waits(routes).value, max_failover(routes).value) == (calls, waits, failover)


def test_the_worked_example_of_worst_case_latency() -> None:
    """Two models with 30 s each and 3 attempts: 127 s one of them, 254 s one after the other."""
    timeouts = {A: 30.0, B: 30.0}
    old, new = body_of("loadbalance", A, B, attempts=3), body_of("fallback", A, B, codes=[429, 503], attempts=3)
    latencies = [max_latency(routes_of(body), timeouts) for body in (old, new)]
    assert [bound and bound.value for bound in latencies] == [127, 254]


def test_latency_is_unknown_without_the_timeout_of_a_model_that_may_be_asked() -> None:
    assert max_latency(routes_of(body_of("fallback", A, B)), {A: 30.0}) is None


def test_latency_needs_no_timeout_of_a_model_that_is_never_asked() -> None:
    bound = max_latency(routes_of(body_of("fallback", A, B, codes=[])), {A: 30.0})
    assert bound is not None
    assert bound.value == 30


def test_the_legs_name_the_targets_in_order() -> None:
    bound = max_calls(routes_of(body_of("fallback", A, B, codes=[429], attempts=1)))
    assert [(leg.model, leg.path, leg.calls, leg.seconds) for leg in bound.legs] == [(A, (0,), 2, 1), (B, (1,), 2, 1)]
    assert bound.legs[0].status == 429


def test_a_leg_does_not_end_with_a_421_that_decides_nothing() -> None:
    """It would be sent twice, and the bound counts that only where the policy tells a 421 apart."""
    body = body_of("loadbalance", body_of("fallback", A, codes=[400, 500]), body_of("fallback", A, codes=[421]))
    routes = routes_of(body)
    bound = max_calls(routes)
    assert (bound.value, len(attain(routes, bound)[0].calls), 421 in [leg.status for leg in bound.legs]) == (1, 1, False)


def nested(depth: int) -> dict[str, Any]:
    """Fallbacks within fallbacks, each with a list of its own."""
    body = body_of("fallback", MODELS[0], MODELS[1], codes=[503])
    for level in range(depth):
        body = body_of("fallback", body, MODELS[level % 4], codes=[430 + level])
    return body


def test_as_many_groups_within_groups_as_a_file_may_have_are_searched_level_by_level() -> None:
    """Doubling the work with every level would never end."""
    routes = routes_of(nested(63))
    assert max_calls(routes).value == 65
    assert None not in routes.arrivals()
