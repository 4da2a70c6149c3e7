"""`kill -9` in the middle of an apply: what is left is shown, finished, and nothing is there twice."""

from __future__ import annotations

import random
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from tests.conftest import Policyctl, Project

ADDS, UPDATES, REMOVES = 140, 50, 50
PIPE = 4096  # bytes, the least that there is: a process that reports more than that waits until it was read
UNREAD = 130  # changes at most, which is what a pipe holds
OVERRIDES = ("--max-removes", str(REMOVES), "--max-change-percent", "100")
DATABASE = Path(".policyctl/local.db")

# Runs an apply that kills itself right after its Nth write is committed and before the answer is seen.
KILL_AFTER_COMMIT = """
import itertools, os, signal, sys
import policyctl.remote.open
from policyctl.cli.main import main
from policyctl.remote.sqlite import SqliteRemote

left = itertools.count(int(sys.argv.pop(1)), -1)

def killing(method):
    def write(self, *args):
        answer = method(self, *args)
        if next(left) == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return answer
    return write

class Killed(SqliteRemote):
    add, update, remove = (killing(method) for method in (SqliteRemote.add, SqliteRemote.update, SqliteRemote.remove))

policyctl.remote.open.SqliteRemote = Killed
main()
"""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with 150 live policies, whose files now want 140 others added, 50 changed and 50 removed."""
    folder = tmp_path_factory.mktemp("template")
    project = Project(folder)
    apply = [sys.executable, "-m", "policyctl", "apply", "--yes"]
    for number in range(UPDATES + REMOVES + 50):
        project.policy(f"old-{number:03}", "virtual-model/x/before")
    subprocess.run(apply, cwd=folder, check=True, capture_output=True)
    for number in range(UPDATES):
        project.policy(f"old-{number:03}", "virtual-model/x/after")
    for number in range(UPDATES, UPDATES + REMOVES):
        (project.policies / f"old-{number:03}.yaml").unlink()
    for number in range(ADDS):
        project.policy(f"new-{number:03}")
    return folder


def _rows() -> list[tuple[str, str]]:
    with closing(sqlite3.connect(DATABASE)) as database:
        return list(database.execute("SELECT canonical, document FROM policy"))


def _left() -> tuple[int, int, int]:
    """How many adds, updates and removes are left to do, counted in the database itself."""
    rows = _rows()
    adds = ADDS - sum(name.startswith("virtual-policy/new-") for name, _ in rows)
    updates = UPDATES - sum("virtual-model/x/after" in document for _, document in rows)
    removes = sum(name.startswith("virtual-policy/old-") for name, _ in rows) - UPDATES - 50
    return adds, updates, removes


@pytest.mark.parametrize("seed", range(12))
def test_killed_at_a_random_moment(
    seed: int, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policyctl: Policyctl
) -> None:
    rng = random.Random(seed)
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    saved = ["plan.json"] if seed % 4 >= 2 else []
    if saved:
        assert policyctl("plan", "--out", "plan.json", *OVERRIDES).code == 0
    after_commit = seed % 2 == 0
    # A process that reports its last changes may be done before the signal arrives, so those moments are left out.
    moment = rng.randrange(1, ADDS + UPDATES + REMOVES - (5 if after_commit else UNREAD))
    _killed_apply(["apply", *saved, "--yes", *OVERRIDES], moment, after_commit=after_commit)

    left = _left()
    assert sum(left) > 0
    plan = policyctl("plan", *OVERRIDES)
    adds, updates, removes = left
    assert f"Plan: {adds} to add, {updates} to update, {removes} to remove." in plan.out
    finish = policyctl("apply", *saved, "--yes", *OVERRIDES)
    assert finish.code == 0, finish.err
    assert _left() == (0, 0, 0)
    assert len(_rows()) == ADDS + UPDATES + 50
    assert policyctl("plan", "--detailed-exitcode").code == 0


def _killed_apply(args: list[str], moment: int, *, after_commit: bool) -> None:
    """Run an apply and kill it: right after its `moment`th commit, or when it has reported that many changes."""
    program = ["-c", KILL_AFTER_COMMIT, str(moment)] if after_commit else ["-m", "policyctl"]
    command = [sys.executable, *program, *args]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, pipesize=PIPE) as process:
        assert process.stderr is not None
        if not after_commit:
            for _ in range(moment):
                process.stderr.readline()
            process.kill()
        process.stderr.read()
        assert process.wait() == -signal.SIGKILL


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_apply_in_order(
    number: signal.Signals, code: int, template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, policyctl: Policyctl
) -> None:
    """What was begun is finished, what was not is reported as skipped, and the exit code shows which signal it was."""
    shutil.copytree(template, tmp_path, dirs_exist_ok=True)
    monkeypatch.chdir(tmp_path)
    command = [sys.executable, "-m", "policyctl", "apply", "--yes", *OVERRIDES]
    told = tmp_path / "stdout.txt"  # a file: the plan of 240 changes is more than a pipe holds
    with (
        told.open("w") as stream,
        subprocess.Popen(command, stderr=subprocess.PIPE, stdout=stream, text=True, bufsize=1, pipesize=PIPE) as process,
    ):
        assert process.stderr is not None
        for _ in range(100):
            process.stderr.readline()
        process.send_signal(number)
        err = process.stderr.read()
        assert process.wait() == code
    assert "Traceback" not in err
    skipped = sum(line.endswith("skipped: interrupted") for line in told.read_text("utf-8").splitlines())
    assert skipped == sum(_left()) > 0
    assert policyctl("apply", "--yes", *OVERRIDES).code == 0
