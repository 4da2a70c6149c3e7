"""Each structural rule finds what it is for, at the right place, and nothing else."""

from __future__ import annotations

import pytest

from policyctl.lint.directory import lint
from policyctl.rules import DEEP_CODES, DEFAULT_CODES, LINT_CODES, REFERENCE_CODES, RULES
from policyctl.rules.lint import MODEL_RULES
from tests.lint.builders import A, B, C, Target, group, model, retry

COMMENT_CODES = {"P491", "P492"}
SETTING_CODES = {"P461", "P462"}
MODEL_CODES = {rule.code for rule in MODEL_RULES}  # in test_virtual_models
UNREAD_CODES = {"P471", "P472", "P473"}  # of files that are not read


BALANCED = group("loadbalance", A, B)
HEADER = {"use_retry_after_header": True}
OFF = group("single", B, retry=retry(0))

# what the case shows: (the policy, the findings as "code path")
CASES: dict[str, tuple[Target, list[str]]] = {
    "a plain load balance": (group("loadbalance", model("a", 0.75), model("b", 0.25)), []),
    "a load balance without weights": (BALANCED, []),
    "a guarded single": (group("single", A, retry=retry(2)), []),
    "a fallback with codes": (group("fallback", A, B, codes=[429, 503], retry=retry(1, [429])), []),
    "a single with two targets": (group("single", A, B), ["P401 targets.1"]),
    "a nested single with three": (group("loadbalance", C, group("single", A, B, C)), ["P401 targets.1.targets.1"]),
    "a dead group is not looked into": (group("single", C, group("single", A, B)), ["P401 targets.1"]),
    "an empty list on a fallback": (group("fallback", A, B, codes=[]), ["P402 strategy.on_status_codes"]),
    "a list of nothing that comes": (group("fallback", A, B, codes=[205, 304, 407]), ["P402 strategy.on_status_codes"]),
    "a duplicate behind an empty list is only dead": (group("fallback", A, A, codes=[]), ["P402 strategy.on_status_codes"]),
    "a fallback of one": (group("fallback", A), ["P403 strategy.mode"]),
    "a fallback of one, whatever its codes": (group("fallback", A, codes=[200, 407]), ["P403 strategy.mode"]),
    "a load balance of one": (group("loadbalance", A), ["P404 strategy.mode"]),
    "a load balance of one with a weight": (group("loadbalance", model("a", 0.5)), ["P404 strategy.mode"]),
    "a model twice under fallback": (group("fallback", A, B, A, codes=[503]), ["P405 targets.2"]),
    "a model three times under loadbalance": (group("loadbalance", A, A, A), ["P405 targets.1", "P405 targets.2"]),
    "one model in two groups": (group("fallback", A, group("fallback", A, B, codes=[429]), codes=[503]), []),
    "one load balance twice draws twice": (group("fallback", BALANCED, BALANCED, codes=[503]), []),
    "a fallback on a success": (
        group("fallback", A, B, codes=[503, 200, 299, 300]),
        ["P411 strategy.on_status_codes.1", "P411 strategy.on_status_codes.2"],
    ),
    "a retry on a success": (group("single", A, retry=retry(1, [201, 199])), ["P412 retry.on_status_codes.0"]),
    "codes that never move on": (
        group("fallback", A, B, codes=[407, 500, 304, 205]),
        ["P413 strategy.on_status_codes.0", "P413 strategy.on_status_codes.2", "P413 strategy.on_status_codes.3"],
    ),
    "the same codes are fine in a retry": (group("single", A, retry=retry(1, [304, 407])), []),
    "a code twice": (
        group("fallback", A, B, codes=[503, 429, 503], retry=retry(1, [429, 429])),
        ["P414 strategy.on_status_codes.2", "P414 retry.on_status_codes.1"],
    ),
    "a fallback without codes": (group("fallback", A, B), ["P415 strategy"]),
    "codes on a load balance": (group("loadbalance", A, B, codes=[503, 503]), ["P416 strategy.on_status_codes"]),
    "codes on a single, an empty list too": (group("single", A, codes=[]), ["P416 strategy.on_status_codes"]),
    "codes without attempts": (group("single", A, retry=retry(0, [200])), ["P421 retry.on_status_codes"]),
    "an empty list without attempts": (group("single", A, retry=retry(0, [])), ["P421 retry.on_status_codes"]),
    "no attempts and nothing to switch off": (group("single", A, retry=retry(0)), ["P422 retry.attempts"]),
    "no attempts below an outer retry switch it off": (
        group("loadbalance", C, group("loadbalance", A, OFF), retry=retry(1)),
        [],
    ),
    "no attempts below a nearer retry that has none either": (
        group("loadbalance", C, group("loadbalance", A, OFF, retry=retry(0)), retry=retry(1)),
        ["P422 targets.1.targets.1.retry.attempts"],
    ),
    "a retry on no status": (group("single", A, retry=retry(2, [])), ["P423 retry.on_status_codes"]),
    "a Retry-After where 429 is retried": (group("single", A, retry={**retry(2), **HEADER}), []),
    "a Retry-After where 429 is on the list": (group("single", A, retry={**retry(2, [429]), **HEADER}), []),
    "a Retry-After where 429 is not on the list": (
        group("single", A, retry={**retry(2, [503]), **HEADER}),
        ["P425 retry.use_retry_after_header"],
    ),
    "a Retry-After without attempts": (
        group("single", A, retry={**retry(0), **HEADER}),
        ["P425 retry.use_retry_after_header", "P422 retry.attempts"],
    ),
    "a Retry-After that is off": (
        group("single", A, retry={**retry(2, [503]), "use_retry_after_header": False}),
        [],
    ),
    "a retry that every target overrides": (
        group("loadbalance", group("single", A, retry=retry(2)), OFF, retry=retry(1)),
        ["P424 retry"],
    ),
    "a retry that a deep target inherits": (
        group("loadbalance", OFF, group("single", group("single", A)), retry=retry(1)),
        [],
    ),
    "a retry that only a dead target would inherit": (
        group("single", OFF, A, retry=retry(1)),
        ["P401 targets.1", "P424 retry"],
    ),
    "a retry around policies, deep in a group too": (
        group("fallback", model("virtual-policy/q"), group("single", model("virtual-policy/r")), codes=[503], retry=retry(2)),
        ["P426 retry"],
    ),
    "a retry beside a policy in a group without one": (
        group("loadbalance", group("single", model("virtual-policy/q"), retry=retry(0)), A, retry=retry(2)),
        [],
    ),
    "a retry without attempts around a policy": (
        group("single", model("virtual-policy/q"), retry=retry(0)),
        ["P422 retry.attempts"],
    ),
    "a retry around a policy that is never asked": (
        group("single", A, model("virtual-policy/q"), retry=retry(2)),
        ["P401 targets.1"],
    ),
    "a weight missing beside a fraction": (group("loadbalance", model("c", 0.25), A, B), ["P431 targets.1"]),
    "a group without a weight beside a fraction": (
        group("loadbalance", model("c", 0.25), group("single", B)),
        ["P431 targets.1"],
    ),
    "weights that sum to more than 1": (group("loadbalance", model("a", 0.75), model("b", 0.75)), ["P432 targets"]),
    "a weight of 1 beside none": (group("loadbalance", model("c", 1), A), ["P432 targets"]),
    "thirds": (group("loadbalance", model("a", 0.333), model("b", 0.333), model("c", 0.333)), []),
    "less than thirds": (group("loadbalance", model("a", 0.33), model("b", 0.33), model("c", 0.33)), ["P432 targets"]),
    "weights that sum to 1 but for rounding": (group("loadbalance", model("a", 0.7), model("b", 0.2), model("c", 0.1)), []),
    "weights under fallback, where 1 says nothing": (
        group("fallback", model("a", 0.5), model("b", 1), codes=[503]),
        ["P433 targets.0.weight"],
    ),
    "a weight under single": (group("single", model("a", 0.5)), ["P433 targets.0.weight"]),
    "names without a prefix": (
        group("loadbalance", {"model_name": "gpt-4o"}, model("openai/gpt-4o"), model("virtual-policy/x")),
        ["P441 targets.0.model_name", "P441 targets.1.model_name"],
    ),
    "names without a provider or a model": (
        group("loadbalance", *map(model, ("virtual-model/a", "virtual-model//b", "virtual-model/a/", "virtual-model/a/b/c"))),
        ["P442 targets.0.model_name", "P442 targets.1.model_name", "P442 targets.2.model_name"],
    ),
    "placeholders of other tools": (
        group("fallback", model("${A}"), model("b"), group("loadbalance", model("$(C)"), model("d")), codes=[503]),
        ["P443 targets.0.model_name", "P443 targets.2.targets.0.model_name"],
    ),
    "what only looks a little like a placeholder": (
        group("loadbalance", *map(model, ("ft:gpt-4o:acme::8a", "a$", "50%off", "a<b", "x_y__z", "{", "a@b", "v1.0(beta)"))),
        [],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_rule_finds_what_it_is_for(name: str) -> None:
    """Every finding and no other, of all rules."""
    policy, expected = CASES[name]
    complaints = lint({"name": "virtual-policy/x", "policy": policy}, LINT_CODES)
    found = sorted(f"{complaint.code} {'.'.join(map(str, complaint.path[1:]))}" for complaint in complaints)
    assert found == sorted(expected)


def test_every_rule_over_one_policy_has_a_case() -> None:
    """A rule without a case would be a rule that was never seen at work."""
    seen = {finding.split()[0] for _, findings in CASES.values() for finding in findings}
    others = REFERENCE_CODES | COMMENT_CODES | SETTING_CODES | UNREAD_CODES | DEEP_CODES | MODEL_CODES
    assert seen == LINT_CODES - others


def test_findings_have_the_severity_of_the_catalogue_and_infos_are_not_looked_for_by_default() -> None:
    """Without being asked for more, lint yields warnings only."""
    for policy, _ in CASES.values():
        for complaint in lint({"name": "x", "policy": policy}):
            assert complaint.severity == RULES[complaint.code].severity != "info"
            assert complaint.code in DEFAULT_CODES


MESSAGES = {
    "no weight counts as 1, beside 0.25, so this target gets 80% (write its weight)": group("loadbalance", model("c", 0.25), A),
    "the weights sum to 0.75, not 1, so the first target gets 66.67% of the requests (make them sum to 1)": group(
        "loadbalance", model("a", 0.5), model("b", 0.25)
    ),
    "this fallback never moves on: an empty code list triggers on nothing; the other 2 targets are dead "
    "(list codes, or remove on_status_codes)": group("fallback", A, B, C, codes=[]),
    "this fallback never moves on: no target's result has one of these codes; the other target is dead "
    "(list codes, or remove on_status_codes)": group("fallback", A, B, codes=[407]),
    "virtual-model/x/a is target 1 already and is asked again without a wait "
    "(remove it; to ask a model again after a wait, use retry)": group("fallback", A, A, codes=[503]),
    "an empty code list retries no status, only broken connections (remove it for 429, 500, 502, 503, 504)": group(
        "single", A, retry=retry(1, [])
    ),
}


@pytest.mark.parametrize("message", MESSAGES)
def test_a_message_shows_the_value_and_what_to_do(message: str) -> None:
    """The numbers in it are those of the policy."""
    complaints = lint({"name": "x", "policy": MESSAGES[message]}, LINT_CODES)
    assert [complaint.message for complaint in complaints] == [message]
