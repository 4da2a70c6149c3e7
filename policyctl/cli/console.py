"""Standard output for results, standard error for everything else."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable

import click

from policyctl.cli.options import Options
from policyctl.errors import Problem, UsageError
from policyctl.report.style import Style, wants_colour


class Console:
    """Where a command writes, and how colourful."""

    def __init__(self, options: Options) -> None:
        self.out_style = Style(wants_colour(options.color, sys.stdout.isatty(), os.environ))
        self.err_style = Style(wants_colour(options.color, sys.stderr.isatty(), os.environ))
        self.verbose = options.verbose > 0

    def result(self, text: str) -> None:
        """Print a command's result."""
        click.echo(text, nl=False, color=True)

    def say(self, line: str) -> None:
        """Print a line about the work."""
        click.echo(line, err=True, color=True)

    def problems(self, problems: Iterable[Problem]) -> None:
        """Print problems that do not stop the work."""
        from policyctl.report.validation import problem_lines

        for line in problem_lines(list(problems), self.err_style):
            self.say(line)

    def confirm(self, question: str, *, yes: bool) -> bool:
        """Whether to go on. Raises UsageError where nobody can answer and --yes was not given."""
        if yes:
            return True
        if not sys.stdin.isatty():
            raise UsageError("nobody can answer here (standard input is no terminal); add --yes to go on without asking")
        return click.confirm(question, default=False, err=True)
