"""A worker of the queue: takes jobs and does them, on any machine. See `policyctl.reconcile.queue`."""

from __future__ import annotations

import asyncio
import json
import logging
import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import procrastinate

from policyctl.errors import Incomplete, PolicyctlError, RemoteError, StalePlan
from policyctl.plan.fleet import EnvironmentResult, write_result
from policyctl.reconcile.queue import QUEUE, STOPPED_HALFWAY, SWEEP_QUEUE, TASK, JobQueue, Order, Withdrawn, read_order
from policyctl.remote.postgres_shared import Interrupted

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
