"""Who merges a change approves what its section on the page shows, so two different changes never look the same there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement, product
from typing import Any

import pytest

from policyctl.plan.change import Change
from policyctl.plan.diff import fields_between
from policyctl.policy.document import Document, canonical_text, normal_form
from policyctl.report.plan_items import Item, opened

Group = dict[str, Any]


def group(mode: str, *targets: Group, **more: Any) -> Group:
    return {"strategy": {"mode": mode}, "targets": list(targets), **more}


RETRY = {"retry": {"attempts": 1}}
A, B, C = ({"model_name": f"virtual-model/x/{name}"} for name in "abc")
ONE, OTHER = group("loadbalance", A, B), group("fallback", A, C)


def groups(targets: tuple[Group, ...], count: int) -> Iterator[Group]:
    """Every group of that many of these targets, less the ways to write the same load balance."""
    yield from (group("fallback", *chosen) for chosen in product(targets, repeat=count))
    yield from (group("loadbalance", *chosen) for chosen in combinations_with_replacement(targets, count))


MODELS, GROUPS, MIXED = (A, B, C), (ONE, OTHER), (A, {**A, **RETRY}, ONE)
CASES = {
    "targets are added": (groups((A, ONE), 1), groups(MODELS, 3)),
    "targets are removed": (groups(MIXED, 3), groups(MIXED, 2)),
    "targets are replaced": (groups((*MIXED, B), 2), groups((*MIXED, B), 2)),
    "groups change": (groups(GROUPS, 2), groups((*GROUPS, *({**one, **RETRY} for one in GROUPS)), 2)),
    "targets of a group change": (
        (group("single", one) for one in groups(MIXED, 2)),
        (group("single", one) for one in groups(MIXED, 2)),
    ),
}


def section(before: Document, after: Document) -> str:
    change = Change("update", "virtual-policy/x", "1", before, after, fields_between(before, after))
    return opened(Item("update", change.name, change, None, None, before, after, verbose=False))


@pytest.mark.parametrize("case", CASES)
def test_two_changes_of_a_policy_never_have_one_section(case: str) -> None:
    befores, afters = ([{"name": "x", "policy": policy} for policy in policies] for policies in CASES[case])
    for before in map(normal_form, befores):
        seen: dict[str, Document] = {}
        for after in afters:
            if (normal := normal_form(after)) != before:
                other = seen.setdefault(section(before, after), normal)
                assert canonical_text(other) == canonical_text(normal), section(before, after)
