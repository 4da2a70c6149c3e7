"""What every remote must do, whatever is behind it."""

from __future__ import annotations

import string
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from policyctl.errors import Conflict, Moved, NotFound
from policyctl.policy.live import LivePolicy, read_row
from policyctl.remote import Writer
from tests.examples import examples
from tests.remote.contract.conftest import Kind
from tests.remote.http_helpers import document

NAMES = (
    "plain",
    "a b",
    "a&name=b",
    "a#b",
    "a+b",
    "a%41b",
    "a%2Fb",
    "a/b/../c",
    "..",
    "?",
    "ünïcödé",
    "日本",
    "emoji🙂",
    "quote\"'",
    "back\\slash",
    "semi;colon,comma",
    "\u00e9",  # composed; the next looks the same and is another name
    "e\u0301",
    "x" * 500,
)
MANY = settings(max_examples=examples(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def live(writer: Writer, name: str) -> LivePolicy:
    """The one policy of that canonical name."""
    (row,) = writer.find([name])
    found = read_row(row)
    assert isinstance(found, LivePolicy)
    return found


def names(rows: Iterable[Any]) -> list[str]:
    return sorted(row["name"] for row in rows)


def test_a_remote_starts_empty_and_reading_leaves_it_so(kind: Kind) -> None:
    for _ in range(2):
        with kind.reader() as reader:
            assert list(reader.rows()) == []
            assert reader.find(["virtual-policy/a"]) == []
            assert reader.find([]) == []
            assert reader.models() == frozenset()


def test_a_reader_has_no_way_to_write(kind: Kind) -> None:
    with kind.reader() as reader:
        assert not {"add", "update", "remove"} & set(dir(reader))


def test_a_reader_and_a_writer_give_the_same_identity_without_secrets(kind: Kind, writer: Writer) -> None:
    with kind.reader() as reader:
        assert reader.identity == writer.identity
        assert reader.embedded == writer.embedded
    assert "@" not in writer.identity
    assert "?" not in writer.identity


def test_what_was_added_reads_back_as_it_was_with_an_id(writer: Writer) -> None:
    wanted = document("virtual-policy/a", "virtual-model/x/a", "other", retry={"attempts": 2, "on_status_codes": []})
    identifier = writer.add(wanted)
    found = live(writer, "virtual-policy/a")
    assert found.document == wanted
    assert identifier in (None, found.id)


def test_keys_that_the_remote_does_not_know_are_kept(writer: Writer) -> None:
    wanted = document("a", cache={"mode": "simple", "ttl": 5}, guard={"deep": [1, {"x": "y"}]})
    wanted["policy"]["targets"][0] |= {"weight": 0.25, "tier": "gold"}
    wanted["labels"] = {"team": "search"}
    writer.add(wanted)
    assert live(writer, "virtual-policy/a").document == wanted


def test_an_update_replaces_the_policy_and_keeps_the_id(writer: Writer) -> None:
    writer.add(document("a", "virtual-model/x/a", retry={"attempts": 2}))
    before = live(writer, "virtual-policy/a")
    writer.update(before.id, document("a", "virtual-model/x/b", "virtual-model/x/c"))
    after = live(writer, "virtual-policy/a")
    assert after.id == before.id
    assert after.document == document("a", "virtual-model/x/b", "virtual-model/x/c")


def test_a_removed_policy_is_gone_and_its_name_free(writer: Writer) -> None:
    writer.add(document("a"))
    writer.remove(live(writer, "virtual-policy/a").id)
    assert list(writer.rows()) == writer.find(["virtual-policy/a"]) == []
    writer.add(document("a"))
    assert names(writer.rows()) == ["a"]


@pytest.mark.parametrize("second", ["a", "virtual-policy/a"])
@pytest.mark.parametrize("first", ["a", "virtual-policy/a"])
def test_a_second_policy_of_one_name_is_refused_in_either_spelling(writer: Writer, first: str, second: str) -> None:
    writer.add(document(first))
    with pytest.raises(Conflict):
        writer.add(document(second, "virtual-model/x/other"))
    assert live(writer, "virtual-policy/a").document == document(first)


def test_a_policy_cannot_take_the_name_of_another(writer: Writer) -> None:
    writer.add(document("a"))
    writer.add(document("b"))
    with pytest.raises(Conflict):
        writer.update(live(writer, "virtual-policy/b").id, document("a"))
    assert names(writer.rows()) == ["a", "b"]


def test_both_spellings_are_found_by_the_canonical_name_and_no_others(writer: Writer) -> None:
    for name in ("a", "virtual-policy/b", "ab", "virtual-policy/a/b", "A"):
        writer.add(document(name))
    assert names(writer.find(["virtual-policy/a", "virtual-policy/b", "virtual-policy/c"])) == ["a", "virtual-policy/b"]


# Whatever an id may look like.
@pytest.mark.parametrize("identifier", ["none", "a/b", "../..", "?x=1", "#", "%2e%2e", "ü", "a b"])
def test_an_id_that_is_not_there_is_not_found_and_nothing_else_happens(writer: Writer, identifier: str) -> None:
    writer.add(document("a"))
    with pytest.raises(NotFound):
        writer.update(identifier, document("a", "virtual-model/x/other"))
    with pytest.raises(NotFound):
        writer.remove(identifier)
    assert live(writer, "virtual-policy/a").document == document("a")


def test_a_write_over_another_version_than_the_one_read_is_refused(writer: Writer) -> None:
    writer.add(document("a"))
    old = live(writer, "virtual-policy/a")
    assert old.version is not None
    writer.update(old.id, document("a", "virtual-model/x/theirs"), old.version)
    with pytest.raises(Moved):
        writer.update(old.id, document("a", "virtual-model/x/mine"), old.version)
    with pytest.raises(Moved):
        writer.remove(old.id, old.version)
    new = live(writer, "virtual-policy/a")
    assert new.document == document("a", "virtual-model/x/theirs")
    writer.remove(new.id, new.version)
    assert list(writer.rows()) == []


def test_of_many_writers_that_read_the_same_version_one_wins(writer: Writer) -> None:
    writer.add(document("a"))
    seen = live(writer, "virtual-policy/a")

    def write(number: int) -> bool:
        try:
            writer.update(seen.id, document("a", f"virtual-model/x/{number}"), seen.version)
        except Moved:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(write, range(8))) == 1


def test_several_threads_may_write_at_once(writer: Writer) -> None:
    wanted = [f"virtual-policy/p{number}" for number in range(40)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: writer.add(document(name)), wanted))
    assert names(writer.rows()) == names(writer.find(wanted)) == sorted(wanted)


