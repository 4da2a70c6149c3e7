"""Desired against live: which changes, in which order, what is left alone."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.errors import Refused
from policyctl.plan.plan import Counts, Selection, add
from policyctl.plan.references import before_each, find_cycle, ordered
from policyctl.plan.settings import Settings
from policyctl.policy.live import observe_rows
from tests.builders import live, names, plan, policy, row


def test_adds_updates_removes_and_leaves_the_rest() -> None:
    found = plan(
        [policy("new"), policy("changed", "b"), policy("same")],
        [row("changed"), row("same"), row("old"), row("virtual-policy/z")],
    )
    assert names(found) == ["~ changed", "+ new", "- old", "- z"]
    assert found.counts == Counts(unchanged=1, managed=4)


def test_both_spellings_are_one_policy() -> None:
    assert names(plan([policy("virtual-policy/a"), policy("b")], [row("a"), row("virtual-policy/b")])) == []


def test_outside_the_scope_is_counted_and_left_alone() -> None:
    found = plan([policy("team-a")], [row("team-a"), row("team-b"), row("other")], Settings(scope=("team-*",)))
    assert names(found) == ["- team-b"]
    assert found.counts == Counts(unchanged=1, outside_scope=1, managed=2)


def test_without_leave_to_remove_the_rest_is_unmanaged() -> None:
    found = plan([policy("a")], [row("a"), row("b")], removes=False)
    assert names(found) == []
    assert found.counts == Counts(unchanged=1, unmanaged=1, managed=1)


def test_twins_and_unreadable_rows_that_a_file_names_block_only_themselves() -> None:
    rows = [row("a"), row("virtual-policy/a"), {"id": "3", "name": "b"}, {"id": "4", "name": "c"}]
    found = plan([policy("a", "x"), policy("b"), policy("d")], rows)
    assert names(found) == ["+ d"]
    assert [(block.name, block.ids) for block in found.blocked] == [
        ("virtual-policy/a", ("id-a", "id-virtual-policy/a")),
        ("virtual-policy/b", ("3",)),
    ]


def test_twins_that_no_file_names_are_not_removed() -> None:
    found = plan([policy("b")], [row("a"), row("virtual-policy/a"), row("b")])
    assert names(found) == []
    assert [block.name for block in found.blocked] == ["virtual-policy/a"]


SELECTIONS = {
    "only, bare": (Selection(only=("team-*",)), ["+ team-a", "+ team-b"]),
    "only, canonical": (Selection(only=("virtual-policy/team-a",)), ["+ team-a"]),
    "exclude": (Selection(exclude=("*-a",)), ["+ other", "+ team-b"]),
    "both": (Selection(only=("team-*",), exclude=("*-a",)), ["+ team-b"]),
    "several": (Selection(only=("team-a", "other")), ["+ other", "+ team-a"]),
    "nothing": (Selection(only=("nope",)), []),
}


@pytest.mark.parametrize("case", SELECTIONS)
def test_selection(case: str) -> None:
    selection, expected = SELECTIONS[case]
    found = plan([policy("team-a"), policy("team-b"), policy("other")], [], selection=selection)
    assert names(found) == expected
    assert found.counts.unselected == 3 - len(expected)


def test_a_selection_that_leaves_out_a_new_policy_it_needs_is_refused() -> None:
    with pytest.raises(Refused, match="virtual-policy/a targets the new policy virtual-policy/b"):
        plan([policy("a", "virtual-policy/b"), policy("b")], [], selection=Selection(only=("a",)))


def test_what_is_referenced_is_added_first_and_removed_last() -> None:
    added = plan([policy("a", "virtual-policy/c"), policy("b"), policy("c", "virtual-policy/d"), policy("d")], [])
    assert names(added) == ["+ b", "+ d", "+ c", "+ a"]
    removed = plan([policy("keep")], [row("d"), row("c", "virtual-policy/d"), row("a", "virtual-policy/c")])
    assert names(removed) == ["+ keep", "- a", "- c", "- d"]


def test_a_policy_is_removed_after_the_update_that_lets_go_of_it() -> None:
    found = plan([policy("user", "m")], [row("user", "virtual-policy/old"), row("old")])
    assert names(found) == ["~ user", "- old"]


def test_live_policies_that_target_each_other_can_be_removed() -> None:
    found = plan([policy("keep")], [row("a", "virtual-policy/b"), row("b", "virtual-policy/a"), row("keep")])
    assert sorted(names(found)) == ["- a", "- b"]


CYCLES: dict[str, tuple[dict[str, list[str]], list[str] | None]] = {
    "none": ({"a": ["b"], "b": ["c"]}, None),
    "itself": ({"a": ["a"]}, ["a", "a"]),
    "two": ({"b": ["a"], "a": ["b"]}, ["a", "b", "a"]),
    "behind a path": ({"a": ["b"], "b": ["c"], "c": ["d"], "d": ["b"]}, ["b", "c", "d", "b"]),
    "a diamond is none": ({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": []}, None),
}


@pytest.mark.parametrize("case", CYCLES)
def test_cycles(case: str) -> None:
    graph, expected = CYCLES[case]
    assert find_cycle(graph) == expected


@st.composite
def _sets(draw: st.DrawFn) -> tuple[list[Any], list[Any]]:
    pool = [f"p{number}" for number in range(8)]
    references = st.lists(st.sampled_from([f"virtual-policy/{name}" for name in pool]), max_size=3)
    desired = [policy(name, *draw(references)) for name in draw(st.sets(st.sampled_from(pool)))]
    rows = [row(name, *draw(references)) for name in draw(st.sets(st.sampled_from(pool)))]
    return desired, rows


@given(_sets())
def test_the_order_keeps_every_prerequisite_except_in_circles(sets: tuple[list[Any], list[Any]]) -> None:
    changes = plan(*sets).changes
    assert sorted(change.name for change in ordered(changes)) == sorted(change.name for change in changes)
    position = {change.name: index for index, change in enumerate(changes)}
    needs = before_each(changes)
    if find_cycle(needs) is None:
        assert all(position[need] < position[name] for name, all_needs in needs.items() for need in all_needs)


class Name(str):
    """A name that counts how often names are looked up."""

    __slots__ = ()
    lookups = 0

    def __hash__(self) -> int:
        Name.lookups += 1
        return super().__hash__()

    __eq__ = str.__eq__


@pytest.mark.parametrize("chained", [False, True], ids=["side by side", "in a chain"])
def test_twice_as_many_changes_take_twice_the_lookups(chained: bool) -> None:
    """Else a first apply of a large directory would spend its time on the order."""

    def lookups(count: int) -> int:
        target = "virtual-policy/policy-{:04}" if chained else "virtual-model/m/{}"
        changes = [
            change._replace(name=Name(change.name))
            for change in (add(policy(f"policy-{number:04}", target.format(number + 1))) for number in range(count))
        ]
        Name.lookups = 0
        assert len(ordered(changes)) == count
        return Name.lookups

    assert 0 < lookups(400) <= 2.1 * lookups(200)


def test_the_digest_holds_no_file_and_nothing_that_the_plan_leaves_alone() -> None:
    wanted = policy("a")
    elsewhere = type(wanted)(wanted.name, wanted.document, "other/file.yaml", 3)
    assert plan([wanted], []).digest == plan([elsewhere, policy("b")], [row("b")]).digest


def test_the_digest_moves_with_what_is_written_and_what_is_replaced() -> None:
    digests = {
        plan([policy("a", "m")], []).digest,
        plan([policy("a", "n")], []).digest,
        plan([policy("a", "m")], [row("a", "n")]).digest,
        plan([policy("a", "m")], [row("a", "o")]).digest,
        plan([policy("a", "m")], [{**row("a", "o"), "id": "another"}]).digest,
    }
    assert len(digests) == 5


def test_observed_live_is_compared_by_normal_form() -> None:
    assert live("a").text == live("virtual-policy/a").text
    assert names(plan([policy("a")], observe_rows([row("a")]))) == []
