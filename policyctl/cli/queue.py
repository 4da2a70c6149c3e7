"""Work through a queue: policyctl worker, and policyctl watch --on queue.

Of several watches of the same one leads, and workers carry out what it applies.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import signal
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from policyctl.ci import service_at
from policyctl.cli.ci.merges import BY_WATCH, note_use
from policyctl.cli.console import Console, first_signal_apart
from policyctl.cli.environments import open_queue
from policyctl.cli.fleet import Fleet, FleetEvents, apply_one, open_fleet, plan_one
from policyctl.cli.history import revision_of, with_audit
from policyctl.cli.options import NumberRange, Options, with_options
from policyctl.cli.review import FirstWrite
from policyctl.cli.selection import Overrides
from policyctl.cli.watch_source import MirrorSource, Opened, looked, mirror_of, source_options
from policyctl.cli.watch_work import EnvironmentWork, failed_look
from policyctl.errors import PolicyctlError
from policyctl.load.environment import EVERY, Environment
from policyctl.load.git.repository import WHOLE_HISTORY, find_repository
from policyctl.load.urls import remote_identity
from policyctl.load.windows import writing_at
from policyctl.plan.fleet import EnvironmentResult
from policyctl.plan.plan import Selection
from policyctl.policy.memo import Memo
from policyctl.reconcile.apply import ApplySettings
from policyctl.reconcile.audit import Audit, person
from policyctl.reconcile.queue import WATCH, Heartbeat, JobQueue, Order, QueueRunner, Withdrawn, Worker
from policyctl.remote.open import shared_hosts
from policyctl.remote.postgres_shared import Interrupted, LeaderState, PaceTable, SharedHostPace, remote_lock
from policyctl.report.format import count, escape
from policyctl.watch import Board, Watcher
from policyctl.watch.http import StatusServer, WatchSite
from policyctl.watch.look import Look

if TYPE_CHECKING:
    from policyctl.cli.watch import OutputOptions

EPILOG = """\b
Example:
  export POLICYCTL_DATABASE=service=policyctl
  policyctl worker --threads 8
  policyctl worker --source https://git.example.com/team/policies.git --ref main
  policyctl apply --all --yes --on queue"""

_OTHER_FILES = "a worker has other files: {where}, and the run at {there}; update it, then run again"
_LOCK_SECONDS = 5.0  # to wait for another worker on the same remote, before its job is put back


@click.command("worker", epilog=EPILOG)
@click.option("--threads", type=click.IntRange(1, 64), default=4, show_default=True, help="Environments at once.")
@click.option(
    "--heartbeat",
    type=NumberRange(0.2, 20),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How often to show that this worker is alive; after four times that, others take over its jobs.",
)
@source_options
@with_audit
@with_options("dir", "color", "verbose")
def worker(
    options: Options, threads: int, heartbeat: float, source: str | None, ref: str, state: Path | None, audit: Audit | None
) -> int:
    """Plan and apply environments for runs with --on queue. Any number of workers may run, on any machines.

    A worker needs the same files as the run: a checkout of the repository at the same commit, or with --source the repository,
    of which it fetches what a run asks for. It has the credentials; a job never carries any. SIGTERM and SIGINT end it once
    what was begun is finished, and its other jobs go to other workers.
    """
    mirror = mirror_of(options, EVERY, source, ref, state or Path(".policyctl"))
    queue, console = open_queue(), Console(options)
    jobs = JobHandler(options, queue, audit, console, mirror)

    def begun() -> None:
        console.result(f"Working for {escape(queue.identity)} with {count(threads, 'thread')}\n")
        sys.stdout.flush()

    with Memo.remembering(), closing(jobs):
        asyncio.run(_run(Worker(queue, jobs, threads, Heartbeat(heartbeat, 4 * heartbeat), console.say), jobs, begun))
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


@dataclass
class _Opened:
    """The environments and files of a run, and how many threads use them."""

    fleet: Future[Fleet]
    users: int = 0


class JobHandler:
    """Does the jobs of a worker, in several threads. The files of a run are read once."""

    def __init__(
        self,
        options: Options,
        queue: JobQueue,
        audit: Audit | None,
        console: Console,
        mirror: MirrorSource | None = None,
    ) -> None:
        """With a `mirror` the files of a run are those of its commit there, without it those of the directory."""
        self._options, self._queue, self._audit, self._console = options, queue, audit, console
        self._mirror, self._paces = mirror, PaceTable(queue.connect)
        self._opened: dict[Order, _Opened] = {}
        self._lock, self._fetching = threading.Lock(), threading.Lock()
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
        self._paces.close()

    def __call__(self, name: str, order: Order) -> tuple[EnvironmentResult, Mapping[str, str] | None]:
        """Do an environment's part of an order. Returns the result, and the options that match no policy so far. Raises
        Interrupted when it was stopped, or another worker has the remote."""
        if self.stopped():
            raise Interrupted("the worker was stopped")
        try:
            with self._fleet(order._replace(run="", shown=None, who="", caller="", page=None, uses=())) as fleet:
                work = self._apply if order.command == "apply" else _plan
                found = replace(work(fleet, name, order), review=None), fleet.idle
        except Interrupted:
            raise
        except PolicyctlError as error:
            found = EnvironmentResult(name, "failed", error.exit_code, str(error).partition("\n")[0]), None
        if self.stopped() and found[0].failed:
            raise Interrupted("the worker was stopped")
        return found

    def _apply(self, fleet: Fleet, name: str, order: Order) -> EnvironmentResult:
        identity = remote_identity(fleet.session(name).url, name)
        with remote_lock(self._queue.connect, identity, name, _LOCK_SECONDS, self.stopped) as require:
            commit = None if self._mirror is None else order.revision
            service = service_at(os.environ, order.revision, order.branch)
            use = FirstWrite(partial(note_use, service, name, order.place, order.uses, BY_WATCH))

            def begins() -> None:
                use()
                require()  # last: to note that may take long

            audit, command = self._audit, order.caller or "apply"
            if audit is not None:
                audit = replace(audit, who=order.who, command=command, run=order.page, commit=commit)
            events, settings = FleetEvents(fleet, self.stopped), ApplySettings(audit=audit, begins=begins)
            why_not = partial(self._why_not_wanted, order) if order.caller == WATCH else None
            return fleet.task(lambda session: apply_one(fleet, session, settings, events, order.shown, why_not))(name)

    def _why_not_wanted(self, order: Order, environment: Environment) -> str | None:
        """Why a watch does not want an environment to be written to any more: its job may have waited for long."""
        if not (writing := writing_at(environment.watch.windows, datetime.now(UTC))).allowed:
            return f"nothing was written to {environment.name}: {writing.why}"
        try:
            self._queue.raise_if_over(order.run)
        except Withdrawn as error:
            return str(error)
        return None

    @contextmanager
    def _fleet(self, order: Order) -> Iterator[Fleet]:
        """The environments of an order. Raises PolicyctlError if this worker has other files than the run, or broken ones."""
        with self._lock:
            is_first = order not in self._opened
            if is_first:
                self._drop_unused()
                self._opened[order] = _Opened(Future())
            opened = self._opened[order]
            opened.users += 1
        try:
            if is_first:  # without the lock: a fetch that hangs holds up the jobs of this order alone
                self._open_for(order, opened.fleet)
            yield opened.fleet.result()
        finally:
            with self._lock:
                opened.users -= 1

    def _open_for(self, order: Order, fleet: Future[Fleet]) -> None:
        try:
            fleet.set_result(self._open(order))
        except BaseException as error:
            with self._lock:
                del self._opened[order]  # the next job tries again
            fleet.set_exception(error)
            raise

    def _drop_unused(self) -> None:
        for order in [order for order, opened in self._opened.items() if not opened.users]:
            fleet = self._opened.pop(order).fleet.result()
            fleet.messages.print_to(self._console)
            if fleet.hosts is not None:
                fleet.hosts.close()

    def _open(self, order: Order) -> Fleet:
        selection = Selection(order.only, order.exclude)
        overrides = Overrides(order.overrides)
        overrides.outside = order.outside
        if self._mirror is None:
            fleet = open_fleet(self._options, EVERY, selection, overrides, marks=True)
            own = revision_of(self._options.dir)
            where = f"its checkout is at {own[:12] or 'no commit'}"
            if order.revision and own != order.revision:  # whose history shows what was edited on the remote since
                raise PolicyctlError(_OTHER_FILES.format(where=where, there=order.revision[:12]))
            if (repository := find_repository(self._options.dir)) is not None and repository.is_shallow:
                raise PolicyctlError(f"a worker has a shallow clone, which cannot show what was edited since: {WHOLE_HISTORY}")
        else:
            fleet, where = self._mirrored(self._mirror, order, selection, overrides), "those of its --source"
        if order.files != fleet.files.digest(fleet.config):
            there = order.revision[:12] or "no commit"
            raise PolicyctlError(_OTHER_FILES.format(where=where, there=there))
        if fleet.hosts is not None:
            fleet.hosts = shared_hosts(partial(SharedHostPace, self._paces))
        return fleet

    def _mirrored(self, mirror: MirrorSource, order: Order, selection: Selection, overrides: Overrides) -> Fleet:
        """The environments of an order's commit, which must be in the branch of the mirror."""
        if not order.revision:
            raise PolicyctlError("a worker with --source needs the commit of a run, and this one is not in a git repository")
        with self._fetching:
            mirror.fetch(self.stopped)
        if not mirror.has(order.revision):
            what = f"commit {order.revision[:12]} of the run"
            raise PolicyctlError(f"{what} is not in the branch of the worker's --source any more")
        return mirror.open(order.revision, selection, overrides).fleet


