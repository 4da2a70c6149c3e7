"""Every bad day a write can have, through the real engine: nothing twice, nothing lost, and the report is true."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import pytest

from policyctl.load.settings_file import AuthFile
from policyctl.plan.plan import GOOD, Outcome
from policyctl.reconcile.observe import verify
from tests.remote.apply_helpers import carry_out, changes_for
from tests.remote.fake_server import Reply, Seen, Silence, closed_port, standing_in
from tests.remote.fake_tenant import Tenant
from tests.remote.http_helpers import SHORT, Clock, document, reach, row

PAGE = Reply(200, b"<!doctype html><title>Log in</title>", {"Content-Type": "text/html"})
CUT = Reply(200, {"id": "x", "name": "cut short"}, cut=8)
QUOTA = {"detail": {"code": "RESOURCE_QUOTA_EXCEEDED", "message": "no more than 10 policies", "limit": 10}}
FIELDS = {"detail": [{"loc": ["body", "policy", "targets", 0], "msg": "Field required", "type": "missing"}]}


@dataclass(frozen=True)
class Day:
    """What goes wrong with a write, before or after the server did it, and what becomes of it: once, and every time.

    A write that the server did is always good in the end. `said` must be in the reason of a failure. After a `slow` one an
    add may still come, so that it is never sent again.
    """

    what: str
    reply: Reply | Silence
    committed: bool = False
    once: Literal["good", "failed"] = "good"
    always: Literal["good", "failed"] = "failed"
    said: str = ""
    writes: int | None = None  # how many are sent when it happens every time
    slow: bool = False


def refusal(status: int, body: Any, said: str) -> Day:
    """A status by which the server refuses for good: nothing is repeated."""
    return Day(f"{status} {said}", Reply(status, body), once="failed", said=said, writes=1)


REFUSALS = (
    refusal(302, None, "302 Found, a redirect"),
    refusal(400, {"message": "top-level words"}, "400 Bad Request: top-level words"),
    refusal(401, {"error": "who are you"}, "401 Unauthorized: who are you; check auth"),
    refusal(403, {"detail": "not yours"}, "403 Forbidden: not yours; this login is not allowed to do that"),
    refusal(422, FIELDS, "422 Unprocessable Entity: policy.targets.0: Field required"),
    refusal(422, {"detail": {"code": "BAD", "message": "an object"}}, "422 Unprocessable Entity: an object"),
    refusal(422, {"detail": "a string"}, "422 Unprocessable Entity: a string"),
    refusal(422, None, "422 Unprocessable Entity"),
    refusal(429, QUOTA, "429 Too Many Requests: no more than 10 policies (the tenant is full"),
)
LATER = (
    Day("429", Reply(429), said="429 Too Many Requests", writes=5),
    Day("429 with Retry-After", Reply(429, None, {"Retry-After": "20"}), said="asks to wait 20 s", writes=5),
    Day("429 far away", Reply(429, None, {"Retry-After": "86400"}), once="failed", said="asks to wait 86400 s", writes=1),
    Day("503 with Retry-After", Reply(503, None, {"Retry-After": "20"}), said="asks to wait 20 s", writes=5),
)
LOST = tuple(
    Day(
        f"{name} {'after' if committed else 'before'}",
        reply,
        committed,
        always="good" if committed else "failed",
        said=said,
        slow=name in ("504", "hang"),
    )
    for name, reply, said in (
        ("500", Reply(500, {"detail": "oh no"}), "500 Internal Server Error: oh no"),
        ("502", Reply(502, b"<html>Bad Gateway</html>"), "502 Bad Gateway: an HTML page instead of JSON"),
        ("503", Reply(503), "503 Service Unavailable"),
        ("504", Reply(504), "504 Gateway Timeout"),
        ("a page", PAGE, "200 with an HTML page instead of JSON"),
        ("cut short", CUT, "closed the connection before its answer was complete"),
        ("reset", Silence.RESET, "closed the connection before its answer was complete"),
        ("hang", Silence.HANG, "did not answer in time"),
    )
    for committed in (False, True)
)
SPURIOUS = (
    Day("409 for nothing", Reply(409, {"detail": "busy"}), said="409 Conflict: busy"),
    Day("412 for nothing", Reply(412, {"detail": "not that one"}), said="412 Precondition Failed: not that one"),
    Day("409 after", Reply(409, {"detail": "busy"}), committed=True, always="good"),
)
DAYS = (*REFUSALS, *LATER, *LOST, *SPURIOUS)


@dataclass
class Faulty:
    """A tenant, and how often its next writes go wrong."""

    tenant: Tenant
    day: Day
    times: int

    def __call__(self, seen: Seen) -> Reply | Silence:
        if seen.method == "GET" or not self.times:
            return self.tenant(seen)
        self.times -= 1
        if self.day.committed:
            self.tenant(seen)
        return self.day.reply


WAS = row("virtual-policy/one", "virtual-model/x/was", limits={"kept": True})
BYSTANDER = row("virtual-policy/bystander")
STAYS = document("virtual-policy/bystander")
ACTIONS: dict[str, tuple[list[dict[str, Any]], list[dict[str, Any]]]] = {  # what is live, what is desired
    "add": ([BYSTANDER], [document("one", "virtual-model/x/new"), STAYS]),
    "update": ([BYSTANDER, WAS], [document("one", "virtual-model/x/new"), STAYS]),
    "remove": ([BYSTANDER, WAS], [STAYS]),
}


@pytest.mark.parametrize("often", ["once", pytest.param("always", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("action", "unique"),
    [("add", True), ("add", False), ("update", False), ("remove", False)],
    ids=["add", "add where names may repeat", "update", "remove"],
)
@pytest.mark.parametrize("day", DAYS, ids=lambda day: day.what)
@pytest.mark.alike
def test_after_a_bad_day_nothing_is_twice_or_lost_and_the_report_is_true(
    day: Day, action: str, often: str, unique: bool
) -> None:
    live, desired = ACTIONS[action]
    changes = changes_for(live, desired)
    assert [change.action for change in changes] == [action]
    tenant = Tenant(unique=unique)
    tenant.put(*live)
    clock = Clock()
    with standing_in(Faulty(tenant, day, 1 if often == "once" else 1000)) as server:
        with reach(server.url, timeout=SHORT, clock=clock) as remote:
            (outcome,) = carry_out(changes, remote, clock)
            unverified = verify([outcome], remote, clock.sleep)
        sent = len([seen for seen in server.seen if seen.method != "GET"])

    expected = day.once if often == "once" else day.always
    if action == "add" and day.slow and not day.committed:
        expected = "failed"
        assert "it may still be carried out" in outcome.reason
    assert (outcome.status in GOOD) == (expected == "good"), outcome
    assert unverified == []
    assert_true(outcome, tenant)
    assert tenant.rows[BYSTANDER["id"]] == BYSTANDER
    if expected == "failed":
        assert day.said in outcome.reason
        assert "\n" not in outcome.reason
    if often == "always" and day.writes is not None:
        assert sent == day.writes


def assert_true(outcome: Outcome, tenant: Tenant) -> None:
    """The tenant is as the outcome reports: as wanted when it is good, else as it was; and never is a policy there twice."""
    rows = tenant.named("one")
    assert len(rows) <= 1
    targets = [target["model_name"] for one in rows for target in one["policy"]["targets"]]
    wanted = {"add": ["virtual-model/x/new"], "update": ["virtual-model/x/new"], "remove": []}
    was = {"add": [], "update": ["virtual-model/x/was"], "remove": ["virtual-model/x/was"]}
    assert targets == (wanted if outcome.status in GOOD else was)[outcome.change.action]
    if outcome.change.action == "update":
        assert rows[0]["limits"] == {"kept": True}


def test_retries_keep_to_what_the_server_asks_for_and_to_their_budget() -> None:
    clock = Clock()
    day = Day("busy", Reply(429, None, {"Retry-After": "20"}))
    with standing_in(Faulty(Tenant(), day, 1000)) as server, reach(server.url, clock=clock) as remote:
        carry_out(changes_for(*ACTIONS["add"]), remote)
    assert all(20 <= wait <= 30 for wait in clock.slept)
    assert 60 < sum(clock.slept) <= 90


@pytest.mark.parametrize("action", ACTIONS)
def test_a_write_that_is_not_found_although_its_policy_is_there(action: str) -> None:
    live, desired = ACTIONS[action]
    day = Day("404", Reply(404, {"detail": "Not Found"}))
    for times, statuses in ((1, {"add": "failed"}), (1000, dict.fromkeys(ACTIONS, "failed"))):
        tenant = Tenant()
        tenant.put(*live)
        with standing_in(Faulty(tenant, day, times)) as server, reach(server.url) as remote:
            (outcome,) = carry_out(changes_for(live, desired), remote)
        assert outcome.status == statuses.get(action, "applied")
        assert_true(outcome, tenant)
        if action == "add":
            assert "the URL of the remote is probably wrong" in outcome.reason


@pytest.mark.parametrize("action", ["update", "remove"])
def test_a_policy_that_someone_else_removed_meanwhile_is_reported_truly(action: str) -> None:
    live, desired = ACTIONS[action]
    tenant = Tenant()
    tenant.put(*live)

    def handler(seen: Seen) -> Reply | Silence:
        if seen.method != "GET":
            tenant.rows.pop(WAS["id"], None)
        return tenant(seen)

    with standing_in(handler) as server, reach(server.url) as remote:
        (outcome,) = carry_out(changes_for(live, desired), remote)
    assert (outcome.status, outcome.reason) in [
        ("already", ""),
        ("failed", "changed since the plan was made (policy: live → absent); plan again"),
    ]
    assert (outcome.status == "already") == (action == "remove")


def test_a_policy_that_someone_else_added_meanwhile_is_not_added_twice() -> None:
    tenant = Tenant()

    def handler(seen: Seen) -> Reply | Silence:
        if seen.method == "POST":
            tenant.put(row("one", "virtual-model/x/theirs"))  # in the other spelling
        return tenant(seen)

    with standing_in(handler) as server, reach(server.url) as remote:
        (outcome,) = carry_out(changes_for(*ACTIONS["add"]), remote)
    assert (outcome.status, outcome.reason) == ("failed", "changed since the plan was made (policy: absent → live); plan again")
    assert len(tenant.named("one")) == 1


def test_an_update_that_merges_is_reported_with_what_did_not_take() -> None:
    tenant = Tenant(merges=True)
    retry = {"attempts": 2, "on_status_codes": [429]}
    was = {"id": "id-one", **document("virtual-policy/one", "virtual-model/x/was", retry=retry)}
    tenant.put(was)
    clock = Clock()
    with standing_in(tenant) as server, reach(server.url) as remote:
        outcomes = carry_out(changes_for([was], [document("one", "virtual-model/x/new")]), remote)
        assert verify(outcomes, remote, clock.sleep) == ["virtual-policy/one was not applied: policy.retry"]


def test_a_login_that_ends_in_mid_apply_is_renewed_and_everything_is_written_once() -> None:
    tenant, tokens = Tenant(), ["t0"]

    def handler(seen: Seen) -> Reply | Silence:
        if seen.path == "/identity/token":
            tokens.append(f"t{len(tokens)}")
            return Reply(200, {"access_token": tokens[-1]})
        if len(server.seen) % 5 == 0:
            tokens.append("ended")
        return tenant(seen) if seen.authorization == f"Bearer {tokens[-1]}" else Reply(401)

    names = [f"p{number}" for number in range(20)]
    with standing_in(handler) as server:
        auth = AuthFile(type="ibm_iam", api_key="env:KEY", url=server.url)
        with reach(server.url, auth, {"KEY": "k"}) as remote:
            changes = changes_for([], [document(name) for name in names])
            outcomes = carry_out(changes, remote, parallelism=1)
    assert [outcome.status for outcome in outcomes] == ["applied"] * 20
    assert len(tenant.rows) == 20
    assert len(tokens) > 5


@pytest.mark.parametrize("action", ACTIONS)
def test_a_remote_that_went_away_is_reported_for_each_change(action: str) -> None:
    with reach(f"http://127.0.0.1:{closed_port()}") as remote:
        (outcome,) = carry_out(changes_for(*ACTIONS[action]), remote)
    assert outcome.status == "failed"
    assert outcome.reason.endswith("cannot be reached: Connection refused")


def test_stand_in_and_engine_agree_on_a_good_day() -> None:
    for action, (live, desired) in ACTIONS.items():
        tenant = Tenant()
        tenant.put(*live)
        with standing_in(tenant) as server, reach(server.url) as remote:
            (outcome,) = carry_out(changes_for(live, desired), remote)
        assert outcome.status == "applied"
        assert_true(outcome, tenant)
        assert outcome.change.action == action
