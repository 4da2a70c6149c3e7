"""Work on environments, done by workers on other machines: a queue in PostgreSQL (extra `fleet`).

The engine is Procrastinate: jobs, their locks, heartbeats of workers and retries. It lets a worker that hung and came back go
on beside the one that replaced it. So every remote has a lock of policyctl's own, on a session of the worker that is asked
before each write: see `RemoteLock`.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import procrastinate
import psycopg
from procrastinate.exceptions import ConnectorException
from psycopg.conninfo import make_conninfo

from policyctl.errors import PolicyctlError, RemoteError
from policyctl.load.urls import postgres_identity
from policyctl.plan.fleet import EnvironmentResult, Marks
from policyctl.plan.settings import Override
from policyctl.reconcile.fleet import Task

Connection = psycopg.Connection[tuple[Any, ...]]

SCHEMA = "policyctl_queue"
QUEUE, SWEEP_QUEUE = "environments", "sweep"
FORMAT = 1
_TASK, _SWEEP = "policyctl.environment", "policyctl.sweep"
_MAKING = 0x706C6379_0003  # advisory lock
_NETWORK = {"keepalives_idle": 5, "keepalives_interval": 2, "keepalives_count": 3, "tcp_user_timeout": 8000}
_POLL = 0.2  # seconds between two looks for results
_LONELY = 5.0  # seconds without a worker before that is reported
_ALIVE = 30.0  # seconds since its last heartbeat for which a worker counts as alive
_KEPT = "7 days"  # results of runs
_TRIES = 100  # of a job whose worker was stopped, or lost the database
_TABLES = f"""
CREATE TABLE {SCHEMA}.policyctl_format (version integer NOT NULL);
INSERT INTO {SCHEMA}.policyctl_format VALUES ({FORMAT});
CREATE TABLE {SCHEMA}.policyctl_result (
    run text COLLATE "C" NOT NULL, environment text COLLATE "C" NOT NULL, result text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(), PRIMARY KEY (run, environment)
);
"""  # noqa: S608 - the schema is named by this module alone


class Order(NamedTuple):
    """What a run asks of workers, for each of its environments: plain values without secrets.

    `files` is a hash of the policy files and configuration at `revision`, which a worker must have too. `shown` are the digests
    of the plans that may be applied; None lets it apply any. `outside` is why something is written in a window that denies it.
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


def read_order(data: Mapping[str, Any]) -> Order:
    """An order as a worker gets it. Raises PolicyctlError for one of another version of policyctl."""
    try:
        globs = {key: tuple(data[key]) for key in ("only", "exclude")}
        return Order(**{**data, **globs, "overrides": tuple(Override(*one) for one in data["overrides"])})
    except (KeyError, TypeError):
        raise PolicyctlError("this job is from another version of policyctl; update the workers and what submits") from None


class JobQueue:
    """The queue in one database. Raises RemoteError where that cannot be reached, or has another format."""

    def __init__(self, url: str) -> None:
        self.identity = postgres_identity(url)
        self._address = make_conninfo(
            url.replace("postgresql:?", "postgresql://?", 1),
            fallback_application_name="policyctl",
            connect_timeout=None if "connect_timeout=" in url else 5,
            options=f"-c search_path={SCHEMA}",
            **_NETWORK,
        )
        self._prepare()

    def connect(self) -> Connection:
        """A connection of one's own, which commits each statement."""
        try:
            return psycopg.connect(self._address, autocommit=True)
        except psycopg.Error as error:
            raise RemoteError(f"the queue {self.identity} cannot be reached: {_first_line(error)}") from None

    def app(self, *, asynchronous: bool = False) -> procrastinate.App:
        """Procrastinate on this database, without tasks."""
        connector = procrastinate.PsycopgConnector if asynchronous else procrastinate.SyncPsycopgConnector
        return procrastinate.App(connector=connector(conninfo=self._address, min_size=1, max_size=8))

    def _prepare(self) -> None:
        """Make the schema where there is none. Several processes may begin at once."""
        with self.connect() as connection:
            connection.execute("SELECT pg_advisory_lock(%s)", (_MAKING,))
            try:
                if not _exists(connection):
                    connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
                    connection.execute(_TABLES)
                    with self.app().open() as app:
                        app.schema_manager.apply_schema()
                self._check(connection)
            except (psycopg.Error, ConnectorException) as error:
                raise RemoteError(f"the queue {self.identity} cannot be prepared: {_first_line(error)}") from None
            finally:
                connection.execute("SELECT pg_advisory_unlock(%s)", (_MAKING,))

    def _check(self, connection: Connection) -> None:
        found = connection.execute("SELECT version FROM policyctl_format").fetchone()
        if found is None or found[0] != FORMAT:
            raise RemoteError(f"the queue {self.identity} is of another version of policyctl (format {found and found[0]})")


def _exists(connection: Connection) -> bool:
    found = connection.execute(
        "SELECT count(*) FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace "
        "WHERE nspname = %s AND relname = 'policyctl_format'",
        (SCHEMA,),
    ).fetchone()
    return bool(found and found[0])


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__


