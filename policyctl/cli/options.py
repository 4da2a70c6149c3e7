"""Options that commands share, and groups whose commands are imported when they are used."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from importlib import import_module
from math import isfinite
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from policyctl.cli import completion
from policyctl.errors import UsageError

if TYPE_CHECKING:
    from policyctl.reconcile.audit import AuditRecord

AUDIT_VARIABLE = "POLICYCTL_AUDIT"


class Commands(click.Group):
    """Commands by name, each imported when it is used."""

    def __init__(
        self, *args: Any, package: str, table: Mapping[str, str], modules: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        """`table` describes the commands, in the order of --help. A command is in the module of its name in `package`, or in
        the one that `modules` has for it."""
        super().__init__(*args, **more)
        self.package = package
        self.table = table
        self.modules = modules or {}

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            if not ctx.resilient_parsing:  # shell completion shows no error
                from policyctl.cli.usage import unknown_command

                ctx.fail(unknown_command(cmd_name, ctx, list(self.table)))
            return None
        module = import_module(f"{self.package}.{self.modules.get(cmd_name, cmd_name)}")
        return next(found for found in vars(module).values() if isinstance(found, click.Command) and found.name == cmd_name)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.table.items()))


class NumberRange(click.FloatRange):
    """A finite number within bounds. click accepts NaN within any bounds, but nothing compares as greater than it."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        number: float = super().convert(value, param, ctx)
        if not isfinite(number):
            self.fail(f"{value} is not a finite number", param, ctx)
        return number


NAMES = ("dir", "env", "remote", "color", "verbose")
ALL = (*NAMES, "quiet")


class Options(NamedTuple):
    """The values of the global options; `given` are the names of those on the command line."""

    dir: Path = Path("policies")
    env: tuple[str, ...] = ()
    remote: str | None = None
    color: str = "auto"
    verbose: int = 0
    quiet: bool = False
    given: frozenset[str] = frozenset()

    @property
    def environment(self) -> str | None:
        """The one environment of a command that works on one; None for the default. Raises UsageError for several."""
        from policyctl.load.environment import is_glob

        if len(self.env) > 1 or any(map(is_glob, self.env)):
            command = click.get_current_context().command_path
            raise UsageError(f"{command} works on one environment here; name one with --env, without * and ?")
        return self.env[0] if self.env else None


def with_options(*used: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a command the global options that it uses, as `options`, its first argument; a group takes all.

    Raises UsageError for an option before the command's name that the command does not use. From an environment variable it
    is accepted, since that is set for all commands.
    """

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def wrapper(*args: Any, **values: Any) -> Any:
            context = click.get_current_context()
            before: Options = context.parent.obj if context.parent is not None else Options()
            if idle := [_spelled(name) for name in ALL if name in before.given - {*used}]:
                raise UsageError(f"{context.command_path} does not use {' or '.join(idle)}; leave it out")
            chosen = {name: value for name in used if (value := values.pop(name)) not in (None, 0, (), False)}
            if context.parent is None and "dir" not in chosen:
                chosen["dir"] = _usual_directory()
            given = {name for name in chosen if context.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE}
            context.obj = before._replace(**chosen, given=before.given | given)
            if "quiet" in used and not isinstance(context.command, click.Group):
                context.obj = _settled(context.obj)
            return function(context.obj, *args, **values)

        for names, more in reversed(_OPTIONS):
            if _name(names) in used:
                wrapper = click.option(*names, **more)(wrapper)
        return wrapper

    return decorate


def with_form(*forms: str, about: str | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--format, as `form`: one of these, the first one unless another is given. `about` is shown in the help."""
    return click.option("--format", "form", type=click.Choice(forms), default=forms[0], show_default=True, help=about)


def _settled(options: Options) -> Options:
    """The options, of which --quiet or --verbose wins over the other one from a variable. Raises UsageError for both."""
    if not (options.quiet and options.verbose):
        return options
    if ("quiet" in options.given) == ("verbose" in options.given):
        raise UsageError("--quiet and --verbose exclude each other; leave one out")
    return options._replace(verbose=0) if "quiet" in options.given else options._replace(quiet=False)


def _name(spellings: tuple[str, ...]) -> str:
    return spellings[-1].removeprefix("--").replace("-", "_")


def _spelled(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _usual_directory() -> Path:
    """The default policy directory: `policies` here, else the nearest one upward."""
    usual = Options().dir
    if usual.is_dir():
        return usual
    from policyctl.load.discovery import nearest_directory

    return nearest_directory()


# Only the group reads POLICYCTL_… (see main.py): a variable must not win over an option before the command's name.
_OPTIONS: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (
        ("--dir",),
        {
            "type": click.Path(path_type=Path),
            "metavar": "DIR",
            "help": "The directory of policy files.  [POLICYCTL_DIR; default: policies, here or upward in the repository]",
        },
    ),
    (
        ("--env",),
        {
            "metavar": "NAME",
            "multiple": True,
            "shell_complete": completion.environments,
            "help": "The environment of policyctl.yaml; a glob, or several, where a command takes them.  [POLICYCTL_ENV]",
        },
    ),
    (
        ("--remote",),
        {
            "metavar": "URL",
            "help": "Another remote than the environment's: local, sqlite:///PATH, postgresql://HOST/DATABASE, an https:// "
            "URL, or, to plan against, git:REVISION.  [POLICYCTL_REMOTE]",
        },
    ),
    (
        ("--color",),
        {
            "type": click.Choice(["auto", "always", "never"]),
            "help": "When to use colour.  [POLICYCTL_COLOR; default: auto]",
        },
    ),
    (("-q", "--quiet"), {"is_flag": True, "help": "Only problems and the last line, as text.  [POLICYCTL_QUIET]"}),
    (("-v", "--verbose"), {"count": True, "help": "Show more; -vv for a bug report.  [POLICYCTL_VERBOSE]"}),
)


def audit_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--audit, as `record`: an AuditRecord, or None; `text` describes it."""
    help_text = f"{text}  [{AUDIT_VARIABLE}]"
    return click.option("--audit", "record", envvar=AUDIT_VARIABLE, callback=_record, metavar="FILE|DATABASE", help=help_text)


def _record(_: click.Context, __: click.Parameter, text: str | None) -> AuditRecord | None:
    if text is None:
        return None
    from policyctl.reconcile.audit import audit_record

    return audit_record(text)