def _plan(fleet: Fleet, name: str, _: Order) -> EnvironmentResult:
    return fleet.task(partial(plan_one, fleet))(name)


_LEAD_SECONDS = 1.0  # between two tries to take the lead


class Lead(LeaderState):
    """The lead of a watch, and the queue that it hands applies to."""

    def __init__(self, queue: JobQueue, watch: str) -> None:
        """`watch` is the same for all that watch the same."""
        self.queue, self.runs = queue, f"watch-{hashlib.sha256(watch.encode()).hexdigest()[:16]}-"  # how ids of its runs begin
        super().__init__(queue.connect, hashlib.sha256(watch.encode()).hexdigest(), f"the queue {queue.identity}")


@contextmanager
def leading(watch: str, given: OutputOptions, console: Console, *, once: bool) -> Iterator[Lead | None]:
    """Follow until no other watch of the same leads, then yield the lead; None if a signal came first.

    `watch` is the same for all that watch the same. Raises PolicyctlError where the database cannot be used, and with `once`
    where another watch leads.
    """
    queue, stopped = open_queue(), threading.Event()
    with closing(Lead(queue, watch)) as state:
        if not state.lead():
            if once:
                raise PolicyctlError("another watch of the same leads, and looks; leave out --once, or --on queue")
            with _following(given, console), first_signal_apart(lambda _: stopped.set()):
                while not (stopped.wait(_LEAD_SECONDS) or state.lead()):
                    pass
        if stopped.is_set():
            yield None
            return
        queue.withdraw_all(state.runs)
        console.say(f"this watch leads on {queue.identity}")
        yield state


