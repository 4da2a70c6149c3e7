"""The list and the look-up by name: an honest remote pays for no second opinion, an ordinary race is no contradiction."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from policyctl.plan.plan import Change, Outcome
from policyctl.reconcile.apply import BATCH, apply_changes
from policyctl.reconcile.observe import WAITS, verify
from tests.remote.apply_helpers import carry_out, changes_for
from tests.remote.fake_server import Reply, Seen, Silence, standing_in
from tests.remote.fake_tenant import POLICIES, Tenant
from tests.remote.http_helpers import Clock, document, reach, row

WAS, OTHER = row("virtual-policy/one", "virtual-model/x/was"), row("virtual-policy/other")


def is_list(seen: Seen) -> bool:
    return seen.method == "GET" and seen.path == POLICIES and not seen.query


def test_an_honest_remote_is_asked_for_its_list_once_and_that_after_everything() -> None:
    count = 2 * BATCH + 2
    tenant = Tenant()
    tenant.put(*(row(f"virtual-policy/old{number}") for number in range(count)))
    changes = changes_for(list(tenant.rows.values()), [document(f"new{number}") for number in range(count)])
    assert len(changes) == 2 * count
    with standing_in(tenant) as server, reach(server.url) as remote:
        outcomes = carry_out(changes, remote)
        looks = [seen for seen in server.seen if seen.method == "GET"]
        assert len([seen for seen in server.seen if seen.method != "GET"]) == 2 * count
        assert not any(map(is_list, looks))
        assert len(looks) <= 2 * (2 * count // BATCH + 1)  # a query of 4,000 characters holds fewer names than a batch
        server.seen.clear()
        assert verify(outcomes, remote, Clock().sleep) == []
        assert [seen for seen in server.seen if is_list(seen)] == server.seen[-1:]


Race = Callable[[Tenant], object]
RACES: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]], Race, tuple[str, str]]] = {
    "removed, as it was to be": ([WAS, OTHER], [OTHER], lambda tenant: tenant.rows.pop(WAS["id"]), ("already", "")),
    "removed, and was to be updated": (
        [WAS],
        [document("one", "virtual-model/x/new")],
        lambda tenant: tenant.rows.clear(),
        ("failed", "changed since the plan was made (policy: live → absent); plan again"),
    ),
    "added, as it was to be": (
        [],
        [document("virtual-policy/one")],
        lambda tenant: tenant.put(row("virtual-policy/one")),
        ("already", ""),
    ),
    "added otherwise": (
        [],
        [document("virtual-policy/one")],
        lambda tenant: tenant.put(WAS),
        ("failed", "changed since the plan was made (policy: absent → live); plan again"),
    ),
}


@pytest.mark.parametrize("case", RACES)
def test_what_another_client_did_after_the_plan_is_confirmed_by_a_second_list(case: str) -> None:
    live, desired, race, expected = RACES[case]
    tenant = Tenant()
    tenant.put(*live)
    changes = changes_for(live, desired)
    race(tenant)
    with standing_in(tenant) as server, reach(server.url) as remote:
        (outcome,) = carry_out(changes, remote)
        assert len(server.seen) == 2
        assert (outcome.status, outcome.reason) == expected
        if outcome.status == "already":
            assert verify([outcome], remote, Clock().sleep) == []


def test_one_list_confirms_all_that_a_killed_apply_had_done_already() -> None:
    names = [f"virtual-policy/p{number:03}" for number in range(3 * BATCH)]
    tenant = Tenant()
    changes = changes_for([], [document(name) for name in names])
    tenant.put(*map(row, names))
    with standing_in(tenant) as server, reach(server.url) as remote:
        assert {outcome.status for outcome in carry_out(changes, remote)} == {"already"}
        assert len([seen for seen in server.seen if is_list(seen)]) == 1


def test_a_list_that_is_old_is_read_again_before_the_remote_is_reported_to_contradict_itself() -> None:
    """Of two batches each meets what another client has just added."""
    names = [f"virtual-policy/p{number:03}" for number in range(2 * BATCH)]
    tenant = Tenant()
    changes = changes_for([], [document(name) for name in names])

    def handler(seen: Seen) -> Reply | Silence:
        if seen.query:
            tenant.put(*(row(name) for name in {value for _, value in seen.query} & set(names)))
        return tenant(seen)

    with standing_in(handler) as server, reach(server.url) as remote:
        assert {outcome.status for outcome in carry_out(changes, remote)} == {"already"}
        assert len([seen for seen in server.seen if is_list(seen)]) == 2


def test_a_list_that_cannot_be_read_is_reported_and_nothing_is_written() -> None:
    tenant = Tenant()
    changes = changes_for([], [document("virtual-policy/one")])
    tenant.put(WAS)
    with standing_in(lambda seen: Reply(403) if is_list(seen) else tenant(seen)) as server, reach(server.url) as remote:
        (outcome,) = carry_out(changes, remote)
        assert (outcome.status, [seen.method for seen in server.seen]) == ("failed", ["GET", "GET"])
        assert "403 Forbidden" in outcome.reason


def lost_once(changes: Sequence[Change], reply: Reply, clock: Clock) -> tuple[Outcome, list[tuple[str, float]]]:
    """Carry out one change whose first write is answered so and not done: what became of it, and when what was asked."""
    tenant, asked, start = Tenant(), list[tuple[str, float]](), clock.now()

    def handler(seen: Seen) -> Reply | Silence:
        asked.append((seen.method, clock.now() - start))
        first = [method for method, _ in asked].count("POST") == 1
        return reply if seen.method == "POST" and first else tenant(seen)

    with standing_in(handler) as server, reach(server.url, clock=clock) as remote:
        (outcome,) = carry_out(changes, remote, clock)
    return outcome, asked


@pytest.mark.parametrize(("after", "seconds"), [({}, 0.0), ({"Retry-After": "20"}, 20.0)])
def test_an_add_is_sent_again_only_after_all_the_waits_and_a_list_without_it(after: dict[str, str], seconds: float) -> None:
    """And nothing at all is asked before the time that the remote asks for is over."""
    outcome, asked = lost_once(changes_for([], [document("one")]), Reply(500, None, after), Clock())
    assert outcome.status == "applied"
    looks = [0.0] + [sum(WAITS[: number + 1]) for number in range(len(WAITS))]
    end = seconds + looks[-1]
    expected = [("GET", 0.0), ("POST", 0.0), *(("GET", seconds + at) for at in looks), ("GET", end), ("POST", end)]
    assert [method for method, _ in asked] == [method for method, _ in expected]
    assert [at for _, at in asked] == pytest.approx([at for _, at in expected])


def test_a_wait_beyond_the_budget_leaves_no_time_to_send_again() -> None:
    outcome, asked = lost_once(changes_for([], [document("one")]), Reply(500, None, {"Retry-After": "3600"}), Clock())
    assert outcome.status == "failed"
    assert outcome.reason.endswith("500 Internal Server Error; there was no time left to send it again")
    assert max(at for _, at in asked) < 90


def test_once_stopped_a_lost_write_is_not_sent_again() -> None:
    begun: list[Change] = []
    tenant = Tenant()
    with (
        standing_in(lambda seen: Reply(500) if seen.method == "POST" else tenant(seen)) as server,
        reach(server.url) as remote,
    ):
        (outcome,) = apply_changes(
            changes_for([], [document("one")]),
            remote,
            parallelism=1,
            on_outcome=lambda _: None,
            stopped=lambda: bool(begun),
            on_begin=begun.append,
            patience=Clock().patience(),
        )
        assert server.asked("POST") == [f"POST {POLICIES}"]
    assert (outcome.status, outcome.reason.partition("; ")[2]) == ("failed", "interrupted before it was sent again")


def test_twins_that_a_failed_add_made_are_reported_with_their_ids() -> None:
    """Each POST is carried out, and refused in words: the one who reads back finds two."""
    tenant = Tenant(unique=False)

    def handler(seen: Seen) -> Reply | Silence:
        if seen.method != "POST":
            return tenant(seen)
        tenant(seen)
        tenant(seen)
        return Reply(400, {"detail": "no"})

    with standing_in(handler) as server, reach(server.url) as remote:
        (outcome,) = carry_out(changes_for([], [document("one")]), remote)
        (line,) = verify([outcome], remote, Clock().sleep)
    assert outcome.status == "failed"
    assert line.startswith("virtual-policy/one: the remote has several policies of this name")
    assert all(identifier in line for identifier in tenant.rows)


def test_an_add_that_failed_and_is_there_all_the_same_is_reported() -> None:
    tenant = Tenant()

    def handler(seen: Seen) -> Reply | Silence:
        reply = tenant(seen)
        return Reply(403) if seen.method == "POST" else reply

    with standing_in(handler) as server, reach(server.url) as remote:
        (outcome,) = carry_out(changes_for([], [document("one")]), remote)
        assert verify([outcome], remote, Clock().sleep) == ["virtual-policy/one is there although its add failed (id new-0)"]


@pytest.mark.slow
def test_the_policy_that_is_read_back_must_be_the_one_that_was_added() -> None:
    """As when another one of that name is shown first, and ours late or never."""
    tenant = Tenant()
    changes = changes_for([], [document("virtual-policy/one")])

    def handler(seen: Seen) -> Reply | Silence:
        if seen.method == "POST":
            tenant.put(row("virtual-policy/one"))
            return Reply(201, {**seen.json, "id": "ours"})
        return tenant(seen)

    with standing_in(handler) as server, reach(server.url) as remote:
        (outcome,) = carry_out(changes, remote)
        (line,) = verify([outcome], remote, Clock().sleep)
    assert "has the id id-virtual-policy/one, but its add returned the id ours" in line
