"""Workers that are killed and stopped; `python -m tests.server.workers` is the long form."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path

import pytest

from policyctl.cli import fleet as cli_fleet
from policyctl.cli.console import Console
from policyctl.cli.fleet import Fleet, open_fleet
from policyctl.cli.options import Options
from policyctl.cli.queue import JobHandler
from policyctl.cli.session import Session, open_config
from policyctl.cli.watch_source import MirrorSource
from policyctl.errors import PolicyctlError, RemoteError
from policyctl.load.environment import EVERY
from policyctl.load.source import state_folder
from policyctl.load.urls import remote_identity
from policyctl.plan.fleet import EnvironmentResult, Marks, read_result, write_result
from policyctl.reconcile.fleet import run_ids
from policyctl.reconcile.queue import WATCH, Heartbeat, JobQueue, Order, QueueRunner, Withdrawn, Worker, read_order
from policyctl.remote.postgres_shared import Interrupted, remote_lock
from tests.conftest import Policyctl
from tests.git_repo import git
from tests.patience import LONGEST
from tests.postgres import PostgresServer, running_postgres
from tests.server.tenants import serving_tenants
from tests.server.workers import suffer, write_repository


def test_a_killed_and_a_stopped_worker_lose_and_double_nothing(postgres: PostgresServer) -> None:
    outcome = suffer(postgres, environments=200)
    assert outcome.mistakes(200) == []


@pytest.fixture
def queue(database: str) -> JobQueue:
    return JobQueue(database)


def test_a_lock_is_for_one_process_and_ends_with_its_session(queue: JobQueue) -> None:
    with remote_lock(queue.connect, "tenant", "prod", 0, lambda: False) as require:
        require()
        with (
            pytest.raises(Interrupted, match="another worker is at work on the remote of dev"),
            remote_lock(queue.connect, "tenant", "dev", 0, lambda: False),
        ):
            raise AssertionError
        with remote_lock(queue.connect, "another tenant", "dev", 0, lambda: False):
            pass
    with remote_lock(queue.connect, "tenant", "dev", 0, lambda: False):
        pass


def test_a_session_that_was_ended_lets_nothing_be_written(queue: JobQueue, postgres: PostgresServer) -> None:
    with remote_lock(queue.connect, "tenant", "prod", 0, lambda: False) as require:
        postgres.execute("SELECT pg_terminate_backend(pid, 60000) FROM pg_locks WHERE locktype = 'advisory'")
        with pytest.raises(PolicyctlError, match="the lock of the remote of prod was lost, so this was not written"):
            require()
        with remote_lock(queue.connect, "tenant", "dev", 0, lambda: False):
            pass


def test_an_order_and_a_result_are_the_same_on_both_sides() -> None:
    order = Order("run", "apply", "c0ffee", "sha256:1", ("a*",), (), (), {"t-1": "sha256:2"})
    assert read_order(order._asdict()) == order
    result = EnvironmentResult(
        "t-1", "failed", 3, "refused", "http://x", "sha256:2", "sha256:3", counts={"add": 2}, marks=Marks(("p",))
    )
    assert read_result("t-1", json.loads(json.dumps(write_result(result)))) == result


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


def test_a_run_that_is_stopped_waits_for_no_worker_that_is_gone(queue: JobQueue) -> None:
    """What such a worker had begun may be done in part, and so is reported."""
    runner = QueueRunner(queue, Order("run", "apply", "", ""), lambda name: name, lambda: True)
    runner.submit(["a", "b"])
    with queue.session() as connection:
        connection.execute("UPDATE procrastinate_jobs SET status = 'doing' WHERE queueing_lock = 'run b'")
    found = {one.name: (one.status, one.code) for one in runner.work(lambda name: EnvironmentResult(name, "done"))}
    assert found == {"a": ("not begun", 0), "b": ("failed", 5)}


def test_what_a_run_left_in_the_queue_is_withdrawn_before_it_goes_on(queue: JobQueue) -> None:
    """It was killed: what it asked for may be another thing than what is shown when it goes on. Other runs keep their jobs."""
    for run in ("run", "run-2"):
        QueueRunner(queue, Order(run, "apply", "", ""), lambda name: name).submit(["a", "b"])
    said: list[str] = []
    with queue.session() as connection:
        done = "INSERT INTO policyctl_result (run, environment, result) VALUES ('run', 'c', '{}')"
        connection.execute(done)
        doing = "UPDATE procrastinate_jobs SET status = 'doing' WHERE queueing_lock = 'run b'"
        connection.execute(doing)  # by a worker that is gone, the only one
        queue.withdraw("run", said.append)
        assert [one for (one,) in connection.execute("SELECT queueing_lock FROM procrastinate_jobs ORDER BY id")] == [
            "run-2 a",
            "run-2 b",
        ]
        assert connection.execute("SELECT count(*) FROM policyctl_result").fetchone() == (0,)
    assert said == ["waiting for 1 environment that a worker has begun for this run before"]


def test_a_database_that_is_gone_is_one_clear_line(queue: JobQueue, database: str, postgres: PostgresServer) -> None:
    postgres.execute(f"DROP DATABASE {database.rpartition('/')[2]} WITH (FORCE)")
    with pytest.raises(RemoteError, match=r"the queue postgresql://.* cannot be used: .*does not exist"):
        QueueRunner(queue, Order("run", "apply", "", ""), lambda name: name).submit(["a"])


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
        (("plan", "--all", "--on", "queue", "--remote", "git:HEAD"), "--on queue and --remote exclude each other"),
        (("apply", "--all", "--on", "queue", "--no-consumers"), "--on queue and --no-consumers exclude each other"),
        (("plan", "--all", "--on", "queue", "--partial", "0.5"), "--on queue and --partial exclude each other"),
        (("apply", "--all", "--on", "queue", "--lock-timeout", "1"), "--on queue and --lock-timeout exclude each other"),
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


@contextmanager
def working(database: str, options: Options = Options(), mirror: MirrorSource | None = None) -> Iterator[JobHandler]:
    """A worker in a thread of this process."""
    queue = JobQueue(database)
    jobs = JobHandler(options, queue, None, Console(options), mirror)
    begun, tasks = threading.Event(), list[asyncio.Task[None]]()

    async def work() -> None:
        tasks.append(asyncio.ensure_future(Worker(queue, jobs, 2, Heartbeat(0.5, LONGEST)).run(begun.set)))
        with suppress(asyncio.CancelledError):
            await tasks[0]

    thread = threading.Thread(target=asyncio.run, args=(work(),))
    thread.start()
    try:
        yield jobs
    finally:
        jobs.stop()
        assert begun.wait(LONGEST)  # before that it must not be cancelled
        tasks[0].get_loop().call_soon_threadsafe(tasks[0].cancel)
        thread.join(LONGEST)
        assert not thread.is_alive()
        jobs.close()


@pytest.mark.usefixtures("fleet")
def test_a_run_on_a_queue_reports_what_one_here_reports(policyctl: Policyctl, database: str) -> None:
    here = policyctl("plan", "--all")
    with working(database):
        assert policyctl("plan", "--all", "--on", "queue", "--detailed-exitcode").code == 2
        as_json = ("plan", "--all", "--format", "json")
        assert policyctl(*as_json, "--on", "queue").out == policyctl(*as_json).out
        assert policyctl("plan", "--all", "--on", "queue").out == here.out
        assert "3 environments: 3 with changes." in here.out
        applied = policyctl("apply", "--all", "--yes", "--on", "queue")
        assert (applied.code, "3 environments: 3 applied." in applied.out) == (0, True), applied.err
        assert "3 environments: 3 without changes." in policyctl("plan", "--all", "--on", "queue").out
        again = policyctl("apply", "--all", "--yes", "--on", "queue")
        assert (again.code, "3 environments: 3 without changes." in again.out) == (0, True), again.out
    assert "3 environments: 3 without changes." in policyctl("plan", "--all").out


@pytest.mark.usefixtures("fleet")
def test_a_plan_that_cannot_be_shown_here_approves_nothing(
    policyctl: Policyctl, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workers may have credentials that this process has not: what they planned is not left out of a page unseen."""
    shown = cli_fleet.plan_one

    def without_credentials(fleet: Fleet, session: Session) -> EnvironmentResult:
        if threading.current_thread() is threading.main_thread():
            raise PolicyctlError("auth.token refers to env:TOKEN, which is not set")
        return shown(fleet, session)

    monkeypatch.setattr(cli_fleet, "plan_one", without_credentials)
    with working(database):
        ran = policyctl("plan", "--all", "--on", "queue", "--report", "markdown=plan.md")
    assert (ran.code, "a worker planned 1 to add, which cannot be shown here: auth.token refers to" in ran.out) == (1, True)
    page = Path("plan.md").read_text("utf-8")
    assert ("approves none" in page, "cannot be shown here" in page) == (True, True)


