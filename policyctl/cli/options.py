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

# Each option and its field.
_NAMES = {
    "dir": "named_dir",
    "env": "env",
    "remote": "remote",
    "no_cache": "no_cache",
    "color": "color",
    "verbose": "verbose",
}


class Options(NamedTuple):
    """The global options, settled."""

    named_dir: Path | None = None
    env: str | None = None
    remote: str | None = None
    no_cache: bool = False
    color: str = "auto"
    verbose: int = 0

    @property
    def dir(self) -> Path:
        """The policy directory: the one that was named, else the nearest one."""
        if self.named_dir is not None:
            return self.named_dir
        from policyctl.load.nearest import nearest_directory  # with rules behind it, which help does not need

        return nearest_directory()

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
        given = {field: value for name, field in _NAMES.items() if (value := values.pop(name)) not in (None, 0)}
        context.obj = before._replace(**given)
        return function(context.obj, *args, **values)

    for names, more in reversed(_OPTIONS):
        settled = click.option(*names, **more)(settled)
    return settled


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
