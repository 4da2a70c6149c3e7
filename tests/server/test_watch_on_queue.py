"""policyctl watch --on queue: one of several watches leads, workers apply, and another leads when that one is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import reduce
from pathlib import Path
from typing import Any

import pytest

from policyctl.load.urls import origin
from policyctl.reconcile.queue import JobQueue
from policyctl.remote.postgres_shared import LeaderState, LeadLost, PaceTable, SharedHostPace
from tests.cli.forges import forge_of
from tests.cli.pull_requests import Work
from tests.conftest import Policyctl, Project
from tests.git_repo import git
from tests.patience import LONGEST
from tests.postgres import PostgresServer
from tests.remote.fake_server import Reply, Seen, Silence, standing_in
from tests.remote.fake_tenant import Tenant
from tests.server.tenants import serving_tenants
from tests.server.workers import write_repository

HOST = origin("https://host.example")


@pytest.fixture
def queue(database: str) -> JobQueue:
    return JobQueue(database)


@contextmanager
def started(folder: Path, database: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A process of policyctl in a folder of its own, and what it prints."""
    folder.mkdir(exist_ok=True)
    environ = {**os.environ, "POLICYCTL_DATABASE": database}
    command = [sys.executable, "-m", "policyctl", *arguments]
    with subprocess.Popen(
        command, cwd=folder, env=environ, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def read_until(process: subprocess.Popen[str], words: str) -> list[str]:
    """The lines of a process up to one with these words. Fails if it ends before."""
    assert process.stdout is not None
    found = []
    for line in process.stdout:
        found.append(line)
        if words in line:
            return found
    raise AssertionError("".join(found))


@pytest.mark.slow
def test_another_watch_leads_once_the_first_is_killed_and_nothing_is_applied_or_announced_twice(
    tmp_path: Path, database: str
) -> None:
    source = tmp_path / "source"
    source.mkdir()
    with serving_tenants(2) as (tenants, url), ExitStack() as stack:
        write_repository(source, url, 3, 2)
        config = source / "policies" / "policyctl.yaml"
        config.write_text(config.read_text("utf-8") + "watch: {apply: on-merge, heal: always, interval: 1s}\n", "utf-8")
        git(source, "commit", "--quiet", "--all", "--message=watch")

        def start(name: str, *arguments: str) -> subprocess.Popen[str]:
            return stack.enter_context(started(tmp_path / name, database, *arguments, "--source", str(source)))

        watch = ("watch", "--all", "--on", "queue", "--port", "0", "--poll", "1s")
        read_until(start("worker", "worker", "--heartbeat", "0.5"), "Working for")
        first = start("first", *watch)
        read_until(first, "this watch leads")
        second = start("second", *watch)
        read_until(second, "another watch leads; this one follows")
        assert tenants.wait(lambda: tenants.done() == 3, LONGEST)
        for _ in range(3):
            read_until(first, "in_sync")
        first.kill()
        assert not any("Z  t-" in line for line in read_until(second, "this watch leads"))
        with tenants.changed:
            tenants.rows["1"].clear()  # by hand
        assert tenants.wait(lambda: tenants.done() == 3, LONGEST)
        announced = read_until(second, "in_sync")
        assert {line.split()[1] for line in announced if "Z  t-" in line} == {"t-1"}
        assert any("drifted" in line for line in announced)
        second.send_signal(signal.SIGTERM)
        assert second.wait(LONGEST) == 0
        for tenant in ("0", "2"):
            assert len(tenants.writes[tenant]) == 2
        assert len(tenants.writes["1"]) == 4


@pytest.mark.slow
def test_a_watch_whose_lead_is_lost_ends_and_a_look_beside_a_leader_is_refused(
    tmp_path: Path, database: str, postgres: PostgresServer
) -> None:
    with serving_tenants(1) as (_, url), ExitStack() as stack:
        write_repository(tmp_path, url, 1, 1)
        watch = ("watch", "--all", "--on", "queue", "--port", "0")
        first = stack.enter_context(started(tmp_path, database, *watch))
        read_until(first, "status at")
        beside = stack.enter_context(started(tmp_path, database, *watch, "--once", "--state", "other"))
        assert "another watch of the same leads" in "".join(read_until(beside, "error"))
        postgres.execute("SELECT pg_terminate_backend(pid) FROM pg_locks WHERE locktype = 'advisory'")
        assert "another watch may lead now" in "".join(read_until(first, "error"))
        assert first.wait(LONGEST) == 1


def test_what_a_leader_remembers_is_kept_for_the_next_one_only(queue: JobQueue) -> None:
    with closing(LeaderState(queue.connect, "watch", "the queue")) as first:
        assert first.lead()
        first.write("a", b"one")
        first.append("a", b"two")
        with closing(LeaderState(queue.connect, "watch", "the queue")) as second:
            assert not second.lead()
        with closing(LeaderState(queue.connect, "another", "the queue")) as other:
            assert other.lead()
            assert other.read("a") is None
    with pytest.raises(LeadLost):
        first.append("a", b"three")
    with closing(LeaderState(queue.connect, "watch", "the queue")) as second:
        while not second.lead():  # PostgreSQL sees the end of a session a moment later
            pass
        assert second.read("a") == b"onetwo"


def test_processes_keep_to_one_rate_and_to_a_pause_that_one_was_asked_for(queue: JobQueue) -> None:
    """Each has a clock of its own: the slots are those of the database."""
    slots, barrier = list[float](), threading.Barrier(4)

    def take() -> None:
        table, clock = PaceTable(queue.connect), time.monotonic
        pace = SharedHostPace(table, HOST)
        pace.limit(20.0)
        barrier.wait()
        own = [pace.slot(clock()) for _ in range(50)]
        table.close()
        slots.extend(own)

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(take) for _ in range(4)]:
            done.result()
    ordered = sorted(slots)
    assert len(slots) == 200
    assert ordered[-1] - ordered[0] > 200 / 20 * 0.9  # not four times as fast, and no slot given twice

    table, clock = PaceTable(queue.connect), time.monotonic
    asked, other = SharedHostPace(table, HOST), SharedHostPace(table, HOST)
    asked.pause(clock(), 1_000_000)  # which is too long
    assert 890 < other.slot(clock()) - clock() <= 900
    table.close()


