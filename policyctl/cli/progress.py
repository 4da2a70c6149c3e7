"""How far a long piece of work is: one line on a terminal, gone when the work is done.

The line is drawn beside the work, by a thread that only looks at a number: so the work is not slowed down, and a wait for a
remote is seen too. Where there is no terminal, nothing is drawn and no thread is started.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TextIO

from policyctl.report.plain import count

QUIET = 1.0  # seconds of work that nothing is shown of
EVERY = 0.2  # seconds between two drawings
_BAR = 24  # columns
_ERASE = "\r\x1b[K"
_STOPPING = "stopping when what was begun is finished; once more stops at once\n"

Step = Callable[..., None]


@dataclass(slots=True)
class Work:
    """What is done, what is counted, and how many of how many are done; `total` is None where nobody knows."""

    label: str
    noun: str
    total: int | None = None
    done: int = 0

    def step(self, *_: object) -> None:
        """One more is done, whatever it was."""
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
        """`width` says how many columns the stream's terminal has now, or None when there is none to draw on."""
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
        """Show a piece of work while it lasts. Yields what the work calls, from one thread, with each thing that is done.

        Once `stopped` says yes, that is said in a line that stays, and nothing is drawn any more.
        """
        work = Work(label, noun, total)
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

    def _draw(self, work: Work, over: threading.Event, stopped: Callable[[], bool]) -> None:
        """Draw until the work is over, then erase the line."""
        began, pause, shown = self._clock(), QUIET, ""
        with suppress(OSError, ValueError):  # the terminal has gone; the work goes on without
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
