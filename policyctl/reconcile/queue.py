"""Work on environments, done by workers on other machines: a queue in PostgreSQL, and a worker of it (extra `fleet`).

The engine is Procrastinate: jobs, their locks, heartbeats of workers and retries. It lets a worker that hung and came back go
on beside the one that replaced it. So every remote has a lock of policyctl's own, on a session of the worker that is asked
before each write: see `remote_lock`.
"""

from __future__ import annotations

import asyncio
import json
import logging
import math
import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, LiteralString, NamedTuple

import procrastinate
import psycopg
from procrastinate.exceptions import ConnectorException

from policyctl.errors import Incomplete, PolicyctlError, RemoteError, StalePlan
from policyctl.load.urls import postgres_identity
from policyctl.plan.fleet import EnvironmentResult, read_result, write_result
from policyctl.plan.settings import Override
from policyctl.reconcile.fleet import Task
from policyctl.remote.postgres import Connection, ListeningConnection, conninfo, explain, without_limit
from policyctl.remote.postgres_shared import HOST_TABLE, STATE_TABLE, Interrupted
from policyctl.report.format import count

SCHEMA = "policyctl_queue"
WATCH = "watch"  # the caller of an order
QUEUE, SWEEP_QUEUE = "environments", "sweep"
TASK = "policyctl.environment"
_MAKING = 0x706C6379_0003  # advisory lock
_POLL = 0.2  # seconds between two looks for results
_LONELY = 5.0  # seconds without a worker before that is reported
_AWAITED = 60.0  # seconds since a run was last known to wait for which its jobs are done
_ALIVE = 30.0  # seconds since its last heartbeat for which a worker counts as alive
# What each format adds to the one before; with the first one the engine makes its own tables. Each leaves what the release
# before needs: workers are replaced one by one.
_STEPS: tuple[LiteralString, ...] = (
    """
    CREATE TABLE policyctl_format (version integer NOT NULL);
    INSERT INTO policyctl_format VALUES (0);
    CREATE TABLE policyctl_result (
        run text COLLATE "C" NOT NULL, environment text COLLATE "C" NOT NULL, result text NOT NULL,
        at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (run, environment)
    );
    """,
    HOST_TABLE
    + STATE_TABLE
    + """
    CREATE TABLE policyctl_run (run text COLLATE "C" PRIMARY KEY, at timestamptz NOT NULL);
    """,
)
FORMAT = len(_STEPS)
# Not to_regclass: that is answered from a cache, which misses tables made while this connection waited for a lock.
_IS_MADE = """
SELECT count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE nspname = %s AND relname = 'policyctl_format'
"""
_UNDONE = "SELECT id, status::text FROM procrastinate_jobs WHERE queueing_lock LIKE %s AND status IN ('todo', 'doing')"
_WORKERS = "SELECT count(*) FROM procrastinate_workers WHERE last_heartbeat > now() - make_interval(secs => %s)"
_WITHDRAW = """
DELETE FROM procrastinate_jobs WHERE id = ANY(%s) AND (status = 'todo' OR status = 'doing' AND NOT EXISTS (
    SELECT FROM procrastinate_workers WHERE last_heartbeat > now() - make_interval(secs => %s)
)) RETURNING id, attempts, status::text
"""
_COUNTS = "SELECT status::text, count(*) FROM procrastinate_jobs GROUP BY status"
_FORGET: tuple[LiteralString, ...] = (
    "DELETE FROM policyctl_result WHERE at < now() - interval '7 days'",
    "DELETE FROM policyctl_run WHERE at < now() - interval '7 days'",
)
# A run whose process is gone has nothing applied any more: nothing shows what became of it.
_WAITS = "INSERT INTO policyctl_run (run, at) VALUES (%s, now()) ON CONFLICT (run) DO UPDATE SET at = now()"
_IS_AWAITED = "SELECT EXISTS (SELECT FROM policyctl_run WHERE run = %s AND at > now() - make_interval(secs => %s))"


STOPPED_HALFWAY = (
    "a worker was stopped while it applied this, so a part of what was shown may be written, and the plan is another one by "
    "now; plan again"
)


class Withdrawn(PolicyctlError):
    """A job that is not wanted any more before a worker began to write."""