@pytest.mark.usefixtures("fleet")
def test_a_run_goes_on_where_it_began(policyctl: Policyctl, database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it left in the queue would be applied beside what is done here, by an older order."""
    with monkeypatch.context() as killed:
        killed.setattr(QueueRunner, "work", _killed)
        with pytest.raises(SystemExit):
            policyctl("apply", "--all", "--yes", "--on", "queue")
    (run,) = run_ids(state_folder(Path("policies")))
    here = policyctl("apply", "--resume", run, "--yes")
    assert (here.code, "began with --on queue, so resume it with --on queue" in here.err) == (64, True)
    declined = policyctl("apply", "--resume", run, "--on", "queue")
    assert declined.code == 64  # it cannot be asked
    with JobQueue(database).session() as connection:
        assert connection.execute("SELECT count(*) FROM procrastinate_jobs").fetchone() == (0,)
    with working(database):
        assert policyctl("apply", "--resume", run, "--yes", "--on", "queue").code == 0
    assert "nothing left to do" in policyctl("apply", "--resume", run, "--yes", "--on", "queue").err


def _killed(*_: object) -> Iterator[EnvironmentResult]:
    raise SystemExit(9)


@pytest.mark.usefixtures("fleet")
def test_a_run_is_waited_for_as_long_as_its_process_is_there(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No worker gives up what a run still waits for, and none does a job of a run whose process is gone."""
    monkeypatch.setattr("policyctl.reconcile.queue._LONELY", 0.0)
    queue, files = JobQueue(database), open_fleet(Options(), EVERY).files.digest(open_config(Options()))
    runner = QueueRunner(queue, Order("run", "plan", "", files), lambda name: name)
    runner.submit(["t-0", "t-1"])
    age = "UPDATE policyctl_run SET at = now() - interval '1 hour'"
    with queue.session() as connection:
        connection.execute(age)
        results = runner.work(lambda name: EnvironmentResult(name, "done"))
        with working(database):
            assert next(results).status == "planned"
            connection.execute(age)
            assert next(results).status == "planned"
        QueueRunner(queue, Order("gone", "plan", "", files), lambda name: name).submit(["t-2"])
        connection.execute(age)
        with pytest.raises(PolicyctlError, match="its run ended or withdrew it"):
            queue.raise_if_over("gone")


@pytest.mark.usefixtures("fleet")
def test_a_job_that_is_begun_again_does_not_claim_that_nothing_was_written(database: str) -> None:
    """Its first worker was stopped halfway, and then the plan is another one than was shown."""
    queue = JobQueue(database)
    files = open_fleet(Options(), EVERY).files.digest(open_config(Options()))
    runner = QueueRunner(queue, Order("run", "apply", "", files, shown={"t-0": "sha256:other"}), lambda name: name)
    runner.submit(["t-0"])
    with queue.session() as connection:
        connection.execute("UPDATE procrastinate_jobs SET attempts = 1")
    with working(database):
        (found,) = runner.work(lambda name: EnvironmentResult(name, "done"))
    assert (found.code, "a part of what was shown may be written" in found.reason) == (5, True), found


@pytest.mark.usefixtures("fleet")
def test_a_remote_that_another_one_writes_to_is_done_later(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyctl.cli.queue._LOCK_SECONDS", 0.0)
    queue = JobQueue(database)
    config = open_config(Options())
    identity = remote_identity(config.environments["t-1"].remote, "t-1")
    with working(database) as jobs:
        files = open_fleet(Options(), EVERY).files.digest(config)
        order = Order("run", "apply", "", files)
        with (
            remote_lock(queue.connect, identity, "other", 0, lambda: False),
            pytest.raises(Interrupted, match="another worker is at work"),
        ):
            jobs("t-1", order)
        result, idle = jobs("t-1", order)
        assert (result.status, idle) == ("applied", {})
    with pytest.raises(Interrupted, match="the worker was stopped"):
        jobs("t-2", order)


@pytest.mark.usefixtures("fleet")
def test_what_was_not_shown_is_not_applied_by_a_worker(policyctl: Policyctl, database: str) -> None:
    with working(database) as jobs:
        files = open_fleet(Options(), EVERY).files.digest(open_config(Options()))
        result, _ = jobs("t-0", Order("run", "apply", "", files, shown={"t-0": "sha256:other"}))
        assert (result.status, "not the one that was shown" in result.reason) == ("failed", True)
        unknown, _ = jobs("t-9", Order("run", "plan", "", files))
        assert (unknown.status, "unknown environment t-9" in unknown.reason) == ("failed", True)


@pytest.mark.usefixtures("fleet")
def test_a_job_that_is_over_without_a_result_is_a_failure(database: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("policyctl.reconcile.queue._LONELY", 0.0)
    queue = JobQueue(database)
    said: list[str] = []
    runner = QueueRunner(queue, Order("run", "plan", "", "sha256:other"), lambda name: name, warn=said.append)
    runner.submit(["t-0"])
    with queue.session() as connection:
        connection.execute("DELETE FROM procrastinate_jobs")
    (found,) = runner.work(lambda name: EnvironmentResult(name, "done"))
    assert (found.status, "ended without a result" in found.reason) == ("failed", True)
    assert ["no worker is at work" in line for line in said] == [True]


@pytest.mark.usefixtures("fleet")
def test_what_matches_no_policy_anywhere_is_reported_as_without_a_queue(policyctl: Policyctl, database: str) -> None:
    with working(database):
        ran = policyctl("plan", "--all", "--only", "nothing*", "--on", "queue")
    here = policyctl("plan", "--all", "--only", "nothing*")
    assert (ran.code, ran.err) == (here.code, here.err)
    assert "in any environment" in ran.err


@pytest.mark.usefixtures("fleet")
def test_a_worker_with_other_files_does_nothing_and_shows_both_commits(policyctl: Policyctl, database: str) -> None:
    with working(database):
        runner = QueueRunner(JobQueue(database), Order("run", "plan", "", "sha256:other"), lambda name: name)
        runner.submit(["t-0"])
        (found,) = runner.work(lambda name: EnvironmentResult(name, "done"))
    assert (found.status, "a worker has other files: its checkout is at" in found.reason) == ("failed", True), found


@pytest.mark.usefixtures("fleet")
def test_a_worker_whose_history_is_not_that_of_the_run_does_nothing(database: str, tmp_path: Path) -> None:
    """It could not see what was edited on a remote since: the same files at another commit, or a shallow clone."""
    files = open_fleet(Options(), EVERY).files.digest(open_config(Options()))
    with working(database) as jobs:
        other, _ = jobs("t-0", Order("run", "apply", "c0ffee" * 6, files))
    assert "a worker has other files: its checkout is at" in other.reason
    head = git(tmp_path, "rev-parse", "HEAD").strip()
    (tmp_path / ".git" / "shallow").write_text(f"{head}\n", "utf-8")
    with working(database) as jobs:
        shallow, _ = jobs("t-0", Order("run", "apply", head, files))
    assert "a worker has a shallow clone" in shallow.reason


@pytest.mark.usefixtures("fleet")
def test_a_worker_with_a_source_applies_no_commit_that_its_branch_does_not_have_any_more(database: str, tmp_path: Path) -> None:
    """Though its mirror keeps one that was fetched once."""
    git(tmp_path, "commit", "--quiet", "--allow-empty", "--message=taken back")
    head = git(tmp_path, "rev-parse", "HEAD").strip()
    files = open_fleet(Options(), EVERY).files.digest(open_config(Options()))
    mirror = MirrorSource(Options(), EVERY, str(tmp_path), "HEAD", tmp_path / "state")
    with working(database, mirror=mirror) as jobs:
        assert jobs("t-0", Order("run", "plan", head, files))[0].status == "planned"
        git(tmp_path, "reset", "--quiet", "--hard", "HEAD^")
        found, _ = jobs("t-0", Order("run", "apply", head, files))
        earlier, _ = jobs("t-0", Order("run", "apply", git(tmp_path, "rev-parse", "HEAD").strip(), files))
    assert (found.status, found.reason) == (
        "failed",
        f"commit {head[:12]} of the run is not in the branch of the worker's --source any more",
    )
    assert earlier.status == "applied"


@pytest.mark.usefixtures("fleet")
def test_a_worker_ends_well_at_a_signal_as_soon_as_it_has_begun() -> None:
    with subprocess.Popen([sys.executable, "-m", "policyctl", "worker"], stdout=subprocess.PIPE, text=True) as worker:
        assert worker.stdout is not None
        assert "Working for" in worker.stdout.readline()
        worker.terminate()
    assert worker.returncode == 0


@pytest.mark.usefixtures("fleet")
def test_a_worker_shows_what_it_works_for_and_ends_at_a_signal(
    policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch, database: str
) -> None:
    async def wait_for_a_signal(_: Worker, begun: Callable[[], None]) -> None:
        begun()
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.Event().wait()

    monkeypatch.setattr(Worker, "run", wait_for_a_signal)
    ran = policyctl("worker", "--threads", "2", "--heartbeat", "1")
    assert (ran.code, ran.out) == (0, f"Working for {JobQueue(database).identity} with 2 threads\n")


def test_a_worker_goes_on_once_its_database_is_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A database that crashes and comes back ends no worker, and it needs no traceback to show that."""
    monkeypatch.chdir(tmp_path)
    with running_postgres() as server, serving_tenants(1) as (_, url):
        write_repository(tmp_path, url, 1, 1)
        environ = {**os.environ, "POLICYCTL_DATABASE": server.url(server.new_database())}
        command = [sys.executable, "-m", "policyctl"]
        log = tmp_path / "log"
        with open(log, "w") as errors:
            worker = subprocess.Popen(
                [*command, "worker", "--heartbeat", "0.5"], stdout=subprocess.PIPE, stderr=errors, text=True, env=environ
            )
        try:
            assert worker.stdout is not None
            assert "Working for" in worker.stdout.readline()
            server.crash()
            server.start()
            plan = [*command, "plan", "--all", "--on", "queue", "--detailed-exitcode"]
            ran = subprocess.run(plan, env=environ, capture_output=True, timeout=LONGEST, check=False)
            assert ran.returncode == 2
            assert worker.poll() is None
            worker.terminate()
            assert worker.wait(LONGEST) == 0
        finally:
            worker.kill()
            worker.communicate()
        assert "Traceback" not in log.read_text("utf-8")


# What a watch does not want any more


NEVER_NOW = {
    "a deny window": "windows: [{kind: deny, at: '* * * * *', for: 2m}]",
    "a deny window in which people may write": "windows: [{kind: deny, at: '* * * * *', for: 2m, manual: true}]",
    "outside of its allow windows": "windows: [{kind: allow, at: '0 0 29 2 *', for: 1s}]",
}


def configured(text: str) -> str:
    """Add settings to those of the fleet, and commit them. Returns the hash of the files."""
    file = Path("policies/policyctl.yaml")
    file.write_text(file.read_text("utf-8") + text, "utf-8")
    git(Path(), "commit", "--quiet", "--all", "--message=settings")
    return open_fleet(Options(), EVERY).files.digest(open_config(Options()))


def awaited(queue: JobQueue, run: str) -> None:
    with queue.session() as connection:
        connection.execute("INSERT INTO policyctl_run (run, at) VALUES (%s, now())", (run,))


@pytest.mark.usefixtures("fleet")
@pytest.mark.parametrize("case", NEVER_NOW)
def test_a_worker_writes_for_a_watch_only_in_its_windows(case: str, database: str) -> None:
    files, queue = configured(f"watch: {{{NEVER_NOW[case]}}}\n"), JobQueue(database)
    awaited(queue, "run")
    with working(database) as jobs:
        watch, _ = jobs("t-0", Order("run", "apply", "", files, caller=WATCH))
        person, _ = jobs("t-1", Order("run", "apply", "", files))
    assert (watch.status, "nothing was written to t-0: " in watch.reason) == ("not begun", True)
    assert (person.status, person.code) == (("failed", 3) if case == "a deny window" else ("applied", 0))


@pytest.mark.usefixtures("fleet")
def test_a_worker_does_not_begin_what_a_watch_withdrew_while_it_waited(policyctl: Policyctl, database: str) -> None:
    files, queue = open_fleet(Options(), EVERY).files.digest(open_config(Options())), JobQueue(database)
    order = Order("run", "apply", "", files, caller=WATCH)
    awaited(queue, "run")
    with working(database) as jobs:
        assert jobs("t-0", order)[0].status == "applied"
        queue.withdraw_all("run")
        withdrawn, _ = jobs("t-1", order)
    assert (withdrawn.status, "its run ended or withdrew it" in withdrawn.reason) == ("not begun", True)
    assert [policyctl("plan", "--env", name, "--detailed-exitcode").code for name in ("t-0", "t-1")] == [0, 2]


@pytest.mark.usefixtures("fleet")
def test_a_worker_writes_nothing_where_it_cannot_note_that_an_approval_is_used(policyctl: Policyctl, database: str) -> None:
    files = open_fleet(Options(), EVERY).files.digest(open_config(Options()))
    awaited(JobQueue(database), "run")
    with working(database) as jobs:
        commit = git(Path(), "rev-parse", "HEAD").strip()
        found, _ = jobs("t-0", Order("run", "apply", commit, files, caller=WATCH, uses=("#5",), branch="main"))
    assert (found.status, "it cannot be noted that an approval is used: set GITHUB_TOKEN" in found.reason) == ("failed", True)
    assert policyctl("plan", "--env", "t-0", "--detailed-exitcode").code == 2


@pytest.mark.parametrize(("attempts", "became"), [(0, "not begun"), (1, "failed")])
@pytest.mark.usefixtures("fleet")
def test_what_a_worker_did_not_begin_is_not_a_failure(attempts: int, became: str, database: str) -> None:
    """Where its first worker ended in the middle, a part may be written."""
    queue, files = JobQueue(database), configured(f"watch: {{{NEVER_NOW['a deny window']}}}\n")
    runner = QueueRunner(queue, Order("run", "apply", "", files, caller=WATCH), lambda name: name)
    runner.submit(["t-0"])
    with queue.session() as connection:
        connection.execute("UPDATE procrastinate_jobs SET attempts = %s", (attempts,))
    with working(database):
        (found,) = runner.work(lambda name: EnvironmentResult(name, "done"))
    assert found.status == became


@pytest.mark.parametrize("caller", [WATCH, ""])
def test_a_watch_that_withdraws_a_job_withdraws_what_a_worker_has_begun_to_plan(caller: str, queue: JobQueue) -> None:
    """A run of a person waits for what was begun, as long as its process is there."""
    runner = QueueRunner(queue, Order("run", "apply", "", "", caller=caller), lambda name: name, lambda: True)
    runner.submit(["t-0", "t-1"])
    with queue.session() as connection:
        worker = "INSERT INTO procrastinate_workers DEFAULT VALUES"
        connection.execute(worker)
        connection.execute("UPDATE procrastinate_jobs SET status = 'doing' WHERE args ->> 'environment' = 't-0'")
    assert next(runner.work(lambda name: EnvironmentResult(name, "done"))).status == "not begun"
    with pytest.raises(Withdrawn) if caller else nullcontext():
        queue.raise_if_over("run")
