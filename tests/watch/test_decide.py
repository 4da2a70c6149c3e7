"""What a look means, and what is applied without a person."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from policyctl.load.windows import WatchSettings, Window
from policyctl.plan.drift import Moved
from policyctl.plan.fleet import EnvironmentResult
from policyctl.watch import State
from policyctl.watch.look import Look, Problem, Situation, decide, state_of

NOW = datetime(2026, 11, 27, 12, tzinfo=UTC)
OFF, APPLIES, HEALS = WatchSettings(), WatchSettings(apply="on-merge"), WatchSettings(heal="always")
BOTH = WatchSettings(apply="on-merge", heal="always")
DENIED = Window("deny", "0 11 * * *", 7200)


def look(*moved: Moved, problem: Problem = "") -> Look:
    result = EnvironmentResult("prod", "planned", reason="why" if problem else "", counts={"update": len(moved)})
    return Look(result, {f"p{number}": side for number, side in enumerate(moved)}, problem)


@pytest.mark.parametrize(
    ("found", "settings", "applied"),
    [
        (look(), BOTH, False),
        (look("git"), OFF, False),
        (look("git"), APPLIES, True),
        (look("git"), HEALS, False),
        (look("remote"), OFF, False),
        (look("remote"), APPLIES, False),
        (look("remote"), HEALS, True),
        (look("git", "remote"), APPLIES, False),  # all of it or nothing
        (look("git", "remote"), HEALS, False),
        (look("git", "remote"), BOTH, True),
        (look("both"), BOTH, False),
        (look("git", "both"), BOTH, False),
        (look("unknown"), BOTH, False),
        (look("git", problem="refused"), BOTH, False),
        (look("git", problem="failed"), BOTH, False),
    ],
)
def test_only_what_the_switches_name_is_applied(found: Look, settings: WatchSettings, *, applied: bool) -> None:
    assert decide(found, settings, Situation(NOW)).apply is applied


@pytest.mark.parametrize(
    ("found", "state"),
    [
        (look(), State.IN_SYNC),
        (look("git"), State.PENDING),
        (look("remote"), State.DRIFTED),
        (look("git", "remote"), State.DRIFTED),
        (look("git", "both"), State.CONFLICT),
        (look("unknown"), State.CONFLICT),
        (look("git", problem="refused"), State.REFUSED),
        (look(problem="login"), State.FAILED),
    ],
)
def test_states(found: Look, state: State) -> None:
    assert state_of(found)[0] is state


@pytest.mark.parametrize(
    ("found", "situation", "waits_for"),
    [
        (look("git"), Situation(NOW, held="wave 1, which is not done yet"), "wave 1"),
        (look("remote"), Situation(NOW, held="wave 1, which is not done yet"), ""),  # a heal is of no wave
        (look("remote"), Situation(NOW, braked="other environments"), "other environments"),
        (look("git"), Situation(NOW, paused="the end of a pause"), "the end of a pause"),
        (look("git"), Situation(NOW, unapproved=lambda _: "an approval"), "an approval"),
        (look("remote"), Situation(NOW, unapproved=lambda _: "an approval"), "an approval"),
        (look("remote"), Situation(NOW, heals=3), "a person: it was put back 3 times"),
        (look("remote"), Situation(NOW, heals=2), ""),
    ],
)
def test_what_it_waits_for(found: Look, situation: Situation, waits_for: str) -> None:
    decision = decide(found, BOTH._replace(approved=True), situation)
    assert decision.waits_for.startswith(waits_for)
    assert decision.apply is (not waits_for)


def test_a_window_holds_writing_until_it_ends() -> None:
    decision = decide(look("git"), APPLIES._replace(windows=(DENIED,)), Situation(NOW))
    assert not decision.apply
    assert decision.until == NOW.replace(hour=13)


def test_an_environment_that_another_tool_overwrites_is_left() -> None:
    assert decide(look("remote"), HEALS, Situation(NOW, heals=3)).state is State.FIGHTING


@pytest.mark.parametrize("side", ["git", "remote"])
def test_nothing_is_written_while_the_files_are_not_those_of_a_commit(side: Moved) -> None:
    situation = Situation(NOW, uncommitted=lambda: "the files")
    assert decide(look(side), BOTH, situation) == (False, "the files", None, None)
