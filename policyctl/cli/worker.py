"""policyctl worker."""

from __future__ import annotations

import asyncio
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace

import click

from policyctl.cli.console import Console
from policyctl.cli.fleet import Fleet, open_fleet, plan_one
from policyctl.cli.fleet_apply import FleetEvents, apply_one, revision_of
from policyctl.cli.history import with_audit
from policyctl.cli.options import NumberRange, Options, with_options
from policyctl.cli.queue import open_queue
from policyctl.cli.selection import Overrides
from policyctl.cli.session import Session
from policyctl.errors import PolicyctlError
from policyctl.load.selector import EVERY
from policyctl.load.urls import remote_identity
from policyctl.plan.fleet import EnvironmentResult
from policyctl.plan.plan import Selection
from policyctl.policy.memo import Memo
from policyctl.reconcile.apply import ApplySettings
from policyctl.reconcile.audit import Audit
from policyctl.reconcile.queue import Heartbeat, Interrupted, JobQueue, Order, Worker, remote_lock
from policyctl.report.format import count, escape

EPILOG = """\b
Example:
  export POLICYCTL_DATABASE=service=policyctl
  policyctl worker --threads 8
  policyctl apply --all --yes --on queue"""


_LOCK_SECONDS = 5.0  # to wait for another worker on the same remote, before its job is put back


@click.command("worker", epilog=EPILOG)
@click.option("--threads", type=click.IntRange(1, 64), default=4, show_default=True, help="Environments at once.")
@click.option(
    "--heartbeat",
    type=NumberRange(min=0.2),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to show that this worker is alive; after four times that, others take over its jobs.",
)
@with_audit
@with_options("dir", "color", "verbose")
def worker(options: Options, threads: int, heartbeat: float, audit: Audit | None) -> int:
    """Plan and apply environments for runs with --on queue. Any number of workers may run, on any machines.

    A worker needs the same files as the run: a checkout of the repository at the same commit. It has the credentials; a job
    never carries any. SIGTERM and SIGINT end it once what was begun is finished, and its other jobs go to other workers.
    """
    queue, console = open_queue(), Console(options)
    jobs = JobHandler(options, queue, audit, console)

    def begun() -> None:
        console.result(f"Working for {escape(queue.identity)} with {count(threads, 'thread')}\n")
        sys.stdout.flush()

    with Memo.remembering(), closing(jobs):
        asyncio.run(_run(Worker(queue, jobs, threads, Heartbeat(heartbeat, 4 * heartbeat)), jobs, begun))
    return 0


async def _run(worker: Worker, jobs: JobHandler, begun: Callable[[], None]) -> None:
    """Work until a signal. `begun` is called once a signal lets it finish what it began; before that it began nothing."""

    def handle_signals() -> None:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop)
        begun()

    def stop() -> None:
        jobs.stop()
        work.cancel()

    work = asyncio.ensure_future(worker.run(handle_signals))
    try:
        await work
    except asyncio.CancelledError:
        if not jobs.stopped():
            raise


class JobHandler:
    """Does the jobs of a worker, in several threads. The files of a run are read once."""

    def __init__(self, options: Options, queue: JobQueue, audit: Audit | None, console: Console) -> None:
        self._options, self._queue, self._audit, self._console = options, queue, audit, console
        self._fleets: dict[Order, tuple[Fleet, list[None]]] = {}  # with an entry for each thread that uses one
        self._lock = threading.Lock()
        self._stopping = False

    def stop(self) -> None:
        """Finish what was begun, and begin nothing more."""
        self._stopping = True

    def stopped(self) -> bool:
        return self._stopping

    def close(self) -> None:
        """Close the connections to remotes, when no job runs any more."""
        with self._lock:
            self._drop_unused()

    def __call__(self, name: str, order: Order) -> tuple[EnvironmentResult, Mapping[str, str] | None]:
        """Do an environment's part of an order. Returns the result, and the options that match no policy so far. Raises
        Interrupted when it was stopped."""
        if self.stopped():
            raise Interrupted("the worker was stopped")
        idle = None
        try:
            with self._fleet(order._replace(run="", shown=None)) as fleet:
                result, idle = self._done(fleet, name, order), fleet.idle
        except Interrupted:
            raise
        except PolicyctlError as error:
            result = EnvironmentResult(name, "failed", error.exit_code, str(error).partition("\n")[0])
        if self.stopped() and result.failed:
            raise Interrupted("the worker was stopped")
        return replace(result, review=None), idle

    def _done(self, fleet: Fleet, name: str, order: Order) -> EnvironmentResult:
        put_back: list[Interrupted] = []

        def work(session: Session) -> EnvironmentResult:
            try:
                return self._work(fleet, session, order)
            except Interrupted as error:
                put_back.append(error)
                raise

        result = fleet.task(work)(name)
        if put_back:
            raise put_back[0]
        return result

    def _work(self, fleet: Fleet, session: Session, order: Order) -> EnvironmentResult:
        if order.command == "plan":
            return plan_one(fleet, session)
        identity = remote_identity(session.url, session.environment.name)
        settings = ApplySettings(command="policyctl worker", audit=self._audit)
        with remote_lock(self._queue, identity, _LOCK_SECONDS, self.stopped) as lock:
            return apply_one(fleet, session, settings, FleetEvents(fleet, self.stopped, lock.require), order.shown)

    @contextmanager
    def _fleet(self, order: Order) -> Iterator[Fleet]:
        """The environments of an order. Raises PolicyctlError if this worker has other files than the run, or broken ones."""
        with self._lock:
            if order not in self._fleets:
                self._drop_unused()
                self._fleets[order] = self._open(order), []
            fleet, users = self._fleets[order]
            users.append(None)
        try:
            yield fleet
        finally:
            with self._lock:
                users.pop()

    def _drop_unused(self) -> None:
        for order in [order for order, (_, users) in self._fleets.items() if not users]:
            fleet, _ = self._fleets.pop(order)
            if fleet.hosts is not None:
                fleet.hosts.close()

    def _open(self, order: Order) -> Fleet:
        selection = Selection(order.only, order.exclude)
        overrides = Overrides(order.overrides)
        overrides.outside = order.outside
        fleet = open_fleet(self._options, EVERY, selection, overrides, marks=True)
        here = revision_of(self._options.dir)
        if order.files != fleet.files.digest(fleet.config):
            there, own = order.revision[:12] or "no commit", here[:12] or "no commit"
            raise PolicyctlError(
                f"a worker has other files: its checkout is at {own}, and the run at {there}; update it, then run again"
            )
        return fleet
