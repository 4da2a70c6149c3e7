"""The guards: each refusal names the value, the limit, and what attains the value."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest

from policyctl.effect.gateway import MAX_DEPTH
from policyctl.plan.safety import review
from policyctl.plan.settings import GUARDS, Guard, GuardException, Guards, MinServed, Settings, Survive
from policyctl.policy.live import observe_rows
from tests.builders import body, plan, policy, row

A, B, C = "virtual-model/x/a", "virtual-model/x/b", "virtual-model/y/c"
Body = dict[str, Any]


def group(mode: str, *targets: Any, codes: list[int] | None = None, attempts: int = 0) -> Body:
    """A policy body; a target is a model, a model with its weight, or a group."""
    strategy = {"mode": mode} if codes is None else {"mode": mode, "on_status_codes": codes}
    retry = {"retry": {"attempts": attempts}} if attempts else {}
    return {"strategy": strategy, **retry, "targets": list(map(target, targets))}


def target(one: Any) -> Body:
    if isinstance(one, tuple):
        return {"model_name": one[0], "weight": one[1]}
    return {"model_name": one} if isinstance(one, str) else one


def reviewed(before: Body | None, after: Body, settings: Settings, *rows: Any) -> tuple[list[str], list[str]]:
    """What a change to the policy `p` is refused for, and what is noted."""
    live = [*rows, *([row("p", **before)] if before else [])]
    kept = [policy(one["name"], **one["policy"]) for one in rows if one["policy"]]
    found = review(plan([policy("p", **after), *kept], live, settings), observe_rows(live), settings)
    return list(found.refusals), list(found.notes)


class Judged(NamedTuple):
    """A change, the guards, and what is said about the policy, or None."""

    before: Body | None
    after: Body
    guards: Guards
    said: str | None


HALF, MOST = group("loadbalance", (A, 0.5), (B, 0.5)), group("loadbalance", (A, 0.75), (B, 0.25))
LISTED = group("fallback", A, C, codes=[429, 503], attempts=2)
INNER = group("fallback", A, B, codes=[429])
ANY_PROVIDER, ANY_MODEL = Survive("provider", (429, 500, "hang")), Survive("model", (429,))

CASES: dict[str, Judged] = {
    "traffic: exactly the limit": Judged(HALF, MOST, Guards(max_traffic_shift=25), None),
    "traffic: more than the limit": Judged(
        HALF,
        MOST,
        Guards(max_traffic_shift=24.9),
        "would have 25% of its requests served by another model, more than max_traffic_shift 24.9: "
        "x/a 50% → 75%, x/b 50% → 25%",
    ),
    "traffic: an add has nothing to shift": Judged(None, MOST, Guards(max_traffic_shift=0), None),
    "traffic: other words shift nothing": Judged(
        MOST, group("loadbalance", (A, 0.6), (B, 0.2)), Guards(max_traffic_shift=0), None
    ),
    "calls: exactly the limit": Judged(None, LISTED, Guards(max_calls=6), None),
    "calls: more than the limit": Judged(
        None,
        LISTED,
        Guards(max_calls=5),
        "may make 6 calls for one request, more than max_calls 5: 3 × x/a ending with 429, then 3 × y/c",
    ),
    "calls: of one target": Judged(
        group("single", A),
        group("single", A, attempts=1),
        Guards(max_calls=1),
        "may make 2 calls for one request, more than max_calls 1: 2 × x/a",
    ),
    "failover: exactly the limit": Judged(None, LISTED, Guards(max_failover_seconds=3), None),
    "failover: more than the limit": Judged(
        None,
        LISTED,
        Guards(max_failover_seconds=2.5),
        "may wait 3 s before its last failover, more than max_failover_seconds 2.5: 3 s at x/a ending with 429",
    ),
    "failover: waits without a failover do not count": Judged(
        None, group("single", A, attempts=9), Guards(max_failover_seconds=0), None
    ),
    "survive: a fallback on what is asked": Judged(
        None, group("fallback", A, C, codes=[429, 500, 503]), Guards(survive=ANY_PROVIDER), None
    ),
    "survive: a code is missing": Judged(
        None,
        LISTED,
        Guards(survive=ANY_PROVIDER),
        "serves 0% while x is down with 500; "
        "survive asks for 100% while any one provider is down with 429, 500, connect timeout",
    ),
    "survive: a load balance": Judged(
        None,
        group("loadbalance", (A, 0.75), (C, 0.25)),
        Guards(survive=ANY_MODEL),
        "serves 25% while x/a is down with 429; 75% while y/c is down with 429; "
        "survive asks for 100% while any one model is down with 429",
    ),
    "survive: two models of one provider, a model down": Judged(None, INNER, Guards(survive=ANY_MODEL), None),
    "survive: two models of one provider, the provider down": Judged(
        None,
        INNER,
        Guards(survive=Survive("provider", (429,))),
        "serves 0% while x is down with 429; survive asks for 100% while any one provider is down with 429",
    ),
    "survive: a model without a provider counts as one": Judged(
        None,
        group("single", "gpt"),
        Guards(survive=Survive("provider", (429,))),
        "serves 0% while gpt is down with 429; survive asks for 100% while any one provider is down with 429",
    ),
    "survive: no target is called": Judged(
        None,
        {"strategy": {"mode": "single"}, "retry": {}, "targets": [{"model_name": A}]},
        Guards(survive=ANY_MODEL),
        "serves 0% with nothing down; survive asks for 100% while any one model is down with 429",
    ),
    "new provider: reached when another fails": Judged(
        INNER,
        LISTED,
        Guards(deny_new="provider"),
        "would reach y (c, when a answers 429 or 503), a new provider, and deny_new is provider",
    ),
    "new provider: at once": Judged(
        group("single", A),
        group("single", C),
        Guards(deny_new="provider"),
        "would reach y (c), a new provider, and deny_new is provider",
    ),
    "new provider: one of its models was reachable": Judged(group("single", A), INNER, Guards(deny_new="provider"), None),
    "new provider: another of its models was reachable": Judged(
        group("single", A), group("single", B), Guards(deny_new="provider"), None
    ),
    "new provider: written but never reached": Judged(
        group("single", A), group("single", A, C), Guards(deny_new="provider"), None
    ),
    "new provider: an add has no live policy": Judged(None, LISTED, Guards(deny_new="provider"), None),
    "new model": Judged(
        group("single", A),
        INNER,
        Guards(deny_new="model"),
        "would reach x/b (when a answers 429), a new model, and deny_new is model",
    ),
    "new model: fewer": Judged(INNER, group("single", A), Guards(deny_new="model"), None),
    "allowed providers": Judged(None, LISTED, Guards(allow_providers=("x", "y*")), None),
    "a provider that is not allowed": Judged(
        None,
        LISTED,
        Guards(allow_providers=("x", "z")),
        "may reach y (c, when a answers 429 or 503), which is not among allow_providers x, z",
    ),
    "a model without a provider is not allowed": Judged(
        None,
        group("single", "gpt"),
        Guards(allow_providers=("x",)),
        "may reach gpt, which is not among allow_providers x",
    ),
    "a denied provider": Judged(
        None, HALF, Guards(deny_providers=("x*",)), "may reach x (a), which is among deny_providers x*"
    ),
    "retries that a partial failure needs": Judged(
        None,
        group("fallback", A, C, codes=[503]),
        Guards(min_served=MinServed(0.1, "provider", (429, 503), 0.999)),
        "serves 90% while x fails 10% of its calls with 429; min_served asks for at least 99.9%",
    ),
    "a partial failure that retries make up for": Judged(
        None,
        {**group("single", A), "retry": {"attempts": 2}},
        Guards(min_served=MinServed(0.1, "model", (429, 503), 0.999)),
        None,
    ),
    "a status of which few have heard": Judged(
        None,
        group("fallback", A, C, codes=[503]),
        Guards(survive=Survive("provider", (402, 503, 524))),
        "serves 0% while x is down with 402, 524; survive asks for 100% while any one provider is down with 402, 503, 524",
    ),
    "a denied provider, by the model that is easiest to reach": Judged(
        None,
        group("loadbalance", group("fallback", A, C), "virtual-model/y/d"),
        Guards(deny_providers=("y",)),
        "may reach y (d), which is among deny_providers y",
    ),
    "a denied provider that is never reached": Judged(None, group("single", A, C), Guards(deny_providers=("y",)), None),
}


@pytest.mark.parametrize("name", CASES)
def test_a_guard_refuses_with_value_limit_and_what_attains_it(name: str) -> None:
    case = CASES[name]
    (guard,) = case.guards.active
    override = f"(allow it with --allow-guard {guard}=virtual-policy/p, or in guard_exceptions)"
    refusals, notes = reviewed(case.before, case.after, Settings(guards=case.guards))
    assert refusals == ([] if case.said is None else [f"virtual-policy/p {case.said} {override}"])
    assert notes == []


def test_every_guard_has_a_case_that_it_refuses() -> None:
    assert {guard for case in CASES.values() if case.said for guard in case.guards.active} == set(GUARDS)


DOWN: dict[str, tuple[Any, Body, str | None]] = {
    "a status that no list has": (402, LISTED, "0% while x/a is down with 402"),
    "a status that a list has": (451, group("fallback", A, C, codes=[451]), None),
    "any status without a list": (599, group("fallback", A, C), None),
    "a status that the gateway stumbles over": (600, group("fallback", A, C), "0% while x/a is down with 600"),
    "no connection in time": ("hang", LISTED, None),
    "no connection in time, where 503 is not listed": (
        "hang",
        group("fallback", A, C, codes=[429]),
        "0% while x/a is down with connect timeout",
    ),
    "a stream that is cut is never survived": ("cut-stream", group("fallback", A, C), "0% while x/a is down with a cut stream"),
    "a stream that is cut costs a share": (
        "cut-stream",
        group("loadbalance", (A, 0.75), (C, 0.25)),
        "25% while x/a is down with a cut stream",
    ),
}


@pytest.mark.parametrize("case", DOWN)
def test_a_model_may_be_down_with_every_failure(case: str) -> None:
    answer, after, said = DOWN[case]
    refusals, _ = reviewed(None, after, Settings(guards=Guards(survive=Survive("model", (answer,)))))
    assert [refusal for refusal in refusals if said is None or said not in refusal] == []
    assert len(refusals) == (said is not None)


def test_policies_that_do_not_change_are_not_judged() -> None:
    settings = Settings(guards=Guards(max_calls=1))
    assert reviewed(HALF, HALF, settings, row("q", **LISTED)) == ([], [])


def test_a_removal_is_not_judged() -> None:
    settings, live = Settings(guards=Guards(max_calls=1)), [row("p", **LISTED), row("q", A)]
    assert review(plan([policy("q", A)], live, settings), observe_rows(live), settings).refusals == ()


def test_a_target_that_is_a_policy_counts_with_what_it_does() -> None:
    """As the plan leaves it, whether it is among the changes or not."""
    settings = Settings(guards=Guards(max_calls=5))
    (refusal,), _ = reviewed(None, body("virtual-policy/q"), settings, row("q", **LISTED))
    assert "may make 6 calls for one request, more than max_calls 5: 3 × x/a ending with 429, then 3 × y/c" in refusal
    assert reviewed(None, body("virtual-policy/q"), settings, row("q", **INNER)) == ([], [])


EXCEPTIONS: dict[str, tuple[str, Guard, bool]] = {
    "the canonical name": ("virtual-policy/p", "max_calls", True),
    "the bare name": ("p", "max_calls", True),
    "a glob": ("*", "max_calls", True),
    "another policy": ("q", "max_calls", False),
    "another guard": ("p", "survive", False),
}


@pytest.mark.parametrize("name", EXCEPTIONS)
def test_an_exception_turns_the_refusal_into_a_note_with_its_reason(name: str) -> None:
    pattern, guard, covered = EXCEPTIONS[name]
    settings = Settings(guards=Guards(max_calls=5), guard_exceptions=(GuardException(guard, pattern, "until June"),))
    refusals, notes = reviewed(None, LISTED, settings)
    assert len(refusals) == (not covered)
    said = "virtual-policy/p may make 6 calls for one request, more than max_calls 5: 3 × x/a ending with 429, then 3 × y/c"
    assert notes == ([f"{said}; allowed: until June"] if covered else [])


def test_an_exception_that_is_not_needed_is_not_reported() -> None:
    settings = Settings(guards=Guards(max_calls=6), guard_exceptions=(GuardException("max_calls", "*", "until June"),))
    assert reviewed(None, LISTED, settings) == ([], [])


def test_a_name_with_brackets_can_be_excepted() -> None:
    """Though as a glob it would mean something else."""
    assert GuardException("survive", "a[b]", "r").covers("virtual-policy/a[b]")
    assert GuardException("survive", "a[b]", "r").covers("virtual-policy/ab")


def deep(depth: int) -> Body:
    """Groups within groups."""
    found = group("single", A)
    for _ in range(depth):
        found = {"strategy": {"mode": "single"}, "targets": [found]}
    return found


def test_what_is_nested_too_deep_to_evaluate_is_not_readable_and_so_never_changed() -> None:
    observed = observe_rows([row("p", **deep(MAX_DEPTH // 4)), row("q", **deep(MAX_DEPTH))])
    assert [*observed.live] == ["virtual-policy/p"]
    assert [one.name for one in observed.unreadable] == ["virtual-policy/q"]


def test_no_guard_passes_a_chain_of_policies_that_is_too_long_to_be_followed() -> None:
    rows = [row(f"t{number}", **group("single", f"virtual-policy/t{number + 1}")) for number in range(200)]
    refusals, _ = reviewed(
        group("single", A), group("single", "virtual-policy/t0"), Settings(guards=ALL), *rows, row("t200", **group("single", A))
    )
    assert [refusal.split(": ")[0] for refusal in refusals] == [
        f"virtual-policy/p cannot be judged by {guard}" for guard in ALL.active
    ]
    assert all("it leads through more than" in refusal for refusal in refusals)


CONDITIONAL: Body = {
    "strategy": {"mode": "conditional", "conditions": [{"query": {}, "then": "a"}], "default": "a"},
    "targets": [{"name": "a", "model_name": A}],
}
WEIGHTED: Body = {"strategy": {"mode": "weighted"}, "targets": [{"model_name": A}]}
ALL = Guards(
    max_traffic_shift=50,
    max_calls=1,
    max_failover_seconds=60,
    survive=Survive("model", (500,)),
    deny_new="provider",
    allow_providers=("*",),
    deny_providers=("unused",),
)
MODES: dict[str, Body] = {"a mode that the gateway takes": CONDITIONAL, "a mode that it refuses": WEIGHTED}


@pytest.mark.parametrize("mode", MODES)
def test_from_a_mode_that_is_not_known_only_guards_of_the_new_version_can_tell(mode: str) -> None:
    refusals, _ = reviewed(MODES[mode], group("single", A), Settings(guards=ALL))
    told = [refusal.split(": ")[0] for refusal in refusals if "cannot be judged" in refusal]
    assert told == [f"virtual-policy/p cannot be judged by {guard}" for guard in ("max_traffic_shift", "deny_new")]
    assert not any("newly" in refusal or "new provider" in refusal for refusal in refusals)


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("nested", [False, True])
def test_no_guard_passes_a_target_whose_mode_is_not_known(mode: str, nested: bool) -> None:
    live = group("single", MODES[mode]) if nested else MODES[mode]
    refusals, _ = reviewed(None, body("virtual-policy/q"), Settings(guards=ALL), row("q", **live))
    named = MODES[mode]["strategy"]["mode"]
    why = f'virtual-policy/q: policy{".targets[0]" if nested else ""} has mode "{named}", which policyctl does not know'
    assert [refusal.split(" (allow")[0] for refusal in refusals] == [
        f"virtual-policy/p cannot be judged by {guard}: {why}" for guard in ALL.active
    ]


UNREADABLE: dict[str, tuple[list[Any], str]] = {
    "a policy that the remote has twice": (
        [{**row("q"), "id": "1"}, {**row("q"), "id": "2"}],
        "the remote has several policies of this name",
    ),
    "a row without a policy": (
        [{**row("q"), "policy": None}],
        "the remote has a row of this name that cannot be read: the row has no policy",
    ),
}


@pytest.mark.parametrize("case", UNREADABLE)
def test_no_guard_passes_a_target_that_cannot_be_read(case: str) -> None:
    rows, why = UNREADABLE[case]
    (refusal,), _ = reviewed(None, body("virtual-policy/q"), Settings(guards=Guards(max_calls=3)), *rows)
    assert f"cannot be judged by max_calls: it leads to virtual-policy/q, and what that one does is not known: {why}" in refusal


NO_MODEL: dict[str, Any] = {
    "only the prefix of all models": "virtual-model/",
    "no name": {"provider": "x"},
    "an empty name": {"model_name": ""},
    "in a group that is used only when another model fails": group("fallback", A, "virtual-model/"),
    "through another policy": "virtual-policy/q",
}


@pytest.mark.parametrize("case", NO_MODEL)
def test_no_guard_passes_a_target_whose_model_each_request_decides(case: str) -> None:
    q = row("q", strategy={"mode": "single"}, targets=[{"weight": 1}])
    refusals, _ = reviewed(group("single", A), group("single", NO_MODEL[case]), Settings(guards=ALL), q)
    assert [refusal.split(" (allow")[0] for refusal in refusals] == [
        f"virtual-policy/p cannot be judged by {guard}: it has a target without a model, so each request decides which model "
        "that is"
        for guard in ALL.active
    ]