@contextmanager
def _following(given: OutputOptions, console: Console) -> Iterator[None]:
    """Answer over HTTP as a watch that follows: it is alive and ready, and knows of no environment."""
    from policyctl.watch.telemetry import WatchMetrics  # needs the extra of a watch, which a worker does without

    board = Board()
    board.leads = False
    site = WatchSite(board, lambda: 0.0, WatchMetrics(board, given.metric_label).text)
    with StatusServer(given.host, given.port, site) as server:
        console.say(f"another watch leads; this one follows, with its status at {server.url}")
        yield


class LeadKeeper(Watcher):
    """Ends a watch that does not lead any more."""

    def __init__(self, state: LeaderState) -> None:
        self._state = state

    def turned(self, _due: int, _lag: float) -> None:
        """Raises PolicyctlError once the lead is lost, which ends the loop."""
        self._state.check()


class QueueWork(EnvironmentWork):
    """Looks here, and has workers apply what was looked at: that plan, and no other one."""

    def __init__(self, lead: Lead, *args: Any) -> None:
        super().__init__(*args)
        self._lead, self._queue = lead, lead.queue
        self._files: tuple[Opened, str] | None = None  # a hash of the files of a revision
        self._paces = PaceTable(lead.queue.connect)
        self._new_pace = partial(SharedHostPace, self._paces)
        self._outputs.show_queue(self._job_counts)

    def close(self) -> None:
        super().close()
        self._paces.close()

    def _job_counts(self) -> Mapping[str, int]:
        try:
            return self._queue.counts()
        except PolicyctlError:  # which the keeper notices too
            return {}

    def keeper(self) -> LeadKeeper:
        return LeadKeeper(self._lead)

    def _files_of(self, opened: Opened) -> str:
        if self._files is None or self._files[0] is not opened:
            self._files = (opened, opened.fleet.files.digest(opened.fleet.config))
        return self._files[1]

    def _applied(self, name: str, look: Look) -> EnvironmentResult | None:
        opened, review = looked(look)
        windows = opened.fleet.config.environments[name].watch.windows
        shown, files = {name: review.plan.digest}, self._files_of(opened)
        order = Order(
            f"{self._lead.runs}{uuid.uuid4()}", "apply", opened.commit or "", files, shown=shown, who=person(), caller=WATCH
        )._replace(uses=self._approvals.uses(look, name), branch=opened.branch, place=opened.place)
        lonely: list[str] = []

        def is_over() -> bool:
            is_wanted = self.opened is opened and writing_at(windows, datetime.now(UTC)).allowed
            return self.stopped or bool(lonely) or not is_wanted

        identity = remote_identity(opened.fleet.config.environments[name].remote, name)
        runner = QueueRunner(self._queue, order, lambda _: identity, is_over, lonely.append)
        try:
            self._lead.check()
            runner.submit([name])
            [result] = runner.work(lambda _: look.result)
        except PolicyctlError as error:
            return failed_look(look.result, error)
        if result.status == "not begun":
            if not lonely:
                return None
            result = replace(result, reason=lonely[0])
        else:
            self._approvals.take(look, name)
        failed = result if result.failed else replace(result, status="failed", code=1)
        return result if result.status == "applied" else replace(failed, remote=look.result.remote)