def lock_key(identity: str) -> int:
    """The number of a remote's advisory lock: the same for every directory and environment that leads to it."""
    return int.from_bytes(hashlib.sha256(f"policyctl {identity}".encode()).digest()[:8], signed=True)


class Interrupted(PolicyctlError):
    """A job cannot go on here, and is to be done again: its worker is stopped, or another one, perhaps one that hangs, has the
    lock of the remote."""


class RemoteLock:
    """The lock of one remote, on a session of its own. It ends with this process, and stays with one that hangs: so two
    workers never write to one remote at a time. Not for a proxy that shares sessions between clients."""

    def __init__(self, queue: JobQueue, identity: str) -> None:
        self._connection = queue.connect()
        self._key = lock_key(identity)
        self._identity = identity

    def take(self, seconds: float, stopped: Callable[[], bool] = lambda: False) -> None:
        """Wait for the lock. Raises Interrupted if another process still has it after so many seconds."""
        end = time.monotonic() + seconds
        while not self._ask("SELECT pg_try_advisory_lock(%s)"):
            if stopped() or time.monotonic() >= end:
                raise Interrupted(f"another worker is at work on {self._identity}; nothing was written")
            time.sleep(_POLL)

    def require(self) -> None:
        """Raise PolicyctlError unless this process still has the lock: call it before each write."""
        held = "SELECT EXISTS (SELECT FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND granted)"
        if not self._ask(held, ()):
            raise PolicyctlError(f"the lock of {self._identity} was lost, so this was not written")

    def close(self) -> None:
        """Give the lock back."""
        self._connection.close()

    def _ask(self, statement: str, values: tuple[Any, ...] | None = None) -> bool:
        try:
            found = self._connection.execute(statement.encode(), (self._key,) if values is None else values).fetchone()
        except psycopg.Error as error:
            raise PolicyctlError(f"the lock of {self._identity} was lost: {_first_line(error)}") from None
        return bool(found and found[0])


@contextmanager
def remote_lock(queue: JobQueue, identity: str, seconds: float, stopped: Callable[[], bool]) -> Iterator[RemoteLock]:
    """The lock of a remote, held until the end of the block."""
    lock = RemoteLock(queue, identity)
    try:
        lock.take(seconds, stopped)
        yield lock
    finally:
        lock.close()


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
        self._jobs: dict[str, int] = {}
        self._done: set[str] = set()
        self._reported = False

    def submit(self, names: Sequence[str]) -> None:
        """Hand over environments. One that was handed over in this run already is not handed over again."""
        new = [name for name in names if name not in self._jobs]
        order = self._order._asdict()
        with self._queue.app().open() as app:
            for name in new:
                own = order | {"shown": None if self._order.shown is None else self._shown(name)}
                self._jobs[name] = app.configure_task(
                    _TASK, queue=QUEUE, lock=self._identity_of(name), queueing_lock=f"{self._order.run} {name}"
                ).defer(environment=name, order=own)
        with self._queue.connect() as connection:
            # Without it, the planner goes on to believe that there are few jobs, and sorts all of them for each one.
            connection.execute("ANALYZE procrastinate_jobs")
            connection.execute(f"DELETE FROM policyctl_result WHERE at < now() - interval '{_KEPT}'".encode())  # noqa: S608

    def _shown(self, name: str) -> dict[str, str]:
        shown = self._order.shown or {}
        return {name: shown[name]} if name in shown else {}

    def work(self, _: Task) -> Iterator[EnvironmentResult]:
        """Wait for the workers, and yield each result once. After a stop, jobs that no worker has begun are withdrawn."""
        with self._queue.connect() as connection:
            look = _Results(connection, self._order.run, self._on_idle)
            heard = time.monotonic()
            while self._done < self._jobs.keys():
                if self._stopped():
                    yield from self._withdraw()
                new = [one for one in look.new() if one.name in self._jobs and one.name not in self._done]
                if not new and time.monotonic() - heard > _LONELY:
                    heard = time.monotonic()
                    new = look.lost({name: job for name, job in self._jobs.items() if name not in self._done})
                    self._report_no_worker(connection)
                for result in new:
                    heard = time.monotonic()
                    self._done.add(result.name)
                    yield result
                if not new:
                    time.sleep(_POLL)

    def _report_no_worker(self, connection: Connection) -> None:
        if not self._reported and not _workers(connection):
            self._reported = True
            self._warn(f"no worker is at work on {self._queue.identity}; start one: policyctl worker")

    def _withdraw(self) -> Iterator[EnvironmentResult]:
        with self._queue.app().open() as app:
            for name in [name for name in self._jobs if name not in self._done]:
                if app.job_manager.cancel_job_by_id(self._jobs[name], delete_job=True):
                    self._done.add(name)
                    yield EnvironmentResult(name, "not begun", reason="the run was stopped before it")

    def progress(self) -> tuple[int, int]:
        return len(self._done), len(self._jobs)


