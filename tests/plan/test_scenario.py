"""The verdict on a scenario: which expectations fail, with what was expected and what was got."""

from __future__ import annotations

from typing import Any

import pytest

from policyctl.plan.scenario import Amount, Expect, Scenario, Suite, misfits, run_suite
from policyctl.policy.document import Document

A, B, C = "virtual-model/x/a", "virtual-model/x/b", "virtual-model/y/c"
CHAIN = {
    "strategy": {"mode": "fallback", "on_status_codes": [500, 503]},
    "retry": {"attempts": 2, "on_status_codes": [503]},
    "targets": [{"model_name": A}, {"model_name": B}, {"model_name": C}],
}
DRAW = {
    "strategy": {"mode": "loadbalance"},
    "targets": [{"model_name": A, "weight": 0.75}, {"model_name": C, "weight": 0.25}],
}


def documents(**bodies: Any) -> dict[str, Document]:
    return {f"virtual-policy/{name}": {"name": f"virtual-policy/{name}", "policy": body} for name, body in bodies.items()}


POLICIES = documents(
    chain=CHAIN, draw=DRAW, over={"strategy": {"mode": "single"}, "targets": [{"model_name": "virtual-policy/chain"}]}
)


def failures(policy: str, given: dict[str, Any], **expect: Any) -> list[str]:
    """Each failed expectation as `about: expected, got`."""
    suite = Suite(f"virtual-policy/{policy}", (Scenario("it", given, Expect(**expect)),), "a.test.yaml")
    assert list(misfits(suite, POLICIES)) == []
    (verdict,) = run_suite(suite, POLICIES)
    assert all(failure.path[:2] == verdict.path == ("tests", 0) for failure in verdict.failures)
    return [f"{failure.about}: {failure.expected}, {failure.got}" for failure in verdict.failures]


HELD: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "healthy": ("chain", {}, {"status": 200, "served": Amount(1), "served_by": "a", "never": ("b", "y"), "max_calls": 1}),
    "a provider down": ("chain", {"x": 500}, {"served_by": "y", "max_calls": 3, "max_wait_seconds": 0}),
    "waits": ("chain", {"x": 503}, {"served_by": "y", "max_calls": 7, "max_wait_seconds": 6}),
    "in order": ("chain", {"a": (503, 503, 200)}, {"served_by": "a", "max_calls": 3, "max_wait_seconds": 3}),
    "the last that fits holds": ("chain", {"*": 503, "a": 200}, {"served_by": "a", "max_calls": 1}),
    "also when it is the wider one": ("chain", {"a": 200, "*": 400}, {"status": 400}),
    "parts": ("draw", {}, {"served_by": {"x": Amount(0.75), "y": Amount(0.2, ">")}, "status": {200: Amount(1)}}),
    "an outage's share": ("draw", {"a": 503}, {"status": {200: Amount(0.25), 503: Amount(0.75)}, "served": Amount(0.25)}),
    "in order, over every draw": ("draw", {"*": (500, 200)}, {"status": 500, "max_calls": 1}),
    "chances": ("chain", {"a": {503: 0.5, 200: 0.5}}, {"served_by": {"a": Amount(0.875), "b": Amount(0.125)}, "max_calls": 4}),
    "a policy as target": ("over", {"x": 500}, {"served_by": "y"}),
    "a third": ("draw", {"c": {500: 1 / 3, 200: 2 / 3}}, {"served": Amount(0.916667)}),
    "never is about what is not there too": ("chain", {}, {"never": ("deepseek",)}),
}


@pytest.mark.parametrize("case", HELD)
def test_what_holds_passes(case: str) -> None:
    policy, given, expect = HELD[case]
    assert failures(policy, given, **expect) == []


FAILED: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "status": ("chain", {"a": 400}, {"status": 200}, "status: 200, 400"),
    "status of a part": ("draw", {"a": 503}, {"status": 200}, "status: 200, 503 (0.75), 200 (0.25)"),
    "part of a status": ("draw", {"a": 503}, {"status": {200: Amount(0.5, ">=")}}, "status 200: >= 0.5, 0.25"),
    "a status that never comes": ("draw", {}, {"status": {429: Amount(0.1)}}, "status 429: 0.1, 0"),
    "served": ("draw", {"c": 500}, {"served": Amount(0.99, ">=")}, "served: >= 0.99, 0.75"),
    "who": ("chain", {"a": 500}, {"served_by": "a"}, "served_by: a, x/b"),
    "who, in parts": ("draw", {"c": 500}, {"served_by": "x"}, "served_by: x, x/a (0.75), no model (0.25)"),
    "no model serves": ("chain", {"*": 500}, {"served_by": "a"}, "served_by: a, no model"),
    "a part": ("draw", {}, {"served_by": {"x": Amount(0.8)}}, "served_by x: 0.8, 0.75"),
    "never": ("draw", {}, {"never": ("b", "y")}, "never y: no call, calls to y/c in 0.25 of the requests"),
    "never, though it does not serve": ("chain", {}, {"never": ("a",)}, "never a: no call, calls to x/a in 1 of the requests"),
    "calls": ("chain", {"x": 503}, {"max_calls": 6}, "max_calls: at most 6, 7"),
    "waits": ("chain", {"x": 503}, {"max_wait_seconds": 5.5}, "max_wait_seconds: at most 5.5, 6"),
    "calls that are only possible": ("chain", {"a": {503: 1e-6, 200: 1 - 1e-6}}, {"max_calls": 3}, "max_calls: at most 3, 4"),
    "calls of the worst draw": ("draw", {"c": (421, 200)}, {"max_calls": 1}, "max_calls: at most 1, 2"),
}


@pytest.mark.parametrize("case", FAILED)
def test_what_does_not_hold_fails_with_what_was_got(case: str) -> None:
    policy, given, expect, line = FAILED[case]
    assert failures(policy, given, **expect) == [line]


def test_every_failure_is_reported() -> None:
    told = failures("draw", {"*": 500}, status=200, served=Amount(1), served_by="a", never=("a", "c"), max_calls=0)
    assert len(told) == 6


@pytest.mark.no_cover  # measuring takes longer than its work
@pytest.mark.slow
def test_what_cannot_be_followed_fails_and_the_next_test_still_runs() -> None:
    wide = {"strategy": {"mode": "fallback"}, "targets": [DRAW] * 20}
    scenarios = (Scenario("one", {"*": (500,)}, Expect(status=500)), Scenario("two", {"*": 500}, Expect(status=500)))
    one, two = run_suite(Suite("virtual-policy/wide", scenarios, "a"), documents(wide=wide))
    assert "too many to follow" in one.failures[0].got
    assert two.failures == ()


def test_a_policy_that_is_nested_too_deeply_fails_every_test() -> None:
    deep: dict[str, Any] = DRAW
    for _ in range(201):
        deep = {"strategy": {"mode": "single"}, "targets": [deep]}
    suite = Suite("virtual-policy/deep", (Scenario("one", {}, Expect(status=200)),), "a")
    assert list(misfits(suite, documents(deep=deep))) == []
    (verdict,) = run_suite(suite, documents(deep=deep))
    assert "too deep" in verdict.failures[0].got
