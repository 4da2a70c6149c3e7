"""What a change does to traffic: only what moved."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from policyctl.effect.analysis import Cell, Delta, Effect, Reached, analyse, compare
from policyctl.effect.gateway import MAX_DEPTH
from policyctl.effect.outages import FAILURES, describe_failures
from policyctl.effect.tree import DeclaredModels, read_tree
from policyctl.errors import PolicyctlError
from policyctl.policy.document import normal_form
from policyctl.policy.schema import MAX_TARGETS
from tests.effect.examples import NEW, OLD, A, B
from tests.effect.policies import bodies, body_of, document
from tests.examples import examples


def test_the_worked_example_shows_what_the_diff_does_not() -> None:
    """Balance to fallback on 429 and 503: fixes two failures of one model, makes its other failures total."""
    effect = compare(document(OLD), document(NEW), declared=DeclaredModels({A: 30, B: 30}))
    assert effect.kind == "effective"
    assert effect.models == (Delta(A, 0.75, 1), Delta(B, 0.25, 0))
    assert effect.providers == (Delta("google", 0.75, 1), Delta("openai", 0.25, 0))
    assert effect.traffic == 0.25
    outages = [cell for cell in effect.worse if cell.share == 1]
    a_fails = FAILURES - {429, 503, "hang"} | {407}
    assert outages == [Cell("model", A, a_fails, 0.25, 0), Cell("provider", "google", a_fails, 0.25, 0)]
    assert Cell("model", A, frozenset({429, 503, "hang"}), 0.25, 1) in effect.better
    assert Cell("model", B, FAILURES, 0.75, 1) in effect.better
    assert {(describe_failures(cell.failures), cell.after) for cell in effect.worse if cell.share < 1} == {
        ("500, 502, 504, connection refused", 0.9999),
        ("any failure but 429, 500, 502 to 504, connection failures", 0.9),
    }
    assert effect.calls == Delta("calls", 4, 8)
    assert effect.failover == Delta("failover", 0, 7)
    assert effect.latency == Delta("latency", 127, 254)
    assert (effect.added, effect.removed, effect.refused) == ((), (), None)


def test_a_model_that_only_a_failure_leads_to_is_newly_reachable() -> None:
    flash, lite = "virtual-model/google/gemini-2.0-flash", "virtual-model/openai/gpt-4o"
    effect = compare(document(body_of("single", flash)), document(body_of("fallback", flash, lite, codes=[429])))
    assert effect.added == (Reached(lite, "when gemini-2.0-flash answers 429"),)
    assert effect.models == ()
    only = frozenset({429})
    assert effect.better == (
        Cell("model", flash, only, 0, 1),
        Cell("provider", "google", only, 0, 1),
        Cell("model", flash, only, 0.9, 1, 0.1),
        Cell("provider", "google", only, 0.9, 1, 0.1),
    )
    back = compare(document(body_of("fallback", flash, lite, codes=[429])), document(body_of("single", flash)))
    assert back.removed == (Reached(lite, "when gemini-2.0-flash answers 429"),)
    assert back.worse == tuple(cell._replace(before=cell.after, after=cell.before) for cell in effect.better)


@settings(max_examples=examples(120))
@given(one=bodies, other=bodies)
def test_nothing_moves_between_equivalents_and_back_is_the_reverse(one: dict[str, Any], other: dict[str, Any]) -> None:
    there, back = compare(document(one), document(other)), compare(document(other), document(one))
    assert there.kind == back.kind
    if there.kind != "effective":
        assert there == Effect(there.kind, sure=True)
    assert {moved.name: (moved.after, moved.before) for moved in there.models} == {
        moved.name: (moved.before, moved.after) for moved in back.models
    }
    assert {(cell.kind, cell.name, failure) for cell in there.worse for failure in cell.failures} == {
        (cell.kind, cell.name, failure) for cell in back.better for failure in cell.failures
    }
    assert set(there.added) == set(back.removed)


@given(body=bodies)
def test_a_policy_does_not_move_against_itself(body: dict[str, Any]) -> None:
    assert compare(document(body), document(body)) == Effect("metadata", sure=True)


def test_a_change_that_the_numbers_do_not_show_is_still_effective() -> None:
    """A cache answers requests without any call; what it does is not in the numbers."""
    one, other = ({**body_of("single", A), "cache": {"mode": mode}} for mode in ("simple", "semantic"))
    effect = compare(document(one), document(other))
    assert effect == Effect("effective")
    assert not effect.sure


def test_another_list_of_codes_to_repeat_is_worse_and_better_while_a_part_of_the_calls_fails() -> None:
    one, other = ({**body_of("single", A), "retry": {"attempts": 1, "on_status_codes": codes}} for codes in ([429], [503]))
    effect = compare(document(one), document(other))
    assert Cell("model", A, frozenset({429}), 0.99, 0.9, 0.1) in effect.worse
    assert Cell("model", A, frozenset({503}), 0.9, 0.99, 0.1) in effect.better


@pytest.mark.parametrize("attempts", [3, 14, 40])
def test_one_attempt_less_is_worse_however_many_there_are(attempts: int) -> None:
    one, other = ({**body_of("single", A), "retry": {"attempts": number}} for number in (attempts, attempts - 1))
    assert [cell.kind for cell in compare(document(one), document(other)).worse] == ["model", "provider"]
    back = compare(document(other), document(one))
    assert (back.worse, back.sure) == ((), True)


SAFER: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "one more target at the end": (body_of("fallback", A, B), body_of("fallback", A, B, "virtual-model/x/c")),
    "a fallback around it": (body_of("loadbalance", A, B), body_of("fallback", body_of("loadbalance", A, B), A)),
    "one more code": (body_of("fallback", A, B, codes=[429]), body_of("fallback", A, B, codes=[429, 503])),
    "every failure": (body_of("fallback", A, B, codes=[429]), body_of("fallback", A, B)),
    "more attempts of the last": (
        body_of("fallback", A, {"model_name": B, "retry": {"attempts": 1}}),
        body_of("fallback", A, {"model_name": B, "retry": {"attempts": 2}}),
    ),
    "more attempts of all that is drawn": (
        {**body_of("loadbalance", A, B), "retry": {"attempts": 1}},
        {**body_of("loadbalance", A, B), "retry": {"attempts": 5}},
    ),
}


@pytest.mark.parametrize("case", SAFER)
def test_what_only_makes_it_safer_is_proven_to_lose_nothing(case: str) -> None:
    before, after = map(document, SAFER[case])
    effect = compare(before, after)
    assert effect.sure
    assert (effect.worse, effect.together) == ((), None)


def test_failures_of_several_models_at_once_are_looked_for() -> None:
    """Each model alone is survived by both; two of them are not."""
    three = body_of("fallback", A, B, "virtual-model/x/c")
    effect = compare(document(three), document(body_of("fallback", A, B)))
    assert effect.worse == ()
    assert effect.together is not None
    assert {name for name, _ in effect.together.failing} == {A, B}
    assert (effect.together.before, effect.together.after) == (1, 0)


def test_more_attempts_lose_what_changes_from_call_to_call() -> None:
    """A 503 moves on, and a 400 after it does not: repeating the first call ends the request."""
    one, other = (
        {**body_of("fallback", A, B, codes=[503]), "retry": {"attempts": number, "on_status_codes": [503]}} for number in (0, 1)
    )
    effect = compare(document(one), document(other))
    assert not effect.sure
    assert effect.together is not None
    assert [len(answers) for _, answers in effect.together.failing] == [2]


def test_a_shift_of_weights_is_a_shift() -> None:
    one, other = (
        {"strategy": {"mode": "loadbalance"}, "targets": [{"model_name": A, "weight": weight}, {"model_name": B}]}
        for weight in (1, 4)
    )
    assert compare(document(one), document(other)).shift
    assert not compare(document(one), document(body_of("fallback", A, B, codes=[429]))).shift


def test_a_policy_that_the_gateway_begins_to_refuse_shows_why() -> None:
    broken = {**OLD, "retry": {"on_status_codes": [503]}}
    effect = compare(document(OLD), document(broken))
    assert effect.refused == "policy has a retry without attempts"
    assert {cell.after for cell in effect.worse} == {0}
    assert effect.usual == Delta("usual", 1, 0)
    assert effect.traffic == 1


def test_a_policy_that_stays_refused_does_not_move() -> None:
    one, other = ({**OLD, "retry": {"on_status_codes": [code]}} for code in (503, 429))
    assert compare(document(one), document(other)) == Effect("equivalent", sure=True)
    assert compare(document(one), document(OLD)).was_refused == "policy has a retry without attempts"


def header(body: dict[str, Any], attempts: int, **more: Any) -> dict[str, Any]:
    return {**body, "retry": {"attempts": attempts, "use_retry_after_header": True, **more}}


WAITING: dict[str, tuple[dict[str, Any], dict[str, Any], Effect]] = {
    "where nothing comes after": (
        body_of("single", A, attempts=1),
        header(body_of("single", A), 1),
        Effect("effective", waits=Delta("waits", 1, 61), latency=Delta("latency", 61, 121)),
    ),
    "before a failover": (
        body_of("fallback", A, B, attempts=2),
        header(body_of("fallback", A, B), 2),
        Effect(
            "effective",
            waits=Delta("waits", 6, 126),
            failover=Delta("failover", 3, 63),
            latency=Delta("latency", 186, 306),
        ),
    ),
    "where a 429 ends the request": (
        body_of("fallback", A, B, codes=[503], attempts=2),
        header(body_of("fallback", A, B, codes=[503]), 2),
        Effect(
            "effective",
            waits=Delta("waits", 6, 124),
            failover=Delta("failover", 3, 61),
            latency=Delta("latency", 186, 304),
        ),
    ),
    "where no 429 is retried": (
        {**body_of("single", A), "retry": {"attempts": 2, "on_status_codes": [503]}},
        header(body_of("single", A), 2, on_status_codes=[503]),
        Effect("equivalent", sure=True),
    ),
}


@pytest.mark.parametrize("case", WAITING)
def test_obeying_a_retry_after_costs_time(case: str) -> None:
    """And nothing else: calls, shares and outages stay. That nothing is lost is not proven: a long one ends the attempts."""
    before, after, expected = WAITING[case]
    assert compare(document(before), document(after), declared=DeclaredModels({A: 30, B: 30})) == expected


CONDITIONAL = {
    "strategy": {"mode": "conditional", "conditions": [{"query": {}, "then": "a"}], "default": "a"},
    "targets": [{"name": "a", "model_name": A}],
}
# What policyctl does not know, and where. The profile's gateway takes `conditional`, and refuses every other mode.
NOT_KNOWN: dict[str, tuple[Any, Any, str]] = {
    "a mode that the gateway takes": (CONDITIONAL, OLD, 'policy has mode "conditional"'),
    "a mode that it refuses": ({**OLD, "strategy": {"mode": "weighted"}}, OLD, 'policy has mode "weighted"'),
    "another spelling": ({**OLD, "strategy": {"mode": "Fallback"}}, OLD, 'policy has mode "Fallback"'),
    "in a group": (body_of("fallback", A, CONDITIONAL), OLD, 'policy.targets[1] has mode "conditional"'),
    "in a group deep down": (
        body_of("loadbalance", body_of("fallback", A, {**CONDITIONAL, "weight": 0.5})),
        OLD,
        'policy.targets[0].targets[1] has mode "conditional"',
    ),
    "on the other side": (OLD, CONDITIONAL, 'policy has mode "conditional"'),
    "on both sides": (CONDITIONAL, {**CONDITIONAL, "targets": []}, 'policy has mode "conditional"'),
    "beside a refusal": ({**CONDITIONAL, "retry": {}}, OLD, 'policy has mode "conditional"'),
    "in a policy that is a target": (
        body_of("fallback", "virtual-policy/live", B),
        OLD,
        'virtual-policy/live: policy has mode "conditional"',
    ),
    "in a policy that is a target, by a mode that the gateway refuses": (
        body_of("fallback", "virtual-policy/weighted", B),
        OLD,
        'virtual-policy/weighted: policy has mode "weighted"',
    ),
}
LIVE = {
    "virtual-policy/live": {"name": "virtual-policy/live", "policy": CONDITIONAL},
    "virtual-policy/weighted": {"name": "virtual-policy/weighted", "policy": {**OLD, "strategy": {"mode": "weighted"}}},
}


@pytest.mark.parametrize("case", NOT_KNOWN)
def test_nothing_is_reported_of_a_mode_that_is_not_known(case: str) -> None:
    """Not that it was refused, nor that anything gets better, worse, or is newly reachable."""
    before, after, why = NOT_KNOWN[case]
    expected = Effect("unknown", unknown=f"{why}, which policyctl does not know")
    assert compare(document(before), document(after), LIVE, LIVE) == expected
    assert compare(document(after), document(before), LIVE, LIVE).kind == "unknown"


def test_metadata_of_a_policy_that_is_not_known_is_metadata() -> None:
    one = document(body_of("fallback", "virtual-policy/live", B))
    assert compare(one, {**one, "description": "other"}, LIVE, LIVE) == Effect("metadata", sure=True)
    assert compare(one, document(normal_form(one)["policy"]), LIVE, LIVE) == Effect("metadata", sure=True)


def test_a_policy_nested_too_deeply_is_not_known() -> None:
    deep = OLD
    for _ in range(MAX_DEPTH + 1):
        deep = body_of("single", deep)
    effect = compare(document(deep), document(OLD))
    assert effect.kind == "unknown"
    assert "groups are nested more than" in str(effect.unknown)


@pytest.mark.parametrize("count", [9, 300, pytest.param(MAX_TARGETS - 1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("provider", ["one", "each its own"])
def test_many_small_shares_are_all_of_the_requests(count: int, provider: str) -> None:
    """No rounding of a share becomes a request that is lost, or traffic that moved."""
    names = [f"virtual-model/x{number if provider != 'one' else ''}/{number}" for number in range(count)]
    targets = [{"model_name": name, "weight": 1 / 3000} for name in names]
    many = document({"strategy": {"mode": "loadbalance"}, "targets": [{"model_name": A, "weight": 1}, *targets]})
    for before, after in ((document(OLD), many), (many, document(OLD))):
        effect = compare(before, after)
        assert effect.usual is None
        assert effect.traffic <= 1
    assert analyse(many).usual == 1
    moved = compare(document(body_of("single", A)), many)
    assert moved.traffic == pytest.approx(count / (3000 + count), abs=1e-12)
    assert compare(document(body_of("single", B)), many).traffic == 1


def test_an_added_policy_has_all_its_models_newly_reachable() -> None:
    effect = compare(None, document(OLD))
    assert effect.models == (Delta(A, 0, 0.75), Delta(B, 0, 0.25))
    assert effect.added == (Reached(A, ""), Reached(B, ""))
    assert effect.calls == Delta("calls", None, 4)
    assert (effect.worse, effect.better) == ((), ())


@pytest.mark.slow
def test_work_does_not_double_with_every_level() -> None:
    """Sixty fallbacks in one another, each with a list of its own."""
    body: dict[str, Any] = {"model_name": A}
    for level in range(60):
        body = body_of("fallback", body, f"virtual-model/x/{level}", body_of("single", B), codes=[430 + level, 429])
    seen = analyse(document(body))
    assert seen.calls.value == 1 + 60 * 2
    assert len(seen.reach) == 62


def test_what_is_nested_without_end_is_an_error_not_a_crash() -> None:
    body: dict[str, Any] = body_of("single", A)
    for _ in range(400):
        body = body_of("single", body)
    with pytest.raises(PolicyctlError, match="nested more than 200 deep"):
        read_tree(document(body))
