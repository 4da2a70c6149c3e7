"""policyctl watch: the command, and what shows a watch: lines, its HTTP server, metrics, notifications, traces, and systemd."""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial, wraps
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from policyctl.ci.comments import watch_marker
from policyctl.cli.console import Console, first_signal_apart
from policyctl.cli.environments import on_option, with_environments_or_all
from policyctl.cli.history import with_audit
from policyctl.cli.options import NAMES, Options, with_form, with_options
from policyctl.cli.watch_source import DirectorySource, mirror_of, source_options
from policyctl.errors import PolicyctlError, Refused, RemoteError, UsageError
from policyctl.load.environment import EnvironmentFilter
from policyctl.load.source import make_state_folder, state_folder
from policyctl.load.windows import seconds_of
from policyctl.remote.hosts import HostTally
from policyctl.remote.redaction import resolve_secret
from policyctl.remote.sqlite import LockWait, apply_lock
from policyctl.report.format import cut, escape
from policyctl.watch import SETTLED, Board, SourceStatus, State, Transition, Watcher, advice
from policyctl.watch.http import StatusServer, WatchSite
from policyctl.watch.loop import WatchLoop
from policyctl.watch.memory import Memory, StateFiles, StateFolder
from policyctl.watch.notify import IssueKeeper, IssueList, Notifier

if TYPE_CHECKING:
    from policyctl.cli.fleet import Fleet
    from policyctl.cli.queue import Lead
    from policyctl.cli.watch_source import WatchSource
    from policyctl.cli.watch_work import EnvironmentWork
    from policyctl.reconcile.audit import Audit
    from policyctl.watch.telemetry import Span

EPILOG = """\b
Example:
  policyctl watch
  policyctl watch -l ring=canary --audit audit.jsonl
  policyctl watch --source https://git.example.com/team/policies.git --ref main
  policyctl watch --once --detailed-exitcode"""

_COLOURS = {
    State.IN_SYNC: "green",
    State.PENDING: "yellow",
    State.DRIFTED: "yellow",
    State.SUSPENDED: "yellow",
}
_WIDTH = max(map(len, State))


def _duration(_: click.Context, __: click.Parameter, text: str | None) -> float | None:
    try:
        return None if text is None else seconds_of(text)
    except ValueError as error:
        raise click.BadParameter(f"{text} {error}") from None


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


@click.command("watch", epilog=EPILOG)
@source_options
@click.option(
    "--poll",
    default="30s",
    show_default=True,
    callback=_duration,
    metavar="TIME",
    help="How often to look for a change of the files.",
)
@click.option(
    "--interval",
    callback=_duration,
    metavar="TIME",
    help="How often to look at each environment, such as 5m, whatever watch.interval in policyctl.yaml is.",
)
@click.option("--parallelism", type=click.IntRange(1, 64), help="Environments at once. Default: 4, with --on queue 32.")
@on_option("Where plans are applied: here, or by workers of the database that {} names. Then one of several watches leads.")
@click.option("--once", is_flag=True, help="Look at each environment once, then end.")
@click.option("--detailed-exitcode", is_flag=True, help="With --once: exit with 2 when something differs.")
@with_form("text", "json", about="A line for each change of state, as text or JSON.")
@with_outputs
@with_audit
@with_options(*(name for name in NAMES if name != "remote"))
@with_environments_or_all
def watch(
    options: Options,
    source: str | None,
    ref: str,
    poll: float,
    interval: float | None,
    parallelism: int | None,
    place: str,
    once: bool,
    detailed_exitcode: bool,
    state: Path | None,
    form: str,
    audit: Audit | None,
    chosen: EnvironmentFilter,
    given: OutputOptions,
) -> int:
    """Look at environments again and again, show what moved, and apply what their settings allow.

    Without settings nothing is ever written. In policyctl.yaml, `watch: {apply: on-merge}` applies what Git moved, and
    `watch: {heal: always}` puts back what was edited on the remote. What a safety rule refuses, and what both sides moved,
    waits for a person. See policyctl help watch.
    """
    if detailed_exitcode and not once:
        raise UsageError("--detailed-exitcode is for --once; without it a watch ends with 0 when it is stopped")
    if find_spec("prometheus_client") is None:
        raise PolicyctlError("watch needs prometheus-client; install it with: pip install 'policyctl[watch]'")
    console, folder = Console(options), state or (state_folder(options.dir) if source is None else Path(".policyctl"))
    files, lead = _source(options, chosen, source, ref, folder), None
    printer = (JsonLines if form == "json" else TextLines)(console)
    with ExitStack() as held:
        held.enter_context(_only_one(folder))
        if place == "queue":
            from policyctl.cli.queue import leading  # needs the extra

            watched = " ".join(map(str, (source or "", ref, options.dir, chosen)))
            if (lead := held.enter_context(leading(watched, given, console, once=once))) is None:
                return 0

        def work_of(outputs: Outputs) -> EnvironmentWork:
            return _work(lead, files, options, console, outputs, _checked(audit), interval)

        parallelism = parallelism or (4 if lead is None else 32)
        issue = partial(WatchIssue, place=files.place, marker=watch_marker(files.place, ref, chosen.text))
        board = _run(printer, lead or StateFolder(folder), given, issue, work_of, poll, parallelism, once=once)
    return _exit_code(board, detailed=detailed_exitcode) if once else 0


