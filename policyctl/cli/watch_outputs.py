"""What shows a watch: its HTTP server, metrics, notifications, traces, and what it reports to systemd."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from policyctl.cli.console import Console
from policyctl.errors import RemoteError, UsageError
from policyctl.remote.hosts import HostTally
from policyctl.remote.redaction import resolve_secret
from policyctl.report.format import cut, escape
from policyctl.watch.http import StatusServer, WatchSite
from policyctl.watch.memory import StateFiles
from policyctl.watch.notify import IssueKeeper, IssueList, Notifier
from policyctl.watch.status import Board, State, Transition, Watcher
from policyctl.watch.trace import Span, no_span, spans

if TYPE_CHECKING:
    from policyctl.cli.fleet import Fleet
    from policyctl.watch.loop import WatchLoop


_LONGEST_PLACE = 200  # characters in the title of an issue


class OutputOptions(NamedTuple):
    """The options about what shows a watch."""

    host: str
    port: int
    hook_secret: str | None
    metric_label: tuple[str, ...]


_OPTIONS = (
    click.option("--host", default="127.0.0.1", show_default=True, help="The address of the status page, metrics and probes."),
    click.option(
        "--port", type=click.IntRange(0, 65535), default=4410, show_default=True, help="Its port; 0 takes a free one."
    ),
    click.option(
        "--hook-secret",
        metavar="REF",
        help="Where the secret of webhooks is that a push sends to /hook: env:NAME or file:PATH. Without it there is no /hook.",
    ),
    click.option(
        "--metric-label", multiple=True, metavar="KEY", help="A label of environments that metrics show too. Repeatable."
    ),
)


def with_outputs(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options about what shows a watch, as `given`: an OutputOptions."""

    @wraps(function)
    def wrapper(*args: Any, **more: Any) -> Any:
        given = OutputOptions(**{key: more.pop(key) for key in OutputOptions._fields})
        return function(*args, given=given, **more)

    for option in reversed(_OPTIONS):
        wrapper = option(wrapper)
    return wrapper


class WatchIssue(IssueKeeper):
    """The issue of a watch, in the repository of the token that the environment has."""

    def __init__(self, board: Board, place: str, marker: str) -> None:
        """`place` is the directory that is watched, and `marker` is the first line of the issue."""
        self._board, self._marker = board, marker
        self._title = f"policyctl watch: environments of {escape(cut(place, _LONGEST_PLACE))} need attention"
        self.names: frozenset[str] = frozenset()  # the environments that are watched

    def listed(self, states: Sequence[str]) -> IssueList | None:
        known = [one for one in self._board.environments() if one.name in self.names]
        found = tuple(one for one in known if one.state in states and one.state is not State.IN_SYNC)
        complete = len(known) == len(self.names)
        return IssueList(self._marker, self._title, found, complete) if found or complete else None

    def keep(self, what: IssueList, seconds: float) -> None:
        from policyctl.ci import service_of, service_or_why
        from policyctl.ci.comments import begins_with

        with service_or_why(service_of(os.environ), seconds) as forge:
            if isinstance(forge, str):
                raise RemoteError(forge)
            others = [one for one in forge.issues() if begins_with(one.body, what.marker)]
            if what.environments:
                old, text = others.pop() if others else None, what.text(forge.longest)
                if old is None and not (os.environ.get("GITHUB_ACTIONS") or forge.knows_me()):
                    raise RemoteError("the service does not name the user of this token, so no issue would be found again")
                if old is None or old.body.split() != text.split():  # a service may write line ends in another way
                    forge.issue(what.title, text, old)
            for one in others:  # the answer to an earlier request was lost, or it is not needed any more
                forge.close_thread(one)


class Outputs(Watcher):
    """All that shows a watch but what it prints."""

    def __init__(self, given: OutputOptions, board: Board, state: StateFiles, issue: WatchIssue) -> None:
        """`state` keeps notifications that are not delivered yet. Raises UsageError for options that cannot be used."""
        from policyctl.watch.metrics import ReceiverCollector, WatchMetrics  # needs the extra

        self._given, self.board = given, board
        if given.hook_secret is not None and not given.hook_secret.startswith(("env:", "file:")):
            raise UsageError("--hook-secret must be a reference, env:NAME or file:PATH; never the secret itself")
        self.span: Span = no_span
        self._issue, self._notifier = issue, Notifier((), state, issue=issue)
        self._tally = HostTally()
        self._metrics = WatchMetrics(self.board, given.metric_label, self._tally)
        self._metrics.add(ReceiverCollector(self._notifier.counts))
        self._ready, self._hints = False, threading.Lock()

    def show_queue(self, counts: Callable[[], Mapping[str, int]]) -> None:
        """Show the jobs of a queue among the metrics."""
        from policyctl.watch.metrics import QueueCollector

        self._metrics.add(QueueCollector(counts))

    def opened(self, fleet: Fleet) -> None:
        """Go on with the environments and receivers of another revision."""
        from policyctl.load.base_config import read_referred  # with git behind it

        if fleet.hosts is not None:
            fleet.hosts.tally = self._tally
        path, read = fleet.config.path, partial(read_referred, fleet.referred)
        self._issue.names = frozenset(fleet.names)
        self._notifier.use(fleet.config.receivers, Path() if path is None else path.parent, read)
        self._notifier.keep(frozenset(fleet.names))

    def transition(self, transition: Transition) -> None:
        self._notifier(transition)

    def worked(self, action: str, result: str, seconds: float) -> None:
        self._metrics.reconciled(action, result, seconds)

    def turned(self, due: int, lag: float) -> None:
        """Note that the loop goes on, also for systemd."""
        self._metrics.turned(due)
        self._metrics.late(lag)
        report_to_systemd("WATCHDOG=1" if self._ready else "READY=1")
        self._ready = True

    def stopping(self) -> None:
        """Note that the watch ends, for systemd."""
        report_to_systemd("STOPPING=1")

    @contextmanager
    def around(self, watch: WatchLoop, *, once: bool, console: Console) -> Iterator[None]:
        """Show the watch while it runs. One that looks `once` has no HTTP server."""
        with ExitStack() as stack:
            self.span = stack.enter_context(spans(os.environ))
            stack.enter_context(self._notifier)
            if not once:
                server = stack.enter_context(StatusServer(self._given.host, self._given.port, self._site(watch)))
                console.say(f"status at {server.url}")
            yield

    def _site(self, watch: WatchLoop) -> WatchSite:
        reference = self._given.hook_secret
        return WatchSite(
            self.board,
            lambda: watch.clock.seconds() - watch.turned_at,
            self._metrics.text,
            self._notifier.broken,
            lambda: self._hint(watch),
            None if reference is None else lambda: resolve_secret("--hook-secret", reference),
        )

    def _hint(self, watch: WatchLoop) -> None:
        with self._hints:
            watch.hint()


def report_to_systemd(state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Send a state such as `READY=1`, `WATCHDOG=1` or `STOPPING=1` to the socket that a service of `Type=notify` has."""
    address = environ.get("NOTIFY_SOCKET", "")
    if address.startswith(("/", "@")):
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)  # one datagram more or less does not matter, and a watch must not wait
            sender.sendto(state.encode(), f"\0{address[1:]}" if address[0] == "@" else address)
