"""Standard output for results, standard error for everything else."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from typing import TextIO

import click

from policyctl.cli.options import Options
from policyctl.cli.progress import Progress
from policyctl.errors import PolicyctlError, Problem, UsageError
from policyctl.report.plain import plain
from policyctl.report.style import Style, wants_colour

_USUAL = 80  # columns of a terminal that does not say


class Console:
    """Where a command writes, and how colourful."""

    def __init__(self, options: Options) -> None:
        out, err = sys.stdout, sys.stderr
        self.out_style = Style(wants_colour(options.color, out.isatty(), os.environ), terminal_width(out, os.environ))
        self.err_style = Style(wants_colour(options.color, err.isatty(), os.environ), terminal_width(err, os.environ))
        self.verbose = options.verbose > 0
        # What cannot move its cursor cannot be drawn on.
        self.draws = err.isatty() and os.environ.get("TERM") != "dumb"
        self.progress = Progress(err, lambda: terminal_width(err, os.environ) if self.draws else None)

    def result(self, text: str) -> None:
        """Print a command's result. Raises PolicyctlError where standard output does not take it."""
        try:
            click.echo(text, nl=False, color=True)
        except OSError as error:
            raise PolicyctlError(f"standard output cannot be written: {error.strerror}") from None

    def say(self, line: str, *, painted: bool = False) -> None:
        """Print a line about the work, with nothing in it that is obeyed; a `painted` one has nothing of that already.

        The work goes on where standard error takes none.
        """
        with suppress(OSError):
            click.echo(line if painted else plain(line), err=True, color=True)

    def problems(self, problems: Iterable[Problem]) -> None:
        """Print problems that do not stop the work."""
        for line in stream_lines(list(problems), self.err_style, sys.stderr):
            self.say(line, painted=True)

    def confirm(self, question: str, *, yes: bool) -> bool:
        """Whether to go on. Raises UsageError where standard input is not a terminal and --yes was not given."""
        if yes:
            return True
        if not sys.stdin.isatty():
            raise UsageError("this needs an answer, and standard input is not a terminal; add --yes to go on without asking")
        return click.confirm(question, default=False, err=True)


def shows_lines(stream: TextIO, environ: Mapping[str, str]) -> bool:
    """Whether problems are shown with their lines: to a person at a terminal, and not in the log of a CI job."""
    return stream.isatty() and not environ.get("CI")


def stream_lines(problems: Sequence[Problem], style: Style, stream: TextIO) -> list[str]:
    """Problems as a stream shows them: with their lines on a terminal, elsewhere one line each."""
    from policyctl.load.excerpts import line_at
    from policyctl.report.validation import problem_lines

    return problem_lines(problems, style, line_at if shows_lines(stream, os.environ) else None)


def terminal_width(stream: TextIO, environ: Mapping[str, str]) -> int | None:
    """The columns of the terminal that a stream is, COLUMNS first; None when it is none."""
    if not stream.isatty():
        return None
    if (said := environ.get("COLUMNS", "")).isdecimal() and int(said):
        return int(said)
    try:
        return os.get_terminal_size(stream.fileno()).columns or _USUAL
    except OSError:
        return _USUAL