def _run(
    printer: TextLines,
    state: StateFiles,
    given: OutputOptions,
    issue: Callable[[Board], WatchIssue],
    work_of: Callable[[Outputs], EnvironmentWork],
    poll: float,
    parallelism: int,
    *,
    once: bool,
) -> Board:
    """Watch until a signal, with `once` until each environment was looked at once."""
    memory = Memory(state)
    watchers: list[Watcher] = [printer]
    board = Board(_announcing(memory, watchers))
    watchers.append(outputs := Outputs(given, board, state, issue(board)))
    for status in memory.statuses():
        board.restore(status)
    work = work_of(outputs)
    work.known = [status.name for status in board.environments()]
    loop = WatchLoop(work, board, memory, poll, parallelism, watchers=watchers)
    if (keeper := work.keeper()) is not None:
        watchers.append(keeper)
    with closing(work), outputs.around(loop, once=once, console=printer.console), first_signal_apart(loop.stop):
        loop.run(once=once)
    return board


def _work(lead: Lead | None, *args: Any) -> EnvironmentWork:
    from policyctl.cli.watch_work import EnvironmentWork  # imports git and remotes

    if lead is None:
        return EnvironmentWork(*args)
    from policyctl.cli.queue import QueueWork

    return QueueWork(lead, *args)


def _announcing(memory: Memory, watchers: Sequence[Watcher]) -> Callable[[Transition], None]:
    """Remembers each transition, and then shows it: so it is not shown again after a restart."""

    def announce(transition: Transition) -> None:
        memory.announce(transition.now)
        for watcher in watchers:
            watcher.transition(transition)

    return announce


def _source(options: Options, chosen: EnvironmentFilter, source: str | None, ref: str, folder: Path) -> WatchSource:
    if chosen.affected is not None:
        raise UsageError("--affected compares with one revision, and a watch sees new ones; choose with --env or -l")
    return mirror_of(options, chosen, source, ref, folder) or DirectorySource(options, chosen)


def _checked(audit: Audit | None) -> Audit | None:
    """The audit, whose record exists from now on. Raises PolicyctlError if it cannot be written."""
    if audit is not None:
        audit.record.writer().close()
    return audit


@contextmanager
def _only_one(folder: Path) -> Iterator[None]:
    """Hold the lock of a state folder. Raises Refused if another watch holds it."""
    make_state_folder(folder)
    with ExitStack() as held:
        try:
            held.enter_context(apply_lock(folder / "watch", "policyctl watch", LockWait(0), lambda _: None))
        except Refused as error:
            who = str(error).partition(" is being written by ")[2].partition("; ")[0]
            raise Refused(f"{folder} is used by {who}; stop that one, or give this one another folder with --state") from None
        yield


def _exit_code(board: Board, *, detailed: bool) -> int:
    """1 if an environment failed, 3 if one was refused, 2 if one differs and that is asked for, else 0."""
    states = {one.state for one in board.environments()}
    if State.FAILED in states:
        return PolicyctlError.exit_code
    if State.REFUSED in states:
        return Refused.exit_code
    return 2 if detailed and states.difference(SETTLED) else 0


class TextLines(Watcher):
    """A line for each change of state, and for each revision."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def transition(self, transition: Transition) -> None:
        now = transition.now
        if transition.before is None and now.state is State.IN_SYNC and not now.reason:
            return
        style = self.console.out_style
        state = style.paint(f"{now.state:{_WIDTH}}", _COLOURS.get(now.state, "red"))
        parts = (now.reason, f"waits for {now.waits_for}" if now.waits_for else "", advice(now))
        about = "; ".join(escape(part) for part in parts if part)
        self._put(f"{now.since:%Y-%m-%dT%H:%M:%SZ}  {style.paint(escape(now.name), 'bold')}  {state}  {about}".rstrip())

    def source(self, source: SourceStatus) -> None:
        used = f"; revision {source.revision[:19]} stays in use" if source.revision else ""
        text = (
            f"the source cannot be read: {source.error}{used}" if source.error else f"revision {source.revision[:19]} is in use"
        )
        self.console.say(text)

    def _put(self, line: str) -> None:
        self.console.result(f"{line}\n")
        sys.stdout.flush()


class JsonLines(TextLines):
    """A line of JSON for each change of state."""

    def transition(self, transition: Transition) -> None:
        now = transition.now
        data: dict[str, Any] = {
            "format": "policyctl/watch-event",
            "version": 1,
            "time": f"{now.since:%Y-%m-%dT%H:%M:%SZ}",
            "environment": now.name,
            "before": transition.before,
            "state": now.state,
            "changes": now.changes,
            "digest": now.digest or None,
            "reason": now.reason,
            "waits_for": now.waits_for or None,
            "advice": advice(now) or None,
            "revision": now.revision,
            "labels": dict(now.labels),
        }
        self._put(json.dumps(data, ensure_ascii=False))


_LONGEST_PLACE = 200  # characters in the title of an issue


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
        from policyctl.watch.telemetry import ReceiverCollector, WatchMetrics, no_span  # needs the extra

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
        from policyctl.watch.telemetry import QueueCollector

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
        from policyctl.watch.telemetry import spans  # needs the extra

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
