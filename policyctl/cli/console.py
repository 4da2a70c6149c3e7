"""Where a command writes: standard output for results, standard error for everything else, progress on a terminal, and the
files of a step of GitHub Actions.

A thread draws the progress line and only reads a counter, so the work is not slowed down and waiting for a remote is shown
too. Without a terminal nothing is drawn and no thread is started.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from queue import SimpleQueue
from typing import TYPE_CHECKING, TextIO

import click

from policyctl.cli.options import Options
from policyctl.errors import PolicyctlError, Problem, UsageError
from policyctl.policy.memo import late_pattern
from policyctl.report.format import Style, count, escape, wants_colour

if TYPE_CHECKING:
    from policyctl.plan.fleet import FleetResult
    from policyctl.plan.safety import Review
    from policyctl.report.fleet import FleetView
    from policyctl.report.plan_view import PlanView, Provenance

QUIET = 1.0  # seconds before a line is drawn
EVERY = 0.2  # seconds between two drawings
_BAR = 24  # columns
_ERASE = "\r\x1b[K"
_STOPPING = "stopping when what was begun is finished; once more stops at once\n"

Step = Callable[..., None]


class ProgressTask:
    """A piece of work: its label, what is counted, how many there are (None when unknown) and how many are done."""

    def __init__(self, label: str, noun: str, total: int | None = None, done: int = 0) -> None:
        self.label = label
        self.noun = noun
        self.total = total
        self.done = done

    def step(self, *_: object) -> None:
        """One more is done; arguments are ignored."""
        self.done += 1

    def line(self, seconds: float) -> str:
        """`Applying [######------------------] 125 of 500 changes`; `Listing, 3 s`; `Listing 3,200 policies, 3 s`."""
        if self.total is None:
            so_far = f" {count(self.done, self.noun)}" if self.done else ""
            return f"{self.label}{so_far}, {seconds:.0f} s"
        filled = _BAR * self.done // max(self.total, 1)
        return f"{self.label} [{'#' * filled:-<{_BAR}}] {self.done:,} of {count(self.total, self.noun)}"


class Progress:
    """Shows work that lasts more than a second."""

    def __init__(
        self,
        stream: TextIO,
        width: Callable[[], int | None],
        *,
        clock: Callable[[], float] = time.monotonic,
        new_event: Callable[[], threading.Event] = threading.Event,
    ) -> None:
        """`width` returns the columns of the stream's terminal, or None without one."""
        self._stream = stream
        self._width = width
        self._clock = clock
        self._new_event = new_event

    @contextmanager
    def of(
        self,
        label: str,
        noun: str,
        total: int | None = None,
        *,
        stopped: Callable[[], bool] = lambda: False,
    ) -> Iterator[Step]:
        """Show a piece of work while it lasts. Yields a function to call, from one thread, for each item that is done.

        Once `stopped` returns true, a line that stays reports it, and nothing more is drawn.
        """
        work = ProgressTask(label, noun, total)
        if self._width() is None:
            yield work.step
            return
        over = self._new_event()
        drawer = threading.Thread(target=self._draw, args=(work, over, stopped), daemon=True)
        drawer.start()
        try:
            yield work.step
        finally:
            over.set()
            drawer.join()

    def _draw(self, work: ProgressTask, over: threading.Event, stopped: Callable[[], bool]) -> None:
        """Draw until the work is over, then erase the line."""
        began, pause, shown = self._clock(), QUIET, ""
        with suppress(OSError, ValueError):  # the terminal is gone, but the work goes on
            while not over.wait(pause):
                if stopped():
                    self._write(shown and _ERASE, _STOPPING)
                    return
                shown = work.line(self._clock() - began)[: (self._width() or 80) - 1]
                self._write(_ERASE, shown)
                pause = EVERY
            if shown:
                self._write(_ERASE)

    def _write(self, *texts: str) -> None:
        self._stream.write("".join(texts))
        self._stream.flush()


_USUAL = 80  # columns, when the terminal does not report them


