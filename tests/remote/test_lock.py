"""The lock of apply on an embedded remote: visible, with owner and age, and released by death."""

from __future__ import annotations

import getpass
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from policyctl.errors import Refused, RemoteError
from policyctl.remote.sqlite import LockWait, apply_lock
from tests.conftest import Policyctl, Project
from tests.remote.http_helpers import Clock
from tests.remote.lock_holder import HOLDER, held
from tests.sqlite_rows import LEAF, LOCAL, live_documents, put, row

ME = f"{getpass.getuser()}@{socket.gethostname()}"


def waiting(seconds: float, clock: Clock) -> LockWait:
    return LockWait(seconds, clock.sleep, clock.now, clock.now)


def never(line: str) -> None:
    raise AssertionError(line)


def take(database: Path) -> None:
    """Take the lock at once, or raise, and let go of it."""
    with apply_lock(database, "x", LockWait(0), never):
        pass


def test_the_second_apply_is_refused_with_owner_and_age_once_waiting_took_too_long(tmp_path: Path) -> None:
    said: list[str] = []
    clock = Clock()
    database = tmp_path / "a.db"
    with apply_lock(database, "policyctl apply", waiting(0, clock), never):
        clock.time += 12
        owner = rf"{ME}, pid {os.getpid()} \(policyctl apply, begun %d s ago\)"
        late = rf"a\.db is being written by {owner % 22}; nothing was written, .* --lock-timeout$"
        with pytest.raises(Refused, match=late), apply_lock(database, "policyctl apply", waiting(10, clock), said.append):
            raise AssertionError("two hold it")
    assert len(said) == 1
    assert re.fullmatch(f"waiting up to 10 s for {owner % 12}", said[0])
    take(database)
    assert database.with_name("a.db.lock").exists()


@pytest.mark.parametrize("end", ["in order", "killed"])
def test_a_lock_ends_with_its_owner(tmp_path: Path, end: str) -> None:
    database = tmp_path / "a.db"
    with held(database) as process:
        with pytest.raises(Refused, match=f"pid {process.pid} "):
            take(database)
        if end == "killed":
            process.send_signal(signal.SIGKILL)
        else:
            process.communicate()
        process.wait()
        take(database)


# Starts a process that lives on, as git does for a moment, until the standard input of both ends.
CHILD = 'subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdout=subprocess.DEVNULL)'
WITH_A_CHILD = HOLDER.replace("import sys\n", "import subprocess\nimport sys\n", 1).replace(
    '    print("held"', f'    {CHILD}\n    print("held"'
)


def test_a_process_that_a_killed_apply_leaves_behind_does_not_hold_its_lock(tmp_path: Path) -> None:
    database = tmp_path / "a.db"
    with held(database, WITH_A_CHILD) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
        take(database)


def test_one_database_has_one_lock_whichever_way_leads_to_it(tmp_path: Path) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "a.db")
    with apply_lock(tmp_path / "a.db", "x", LockWait(0), never), pytest.raises(Refused):
        take(tmp_path / "link.db")


SIGNED = '{"owner": "%s", "host": "h", "pid": 1, "command": "c", "since": %s}'
UNSIGNED = {
    "by nobody": "",
    "in no JSON": "nonsense",
    "with a list": "[]",
    "without a time": '{"owner": 1}',
    "with no number for a time": '{"since": "then"}',
    "in JSON without end": "[" * 4096,
    "with a time beyond all numbers": SIGNED % ("a", "1" + "0" * 400),
    "in words that act on a terminal": SIGNED % (r"a\u001b[2J", "1"),
    "in several lines": SIGNED % (r"a\nerror: b", "1"),
}


@pytest.mark.parametrize("text", UNSIGNED.values(), ids=UNSIGNED)
def test_a_lock_without_an_owner_holds_as_well(tmp_path: Path, text: str) -> None:
    with apply_lock(tmp_path / "a.db", "x", LockWait(0), never):
        (tmp_path / "a.db.lock").write_text(text)
        with pytest.raises(Refused, match="written by another policyctl"):
            take(tmp_path / "a.db")


