"""The watch as a whole, by a simulated clock: what it looks at, writes and shows, and when."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.errors import PolicyctlError
from policyctl.load.windows import RetryWaits, WatchSettings, Window
from policyctl.plan.fleet import EnvironmentResult
from policyctl.watch import Board, State
from policyctl.watch.look import Look, Settled, Synced, Watched
from policyctl.watch.loop import WatchLoop
from policyctl.watch.memory import Memory
from tests.examples import examples
from tests.patience import LONGEST
from tests.watch.simulated import BEGIN, SimulatedClock, SimulatedWork, Simulation, Tenant

EVERY = WatchSettings(interval=60)
APPLIES, HEALS = EVERY._replace(apply="on-merge"), EVERY._replace(heal="always")
HOUR = 3600.0


def tenants(number: int, how: WatchSettings = EVERY, has: str = "one") -> dict[str, Tenant]:
    return {f"e{place}": Tenant(has, how) for place in range(number)}


def test_by_default_a_watch_looks_and_never_writes() -> None:
    sim = Simulation(tenants(20))
    sim.edit(100, "e3", "edited")
    sim.at(200, lambda: sim.work.push("two"))
    board = sim.run(600)
    assert all(not one.written for one in sim.tenants.values())
    assert all(9 <= len(one.looked) <= 13 for one in sim.tenants.values())
    assert sim.seen.states("e3")[:2] == ["in_sync", "drifted"]
    assert {one.state for one in board.environments()} <= {State.PENDING, State.DRIFTED}


def test_a_new_revision_is_applied_at_once_where_that_is_on() -> None:
    sim = Simulation(tenants(10, APPLIES))
    sim.at(115, lambda: sim.work.push("two"))
    sim.run(140)
    assert all(len(one.written) == 1 and 115 <= one.written[0] <= 130 for one in sim.tenants.values())


def test_only_those_whom_a_revision_is_for_are_looked_at_at_once() -> None:
    sim = Simulation(tenants(40, APPLIES))

    def push() -> None:
        sim.work.concerns = lambda name: name == "e7"
        sim.work.push("two")

    sim.at(600, push)
    sim.run(612)
    late = {name: sum(601 <= at <= 612 for at in one.looked) for name, one in sim.tenants.items()}
    assert sim.tenants["e7"].has == "two"
    assert sum(late.values()) < 20


def test_an_edit_is_healed_once_and_shown_once() -> None:
    sim = Simulation(tenants(5, HEALS))
    sim.edit(100, "e2", "edited")
    sim.run(HOUR)
    assert len(sim.tenants["e2"].written) == 1
    assert sim.tenants["e2"].written[0] <= 163
    assert sim.seen.states("e2") == ["in_sync", "drifted", "in_sync"]
    assert all(sim.seen.states(name) == ["in_sync"] for name in sim.tenants if name != "e2")


def test_tools_that_fight_are_noticed_and_left_until_they_stop() -> None:
    sim = Simulation(tenants(1, HEALS))
    for at in range(90, 1200, 10):  # another tool writes its own every 10 s
        sim.edit(at, "e0", "theirs")
    sim.at(1300, lambda: setattr(sim.tenants["e0"], "has", "one"))
    sim.edit(1700, "e0", "edited")
    board = sim.run(2000)
    assert len([at for at in sim.tenants["e0"].written if at < 1300]) == 3
    assert sim.seen.states("e0").count("fighting") == 1
    assert board.environments()[0].state is State.IN_SYNC
    assert len(sim.tenants["e0"].written) == 4  # healed again once they stopped


def test_a_window_that_opens_lets_what_waits_begin_at_once() -> None:
    closed = Window("deny", "0 6 * * *", HOUR)
    sim = Simulation(tenants(3, APPLIES._replace(windows=(closed,), interval=1700)))
    sim.at(300, lambda: sim.work.push("two"))
    sim.run(HOUR + 60)
    assert all(HOUR - 0.01 <= one.written[0] <= HOUR + 5 for one in sim.tenants.values())
    assert all(len(one.looked) >= 2 for one in sim.tenants.values())  # looking goes on


def test_a_later_wave_begins_when_the_one_before_is_done() -> None:
    sim = Simulation(tenants(6, APPLIES))
    for place in range(1, 6):
        sim.tenants[f"e{place}"].wave = 2
    sim.tenants["e0"].broken = ""
    sim.at(300, lambda: (setattr(sim.tenants["e0"], "broken", "write"), sim.work.push("two")))
    sim.at(900, lambda: setattr(sim.tenants["e0"], "broken", ""))
    sim.run(2000)
    first = sim.tenants["e0"].written[-1]
    assert first >= 900
    assert all(first <= sim.tenants[f"e{place}"].written[-1] <= first + 70 for place in range(1, 6))


def test_failed_writes_are_tried_again_later_and_later() -> None:
    retry = RetryWaits(10, 3, 900)
    sim = Simulation(tenants(1, APPLIES._replace(retry=retry)))
    tried = list[float]()
    apply = sim.work.apply

    def noting(name: str, look: object) -> object:
        tried.append(sim.clock.at)
        return apply(name, look)  # type: ignore[arg-type]

    sim.work.apply = noting  # type: ignore[assignment, method-assign]
    sim.at(100, lambda: (setattr(sim.tenants["e0"], "broken", "write"), sim.work.push("two")))
    sim.run(2 * HOUR)
    assert 6 <= len(tried) <= 40  # each 60 s would be 118
    assert sim.seen.states("e0").count("failed") == 1  # it goes on, and is not announced again


def test_a_host_that_is_down_is_not_asked_by_everyone() -> None:
    sim = Simulation(tenants(100))
    sim.at(300, lambda: [setattr(one, "broken", "unreachable") for one in sim.tenants.values()])
    sim.at(900, lambda: [setattr(one, "broken", "") for one in sim.tenants.values()])
    board = sim.run(1100)
    down = sum(300 < at < 900 for one in sim.tenants.values() for at in one.looked)
    assert down < 40  # and not 1,000
    assert {one.state for one in board.environments()} == {State.IN_SYNC}


def test_a_refused_login_is_not_tried_until_the_credentials_are_others() -> None:
    sim = Simulation(tenants(1))
    sim.at(100, lambda: setattr(sim.tenants["e0"], "broken", "login"))
    sim.at(1000, lambda: (setattr(sim.tenants["e0"], "key", "new"), setattr(sim.tenants["e0"], "broken", "")))
    board = sim.run(1100)
    assert len([at for at in sim.tenants["e0"].looked if 100 < at < 1000]) == 1
    assert board.environments()[0].state is State.IN_SYNC
    assert "file:key" in next(one.now.reason for one in sim.seen.transitions if one.now.state is State.FAILED)


def test_what_is_refused_is_shown_once_and_never_applied() -> None:
    sim = Simulation(tenants(1, APPLIES))
    sim.at(100, lambda: (setattr(sim.tenants["e0"], "refused", True), sim.work.push("two")))
    sim.run(HOUR)
    assert sim.tenants["e0"].written == []
    assert sim.seen.states("e0") == ["in_sync", "refused"]


def test_a_source_that_fails_is_shown_once_and_the_revision_stays_in_use() -> None:
    sim = Simulation(tenants(1, HEALS))

    def broken() -> str:
        raise OSError("disk")

    sim.at(100, lambda: setattr(sim.work, "fetch", broken))
    sim.edit(200, "e0", "edited")
    sim.run(600)
    assert [bool(one.error) for one in sim.seen.sources] == [False, True]
    assert sim.tenants["e0"].has == "one"


def test_a_restart_announces_nothing_again_and_keeps_since_when(tmp_path: Path) -> None:
    sim = Simulation(tenants(10), tmp_path)
    sim.edit(100, "e4", "edited")
    before = sim.run(400)
    shown = len(sim.seen.transitions)
    after = sim.run(800)
    assert len(sim.seen.transitions) == shown
    assert [one.since for one in after.environments()] == [one.since for one in before.environments()]


def test_a_heal_counts_over_a_restart(tmp_path: Path) -> None:
    sim = Simulation(tenants(1, HEALS), tmp_path)
    for at in range(90, 2400, 10):
        sim.edit(at, "e0", "theirs")
    for end in (200, 400, 2400):
        sim.run(end)
    assert len(sim.tenants["e0"].written) == 3
    assert sim.seen.states("e0").count("fighting") == 1


@pytest.mark.parametrize("number", [1, 25])
def test_once_looks_at_each_environment_and_ends(number: int) -> None:
    sim = Simulation(tenants(number, APPLIES, has=""))
    for place, one in enumerate(sim.tenants.values()):
        one.wave = 1 + place % 3
    sim.run(HOUR, once=True)
    assert sim.clock.at < 60
    assert all(len(one.looked) == 1 for one in sim.tenants.values())
    assert all(one.has == "one" for one in sim.tenants.values())


@pytest.mark.slow
@settings(max_examples=examples(40), deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(10, 3000), st.integers(0, 7), st.sampled_from(["edit", "push", "break", "mend"])), max_size=12
    )
)
def test_in_the_end_everything_is_as_the_files_want_and_nothing_is_written_twice(steps: list[tuple[int, int, str]]) -> None:
    sim = Simulation(tenants(8, EVERY._replace(apply="on-merge", heal="always", retry=RetryWaits(5, 2, 60))))
    writes = 8
    for at, place, step in steps:
        name = f"e{place}"
        if step == "edit":
            sim.edit(at, name, f"edited at {at}")
            writes += 1
        elif step == "push":
            sim.at(at, lambda at=at: sim.work.push(f"pushed at {at}"))  # type: ignore[misc]
            writes += 8
        else:
            sim.at(at, lambda name=name, step=step: setattr(sim.tenants[name], "broken", "write" if step == "break" else ""))  # type: ignore[misc]
    sim.at(3100, lambda: [setattr(one, "broken", "") for one in sim.tenants.values()])
    board = sim.run(4500)
    fighting = {one.name for one in board.environments() if one.state is State.FIGHTING}
    assert {name for name, one in sim.tenants.items() if one.has != sim.work.wanted} <= fighting
    assert sum(len(one.written) for one in sim.tenants.values()) <= writes


@pytest.mark.parametrize(("pushed", "state"), [(False, "drifted"), (True, "pending")])
def test_what_was_in_sync_before_a_restart_shows_who_moved(tmp_path: Path, *, pushed: bool, state: str) -> None:
    sim = Simulation(tenants(1), tmp_path)
    sim.run(100)
    sim.tenants["e0"].has = ""  # which history takes for something that was not applied yet
    if pushed:
        sim.work.push("two")
    sim.run(200)
    assert sim.seen.states("e0")[1:] == [state]


class Settling(SimulatedWork):
    """Notes when it was asked to note that what was approved is applied."""

    def settle(self, name: str, look: Look) -> Settled | None:
        self.settled.append(self.clock.at)
        return super().settle(name, look)

    settled: list[float]


def test_what_is_in_sync_settles_once_for_each_revision_and_process() -> None:
    """Merges that change nothing on the remote, together, use their approvals too."""
    sim = Simulation({"e0": Tenant("one", EVERY._replace(approved=True))})
    sim.work = work = Settling(sim.clock, sim.tenants)
    work.settled, work.concerns = [], lambda _: False
    sim.at(400, lambda: work.push("two"))
    sim.run(800)
    assert len(sim.tenants["e0"].looked) > 10
    first, second = work.settled
    assert first < 60
    assert 400 <= second < 500


class Blocking(SimulatedWork):
    """One tenant does not answer until it is released."""

    def __init__(self, tenants: dict[str, Tenant]) -> None:
        super().__init__(SimulatedClock(), tenants)
        self.blocked, self.released, self.applied = Event(), Event(), Event()

    def look(self, name: str, own: Watched, *, synced: Synced) -> Look:
        found = super().look(name, own, synced=synced)
        if name == "slow":
            self.blocked.set()
            assert self.released.wait(LONGEST)
        return found

    def apply(self, name: str, look: Look) -> EnvironmentResult:
        found = super().apply(name, look)
        if look.fingerprint == "two":
            self.applied.set()
        return found


def test_a_tenant_that_does_not_answer_does_not_keep_a_new_revision_from_the_others() -> None:
    work = Blocking({"quick": Tenant("one", APPLIES), "slow": Tenant("", APPLIES)})
    loop = WatchLoop(work, Board(), Memory(None), poll=0.05, parallelism=2)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(loop.run)
        assert work.blocked.wait(LONGEST)
        work.push("two")
        assert work.applied.wait(LONGEST)
        assert work.tenants["quick"].has == "two"
        assert work.tenants["slow"].written == []
        work.blocked.clear()
        work.released.set()
        assert work.blocked.wait(LONGEST)  # it is looked at again, with the new revision
        loop.stop()
        done.result(LONGEST)
    assert work.tenants["slow"].has != "one"  # nothing of the revision before was written


class Led(Blocking):
    """The next revision leads elsewhere, or has other settings, and the same policies."""

    def __init__(self) -> None:
        super().__init__({"slow": Tenant("one", APPLIES._replace(approved=True, interval=0.1))})
        self.access, self.approved = "here", True
        self.concerns = lambda _: False
        self.used_next, self.asked = Event(), Event()

    def open(self, revision: str) -> Mapping[str, Watched]:
        (one,) = super().open(revision).values()
        if revision == "next":
            self.used_next.set()
        settings = one.settings._replace(approved=self.approved)
        return {"slow": one._replace(settings=settings, access=self.access)}

    def look(self, name: str, own: Watched, *, synced: Synced) -> Look:
        assert own.access == "here"
        self.looked_at = self.used
        return super().look(name, own, synced=synced)

    def new_access(self, name: str, own: Watched, synced: Synced) -> str | None:
        self.asked.set()
        return super().new_access(name, own, synced)

    def settle(self, name: str, look: Look) -> Settled | None:
        self.asked.set()
        return Settled(self.looked_at, changed=True)


@pytest.mark.parametrize("has", ["one", ""])
@pytest.mark.parametrize(("access", "approved"), [("there", True), ("here", False)])
def test_a_push_during_a_look_or_an_apply_is_not_taken_for_what_that_was_made_with(
    access: str, has: str, *, approved: bool
) -> None:
    work, memory = Led(), Memory(None)
    work.tenants["slow"].has = has
    loop = WatchLoop(work, Board(), memory, poll=0.05, parallelism=2)
    with ThreadPoolExecutor(1) as pool:
        done = pool.submit(loop.run)
        try:
            assert work.blocked.wait(LONGEST)
            work.access, work.approved = access, approved
            work.push("next")
            assert work.used_next.wait(LONGEST)
            work.asked.clear()
            work.released.set()
            assert work.asked.wait(LONGEST)
        finally:
            loop.stop()
            work.released.set()
        done.result(LONGEST)
    assert (memory.synced("slow").access, memory.synced("slow").commit) == ("here", "one")
    (held,) = memory.held(work.open("next"), "next").values()
    assert held.settings.approved


def test_a_service_that_answers_oddly_about_approvals_stops_only_what_needs_one() -> None:
    sim = Simulation(tenants(2, APPLIES) | {"strict": Tenant("", APPLIES._replace(approved=True))})
    sim.work.unapproved = lambda *_: int("abc")  # type: ignore[method-assign, assignment]
    sim.work.push("two")
    board = sim.run(200)
    assert [sim.tenants[name].has for name in ("e0", "e1", "strict")] == ["two", "two", ""]
    (strict,) = [one for one in board.environments() if one.name == "strict"]
    assert "an approval, which cannot be read: a bug in policyctl: ValueError" in strict.waits_for


def test_a_suspended_environment_stays_suspended_while_its_host_is_down() -> None:
    sim = Simulation(tenants(6))
    sim.tenants["zz"] = Tenant("one", EVERY, suspended="it moves")
    for one in sim.tenants.values():
        one.broken = one.broken or "unreachable"
    sim.run(900)
    assert sim.seen.states("zz") == ["suspended"]


def test_what_was_applied_of_a_newer_commit_is_not_put_back() -> None:
    """Others apply what was just merged, and the watch has not read that yet."""
    sim = Simulation(tenants(30, HEALS))

    def merge_and_apply() -> None:
        sim.work.push("two")
        for one in sim.tenants.values():
            one.has = "two"

    sim.at(301, merge_and_apply)
    board = sim.run(400)
    assert all(not one.written[1:] for one in sim.tenants.values())
    assert {one.state for one in board.environments()} == {State.IN_SYNC}


@pytest.mark.parametrize(("broken", "number"), [("write", 1), ("unreachable", 8), ("login", 8)])
def test_when_an_environment_last_did_not_fail_is_known_over_restarts(tmp_path: Path, broken: str, number: int) -> None:
    """An alert compares this time with the interval. A pause after a failed write, a host that is left alone, and another
    process do not end a failure."""
    own = EVERY._replace(apply="on-merge", heal="always", retry=RetryWaits(600, 2, 3600))
    first = Simulation(tenants(number, own), tmp_path)

    def breaks() -> None:
        for one in first.tenants.values():
            one.has, one.broken = "edited", broken

    first.at(300, breaks)
    before = first.run(HOUR)
    after = Simulation(first.tenants, tmp_path, first.clock).run(HOUR + 30)
    for board in (before, after):
        found = board.environments()
        assert {one.state for one in found} == {State.FAILED}
        assert all(one.succeeded_at is not None and 230 <= (one.succeeded_at - BEGIN).total_seconds() <= 365 for one in found)
    assert {one.interval for one in after.environments() if one.next_look_at is not None} == {60}


class Forgetful(Memory):
    """One that cannot remember that an environment is in sync, as when its disk is full or its lead is lost."""

    def set_synced(self, name: str, **found: str) -> None:
        raise PolicyctlError("it cannot be written")


def test_a_watch_that_cannot_note_what_it_does_stops_what_it_began() -> None:
    sim = Simulation(tenants(3))
    loop = WatchLoop(sim.work, Board(), Forgetful(None), 10.0, 1, sim.clock)
    with pytest.raises(PolicyctlError, match="it cannot be written"):
        loop.run()
    assert sim.work.stopped
