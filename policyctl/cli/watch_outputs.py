"""What shows a watch: its HTTP server, metrics, notifications, traces, and what systemd is told."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from policyctl.cli.console import Console
from policyctl.cli.options import Options
from policyctl.errors import UsageError
from policyctl.load.atomic import state_folder
from policyctl.remote.hosts import HostTally
from policyctl.remote.redaction import resolve_secret
from policyctl.watch.decide import state_of
from policyctl.watch.http import StatusServer, WatchSite
from policyctl.watch.notify import Notifier
from policyctl.watch.status import Board, Transition
from policyctl.watch.systemd import notify
from policyctl.watch.trace import Span, no_span, spans

if TYPE_CHECKING:
    from policyctl.cli.fleet import Fleet
    from policyctl.watch.loop import Visit, Watch


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


class Outputs:
    """All that shows a watch. It is one of the `Reports` of its loop."""

    def __init__(self, given: OutputOptions, options: Options, announce: Callable[[Transition], None]) -> None:
        """`announce` is called with each transition too. Raises UsageError for options that cannot be used."""
        from policyctl.watch.metrics import ReceiverCollector, WatchMetrics  # needs the extra

        self._given, self._announce = given, announce
        if given.hook_secret is not None and not given.hook_secret.startswith(("env:", "file:")):
            raise UsageError("--hook-secret must be a reference, env:NAME or file:PATH; never the secret itself")
        self.board = Board(self._moved)
        self.span: Span = no_span
        self._notifier = Notifier((), state_folder(options.dir))
        self._tally = HostTally()
        self._metrics = WatchMetrics(self.board, given.metric_label, self._tally)
        self._metrics.add(ReceiverCollector(self._notifier.counts))
        self._ready, self._hints = False, threading.Lock()

    def opened(self, fleet: Fleet) -> None:
        """Go on with the environments and receivers of another revision."""
        if fleet.hosts is not None:
            fleet.hosts.tally = self._tally
        path = fleet.config.path
        self._notifier.use(fleet.config.receivers, Path() if path is None else path.parent)
        self._notifier.keep(frozenset(fleet.names))

    def visited(self, visit: Visit, lag: float) -> None:
        """Count a look or an apply."""
        if visit.applied is None:
            self._metrics.reconciled("look", state_of(visit.look)[0], visit.seconds)
        else:
            self._metrics.reconciled("apply", "failed" if visit.applied.failed else "applied", visit.seconds)
        self._metrics.late(lag)

    def turned(self, due: int) -> None:
        """Note that the loop goes on; systemd is told too."""
        self._metrics.turned(due)
        notify("WATCHDOG=1" if self._ready else "READY=1")
        self._ready = True

    def stopping(self) -> None:
        """Note that the watch ends."""
        notify("STOPPING=1")

    @contextmanager
    def around(self, watch: Watch, *, once: bool, console: Console) -> Iterator[None]:
        """Show the watch while it runs. One that looks `once` has no HTTP server."""
        with ExitStack() as stack:
            self.span = stack.enter_context(spans(os.environ))
            stack.enter_context(self._notifier)
            if not once:
                server = stack.enter_context(StatusServer(self._given.host, self._given.port, self._site(watch)))
                console.say(f"status at {server.url}")
            yield

    def _site(self, watch: Watch) -> WatchSite:
        reference = self._given.hook_secret
        return WatchSite(
            self.board,
            lambda: watch.clock.seconds() - watch.turned_at,
            self._metrics.text,
            self._notifier.broken,
            lambda: self._hint(watch),
            None if reference is None else lambda: resolve_secret("--hook-secret", reference),
        )

    def _hint(self, watch: Watch) -> None:
        with self._hints:
            watch.hint()

    def _moved(self, transition: Transition) -> None:
        self._announce(transition)
        self._notifier(transition)