def test_without_its_database_a_process_keeps_to_its_own_pace(queue: JobQueue, postgres: PostgresServer, database: str) -> None:
    table, clock = PaceTable(queue.connect), time.monotonic
    pace = SharedHostPace(table, HOST)
    pace.limit(10.0)
    postgres.execute(f"DROP DATABASE {database.rpartition('/')[2]} WITH (FORCE)")
    now = clock()
    assert [round(pace.slot(now) - now, 3) for _ in range(3)] == [0.0, 0.1, 0.2]
    table.close()


CONFIG = """\
scope: ['virtual-policy/*']
environments:
  a: {remote: 'URL-A', watch: {apply: on-merge, interval: 2s}}
  b: {remote: 'URL-B'MORE, watch: {apply: APPLY, interval: 2s, windows: [WINDOW]}}
"""


class Busy:
    """Two tenants with one policy each; a takes its time for a write until it is released."""

    def __init__(self) -> None:
        self.a, self.b = Tenant(), Tenant()
        self.writing, self.released, self.written = threading.Event(), threading.Event(), list[str]()
        for one in (self.a, self.b):
            one.put(policy("x/a"))

    def answer_a(self, seen: Seen) -> Reply | Silence:
        if seen.method == "PUT":
            self.writing.set()
            self.released.wait(LONGEST)
        return self.a(seen)

    def answer_b(self, seen: Seen) -> Reply | Silence:
        if seen.method == "PUT":
            self.written.append(seen.json["policy"]["targets"][0]["model_name"])
        return self.b(seen)


def policy(model: str) -> dict[str, Any]:
    found = {"strategy": {"mode": "single"}, "targets": [{"model_name": f"virtual-model/{model}", "weight": 1}]}
    names = dict.fromkeys(("name", "display_name", "description"), "virtual-policy/chat")
    return {"id": "chat", **names, "policy": found}


