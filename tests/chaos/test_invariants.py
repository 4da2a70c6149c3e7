"""A harness that cannot find anything proves nothing: each kind of damage is found."""

from __future__ import annotations

import json
import random
from collections import Counter

import pytest

from policyctl.plan.plan import Status
from policyctl.remote.sqlite import SqliteRemote
from tests.chaos.figures import BROKEN, Figures
from tests.chaos.invariants import Told, Violation, leaks, violations
from tests.chaos.world import World, make_world
from tests.sqlite_rows import put, stored

Rows = dict[str, tuple[str, ...]]


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(random.Random(1))


@pytest.fixture(scope="module")
def before(world: World, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    path = tmp_path_factory.mktemp("before") / "a.db"
    put(world.rows, path)
    return stored(path)


@pytest.fixture(scope="module")
def done(world: World, before: Rows, tmp_path_factory: pytest.TempPathFactory) -> Rows:
    """What is stored once everything was carried out."""
    path = tmp_path_factory.mktemp("done") / "a.db"
    put(world.rows, path)
    ids = {row[0]: identifier for identifier, row in before.items()}
    with SqliteRemote(path) as remote:
        for policy in world.policies():
            if world.changes.get(policy.name) == "add":
                remote.add(policy.document)
            elif world.changes.get(policy.name) == "update":
                remote.update(ids[policy.name], policy.document)
        for name, action in world.changes.items():
            if action == "remove":
                remote.remove(ids[name])
    return stored(path)


def found(world: World, before: Rows, after: Rows, told: dict[str, Told], **commits: int) -> set[str]:
    return {violation.kind for violation in violations(world, before, after, told, Counter(commits))}


def all_told(world: World, status: Status, reason: str = "") -> dict[str, Told]:
    return {name: Told(status, reason) for name in world.changes}


def of(world: World, action: str) -> str:
    return next(name for name, found in world.changes.items() if found == action)


def test_what_is_in_order_is_not_a_violation(world: World, before: Rows, done: Rows) -> None:
    assert found(world, before, done, all_told(world, "applied")) == set()
    assert found(world, before, before, all_told(world, "failed", "refused")) == set()
    assert found(world, before, before, {}) == found(world, before, done, {}) == set()
    assert found(world, before, done, all_told(world, "failed", "and its outcome cannot be read: x")) == set()


@pytest.mark.parametrize(("told", "stays"), [("applied", True), ("already", True), ("failed", False), ("skipped", False)])
def test_a_report_that_is_not_true_is_found(world: World, before: Rows, done: Rows, told: Status, stays: bool) -> None:
    after = before if stays else done
    assert found(world, before, after, all_told(world, told, "refused")) == {"untrue reports"}


def test_a_second_policy_of_one_name_is_found(world: World, before: Rows, done: Rows) -> None:
    twin = done[next(identifier for identifier, row in done.items() if row[0] == of(world, "add"))]
    assert found(world, before, {**done, "twin": twin}, {}) == {"duplicates"}


def test_a_write_that_was_carried_out_twice_is_found(world: World, before: Rows, done: Rows) -> None:
    assert found(world, before, done, {}, **{of(world, "add"): 2}) == {"duplicates"}


@pytest.mark.parametrize("part", ["out-", "in-"])
def test_a_row_that_is_in_no_plan_must_not_move(world: World, before: Rows, done: Rows, part: str) -> None:
    identifier = next(i for i, row in before.items() if row[0] not in world.changes and part in row[0])
    gone = {other: row for other, row in done.items() if other != identifier}
    touched = {**done, identifier: (*done[identifier][:-1], "just now")}
    assert found(world, before, gone, {}) == found(world, before, touched, {}) == {"losses"}


def test_a_policy_that_is_neither_old_nor_new_is_found(world: World, before: Rows, done: Rows) -> None:
    name = of(world, "update")
    identifier = next(i for i, row in done.items() if row[0] == name)
    row = done[identifier]
    strange = json.dumps({**json.loads(row[1]), "display_name": "by nobody"})
    assert found(world, before, {**done, identifier: (row[0], strange, *row[2:])}, {}) == {"losses"}


def test_a_field_that_no_file_knows_must_survive(world: World, before: Rows, done: Rows) -> None:
    identifier = next(i for i, row in done.items() if world.changes.get(row[0]) == "update" and "limits" in row[1])
    row = done[identifier]
    poorer = json.dumps({key: value for key, value in json.loads(row[1]).items() if key != "limits"})
    assert found(world, before, {**done, identifier: (row[0], poorer, *row[2:])}, {}) == {"losses"}


def test_a_secret_is_found_in_text_and_in_bytes() -> None:
    assert [*leaks(["nothing", b"no\xffthing"], ["s3cret"])] == []
    assert [*leaks(["a s3cret", b"\xff s3cret"], ["s3cret"])] == [Violation("leaks", "a secret was told")] * 2


def test_every_kind_is_in_the_figures() -> None:
    figures = Figures(inside=[0, 1, 2, 7])
    figures.broken.update(BROKEN)
    assert "| 4 (0–2, 7) |" in figures.table()
    for kind in BROKEN:
        assert f"| {kind} | 1 |" in figures.table()
    assert Figures.from_json(json.loads(json.dumps(figures.to_json()))) == figures
