"""What a watch remembers over restarts, wherever it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.load.windows import WatchSettings
from policyctl.watch import EnvironmentStatus, State
from policyctl.watch.look import Heals, Synced, Watched
from policyctl.watch.memory import FILE, Memory, StateFolder
from tests.examples import examples

SINCE = datetime(2026, 11, 27, 12, 0, 1, 5, tzinfo=UTC)
DRIFTED = EnvironmentStatus("prod", State.DRIFTED, SINCE, {}, 2, "sha256:1", "the remote moved")


def test_everything_is_known_again(tmp_path: Path) -> None:
    memory = Memory(StateFolder(tmp_path))
    memory.set_revision("one")
    memory.announce(DRIFTED)
    memory.set_heals("prod", Heals(2, 17.5))
    memory.set_synced("prod", files="files", rows="rows")
    again = Memory(StateFolder(tmp_path))
    assert again.revision == "one"
    assert [*again.statuses()] == [DRIFTED]
    assert (again.heals("prod"), again.synced("prod")) == (Heals(2, 17.5), Synced("files", "rows"))


@pytest.mark.parametrize("state", State)
def test_what_fails_is_known_to_have_failed_since_it_last_succeeded(tmp_path: Path, state: State) -> None:
    """After a restart an alert must go on. Of another state it is not known how long it lasted."""
    Memory(StateFolder(tmp_path)).announce(replace(DRIFTED, state=state, succeeded_at=SINCE))
    (found,) = Memory(StateFolder(tmp_path)).statuses()
    assert found.succeeded_at == (SINCE if state in (State.FAILED, State.REFUSED) else None)


def test_environments_that_left_are_forgotten(tmp_path: Path) -> None:
    memory = Memory(StateFolder(tmp_path))
    for name in ("prod", "gone"):
        memory.announce(replace(DRIFTED, name=name))
    memory.keep(["prod"])
    assert "gone" not in (tmp_path / FILE).read_text("utf-8")


APPROVED, FREE = WatchSettings(approved=True), WatchSettings()
PROD = Watched(APPROVED, access="prod", remote="P")
DEV = Watched(FREE, access="dev", remote="D")
# The environments of the next commit; which of them need approvals; and of each how it is reached and at which commit its
# settings are approved, as far as that is known.
NEXT: dict[str, tuple[dict[str, Watched], dict[str, bool], dict[str, tuple[str, str]]]] = {
    "the same": (
        {"prod": PROD, "dev": DEV},
        {"prod": True, "dev": False},
        {"prod": ("prod", "first"), "dev": ("dev", "first")},
    ),
    "other ways": (
        {"prod": PROD._replace(access="evil"), "dev": DEV._replace(access="evil")},
        {"prod": True, "dev": False},
        {"prod": ("prod", "first"), "dev": ("dev", "first")},
    ),
    "without approvals": ({"prod": PROD._replace(settings=FREE)}, {"prod": True}, {"prod": ("prod", "first")}),
    "a new one": (
        {"prod": PROD, "new": DEV._replace(access="new")},
        {"prod": True, "new": True},
        {"prod": ("prod", "first"), "new": ("", "")},
    ),
    "another name": (
        {"production": PROD._replace(settings=FREE), "dev": DEV},
        {"production": True, "dev": False},
        {"production": ("", ""), "dev": ("dev", "first")},
    ),
    "the remote of the other": ({"dev": PROD._replace(settings=FREE)}, {"dev": True}, {"dev": ("dev", "first")}),
}


@pytest.mark.parametrize("case", NEXT)
def test_what_a_commit_does_not_decide_about_itself(tmp_path: Path, case: str) -> None:
    found, approved, known = NEXT[case]
    memory = Memory(StateFolder(tmp_path))
    begun = memory.held({"prod": PROD, "dev": DEV}, "first")
    assert {name: one.settings.approved for name, one in begun.items()} == {"prod": True, "dev": False}
    memory.keep(begun)
    for again in (memory, Memory(StateFolder(tmp_path))):
        held = again.held(found, "next")
        assert {name: one.settings.approved for name, one in held.items()} == approved
        assert {name: (again.synced(name).access, again.synced(name).commit) for name in found} == known


def test_without_approvals_the_settings_of_the_branch_are_followed(tmp_path: Path) -> None:
    memory = Memory(StateFolder(tmp_path))
    memory.held({"dev": DEV}, "first")
    memory.set_synced("dev", files="files", rows="rows", base="base")
    assert not memory.held({"dev": DEV}, "second")["dev"].settings.approved
    assert memory.synced("dev") == Synced("files", "rows", "base", "", "dev")
    memory.held({"dev": DEV._replace(access="other")}, "third")
    assert memory.synced("dev") == Synced(access="other")  # what was in sync may be another remote
    memory.held({"dev": DEV._replace(access="last"), "prod": PROD}, "fourth")
    assert [memory.synced(name) for name in ("dev", "prod")] == [
        Synced(access="last", commit="fourth"),
        Synced(access="prod", commit="fourth"),
    ]


def test_a_remote_is_released_once_no_environment_needs_approvals_for_it(tmp_path: Path) -> None:
    memory = Memory(StateFolder(tmp_path))
    both = {"prod": PROD, "beside": PROD}
    memory.held(both, "first")
    free = {name: one._replace(settings=FREE) for name, one in both.items()}
    assert memory.released("prod", both | {"prod": free["prod"]}, "next")["prod"].settings.approved
    memory.released("prod", free, "next")
    assert not any(one.settings.approved for one in memory.released("beside", free, "next").values())
    assert not any(one.settings.approved for one in Memory(StateFolder(tmp_path)).held(free, "next").values())


def test_the_file_stays_small(tmp_path: Path) -> None:
    memory = Memory(StateFolder(tmp_path))
    for number in range(5000):
        memory.set_heals("prod", Heals(number, 0.0))
    assert len((tmp_path / FILE).read_bytes().splitlines()) < 1100


@settings(max_examples=examples(60), deadline=None)
@given(st.integers(0, 400))
def test_a_file_that_was_cut_off_or_damaged_is_read_as_far_as_it_goes(
    tmp_path_factory: pytest.TempPathFactory, cut: int
) -> None:
    folder = tmp_path_factory.mktemp("state")
    memory = Memory(StateFolder(folder))
    memory.announce(DRIFTED)
    memory.set_synced("prod", files="files", rows="rows")
    content = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(content[:cut])
    again = Memory(StateFolder(folder))
    assert len([*again.statuses()]) in (0, 1)
    again.announce(DRIFTED)
    lines = [json.loads(line) for line in (folder / FILE).read_bytes().splitlines()]
    assert lines[0]["format"] == "policyctl/watch"


@pytest.mark.parametrize(
    "content", [b"", b"\0\xff", b'{"format": "other"}\n{"environment": "prod", "state": "drifted"}\n', b"[]\n"]
)
def test_a_file_of_anything_else_is_as_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / FILE).write_bytes(content)
    memory = Memory(StateFolder(tmp_path))
    assert [*memory.statuses()] == []


KILLED = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from policyctl.watch.memory import Memory, StateFolder
from policyctl.watch import EnvironmentStatus, State
memory = Memory(StateFolder(Path(sys.argv[1])))
for number in range(1000000):
    memory.announce(EnvironmentStatus(f"e{number}", State.DRIFTED, datetime.now(UTC)))
    print(number, flush=True)
"""


@pytest.mark.slow
def test_what_was_announced_is_remembered_after_a_kill(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", KILLED, tmp_path], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if int(line) == 200:
                os.kill(process.pid, signal.SIGKILL)
                break
        announced = 201 + len(process.stdout.read().splitlines())
    memory = Memory(StateFolder(tmp_path))
    assert len([*memory.statuses()]) >= announced