class Console:
    """Where a command writes: results, messages and progress, each with its colours."""

    def __init__(self, options: Options) -> None:
        out, err = sys.stdout, sys.stderr
        self.out_style = Style(wants_colour(options.color, out.isatty(), os.environ), terminal_width(out, os.environ))
        self.err_style = Style(wants_colour(options.color, err.isatty(), os.environ), terminal_width(err, os.environ))
        self.verbose = options.verbose > 0
        self.quiet = options.quiet
        # A dumb terminal cannot move its cursor.
        self.draws = err.isatty() and os.environ.get("TERM") != "dumb" and not self.quiet
        self.progress = Progress(err, lambda: terminal_width(err, os.environ) if self.draws else None)

    def result(self, text: str) -> None:
        """Print a command's result. Raises PolicyctlError when standard output cannot be written."""
        try:
            click.echo(text, nl=False, color=True)
        except OSError as error:
            raise PolicyctlError(f"standard output cannot be written: {error.strerror}") from None

    def say(self, line: str, *, painted: bool = False) -> None:
        """Print a line about the work on standard error. It is escaped unless it is `painted`, which includes escaping.

        If it cannot be written, the work goes on.
        """
        with suppress(OSError):
            click.echo(line if painted else escape(line), err=True, color=True)

    def problems(self, problems: Iterable[Problem]) -> None:
        """Print problems that do not stop the work."""
        found = list(problems)
        for line in stream_lines(found, self.err_style, sys.stderr) if found else ():  # importing what writes them takes 1 ms
            self.say(line, painted=True)

    def confirm(self, question: str, *, yes: bool) -> bool:
        """Ask whether to go on. Raises UsageError without --yes when standard input is not a terminal."""
        if yes:
            return True
        if not sys.stdin.isatty():
            raise UsageError("this needs an answer, and standard input is not a terminal; add --yes to go on without asking")
        return click.confirm(question, default=False, err=True)


class CollectingConsole(Console):
    """Collects the messages of several environments, which are mostly the same; nothing is drawn. Threads may share it."""

    def __init__(self, options: Options) -> None:
        super().__init__(options._replace(verbose=0))
        self._lines: list[str] = []
        self.draws = False

    def result(self, text: str) -> None:
        """Results are in one report."""

    def say(self, line: str, *, painted: bool = False) -> None:
        self._lines.append(line if painted else escape(line))

    def print_to(self, console: Console) -> None:
        """Print each message once, with how many environments it came from, and forget them."""
        for line, times in Counter(self._lines).items():
            console.say(line if times == 1 else f"{line} (in {count(times, 'environment')})", painted=True)
        self._lines.clear()


@contextmanager
def first_signal(note: Callable[[int], None]) -> Iterator[None]:
    """Give the first SIGINT or SIGTERM to `note`, which takes no lock, instead of ending the process. The second one ends it at
    once."""

    def handle(number: int, _: object) -> None:
        signal.signal(number, signal.SIG_DFL)  # first of all, so that a second one is never caught
        note(number)

    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = [signal.signal(number, handle) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, previous, strict=True):
            signal.signal(number, handler)


@contextmanager
def first_signal_apart(note: Callable[[int], None]) -> Iterator[None]:
    """As `first_signal`, with `note` in a thread of its own: it may take locks, which the main thread may hold at that moment,
    and only gives back once a signal handler returned."""
    signals = SimpleQueue[int | None]()  # the only queue that a signal handler may use

    def wait() -> None:
        if (number := signals.get()) is not None:
            note(number)

    waiting = threading.Thread(target=wait)
    waiting.start()
    try:
        with first_signal(signals.put):
            yield
    finally:
        signals.put(None)
        waiting.join()


