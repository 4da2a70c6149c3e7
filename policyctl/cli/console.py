"""Standard output for results, standard error for everything else, and progress on a terminal.

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
from queue import SimpleQueue
from typing import TextIO

import click

from policyctl.cli.options import Options
from policyctl.errors import PolicyctlError, Problem, UsageError
from policyctl.report.format import Style, count, escape, wants_colour

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
    from policyctl.report.problems import problem_lines

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
