"""Workers that are killed and stopped; `python -m tests.server.workers` is the long form."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from policyctl.errors import PolicyctlError, RemoteError
from policyctl.plan.fleet import EnvironmentResult, Marks
from policyctl.reconcile.queue import (
    JobQueue,
    Order,
    QueueRunner,
    RemoteLock,
    read_order,
    read_result,
    remote_lock,
    result_data,
)
from tests.conftest import Policyctl
from tests.postgres import PostgresServer
from tests.server.tenants import serving_tenants
from tests.server.workers import suffer, write_repository


def test_a_killed_and_a_stopped_worker_lose_and_double_nothing(postgres: PostgresServer) -> None:
    outcome = suffer(postgres, environments=400)
    assert outcome.mistakes(400) == []


@pytest.fixture
def queue(database: str) -> JobQueue:
    return JobQueue(database)


def test_a_lock_is_for_one_process_and_ends_with_its_session(queue: JobQueue) -> None:
    with remote_lock(queue, "tenant", 0, lambda: False) as lock:
        lock.require()
        with (
            pytest.raises(PolicyctlError, match="another worker is at work on tenant; nothing was written"),
            remote_lock(queue, "tenant", 0, lambda: False),
        ):
            raise AssertionError
        with remote_lock(queue, "another tenant", 0, lambda: False):
            pass
    with remote_lock(queue, "tenant", 0, lambda: False):
        pass


def test_a_session_that_was_ended_lets_nothing_be_written(queue: JobQueue, postgres: PostgresServer) -> None:
    with remote_lock(queue, "tenant", 0, lambda: False) as lock:
        postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
        with pytest.raises(PolicyctlError, match="the lock of tenant was lost"):
            lock.require()
        taken = RemoteLock(queue, "tenant")
        taken.take(0)
        taken.close()


def test_an_order_and_a_result_are_the_same_on_both_sides() -> None:
    order = Order("run", "apply", "c0ffee", "sha256:1", ("a*",), (), (), {"t-1": "sha256:2"})
    assert read_order(order._asdict()) == order
    result = EnvironmentResult(
        "t-1", "failed", 3, "refused", "http://x", "sha256:2", "sha256:3", counts={"add": 2}, marks=Marks(("p",))
    )
    assert read_result("t-1", result_data(result)) == result


@pytest.mark.parametrize("data", [{}, {"run": "1", "only": 1}, {"unknown": 1, "only": [], "exclude": [], "overrides": []}])
def test_an_order_of_another_version_is_one_clear_line(data: dict[str, object]) -> None:
    with pytest.raises(PolicyctlError, match="another version of policyctl"):
        read_order(data)


def test_a_queue_of_another_version_is_not_used(queue: JobQueue, database: str, postgres: PostgresServer) -> None:
    postgres.execute("UPDATE policyctl_queue.policyctl_format SET version = 9", database.rpartition("/")[2])
    with pytest.raises(RemoteError, match="another version of policyctl"):
        JobQueue(database)


def test_what_no_worker_began_is_withdrawn_when_the_run_is_stopped(queue: JobQueue) -> None:
    said: list[str] = []
    runner = QueueRunner(queue, Order("run", "apply", "", ""), lambda name: name, lambda: True, said.append)
    runner.submit(["a", "b"])
    found = list(runner.work(lambda name: EnvironmentResult(name, "done")))
    assert [(one.name, one.status) for one in found] == [("a", "not begun"), ("b", "not begun")]
    assert runner.progress() == (2, 2)


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, database: str) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("POLICYCTL_DATABASE", database)
    with serving_tenants(1) as (_, url):
        write_repository(tmp_path, url, 3, 1)
        yield


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("plan", "--env", "t-1", "--on", "queue"), "--on queue is for several environments"),
        (("apply", "--env", "t-1", "--on", "queue"), "--on queue is for several environments"),
        (("plan", "--all", "--on", "queue", "--base", "HEAD"), "--on queue and --base exclude each other"),
        (("apply", "--all", "--on", "queue", "--audit", "a.jsonl"), "--on queue and --audit exclude each other"),
    ],
)
def test_what_does_not_go_with_a_queue_is_one_clear_line(policyctl: Policyctl, arguments: tuple[str, ...], why: str) -> None:
    ran = policyctl(*arguments)
    assert (ran.code, why in ran.err) == (64, True), ran.err


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "must name the database of the queue"),
        ("mysql://host/db", "must name the database of the queue"),
        ("postgresql://user:secret@host/db", "POLICYCTL_DATABASE"),
    ],
)
def test_a_database_that_cannot_be_one_is_one_clear_line_without_its_password(
    policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch, value: str, why: str
) -> None:
    monkeypatch.setenv("POLICYCTL_DATABASE", value)
    ran = policyctl("worker")
    assert (ran.code, why in ran.err, "secret" in ran.err) == (64, True, False), ran.err


def test_what_matches_no_policy_anywhere_is_reported_as_without_a_queue(fleet: None, policyctl: Policyctl) -> None:
    worker = subprocess.Popen([sys.executable, "-m", "policyctl", "worker"], stdout=subprocess.PIPE, text=True)
    try:
        assert worker.stdout is not None
        assert "Working for" in worker.stdout.readline()
        ran = policyctl("plan", "--all", "--only", "nothing*", "--on", "queue")
    finally:
        worker.terminate()
        worker.communicate()
    here = policyctl("plan", "--all", "--only", "nothing*")
    assert (ran.code, ran.err) == (here.code, here.err)
    assert "in any environment" in ran.err


def test_a_worker_with_other_files_does_nothing_and_shows_both_commits(
    tmp_path: Path, fleet: None, policyctl: Policyctl, database: str
) -> None:
    worker = subprocess.Popen([sys.executable, "-m", "policyctl", "worker"], stdout=subprocess.PIPE, text=True)
    try:
        assert worker.stdout is not None
        assert "Working for" in worker.stdout.readline()
        (tmp_path / "policies" / "p0.yaml").rename(tmp_path / "policies" / "p1.yaml")
        queue = JobQueue(database)
        runner = QueueRunner(queue, Order("run", "plan", "c0ffee", "sha256:other"), lambda name: name)
        runner.submit(["t-0"])
        (found,) = runner.work(lambda name: EnvironmentResult(name, "done"))
        assert (found.status, "a worker has other files: its checkout is at" in found.reason) == ("failed", True), found
    finally:
        worker.terminate()
        worker.communicate()
    assert worker.returncode == 0