def test_of_many_adds_of_one_name_one_wins(writer: Writer) -> None:
    def add(_: int) -> bool:
        try:
            writer.add(document("a"))
        except Conflict:
            return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(add, range(8))) == 1
    assert names(writer.rows()) == ["a"]


def test_any_name_can_be_added_found_updated_and_removed(writer: Writer) -> None:
    for name in NAMES:
        writer.add(document(name))
    for name in NAMES:
        found = live(writer, f"virtual-policy/{name}")
        writer.update(found.id, document(name, "virtual-model/x/new"), found.version)
    assert sorted(row["name"] for row in writer.rows()) == sorted(NAMES)
    for name in NAMES:
        found = live(writer, f"virtual-policy/{name}")
        assert found.document == document(name, "virtual-model/x/new")
        writer.remove(found.id, found.version)
    assert list(writer.rows()) == []


def test_more_names_than_one_request_holds_are_all_found(writer: Writer) -> None:
    wanted = [f"virtual-policy/{number}-{'&' * 300}" for number in range(60)]
    for name in wanted:
        writer.add(document(name))
    assert names(writer.find(wanted)) == sorted(wanted)


TEXT = st.text(string.ascii_letters + "&#+%/ ?=;:,.\\\"'äß–🙂", min_size=1, max_size=30).filter(
    lambda text: text.strip() == text
)


@MANY
@given(st.lists(TEXT, min_size=1, max_size=6, unique=True))
def test_exactly_the_names_that_were_asked_for_are_found(writer: Writer, given_names: list[str]) -> None:
    for row in writer.rows():
        writer.remove(row["id"])
    for name in given_names:
        writer.add(document(name))
    half = given_names[::2]
    assert names(writer.find({f"virtual-policy/{name}" for name in half})) == sorted(half)