DENIED = "{kind: deny, at: '* * * * *', for: 2m, manual: true}"
NO_LONGER = {
    "taken back": ({"model": "x/a"}, "b  in_sync"),
    "suspended": ({"more": ", suspend: {reason: moving}"}, "b  suspended"),
    "in a deny window": ({"window": DENIED}, "waits for another look"),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", NO_LONGER)
def test_what_waits_for_a_worker_is_not_written_once_the_branch_does_not_want_it(
    case: str, tmp_path: Path, database: str, queue: JobQueue
) -> None:
    source, busy = tmp_path / "source", Busy()
    (source / "policies").mkdir(parents=True)
    with standing_in(busy.answer_a) as a, standing_in(busy.answer_b) as b, ExitStack() as stack:

        def push(model: str = "x/risky", apply: str = "on-merge", window: str = "", more: str = "") -> None:
            given = {"URL-A": a.url, "URL-B": b.url, "APPLY": apply, "WINDOW": window, "MORE": more}
            config = reduce(lambda text, key: text.replace(key, given[key]), given, CONFIG)
            (source / "policies" / "policyctl.yaml").write_text(config, "utf-8")
            text = f"    - model_name: virtual-model/{model}\n"
            head = "spec_version: v1\nkind: model\nname: chat\npolicy:\n  strategy: {mode: single}\n  targets:\n"
            (source / "policies" / "chat.yaml").write_text(head + text, "utf-8")
            git(source, "add", ".")
            git(source, "commit", "--quiet", "--message=x")

        def start(*arguments: str) -> subprocess.Popen[str]:
            return stack.enter_context(started(tmp_path / arguments[0], database, *arguments, "--source", str(source)))

        git(source, "init", "--quiet", "--initial-branch=main")
        push("x/a", "never")
        push("x/b", "never")
        read_until(start("worker", "--threads", "1"), "Working for")
        watch = start("watch", "--all", "--on", "queue", "--port", "0", "--poll", "1s")
        assert busy.writing.wait(LONGEST)
        read_until(watch, "b  pending")
        with queue.session() as connection:
            connection.execute('LISTEN "procrastinate_queue_v1#environments"')
            push()
            assert list(connection.notifies(timeout=LONGEST, stop_after=1))
        changed, line = NO_LONGER[case]
        push(**changed)
        read_until(watch, line)
        with queue.session() as connection:
            jobs = "SELECT args ->> 'environment' FROM procrastinate_jobs WHERE queue_name = 'environments'"
            assert connection.execute(jobs).fetchall() == [("a",)]
        busy.released.set()
        read_until(watch, "a  in_sync")
    assert busy.written == []


APPROVED = """\
scope: ['virtual-policy/*']
environments: {prod: {remote: 'URL', watch: {apply: on-merge, approved: true, interval: 1s, retry: {first: 1s, most: 1s}}}}
"""


@pytest.mark.slow
def test_an_approval_is_used_by_the_worker_that_writes_and_by_nothing_before(
    project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, database: str
) -> None:
    """Not by a leader that finds no worker, nor by one that is killed while its job waits."""
    tenant, used = Tenant(), list[bool]()
    with forge_of("github") as forge, ExitStack() as stack:

        def answer(seen: Seen) -> Reply | Silence:
            if seen.method == "PUT":
                used.append("Used by policyctl watch" in forge.bodies[0])
            return tenant(seen)

        def start(folder: str, *arguments: str) -> subprocess.Popen[str]:
            source = ("--source", str(project.folder), "--ref", "main")
            return stack.enter_context(started(tmp_path / folder, database, *arguments, *source))

        def lead(folder: str) -> subprocess.Popen[str]:
            return start(folder, "watch", "--on", "queue", "--port", "0", "--poll", "1s")

        tenant.put(policy("x/a"))
        host = stack.enter_context(standing_in(answer))
        work = Work(project, forge, policyctl, monkeypatch)
        git(project.folder, "init", "--quiet", "--initial-branch=main")
        project.write("policyctl.yaml", APPROVED.replace("URL", host.url))
        project.policy("chat", "virtual-model/x/a")
        work.settle()
        for name, value in forge.environ.items():
            monkeypatch.setenv(name, value)
        first = lead("first")
        read_until(first, "revision ")
        project.policy("chat", "virtual-model/x/b")
        assert work.comment(5).code == 0
        forge.head = work.commit()
        forge.merge(5, forge.head)
        read_until(first, "prod  failed     no worker is at work")
        first.kill()
        second = lead("second")
        read_until(second, "revision ")
        assert "Used by" not in forge.bodies[0]
        start("worker", "worker")
        read_until(second, "prod  in_sync")
    assert used == [True]
