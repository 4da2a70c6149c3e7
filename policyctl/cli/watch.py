"""policyctl watch."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from policyctl.ci.comments import watch_marker
from policyctl.cli.console import Console, first_signal_apart
from policyctl.cli.environments import with_environments_or_all
from policyctl.cli.history import with_audit
from policyctl.cli.options import NAMES, Options, with_form, with_options
from policyctl.cli.queue import on_option
from policyctl.cli.watch_outputs import OutputOptions, Outputs, WatchIssue, with_outputs
from policyctl.cli.watch_source import DirectorySource, mirror_of, source_options
from policyctl.errors import PolicyctlError, Refused, UsageError
from policyctl.load.environment import EnvironmentFilter
from policyctl.load.source import make_state_folder, state_folder
from policyctl.load.windows import seconds_of
from policyctl.remote.sqlite import LockWait, apply_lock
from policyctl.report.format import escape
from policyctl.watch.loop import WatchLoop
from policyctl.watch.memory import Memory, StateFiles, StateFolder
from policyctl.watch.status import SETTLED, Board, SourceStatus, State, Transition, Watcher, advice

if TYPE_CHECKING:
    from policyctl.cli.watch_queue import Lead
    from policyctl.cli.watch_source import WatchSource
    from policyctl.cli.watch_work import EnvironmentWork
    from policyctl.reconcile.audit import Audit

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
            from policyctl.cli.watch_queue import leading  # needs the extra

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
    from policyctl.cli.watch_queue import QueueWork

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