class _Results:
    """The results of a run, as they come."""

    def __init__(self, connection: Connection, run: str, on_idle: Callable[[Mapping[str, str]], None]) -> None:
        self._connection, self._run, self._on_idle = connection, run, on_idle
        self._missing: set[str] = set()

    def new(self) -> list[EnvironmentResult]:
        """The results since the last time. Each is deleted as it is read: a number or a time would not do, since a later one
        may be there sooner."""
        taken = "DELETE FROM policyctl_result WHERE run = %s RETURNING environment, result"
        found = [(name, json.loads(text)) for name, text in self._ask(taken, (self._run,))]
        for _, data in found:
            if data["idle"] is not None:
                self._on_idle(data["idle"])
        return [read_result(name, data) for name, data in found]

    def lost(self, jobs: Mapping[str, int]) -> list[EnvironmentResult]:
        """A failure for each of these jobs that is over without a result, by two looks: its result may just have come."""
        alive = "SELECT id FROM procrastinate_jobs WHERE id = ANY(%s) AND status IN ('todo', 'doing')"
        found = {row[0] for row in self._ask(alive, (list(jobs.values()),))}
        before, self._missing = self._missing, {name for name, job in jobs.items() if job not in found}
        why = "its job ended without a result; look at the log of the workers"
        return [EnvironmentResult(name, "failed", 1, why) for name in sorted(self._missing & before)]

    def _ask(self, statement: str, values: tuple[Any, ...]) -> list[tuple[Any, ...]]:
        try:
            return self._connection.execute(statement.encode(), values).fetchall()
        except psycopg.Error as error:
            raise RemoteError(f"the queue cannot be read any more: {_first_line(error)}") from None


def _workers(connection: Connection) -> int:
    """How many workers are alive."""
    found = connection.execute(
        "SELECT count(*) FROM procrastinate_workers WHERE last_heartbeat > now() - make_interval(secs => %s)", (_ALIVE,)
    ).fetchone()
    return 0 if found is None else int(found[0])


def result_data(result: EnvironmentResult, idle: Mapping[str, str] | None = None) -> dict[str, Any]:
    """A result as plain values, without its review, and the options that match no policy so far (None: nothing was planned)."""
    kept = {key: getattr(result, key) for key in _TEXTS}
    marks = result.marks
    return {
        **kept,
        "code": result.code,
        "whole": result.whole,
        "idle": None if idle is None else dict(idle),
        "counts": None if result.counts is None else dict(result.counts),
        "marks": [list(marks.prints), list(marks.changed), dict(marks.traffic)],
    }


_TEXTS = ("status", "reason", "remote", "digest", "alike", "users", "access", "outcome")


def read_result(name: str, data: Mapping[str, Any]) -> EnvironmentResult:
    """A result from plain values."""
    prints, changed, traffic = data["marks"]
    plain = {key: data[key] for key in (*_TEXTS, "code", "whole", "counts")}
    return EnvironmentResult(name, **plain, marks=Marks(tuple(prints), tuple(changed), traffic))


class Heartbeat(NamedTuple):
    """How often a worker shows that it is alive, and after how many seconds without that its jobs go to others."""

    every: float = 5.0
    stalled: float = 20.0


Handler = Callable[[str, Order], tuple[EnvironmentResult, Mapping[str, str] | None]]


class Worker:
    """Takes jobs and does them in threads, until it is stopped."""

    def __init__(self, queue: JobQueue, handle: Handler, threads: int, heartbeat: Heartbeat = Heartbeat()) -> None:
        """`handle` does an environment's part of an order, and returns what `result_data` takes. It may raise Interrupted or
        RemoteError, after which the job is done again; no other exception."""
        self._queue, self._handle, self._threads, self._heartbeat = queue, handle, threads, heartbeat

    async def run(self, begun: Callable[[], None] = lambda: None) -> None:
        """Work until it is cancelled; what was begun is finished. `begun` is called once it may be: connections that are being
        opened cannot be given up."""
        app = self._queue.app(asynchronous=True)
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

        @app.task(name=_TASK, queue=QUEUE, retry=again)
        def environment(environment: str, order: dict[str, Any]) -> None:
            self._do(environment, order)

        # Seconds come last in a cron line of six parts. It goes before the environments, however many wait.
        @app.periodic(cron=f"* * * * * */{max(1, round(self._heartbeat.every))}")
        @app.task(name=_SWEEP, queue=SWEEP_QUEUE, priority=100, queueing_lock=_SWEEP)
        async def sweep(timestamp: int) -> None:  # noqa: ARG001 - the engine gives it
            manager = app.job_manager
            for job in await manager.get_stalled_jobs(seconds_since_heartbeat=self._heartbeat.stalled):
                await manager.retry_job(job)

    def _do(self, name: str, data: Mapping[str, Any]) -> None:
        try:
            order = read_order(data)
            (result, idle), run = self._handle(name, order), order.run
        except (Interrupted, RemoteError):
            raise
        except PolicyctlError as error:
            result, idle = EnvironmentResult(name, "failed", error.exit_code, str(error)), None
            run = str(data.get("run", ""))
        with self._queue.connect() as connection:
            connection.execute(
                "INSERT INTO policyctl_result (run, environment, result) VALUES (%s, %s, %s) ON CONFLICT DO NOTHING",
                (run, name, json.dumps(result_data(result, idle))),
            )
