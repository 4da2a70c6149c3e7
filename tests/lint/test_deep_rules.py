"""Each rule of the effect engine finds what it is for, at the right place, and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings

from policyctl.lint.targets import check_deep
from policyctl.rules import DEEP_CODES, RULES
from tests.examples import examples
from tests.lint.builders import A, B, C, group, model, retry
from tests.lint.small_gateway import MODELS, Gateway, policies

D = model("virtual-model/y/d")
Body = dict[str, Any]


def document(body: Body, name: str = "p") -> Body:
    """The body as a policy document."""
    return {"name": f"virtual-policy/{name}", "policy": body}


def found(body: Body, *codes: str, others: dict[str, Body] | None = None) -> list[str]:
    """The findings as `code path`, below the policy."""
    known = {f"virtual-policy/{name}": document(other, name) for name, other in (others or {}).items()}
    complaints = list(check_deep(document(body), known, codes))
    assert all(complaint.severity == RULES[complaint.code].severity for complaint in complaints)
    assert {complaint.path[0] for complaint in complaints} <= {"policy"}
    return [f"{complaint.code} {'.'.join(map(str, complaint.path[1:]))}" for complaint in complaints]


LIST = "strategy.on_status_codes"
TIMEOUTS: dict[str, tuple[Body, list[str]]] = {
    "a list without 408": (group("fallback", A, B, codes=[503]), [f"P501 {LIST}"]),
    "a list with 408": (group("fallback", A, B, codes=[408, 503]), []),
    "no list": (group("fallback", A, B), []),
    "an empty list never moves on anyway": (group("fallback", A, B, codes=[]), []),
    "a load balance does not look at its list": (group("loadbalance", A, B, codes=[503]), []),
    "nowhere to go": (group("fallback", A, codes=[503]), []),
    "only the same model again": (group("fallback", A, A, codes=[503]), []),
    "the outer fallback moves on": (group("fallback", group("fallback", A, B, codes=[503]), C, codes=[408]), []),
    "the outer fallback does not": (
        group("fallback", group("fallback", A, B, codes=[408]), C, codes=[503]),
        [],
    ),
    "neither does": (
        group("fallback", group("fallback", A, B, codes=[503]), C, codes=[503]),
        [f"P501 {LIST}", f"P501 targets.0.{LIST}"],
    ),
    "a part of the requests": (
        group("loadbalance", C, group("fallback", A, B, codes=[503])),
        [f"P501 targets.1.{LIST}"],
    ),
    "a group that is never asked": (group("single", A, group("fallback", A, B, codes=[503])), []),
    "a list with nothing but a success": (group("fallback", A, B, codes=[200]), [f"P501 {LIST}"]),
}


@pytest.mark.parametrize("name", TIMEOUTS)
def test_a_list_without_408_is_found_where_408_would_help(name: str) -> None:
    body, expected = TIMEOUTS[name]
    assert found(body, "P501") == expected


RETRIED = retry(5)
CALLS: dict[str, tuple[Body, list[str]]] = {
    "twelve": (group("fallback", A, B, codes=[503], retry=RETRIED), []),
    "eighteen": (group("fallback", A, B, C, codes=[503], retry=RETRIED), ["P502 strategy"]),
    "thirteen of one": (group("single", A, retry=retry(12)), ["P502 strategy"]),
    "a load balance draws one": (group("loadbalance", A, B, C, retry=RETRIED), []),
    "a nested group": (
        group("loadbalance", A, group("fallback", A, B, C, codes=[503], retry=RETRIED)),
        ["P502 strategy"],
    ),
    "a retry that is switched off": (
        group("fallback", A, B, group("single", C, retry=retry(0)), retry=RETRIED),
        ["P502 strategy"],
    ),
    "targets that no request comes to": (group("fallback", A, B, C, codes=[], retry=RETRIED), []),
}


@pytest.mark.parametrize("name", CALLS)
def test_more_than_twelve_calls_are_found(name: str) -> None:
    body, expected = CALLS[name]
    assert found(body, "P502") == expected


POINTS: dict[str, tuple[Body, list[str]]] = {
    "one model": (group("single", A), ["P503 targets.0.model_name"]),
    "two models of one provider": (group("loadbalance", A, B), ["P503 strategy"]),
    "two providers": (group("loadbalance", A, D), []),
    "a fallback that moves on": (group("fallback", A, D, codes=[500, 503]), []),
    "a fallback that moves on from one of the two": (group("fallback", A, D, codes=[503]), ["P503 targets.0.model_name"]),
    "a fallback to the same provider": (group("fallback", A, B), ["P503 strategy"]),
    "a model in a group": (
        group("fallback", group("single", group("loadbalance", A, A)), D, codes=[429]),
        ["P503 targets.0.targets.0.targets.0.model_name"],
    ),
    "a model that is never asked": (group("fallback", A, D, codes=[]), ["P503 targets.0.model_name"]),
}


@pytest.mark.parametrize("name", POINTS)
def test_what_takes_everything_down_with_it_is_found(name: str) -> None:
    body, expected = POINTS[name]
    assert found(body, "P503") == expected


def test_a_target_that_is_a_policy_counts_with_what_it_does() -> None:
    body = group("fallback", model("virtual-policy/q"), D, codes=[408, 500, 503])
    assert found(body, *DEEP_CODES) == []
    inner = group("fallback", A, B, codes=[429], retry=retry(12))
    assert found(body, "P502", "P503", others={"q": inner}) == ["P502 strategy"]
    alone = group("single", model("virtual-policy/q"))
    assert found(alone, "P503", others={"q": group("single", A)}) == ["P503 strategy"]


def test_policies_that_cannot_be_followed_together_are_left_alone() -> None:
    """Each is no deeper than a file may be; all together they are."""

    def deep(last: str) -> Body:
        body = group("single", model(last))
        for _ in range(60):
            body = group("single", body)
        return body

    others = {name: deep(f"virtual-policy/{following}") for name, following in zip("qrst", "rstu", strict=True)}
    assert found(deep("virtual-policy/q"), *DEEP_CODES, others=others) == []


def test_only_the_codes_that_are_asked_for_are_looked_for() -> None:
    body = group("fallback", A, B, C, codes=[503], retry=RETRIED)
    assert {line.split()[0] for line in found(body, *DEEP_CODES)} == DEEP_CODES
    assert found(body) == []


MESSAGES = {
    "P501": "without 408 a timeout of x/a ends the request here; another target could serve it (add 408)",
    "P502": "one request may become 18 calls, more than 12: 6 × x/a, 6 × x/b, 6 × x/c (lower attempts, or list fewer targets)",
    "P503": "no request is served while x/a answers 500 (have a fallback move on then)",
}


@pytest.mark.parametrize("code", MESSAGES)
def test_a_message_shows_who_does_it_and_what_to_do(code: str) -> None:
    body = group("fallback", A, B, C, codes=[503], retry=RETRIED)
    assert MESSAGES[code] in [complaint.message for complaint in check_deep(document(body), {}, [code])]


@settings(max_examples=examples(75))
@given(policies)
def test_without_a_single_point_nothing_is_served_whatever_is_drawn(body: Body) -> None:
    """Held to the small gateway, which knows nothing of the engine."""
    for complaint in check_deep(document(body), {}, ["P503"]):
        down = [name for name in MODELS if name.removeprefix("virtual-model/") in complaint.message] or MODELS
        for status in [status for status in (500, 503) if str(status) in complaint.message]:
            script = {name: [status if name in down else 200] for name in MODELS}
            assert all(not 200 <= Gateway(script, seed).request(body)[0] <= 299 for seed in range(20)), complaint
