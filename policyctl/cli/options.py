"""The options that every command takes, before its name or after it; the one after wins."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from policyctl.load.cache import Cache

_NAMES = ("dir", "env", "remote", "no_cache", "color", "verbose")


class Options(NamedTuple):
    """The global options, settled."""

    dir: Path = Path("policies")
    env: str | None = None
    remote: str | None = None
    no_cache: bool = False
    color: str = "auto"
    verbose: int = 0

    def open_cache(self) -> Cache:
        """What earlier runs found out about files."""
        from policyctl.load.cache import Cache, cache_folder

        return Cache(None if self.no_cache else cache_folder(os.environ))


def with_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command (or the group) the global options; it is called with `options` as its first argument."""

    @wraps(function)
    def settled(*args: Any, **values: Any) -> Any:
        context = click.get_current_context()
        before = context.parent.obj if context.parent is not None else Options()
        given = {name: value for name in _NAMES if (value := values.pop(name)) not in (None, 0)}
        if context.parent is None and "dir" not in given:
            given["dir"] = _usual_directory()
        context.obj = before._replace(**given)
        return function(context.obj, *args, **values)

    for names, more in reversed(_OPTIONS):
        settled = click.option(*names, **more)(settled)
    return settled


def _usual_directory() -> Path:
    """The policy directory where none is named: `policies` here, else the nearest one upward."""
    usual = Options().dir
    if usual.is_dir():
        return usual
    from policyctl.load.nearest import nearest_directory

    return nearest_directory()


# The group also listens to POLICYCTL_… (see main.py); a command does not: a variable must not beat an option before it.
_OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("--dir",),
        {
            "type": click.Path(path_type=Path),
            "metavar": "DIR",
            "help": "The directory of policy files.  [POLICYCTL_DIR; default: policies, here or upward in the repository]",
        },
    ),
    (("--env",), {"metavar": "NAME", "help": "The environment of policyctl.yaml.  [POLICYCTL_ENV]"}),
    (
        ("--remote",),
        {
            "metavar": "URL",
            "help": "Another remote than the environment's: local, sqlite:///PATH, an https:// URL, or, to plan against, "
            "git:REVISION.  [POLICYCTL_REMOTE]",
        },
    ),
    (
        ("--no-cache",),
        {"is_flag": True, "help": "Read every file afresh, and keep nothing for the next run.  [POLICYCTL_NO_CACHE]"},
    ),
    (
        ("--color",),
        {
            "type": click.Choice(["auto", "always", "never"]),
            "help": "When to use colour.  [POLICYCTL_COLOR; default: auto]",
        },
    ),
    (("-v", "--verbose"), {"count": True, "help": "Say more; -vv for a bug report.  [POLICYCTL_VERBOSE]"}),
)
