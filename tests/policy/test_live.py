"""Rows of a remote: each ends in exactly one place, and none breaks the others."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.policy.live import MAX_NESTING, LivePolicy, UnreadableRow, observe_rows, read_row
from policyctl.policy.memo import Memo
from policyctl.policy.virtual_model import VirtualModelRow
from tests.strategies import json_values, loose_documents

GOOD = {"id": "1", "name": "x", "policy": {"strategy": {"mode": "single"}, "targets": [{"model_name": "a"}]}}

READABLE = {
    "weight 250": {**GOOD, "policy": {"targets": [{"model_name": "a", "weight": 250}]}},
    "no strategy": {**GOOD, "policy": {}},
    "a number as id": {**GOOD, "id": 7},
    "nulls everywhere": {**GOOD, "display_name": None, "description": None, "policy": {"retry": None, "targets": None}},
}

UNREADABLE = {
    "no object": "x",
    "no name": {**GOOD, "name": None},
    "an empty name": {**GOOD, "name": ""},
    "only the prefix": {**GOOD, "name": "virtual-policy/"},
    "a name that is not text": {**GOOD, "name": 3},
    "no id": {**GOOD, "id": None},
    "an empty id": {**GOOD, "id": ""},
    "no policy": {**GOOD, "policy": None},
    "a policy that is a list": {**GOOD, "policy": []},
}


@pytest.mark.parametrize("case", READABLE)
def test_readable(case: str) -> None:
    assert isinstance(read_row(READABLE[case]), LivePolicy)


@pytest.mark.parametrize("case", UNREADABLE)
def test_unreadable(case: str) -> None:
    assert isinstance(read_row(UNREADABLE[case]), UnreadableRow)


@pytest.mark.parametrize(
    ("levels", "kind"), [(MAX_NESTING - 2, LivePolicy), (MAX_NESTING + 1, UnreadableRow), (10_000, UnreadableRow)]
)
def test_a_policy_nested_too_deeply_is_unreadable_and_any_other_can_be_compared(levels: int, kind: type) -> None:
    policy: dict[str, Any] = {}
    for _ in range(levels // 2):
        policy = {"targets": [policy]}
    found = read_row({**GOOD, "policy": policy})
    assert type(found) is kind
    assert isinstance(found, UnreadableRow) or found.text


def test_the_document_keeps_the_rows_spelling_and_unknown_keys_but_not_the_servers() -> None:
    row = {**GOOD, "tenant_id": "t", "created_on": "now", "labels": ["a"], "description": None}
    live = read_row(row)
    assert isinstance(live, LivePolicy)
    assert live.name == "virtual-policy/x"
    assert live.document == {"name": "x", "policy": GOOD["policy"], "labels": ["a"]}


def test_rows_of_one_name_in_either_spelling_are_twins() -> None:
    observed = observe_rows([GOOD, {**GOOD, "id": "2", "name": "virtual-policy/x"}, {**GOOD, "id": "3", "name": "y"}])
    assert [twins.ids for twins in observed.twins] == [("1", "2")]
    assert list(observed.live) == ["virtual-policy/y"]


def test_a_policy_and_a_model_may_have_one_id() -> None:
    """A tenant may number the rows of each list by itself."""
    observed = observe_rows([GOOD, VirtualModelRow({"id": "1", "name": "virtual-model/a/b"})])
    assert observed.live.keys() == {"virtual-policy/x", "virtual-model/a/b"}


def test_a_row_that_the_list_shows_twice_is_one_policy() -> None:
    assert list(observe_rows([GOOD, dict(GOOD)]).live) == ["virtual-policy/x"]


@pytest.mark.slow
@given(st.lists(st.tuples(loose_documents | json_values, json_values), unique_by=lambda part: repr(part[1])))
def test_every_row_ends_in_one_place(parts: list[tuple[Any, Any]]) -> None:
    rows = [{**row, "id": identifier} if isinstance(row, dict) else row for row, identifier in parts]
    observed = observe_rows(rows)
    twins = sum(len(twins.rows) for twins in observed.twins)
    assert len(observed.live) + twins + sum(row.count for row in observed.unreadable) == len(rows)


SHARED = {
    "another name": ({**GOOD, "name": "y"}, ["virtual-policy/x", "virtual-policy/y"]),
    "a number for the same text": ({**GOOD, "id": 1, "name": "y"}, ["virtual-policy/x", "virtual-policy/y"]),
    "a row without a policy": ({"id": "1", "name": "y"}, ["virtual-policy/x"]),
    "a row without a name": ({**GOOD, "name": None}, ["virtual-policy/x"]),
    "its own name, and another policy": ({**GOOD, "policy": {}}, ["virtual-policy/x"]),
}


@pytest.mark.parametrize("case", SHARED)
@pytest.mark.parametrize("turned", [False, True])
def test_rows_that_share_an_id_are_not_told_apart(case: str, turned: bool) -> None:
    row, names = SHARED[case]
    rows = [row, GOOD] if turned else [GOOD, row]
    observed = observe_rows([*rows, {**GOOD, "id": "2", "name": "z"}])
    assert [twins.name for twins in observed.twins] == names
    assert all("1" in twins.ids for twins in observed.twins)
    assert list(observed.live) == ["virtual-policy/z"]
    assert set(names) <= observed.obstacles().keys()


@pytest.mark.parametrize(
    ("name", "identifier", "shown"),
    [
        ("a", "7", "name a, id 7"),
        (None, None, "name unknown, id unknown"),
        ("a b", '7"', 'name "a b", id "7\\""'),
        ("a", "7). All of it was read", 'name a, id "7). All of it was read"'),
    ],
)
def test_no_word_of_a_row_is_part_of_a_sentence_about_it(name: str | None, identifier: str | None, shown: str) -> None:
    assert UnreadableRow("it has no policy", name, identifier).which == shown


def test_rows_of_which_nothing_is_known_are_one_with_a_count() -> None:
    observed = observe_rows([0, None, "x", {}, {"policy": {}}, GOOD, {"id": 7}])
    assert [(row.reason, row.count) for row in observed.unreadable] == [
        ("the row is not an object", 3),
        ("the row has no usable name", 2),
        ("the row has no usable name", 1),
    ]


@given(st.lists(st.tuples(loose_documents, st.sampled_from(["1", "2"])), max_size=4))
def test_what_is_known_of_other_environments_changes_nothing(documents: list[tuple[Any, str]]) -> None:
    rows = [{**document, "id": identifier} for document, identifier in documents]
    alone = observe_rows(rows).policies
    with Memo.remembering():
        for _ in range(2):
            found = observe_rows(rows).policies
            assert {name: (one.known, one.normal) for name, one in found.items()} == {
                name: (one.known, one.normal) for name, one in alone.items()
            }


def test_equal_policies_of_several_environments_share_text_and_normal_form() -> None:
    def observed(attempts: Any) -> list[LivePolicy]:
        policy = {"retry": {"attempts": attempts}, "targets": []}
        rows = [{"id": identifier, "name": "x", "policy": policy} for identifier in ("1", "2")]
        return [observe_rows([row]).policies["virtual-policy/x"] for row in rows]

    with Memo.remembering():
        one, other = observed(1)
        assert one.known is other.known
        assert one.normal is other.normal
        assert {row.known for value in (1, 1.0, True) for row in observed(value)} == {
            '{"description":null,"display_name":null,"name":"x","policy":{"retry":{"attempts":' + text + '},"targets":[]}}'
            for text in ("1", "1.0", "true")
        }
    one, other = observed(1)
    assert one.normal is not other.normal