class Order(NamedTuple):
    """What a run asks of workers, for each of its environments: plain values without secrets.

    `files` is a hash of the policy files and configuration at `revision`, which a worker must have too. `shown` are the digests
    of the plans that may be applied; None lets it apply any. `outside` is why something is written in a window that denies it.
    `who` asks for it, by `caller`, on a `page` of a CI service: for the audit. It `uses` the approvals of these pull
    requests into a `branch`, whose comments name a directory as its `place`.
    """

    run: str
    command: str
    revision: str
    files: str
    only: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    overrides: tuple[Override, ...] = ()
    shown: Mapping[str, str] | None = None
    outside: str = ""
    who: str = ""
    caller: str = ""
    page: str | None = None
    uses: tuple[str, ...] = ()
    branch: str = ""
    place: str = ""


def read_order(data: Mapping[str, Any]) -> Order:
    """An order as a worker gets it. Raises PolicyctlError for one of another version of policyctl."""
    try:
        several = {key: tuple(data[key]) for key in ("only", "exclude", "uses")}
        return Order(**{**data, **several, "overrides": tuple(Override(*one) for one in data["overrides"])})
    except (KeyError, TypeError):
        raise PolicyctlError("this job is from another version of policyctl; update the workers and what submits") from None


class JobQueue:
    """The queue in one database. Raises RemoteError where that cannot be reached, or has another format."""

    def __init__(self, url: str, *, make: bool = True) -> None:
        """Unless it is to `make` it, nothing is asked yet, and only `workers` may be used."""
        self.identity = postgres_identity(url)
        self.address = conninfo(url, options=f"-c search_path={SCHEMA}")
        if make:
            self._prepare()

    @contextmanager
    def session(self) -> Iterator[Connection]:
        """A connection of one's own, which commits each statement. What the database raises meanwhile is a RemoteError."""
        with self.explained(), self.connect() as connection:
            yield connection

    def counts(self) -> dict[str, int]:
        """How many jobs there are, by status."""
        with self.session() as connection:
            return dict(connection.execute(_COUNTS).fetchall())

    def raise_if_over(self, run: str) -> None:
        """Raise Withdrawn unless a run still waits for its results."""
        with self.session() as connection:
            if not _one(connection, _IS_AWAITED, run, _AWAITED):
                raise Withdrawn("its run ended or withdrew it, so nothing is done; start or resume the run")

    def withdraw_all(self, runs: str) -> None:
        """Withdraw what no worker has begun to write of the runs whose ids begin so: of a watch that led before."""
        with self.session() as connection:
            connection.execute("DELETE FROM policyctl_run WHERE starts_with(run, %s)", (runs,))
            statement = "DELETE FROM procrastinate_jobs WHERE status = 'todo' AND starts_with(queueing_lock, %s)"
            connection.execute(statement, (runs,))

    def workers(self) -> int | None:
        """How many workers are alive; None where no queue was made yet. Nothing is written."""
        with self.session() as connection:
            made = _one(connection, _IS_MADE, SCHEMA)
            return _one(connection, _WORKERS, _ALIVE) if made else None

    def withdraw(self, run: str, warn: Callable[[str], None]) -> None:
        """Withdraw what a run handed over before it was interrupted, wait until what a worker has begun is done, and forget
        its results: what was asked for then may be another thing than what is shown now. `warn` gets a line when this waits.

        A job whose worker is gone is begun again by another one, and withdrawn before that. Without any worker it is dropped.
        """
        said = False
        with self.session() as connection, self.engine() as app:
            while found := connection.execute(_UNDONE, (f"{run} %",)).fetchall():
                waiting = [job for job, status in found if status == "todo"]
                for job in waiting:
                    app.job_manager.cancel_job_by_id(job, delete_job=True)
                if not waiting and not _one(connection, _WORKERS, _ALIVE):
                    connection.execute("DELETE FROM procrastinate_jobs WHERE id = ANY(%s)", ([job for job, _ in found],))
                if not waiting and not said:
                    said = True
                    warn(f"waiting for {count(len(found), 'environment')} that a worker has begun for this run before")
                time.sleep(0 if waiting else _POLL)
            connection.execute("DELETE FROM policyctl_result WHERE run = %s", (run,))

    def connect(self) -> Connection:
        """A connection that commits each statement. Raises psycopg.Error."""
        return ListeningConnection.connect(self.address, autocommit=True)

    @contextmanager
    def engine(self) -> Iterator[procrastinate.App]:
        """Procrastinate on this database, to hand over jobs and to withdraw them. Raises RemoteError as `session` does."""
        with self.explained(), self._app(procrastinate.SyncPsycopgConnector).open() as app:
            yield app

    def worker_engine(self) -> procrastinate.App:
        """Procrastinate on this database, not opened yet, for a worker."""
        return self._app(procrastinate.PsycopgConnector)

    def _app(self, connector: Callable[..., Any]) -> procrastinate.App:
        return procrastinate.App(connector=connector(conninfo=self.address, min_size=1, max_size=8))

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Raise RemoteError for what the database and the engine raise."""
        try:
            yield
        except (psycopg.Error, ConnectorException) as error:
            cause = error if isinstance(error, psycopg.Error) else error.__cause__
            why = explain(cause) if isinstance(cause, psycopg.Error) else str(error)
            raise RemoteError(f"the queue {self.identity} cannot be used: {why}") from None

    def _prepare(self) -> None:
        """Make the schema where there is none. Several processes may begin at once."""
        with self.session() as connection:
            with without_limit(connection):
                connection.execute("SELECT pg_advisory_lock(%s)", (_MAKING,))
            is_made = _one(connection, _IS_MADE, SCHEMA)
            found = _one(connection, "SELECT version FROM policyctl_format") if is_made else 0
            if not is_made:
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
                with self.engine() as app:
                    app.schema_manager.apply_schema()
            for number, step in enumerate(_STEPS[found:], found + 1):
                with connection.transaction():
                    connection.execute(step)
                    connection.execute("UPDATE policyctl_format SET version = %s", (number,))
        if found > FORMAT:
            raise RemoteError(f"the queue {self.identity} is of another version of policyctl (format {found}); update this one")


def _one(connection: Connection, statement: LiteralString, *values: object) -> Any:
    """The one value that a statement returns; None without a row."""
    row = connection.execute(statement, values).fetchone()
    return None if row is None else row[0]


class QueueRunner:
    """Hands environments to workers, and yields what they report. See `policyctl.reconcile.fleet.Runner`."""

    def __init__(
        self,
        queue: JobQueue,
        order: Order,
        identity_of: Callable[[str], str],
        stopped: Callable[[], bool] = lambda: False,
        warn: Callable[[str], None] = lambda _: None,
        on_idle: Callable[[Mapping[str, str]], None] = lambda _: None,
    ) -> None:
        """`identity_of` gives an environment's remote: jobs of one remote are done one after the other. `warn` gets a line when
        no worker is there, `on_idle` the options that match no policy where a worker has looked so far."""
        self._queue, self._order, self._identity_of = queue, order, identity_of
        self._stopped, self._warn, self._on_idle = stopped, warn, on_idle
        self._jobs: dict[str, int] = {}  # by environment
        self._left: dict[str, int] = {}  # those without a result
        self._missing: set[str] = set()
        self._reported = False
        self._answered = 0.0  # when the database last did

    def submit(self, names: Sequence[str]) -> None:
        """Hand over environments."""
        with self._queue.session() as connection, self._queue.engine() as app:
            for number, name in enumerate(names):
                if number % 100 == 0:
                    connection.execute(_WAITS, (self._order.run,))
                mark = f"{self._order.run} {name}"
                task = app.configure_task(TASK, queue=QUEUE, lock=self._identity_of(name), queueing_lock=mark)
                self._jobs[name] = task.defer(environment=name, order=self._order_for(name)._asdict())
            self._left = dict(self._jobs)
            # Without it, the planner goes on to believe that there are few jobs, and sorts all of them for each one.
            connection.execute("ANALYZE procrastinate_jobs")
            for statement in _FORGET:
                connection.execute(statement)

    def _order_for(self, name: str) -> Order:
        shown = self._order.shown
        return self._order if shown is None else self._order._replace(shown={name: shown[name]} if name in shown else {})

    def work(self, _: Task) -> Iterator[EnvironmentResult]:
        """Wait for the workers, and yield each result once. After a stop, jobs that no worker has begun are withdrawn. Raises
        RemoteError when the database is away for longer than the jobs wait for this run."""
        self._answered = time.monotonic()
        while self._left:
            try:
                with self._queue.session() as connection:
                    yield from self._results(connection)
            except RemoteError as error:
                if time.monotonic() - self._answered > _AWAITED:
                    raise RemoteError(f"{error}; what no worker has begun is not done any more") from None
                time.sleep(_POLL)

    def _results(self, connection: Connection) -> Iterator[EnvironmentResult]:
        """The results as they come."""
        heard, noted = time.monotonic(), -math.inf
        while self._left:
            stopped = self._stopped()
            if time.monotonic() - noted > _LONELY and not (stopped and self._order.caller == WATCH):
                noted = time.monotonic()
                connection.execute(_WAITS, (self._order.run,))
            found = self._withdrawn(connection) if stopped else []
            found += self._new(connection)
            self._answered = time.monotonic()
            if not found and time.monotonic() - heard > _LONELY:
                heard = time.monotonic()
                found = self._lost(connection)
                self._report_no_worker(connection)
            for result in found:
                if self._left.pop(result.name, None) is not None:
                    yield result
            if not found:
                time.sleep(_POLL)

    def _new(self, connection: Connection) -> list[EnvironmentResult]:
        """The results since the last time. Each is deleted as it is read: a number or a time would not do, since a later one
        may be there sooner."""
        taken = "DELETE FROM policyctl_result WHERE run = %s RETURNING environment, result"
        found = [(name, json.loads(text)) for name, text in connection.execute(taken, (self._order.run,)).fetchall()]
        for _, data in found:
            if data["idle"] is not None:
                self._on_idle(data["idle"])
        return [read_result(name, data["result"]) for name, data in found]

    def _lost(self, connection: Connection) -> list[EnvironmentResult]:
        """A failure for each job that is over without a result, by two looks: its result may just have come."""
        alive = "SELECT id FROM procrastinate_jobs WHERE id = ANY(%s) AND status IN ('todo', 'doing')"
        there = {row[0] for row in connection.execute(alive, ([*self._left.values()],)).fetchall()}
        before, self._missing = self._missing, {name for name, job in self._left.items() if job not in there}
        why = "its job ended without a result; look at the log of the workers"
        return [EnvironmentResult(name, "failed", 1, why) for name in sorted(self._missing & before)]

    def _report_no_worker(self, connection: Connection) -> None:
        if not self._reported and not _one(connection, _WORKERS, _ALIVE):
            self._reported = True
            self._warn(f"no worker is at work on {self._queue.identity}; start one: policyctl worker")

    def _withdrawn(self, connection: Connection) -> list[EnvironmentResult]:
        """What is not done any more: the jobs that no worker has begun, and without any worker alive those too that one had.
        For a watch, a worker that has begun one but does not write yet does not write it either."""
        if self._order.caller == WATCH:
            connection.execute("DELETE FROM policyctl_run WHERE run = %s", (self._order.run,))
        rows = connection.execute(_WITHDRAW, ([*self._left.values()], _ALIVE)).fetchall()
        begun = {job for job, attempts, status in rows if attempts or status == "doing"}
        gone = {job for job, _, _ in rows}
        halfway = partial(EnvironmentResult, status="failed", code=Incomplete.exit_code, reason=STOPPED_HALFWAY)
        unbegun = partial(EnvironmentResult, status="not begun", reason="the run was stopped before it")
        jobs = [(name, job) for name, job in self._left.items() if job in gone]
        return [(halfway if job in begun and self._order.command == "apply" else unbegun)(name) for name, job in jobs]

    def progress(self) -> tuple[int, int]:
        return len(self._jobs) - len(self._left), len(self._jobs)


_SWEEP = "policyctl.sweep"
_TRIES = 100  # of a job whose worker was stopped, or lost the database
_AGAIN = 2.0  # seconds until a worker that lost the database connects again, on average


class Heartbeat(NamedTuple):
    """How often a worker shows that it is alive, and after how many seconds without that its jobs go to others."""

    every: float = 5.0
    stalled: float = 20.0


Handler = Callable[[str, Order], tuple[EnvironmentResult, Mapping[str, str] | None]]


class Worker:
    """Takes jobs and does them in threads, until it is stopped."""

    def __init__(
        self,
        queue: JobQueue,
        handle: Handler,
        threads: int,
        heartbeat: Heartbeat = Heartbeat(),
        warn: Callable[[str], None] = lambda _: None,
    ) -> None:
        """`handle` does an environment's part of an order, and returns its result and the options that match no policy so
        far (None: nothing was planned). It may raise Interrupted, after which the job is done again, no other exception."""
        self._queue, self._handle, self._threads, self._heartbeat = queue, handle, threads, heartbeat
        self._warn = warn
        for library in ("procrastinate", "psycopg.pool"):  # what matters of it is in results and warnings
            logger = logging.getLogger(library)
            logger.propagate, logger.handlers = False, [logging.NullHandler()]

    async def run(self, begun: Callable[[], None] = lambda: None) -> None:
        """Work until it is cancelled; what was begun is finished. `begun` is called once it may be: connections that are being
        opened cannot be given up. When the database goes away, `warn` gets a line, and it is tried again until it is back."""
        while True:
            try:
                with self._queue.explained():
                    await self._run(begun)
            except RemoteError as error:
                self._warn(f"{error}; it is tried again")
            await asyncio.sleep(_AGAIN * random.uniform(0.5, 1.5))  # noqa: S311 - all workers lost it at once

    async def _run(self, begun: Callable[[], None]) -> None:
        app = self._queue.worker_engine()
        self._add_tasks(app)
        async with app.open_async():
            begun()
            await app.run_worker_async(
                queues=[QUEUE, SWEEP_QUEUE],
                concurrency=self._threads,
                update_heartbeat_interval=self._heartbeat.every,
                stalled_worker_timeout=self._heartbeat.stalled,
                fetch_job_polling_interval=2.0,
                delete_jobs="successful",
                install_signal_handlers=False,
            )

    def _add_tasks(self, app: procrastinate.App) -> None:
        again = procrastinate.RetryStrategy(max_attempts=_TRIES, wait=1, retry_exceptions=(Interrupted, RemoteError))

        @app.task(name=TASK, queue=QUEUE, retry=again, pass_context=True)
        def environment(context: procrastinate.JobContext, environment: str, order: dict[str, Any]) -> None:
            self._do(environment, order, again=context.job.attempts > 0)

        # Seconds come last in a cron line of six parts. It goes before the environments, however many wait.
        @app.periodic(cron=f"* * * * * */{max(1, round(self._heartbeat.every))}")
        @app.task(name=_SWEEP, queue=SWEEP_QUEUE, priority=100, queueing_lock=_SWEEP)
        async def sweep(timestamp: int) -> None:  # noqa: ARG001 - the engine gives it
            manager = app.job_manager
            for job in await manager.get_stalled_jobs(seconds_since_heartbeat=self._heartbeat.stalled):
                await manager.retry_job(job)

    def _do(self, name: str, data: Mapping[str, Any], *, again: bool) -> None:
        try:
            order = read_order(data)
            self._queue.raise_if_over(order.run)
            (result, idle), run = self._handle(name, order), order.run
            if again and (result.code == StalePlan.exit_code or result.status == "not begun"):
                result = _halfway(name)
        except (Interrupted, RemoteError):  # of the queue itself: `handle` returns those of remotes
            raise
        except Withdrawn as error:
            found = EnvironmentResult(name, "not begun", reason=str(error))
            result, idle, run = _halfway(name) if again and order.command == "apply" else found, None, order.run
        except PolicyctlError as error:
            result, idle = EnvironmentResult(name, "failed", error.exit_code, str(error)), None
            run = str(data.get("run", ""))
        with self._queue.session() as connection:
            connection.execute(
                "INSERT INTO policyctl_result (run, environment, result) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                (run, name, json.dumps({"result": write_result(result), "idle": idle})),
            )


def _halfway(name: str) -> EnvironmentResult:
    """The result of an environment whose first worker ended in the middle."""
    return EnvironmentResult(name, "failed", Incomplete.exit_code, STOPPED_HALFWAY)
