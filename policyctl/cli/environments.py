"""Which of several environments a command works on: the options that choose them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Collection
from functools import wraps
from pathlib import Path
from typing import Any

import click

from policyctl.cli.options import Options
from policyctl.errors import InvalidInput, UsageError
from policyctl.load.environment import Config
from policyctl.load.selector import EnvironmentFilter, lines_of, parse_selector

_MAX_NAMES = 1 << 20  # characters of a list of environments


def _selectors(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for text in values:
        parse_selector(text)
    return values


def with_environments(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options that choose environments, as `chosen`: an EnvironmentFilter with the names of --env too."""

    @click.option(
        "-l",
        "--label",
        "labels",
        multiple=True,
        callback=_selectors,
        metavar="SELECTOR",
        help="Environments with these labels: key=value, key!=value, key in (a,b), key, !key; all must hold.",
    )
    @click.option(
        "--exclude-env", "excluded", multiple=True, metavar="NAME", help="Leave out environments by name or glob; repeatable."
    )
    @click.option(
        "--env-from",
        "listed",
        type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
        metavar="FILE",
        help="The environments in this file, one a line; - reads standard input.",
    )
    @click.option("--all", "everything", is_flag=True, help="All environments.")
    @wraps(function)
    def wrapper(
        options: Options,
        *args: Any,
        labels: tuple[str, ...],
        excluded: tuple[str, ...],
        listed: Path | None,
        everything: bool,
        **more: Any,
    ) -> Any:
        names = options.env
        if everything and (names or listed is not None):
            raise UsageError("--all is every environment; leave out --env and --env-from, or --all")
        if listed is not None:
            names = (*names, *_read_names(listed))
        return function(options, *args, chosen=EnvironmentFilter(names, labels, excluded), **more)

    return wrapper


def _read_names(file: Path) -> tuple[str, ...]:
    try:
        text = sys.stdin.read(_MAX_NAMES + 1) if str(file) == "-" else file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--env-from {file} cannot be read: {getattr(error, 'strerror', None) or 'it is not text'}") from None
    names = tuple(dict.fromkeys(lines_of(text)))
    if not names:
        raise UsageError(f"--env-from {file} names no environment, so nothing was done")
    return names


def raise_broken(config: Config, names: Collection[str]) -> None:
    """Raise InvalidInput for those of the environments that cannot be used."""
    if problems := [problem for name in names for problem in config.broken.get(name, ())]:
        raise InvalidInput(problems)