UNUSABLE: dict[str, tuple[Callable[[Path], object], str]] = {
    "a directory": (Path.mkdir, "a.db.lock, the lock of apply, cannot be created: Is a directory"),
    "a pipe": (os.mkfifo, "a.db.lock, the lock of apply, is not a regular file; remove it"),
    "a link": (lambda lock: lock.symlink_to("elsewhere"), "a.db.lock, the lock of apply, cannot be created: "),
    "of a link to itself": (lambda lock: lock.with_name("a.db").symlink_to("a.db"), "a link that leads back to itself"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_lock_that_cannot_be_made_is_reported_in_one_line(tmp_path: Path, case: str) -> None:
    spoil, told = UNUSABLE[case]
    spoil(tmp_path / "a.db.lock")
    with pytest.raises(RemoteError, match=re.escape(told)):
        take(tmp_path / "a.db")
    assert not (tmp_path / "elsewhere").exists()


def test_on_a_full_disk_the_lock_holds_without_its_signature(tmp_path: Path) -> None:
    full = "import resource, sys; sys.dont_write_bytecode = True; resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n" + HOLDER
    with held(tmp_path / "a.db", full), pytest.raises(Refused, match="written by another policyctl"):
        take(tmp_path / "a.db")


@pytest.mark.parametrize("seconds", ["0", "0.2"])
def test_apply_is_refused_and_writes_nothing(project: Project, policyctl: Policyctl, seconds: str) -> None:
    project.policy("one")
    with held(LOCAL) as process:
        ran = policyctl("apply", "--yes", "--lock-timeout", seconds)
        assert ran.code == 3
        assert f"error: {LOCAL.absolute()} is being written by {ME}, pid {process.pid} (policyctl apply, begun " in ran.err
        assert ("waiting up to 0.2 s for" in ran.err) == (seconds != "0")
        assert live_documents() == {}
    assert policyctl("apply", "--yes").code == 0


@pytest.mark.slow
def test_the_commands_of_single_policies_wait_too(project: Project, policyctl: Policyctl) -> None:
    with held(LOCAL) as process:
        add = ["policy", "add", "--name", "one", "--model", "virtual-model/x/a", "--strategy", "single", "--yes"]
        with subprocess.Popen([sys.executable, "-m", "policyctl", *add], stderr=subprocess.PIPE, text=True) as second:
            assert second.stderr is not None
            while "waiting up to 30 s for" not in (line := second.stderr.readline()):
                assert line, "it did not wait"
            assert live_documents() == {}
            process.kill()
            second.communicate()
            assert second.returncode == 0
    assert live_documents().keys() == {"virtual-policy/one"}


def test_what_only_looks_takes_no_lock_and_makes_no_file(project: Project, policyctl: Policyctl) -> None:
    project.policy("one")
    assert policyctl("plan").code == 0
    assert not LOCAL.parent.exists()
    assert policyctl("apply", "--yes").code == 0
    with held(LOCAL):
        assert policyctl("plan", "--detailed-exitcode").code == 0
        assert policyctl("apply", "--yes", "--lock-timeout", "0").code == 0, "there is nothing to apply"


@pytest.mark.slow
def test_apply_waits_and_then_holds_its_plan_against_what_is_live_now(project: Project, policyctl: Policyctl) -> None:
    """The apply that was waited for may have moved what the plan is about: exit 4, and nothing is written."""
    project.policy("one")
    project.policy("two")
    with held(LOCAL) as process:
        command = [sys.executable, "-m", "policyctl", "apply", "--yes"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as second:
            assert second.stderr is not None
            assert second.stderr.readline().startswith(f"waiting up to 30 s for {ME}, pid {process.pid} (policyctl apply")
            put([row("one")])
            process.kill()
            said = second.stderr.read()
            assert second.wait() == 4
    assert (
        "the remote changed since the plan was made; nothing was written, plan again\n"
        "  virtual-policy/one: policy: absent → live" in said
    )
    assert live_documents().keys() == {"virtual-policy/one"}


@pytest.mark.slow
def test_apply_waits_and_then_finds_its_work_done(project: Project, policyctl: Policyctl) -> None:
    project.policy("one", LEAF["model_name"])
    with held(LOCAL) as process:
        command = [sys.executable, "-m", "policyctl", "apply", "--yes"]
        with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as second:
            assert second.stderr is not None
            second.stderr.readline()
            put([{**row("one"), "display_name": "virtual-policy/one", "description": "virtual-policy/one"}])
            process.kill()
            out, _ = second.communicate()
            assert second.returncode == 0
    assert out.endswith("1 already; read back and verified.\n")
