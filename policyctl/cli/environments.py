"""policyctl env, and which of several environments any command works on: the options that choose them, and --on queue, by which
workers plan or apply them."""

from __future__ import annotations

import os
import re
import sys
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import partial, wraps
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
from click.core import ParameterSource

from policyctl.cli.console import Console
from policyctl.cli.options import NAMES, Commands, Options, complete_environments, with_form, with_options
from policyctl.errors import InvalidInput, PolicyctlError, UsageError
from policyctl.load.discovery import find_config, load_config
from policyctl.load.environment import EnvironmentFilter, is_glob, lines_of, parse_selector
from policyctl.load.urls import database_url, remote_identity

if TYPE_CHECKING:
    from policyctl.cli.fleet import Fleet, RunnerOf
    from policyctl.load.environment import Config
    from policyctl.reconcile.queue import JobQueue, QueueRunner

_MAX_NAMES = 1 << 20  # characters of a list of environments


def _selectors(_: click.Context, __: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    for text in values:
        parse_selector(text)
    return values


_OPTIONS = (
    click.option(
        "-l",
        "--label",
        "labels",
        multiple=True,
        callback=_selectors,
        metavar="SELECTOR",
        help="Environments with these labels: key=value, key!=value, key in (a,b), key, !key; all must hold.",
    ),
    click.option(
        "--exclude-env",
        "excluded",
        multiple=True,
        metavar="NAME",
        shell_complete=complete_environments,
        help="Leave out environments by name or glob; repeatable.",
    ),
    click.option(
        "--env-from",
        "listed",
        type=click.Path(path_type=Path, dir_okay=False, allow_dash=True),
        metavar="FILE",
        help="The environments in this file, one a line; - reads standard input.",
    ),
    click.option("--all", "everything", is_flag=True, help="All environments."),
    click.option(
        "--affected",
        metavar="REVISION",
        help="Environments whose settings or policies, as rendered from the files, differ from those at this git revision.",
    ),
)


def with_environments(function: Callable[..., Any], *, variable: bool = True) -> Callable[..., Any]:
    """Give a command the options that choose environments, as `chosen`: an EnvironmentFilter with the names of --env too.

    Without `variable`, POLICYCTL_ENV chooses none.
    """

    @wraps(function)
    def wrapper(
        options: Options,
        *args: Any,
        labels: tuple[str, ...],
        excluded: tuple[str, ...],
        listed: Path | None,
        everything: bool,
        affected: str | None,
        **more: Any,
    ) -> Any:
        others = everything or listed is not None or bool(labels or excluded or affected)
        by_option = "env" in options.given or (variable and not others)  # a variable must not win over an option
        names = options.env if by_option else ()
        if everything and (names or listed is not None):
            raise UsageError("--all is every environment; leave out --env and --env-from, or --all")
        several = others or len(names) > 1 or any(map(is_glob, names))
        if listed is not None:
            names = (*names, *_read_names(listed))
        return function(options, *args, chosen=EnvironmentFilter(names, labels, excluded, several, affected), **more)

    for option in reversed(_OPTIONS):
        wrapper = option(wrapper)
    return wrapper


with_environments_or_all = partial(with_environments, variable=False)


class Pace(NamedTuple):
    """How many environments go at once, when a run is stopped early, and what does the work (None: threads of this process).
    `withdraw` takes back what an interrupted run left with it."""

    parallelism: int = 4
    fail_fast: bool = False
    max_failures: str | None = None
    runner_of: RunnerOf | None = None
    withdraw: Callable[[str, Callable[[str], None]], None] | None = None

    @property
    def place(self) -> str:
        """Where the work is done."""
        return "here" if self.runner_of is None else "queue"

    def most(self, names: Collection[str]) -> int | None:
        """The most failures before nothing more is begun; None for any number."""
        if self.max_failures is None:
            return None
        number = self.max_failures.removesuffix("%")
        return int(number) * len(names) // 100 if self.max_failures.endswith("%") else int(number)


def _max_failures(_: click.Context, __: click.Parameter, text: str | None) -> str | None:
    if text is not None and not re.fullmatch(r"[0-9]{1,6}|[0-9]{1,2}%|100%", text):
        raise click.BadParameter(f"{text} is neither a number nor a percentage; write 5 or 5%")
    return text


def with_pace(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a run over several environments, as `pace`: a Pace without parallelism."""

    @click.option("--keep-going", is_flag=True, help="Go on with other environments after a failure. This is the default.")
    @click.option("--fail-fast", is_flag=True, help="Begin no other environment after a failure.")
    @click.option(
        "--max-failures",
        callback=_max_failures,
        metavar="N|P%",
        help="Begin no other environment after more failures than this.",
    )
    @wraps(function)
    def wrapper(
        *args: Any, keep_going: bool, fail_fast: bool, max_failures: str | None, chosen: EnvironmentFilter, **more: Any
    ) -> Any:
        if keep_going and (fail_fast or max_failures is not None):
            raise UsageError("--keep-going contradicts --fail-fast and --max-failures; leave one out")
        if not chosen.several and (keep_going or fail_fast or max_failures is not None):
            raise UsageError(
                "--keep-going, --fail-fast and --max-failures are for several environments; choose them with --all, -l or --env"
            )
        return function(*args, pace=Pace(fail_fast=fail_fast, max_failures=max_failures), chosen=chosen, **more)

    return wrapper


def choose(options: Options, config: Config, chosen: EnvironmentFilter) -> tuple[str, ...]:
    """The names of the environments chosen; none only if none of them is affected. Raises as `EnvironmentFilter.choose` does,
    and UsageError for an unknown revision."""
    names = chosen.choose(config.labels, config.unlabelled)
    if chosen.affected is None:
        return names
    from policyctl.remote.git import affected_since  # imports subprocess

    return affected_since(options.dir, config, names, chosen.affected)


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


DATABASE_VARIABLE = "POLICYCTL_DATABASE"


_QUEUE_NEEDS = ("procrastinate", "psycopg")


_NOT_FOR_QUEUE = ("base", "to", "tests", "audit", "validate_models")  # options that do not go with --on queue


def on_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--on, as `place`; `text` describes it, and names the environment variable where it has {}."""
    choice = click.Choice(["here", "queue"])
    return click.option("--on", "place", type=choice, default="here", show_default=True, help=text.format(DATABASE_VARIABLE))


def with_queue(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --on: what does the work is in its `pace`. Decorate the function itself with it.

    Raises UsageError with --on queue for one environment, and for options that do not go with it.
    """

    @on_option("Where several environments are worked on: here, or by workers of the database that {} names; see worker.")
    @wraps(function)
    def wrapper(*args: Any, place: str, **given: Any) -> Any:
        runner = None if place == "here" else queue_runner
        if runner is not None and not (given["chosen"].several or given.get("resume")):
            raise UsageError("--on queue is for several environments; choose them with --all, -l or --env")
        for name in _not_for_workers(args[0], given) if runner is not None else ():
            raise UsageError(f"--on queue and {name} exclude each other; leave out one of them")
        withdraw = None if runner is None else lambda run, warn: open_queue().withdraw(run, warn)
        return function(*args, **{**given, "pace": given["pace"]._replace(runner_of=runner, withdraw=withdraw)})

    return wrapper


def _not_for_workers(options: Options, given: Mapping[str, Any]) -> Iterator[str]:
    """The options that were given and that an order to workers does not have: they must not be dropped without a word."""
    yield from (
        "--test" if option == "tests" else f"--{option.replace('_', '-')}" for option in _NOT_FOR_QUEUE if given.get(option)
    )
    if options.remote is not None:
        yield "--remote"
    if not given["overrides"].consumers:
        yield "--no-consumers"
    if given["overrides"].partial is not None:
        yield "--partial"
    if click.get_current_context().get_parameter_source("lock_timeout") is ParameterSource.COMMANDLINE:
        yield "--lock-timeout"


def open_queue(*, make: bool = True) -> JobQueue:
    """The queue that the environment variable names; `make` is as for `JobQueue`. Raises UsageError without one, and for one
    with a password in it."""
    if missing := [name for name in _QUEUE_NEEDS if find_spec(name) is None]:
        raise PolicyctlError(f"the queue needs {' and '.join(missing)}; install it with: pip install 'policyctl[fleet]'")
    from policyctl.reconcile.queue import JobQueue

    if (url := database_url(os.environ.get(DATABASE_VARIABLE, ""), DATABASE_VARIABLE)) is None:
        raise UsageError(
            f"{DATABASE_VARIABLE} must name the database of the queue: postgresql://HOST/DATABASE, or service=NAME"
        )
    return JobQueue(url, make=make)


def queue_runner(
    fleet: Fleet, command: str, run: str, shown: Mapping[str, str] | None, stopped: Callable[[], bool]
) -> QueueRunner:
    """The runner of one wave. The jobs of all waves of a run have its id in common."""
    from policyctl.cli.console import run_page
    from policyctl.cli.history import revision_of
    from policyctl.reconcile.audit import person
    from policyctl.reconcile.queue import Order, QueueRunner

    files = fleet.files.digest(fleet.config)
    order = Order(
        run or str(uuid.uuid4()),
        command,
        revision_of(fleet.options.dir),
        files,
        fleet.selection.only,
        fleet.selection.exclude,
        fleet.overrides.given,
        shown,
        fleet.overrides.outside,
        person(),
        command,
        run_page(),
    )

    def identity_of(name: str) -> str:
        found = fleet.config.environments.get(name)
        return name if found is None else remote_identity(found.remote, name)

    return QueueRunner(open_queue(), order, identity_of, stopped, fleet.console.say, fleet.note_idle)


ENV_COMMANDS = {
    "list": "List the environments, or those that a selection has.",
    "show": "Show the settings of one environment.",
}

ENV_EPILOG = """\b
Example:
  policyctl env list
  policyctl env show prod-acme"""

LIST_EPILOG = """\b
Example:
  policyctl env list
  policyctl env list --env 'prod-*' --exclude-env prod-old
  policyctl env list -l 'tier=gold,ring in (canary,1)' --format json"""

SHOW_EPILOG = """\b
Example:
  policyctl env show prod-acme
  policyctl env show prod-acme --format json | jq -r '.settings[].from'"""


@click.group(
    "env",
    cls=Commands,
    package="policyctl.cli",
    table=ENV_COMMANDS,
    modules=dict.fromkeys(ENV_COMMANDS, "environments"),
    epilog=ENV_EPILOG,
)
@with_options(*NAMES)
def command(options: Options) -> None:
    """The environments of policyctl.yaml: which there are, and what settings each has once templates and inventories are
    merged."""


@click.command("list", epilog=LIST_EPILOG)
@with_form("text", "json")
@with_options("dir", "env", "color", "verbose")
@with_environments
def list_environments(options: Options, form: str, chosen: EnvironmentFilter) -> int:
    """List the environments, one a line: remote, labels, and whether one is suspended. A selection that matches nothing is an
    error, so this is also the way to try one."""
    from policyctl.report.format import NONE_AFFECTED
    from policyctl.report.policies import environments_json, environments_text

    config = load_config(find_config(options.dir))
    names = choose(options, config, chosen)
    console = Console(options)
    if not names and form != "json":
        console.say(NONE_AFFECTED)
        return 0
    if form == "json":
        console.result(environments_json(config, names))
    else:
        console.result(environments_text(config, names, console.out_style))
    raise_broken(config, names)
    return 0


@click.command("show", epilog=SHOW_EPILOG)
@click.argument("name", shell_complete=complete_environments)
@with_form("text", "json")
@with_options("dir", "color", "verbose")
def show_environment(options: Options, name: str, form: str) -> int:
    """Show the resolved settings of one environment, each with where it comes from: a template, a row of an inventory, the
    entry of the environment, or the top of policyctl.yaml. Secrets are shown as the references that they are."""
    from policyctl.report.policies import environment_json, environment_text

    config = load_config(find_config(options.dir))
    environment, console = config.environment(name), Console(options)
    render = (
        environment_json(config, environment) if form == "json" else environment_text(config, environment, console.out_style)
    )
    console.result(render)
    return 0
