"""Who merges a change approves what its section on the page shows, so two different changes never look the same there."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import combinations_with_replacement, product
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from policyctl.plan.diff import FieldChange, fields_between
from policyctl.plan.plan import Change
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


LONG = "the rules of the house, as they are written on the door; " * 5
SWITCHES = st.lists(st.booleans(), max_size=4)


@given(SWITCHES, SWITCHES, SWITCHES)
@example([True, True], [False, True], [True, False])
def test_two_changes_of_a_long_value_never_look_the_same(before: list[bool], one: list[bool], other: list[bool]) -> None:
    """Also where the same stands around what differs."""
    assume(before != one != other != before)

    def text(switches: list[bool]) -> str:
        return LONG.join(["", *(f"{switch} " for switch in switches), ""])

    def entries(switches: list[bool]) -> list[Any]:
        return [{"id": place, "note": LONG, "deny": switch, "more": LONG} for place, switch in enumerate(switches)]

    for form in (text, entries):
        shown = [section_of("description", form(before), form(after)) for after in (one, other)]
        assert shown[0] != shown[1]


def test_entries_of_a_list_that_are_equal_only_to_python_are_shown() -> None:
    shown = section_of("config.flags", [1] * 200, [1] * 199 + [True])
    assert "+ config.flags: [(… 199 entries), true]\n" in shown


def section_of(path: str, before: Any, after: Any) -> str:
    change = Change("update", "virtual-model/x/m", "1", {}, {}, (FieldChange(path, before, after),))
    return opened(Item("update", change.name, change, None, None, None, None, verbose=False))
