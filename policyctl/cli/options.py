"""The options that commands share, before a command's name or after it; the one after wins. Each takes those that it uses."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any, NamedTuple

import click

from policyctl.errors import UsageError

NAMES = ("dir", "env", "remote", "color", "verbose")


class Options(NamedTuple):
    """The global options, settled; `given` are the names of those that the command line has."""

    dir: Path = Path("policies")
    env: str | None = None
    remote: str | None = None
    color: str = "auto"
    verbose: int = 0
    given: frozenset[str] = frozenset()


def with_options(*used: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command those of the global options that it uses; a group takes all. It is called with `options` first.

    One that was given before the command's name, and that the command does not use, is a UsageError; one that comes from a
    variable is not, since that is for all commands.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def settled(*args: Any, **values: Any) -> Any:
            context = click.get_current_context()
            before: Options = context.parent.obj if context.parent is not None else Options()
            if idle := [_spelled(name) for name in NAMES if name in before.given - {*used}]:
                raise UsageError(f"{context.command_path} does not use {' or '.join(idle)}; leave it out")
            chosen = {name: value for name in used if (value := values.pop(name)) not in (None, 0)}
            if context.parent is None and "dir" not in chosen:
                chosen["dir"] = _usual_directory()
            given = {name for name in chosen if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE}
            context.obj = before._replace(**chosen, given=before.given | given)
            return function(context.obj, *args, **values)

        for names, more in reversed(_OPTIONS):
            if _name(names) in used:
                settled = click.option(*names, **more)(settled)
        return settled

    return decorate


def _name(spellings: tuple[str, ...]) -> str:
    return spellings[-1].removeprefix("--").replace("-", "_")


def _spelled(name: str) -> str:
    return f"--{name.replace('_', '-')}"


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
        ("--color",),
        {
            "type": click.Choice(["auto", "always", "never"]),
            "help": "When to use colour.  [POLICYCTL_COLOR; default: auto]",
        },
    ),
    (("-v", "--verbose"), {"count": True, "help": "Say more; -vv for a bug report.  [POLICYCTL_VERBOSE]"}),
)
