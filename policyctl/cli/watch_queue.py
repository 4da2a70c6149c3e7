"""policyctl watch --on queue: one watch of several leads, and workers carry out what it applies."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from threading import Event
from typing import TYPE_CHECKING, Any

from policyctl.cli.console import Console, first_signal_apart
from policyctl.cli.environments import open_queue
from policyctl.cli.watch_source import Opened, looked
from policyctl.cli.watch_work import EnvironmentWork, failed_look
from policyctl.errors import PolicyctlError
from policyctl.load.urls import remote_identity
from policyctl.load.windows import writing_at
from policyctl.plan.fleet import EnvironmentResult
from policyctl.reconcile.audit import person
from policyctl.reconcile.queue import WATCH, JobQueue, Order, QueueRunner
from policyctl.remote.postgres_shared import LeaderState, PaceTable, SharedHostPace
from policyctl.watch.http import StatusServer, WatchSite
from policyctl.watch.look import Look
from policyctl.watch.metrics import WatchMetrics
from policyctl.watch.status import Board, Watcher

if TYPE_CHECKING:
    from policyctl.cli.watch import OutputOptions

_SECONDS = 1.0  # between two tries to take the lead


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
    queue, stopped = open_queue(), Event()
    with closing(Lead(queue, watch)) as state:
        if not state.lead():
            if once:
                raise PolicyctlError("another watch of the same leads, and looks; leave out --once, or --on queue")
            with _following(given, console), first_signal_apart(lambda _: stopped.set()):
                while not (stopped.wait(_SECONDS) or state.lead()):
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