def streams_lines(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether problems are shown with their source lines: on a terminal, but not in the log of a CI job."""
    return stream.isatty() and not environ.get("CI")


def stream_lines(problems: Sequence[Problem], style: Style, stream: TextIO) -> list[str]:
    """Problems as text: with their source lines on a terminal, elsewhere one line each."""
    from policyctl.load.source import line_at
    from policyctl.report.checks import problem_lines

    return problem_lines(problems, style, line_at if streams_lines(stream, os.environ) else None)


def terminal_width(stream: TextIO, environ: Mapping[str, str]) -> int | None:
    """The columns of a stream's terminal, by COLUMNS if that is set; None when it is not a terminal."""
    if not stream.isatty():
        return None
    if (columns := environ.get("COLUMNS", "")).isdecimal() and int(columns):
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL
    except OSError:
        return _USUAL


_LONGEST_MOMENT = 11  # digits of a number of seconds that is a date
_RUN = late_pattern(r"https?://[\w.:-]+/[\w.-]+/[\w.-]+/actions/runs/\d+")


def is_github() -> bool:
    """Whether this is a step of a GitHub workflow; other services may set one of the two variables."""
    return bool(os.environ.get("GITHUB_ACTIONS") and os.environ.get("GITHUB_WORKFLOW"))


def is_ci() -> bool:
    """Whether this runs on a CI service, where only reviewed files should be read."""
    return os.environ.get("CI", "").lower() not in ("", "0", "false") or is_github()


def repository_path(file: str) -> str:
    """A file's path from the repository's top, with `/`; an absolute path when it is not in the repository."""
    path = Path(file).parent.resolve() / Path(file).name
    top = _top()
    return path.relative_to(top).as_posix() if path.is_relative_to(top) else path.as_posix()


def view_of(review: Review, remote: str, directory: Path, console: Console, *, page: bool = False) -> PlanView:
    """A plan to show, with its directory and CI run; `remote` is as the user wrote it. A `page` shows its provenance."""
    from policyctl.report.plan_view import NO_PROVENANCE, PlanView

    made = provenance(directory) if page or os.environ.get("GITHUB_STEP_SUMMARY") else NO_PROVENANCE
    return PlanView(review, remote, console.verbose, repository_path(str(directory)), run_page(), made)


def fleet_view_of(fleet: FleetResult, directory: Path) -> FleetView:
    """The plans of several environments to show, with their directory, CI run and provenance."""
    from policyctl.report.fleet import FleetView

    return FleetView(fleet, repository_path(str(directory)), run_page(), provenance(directory))


def provenance(directory: Path) -> Provenance:
    """When and where a page is made: what the CI service names, else the commit and branch that are checked out.

    The address of a repository may have a password, so outside a CI service the repository is not named.
    """
    from importlib.metadata import version

    from policyctl.ci import origin_in
    from policyctl.report.plan_view import Provenance

    seconds = os.environ.get("SOURCE_DATE_EPOCH", "")
    is_moment = seconds.isdecimal() and len(seconds) <= _LONGEST_MOMENT
    now = datetime.fromtimestamp(int(seconds), UTC) if is_moment else datetime.now(UTC)
    origin = origin_in(os.environ)
    if not origin.commit:
        from policyctl.load.git.checkout import checked_out_head  # imports subprocess

        branch, commit = checked_out_head(directory)
        origin = origin._replace(branch=branch, commit=commit)
    return Provenance(now.strftime("%Y-%m-%d %H:%M UTC"), *origin, version("policyctl"))


def write_plan_summary(view: PlanView, plan_file: Path | None, console: Console) -> None:
    """Write a plan's step summary and step outputs, if the workflow has files for them.

    Raises PolicyctlError when the outputs cannot be written, because later steps depend on them.
    """
    if path := os.environ.get("GITHUB_OUTPUT"):
        from policyctl.report.plan_json import step_outputs

        _write_outputs(path, step_outputs(view.review, None if plan_file is None else str(plan_file)))
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        from policyctl.report.plan_markdown import plan_markdown

        _summarise(path, lambda room: plan_markdown(view, room - 1) + "\n", console)


def write_fleet_summary(view: FleetView, plan_file: Path | None, console: Console) -> None:
    """The same for the plans of several environments."""
    if path := os.environ.get("GITHUB_OUTPUT"):
        from policyctl.report.fleet import fleet_outputs

        _write_outputs(path, fleet_outputs(view.fleet, None if plan_file is None else str(plan_file)))
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        from policyctl.report.plan_markdown import fleet_markdown

        _summarise(path, lambda room: fleet_markdown(view, room - 1) + "\n", console)


def write_stop_summary(why: str, console: Console) -> None:
    """Write to the step summary why the plan that follows is not applied."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        from policyctl.report.markdown import alert

        _summarise(path, lambda _: alert(why), console)


def write_outcome_summary(text: str, console: Console) -> None:
    """Add the outcome of an apply to the step summary."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        from policyctl.report.markdown import fenced

        _summarise(path, lambda room: fenced(text, room), console)


def run_page() -> str | None:
    """The web page of this workflow run, which has the files that it saved; None outside GitHub."""
    server, repository, run = (os.environ.get(f"GITHUB_{name}") for name in ("SERVER_URL", "REPOSITORY", "RUN_ID"))
    url = f"{server}/{repository}/actions/runs/{run}"
    return url if _RUN.fullmatch(url) else None


def _write_outputs(path: str, text: str) -> None:
    try:
        _append(path, text)
    except OSError as error:
        raise PolicyctlError(f"GITHUB_OUTPUT: {path} cannot be written: {error.strerror}") from None


def _summarise(path: str, text_within: Callable[[int], str], console: Console) -> None:
    """Add a text to the step summary, given the bytes left. The summary is for people only, so a failure stops nothing."""
    from policyctl.report.plan_markdown import LEAST_BYTES

    try:
        if (room := _room(path)) < LEAST_BYTES:
            console.say("GITHUB_STEP_SUMMARY: the step summary is full, so this is not in it")
        else:
            _append(path, text_within(room))
    except OSError as error:
        console.say(f"GITHUB_STEP_SUMMARY: {path} cannot be written: {error.strerror}; so the summary is missing")


def _append(path: str, text: str) -> None:
    with open(path, "a", encoding="utf-8", errors="backslashreplace") as stream:
        stream.write(text)


def _room(path: str) -> int:
    """How many bytes may still be added to the step summary."""
    from policyctl.report.markdown import SUMMARY_BYTES

    file = Path(path)
    return SUMMARY_BYTES - (file.stat().st_size if file.is_file() else 0)


def _top() -> Path:
    """The checkout of the workflow, else the repository around the working directory, else that directory."""
    from policyctl.load.git import repository_top  # most commands ask for no path

    if workspace := os.environ.get("GITHUB_WORKSPACE"):
        return Path(workspace).resolve()
    here = Path.cwd().resolve()
    return repository_top(here) or here
