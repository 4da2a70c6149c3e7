"""--on queue: the environments of a run are planned or applied by workers."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from functools import wraps
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from policyctl.errors import PolicyctlError, UsageError
from policyctl.load.urls import database_url, remote_identity

if TYPE_CHECKING:
    from policyctl.cli.fleet import Fleet
    from policyctl.cli.options import Options
    from policyctl.reconcile.queue import JobQueue, QueueRunner

VARIABLE = "POLICYCTL_DATABASE"
_NEEDS = ("procrastinate", "psycopg")

_ALONE = ("base", "to", "tests", "audit", "validate_models")  # options that do not go with --on queue


def on_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--on, as `place`; `text` describes it, and names the environment variable where it has {}."""
    choice = click.Choice(["here", "queue"])
    return click.option("--on", "place", type=choice, default="here", show_default=True, help=text.format(VARIABLE))


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
    yield from ("--test" if option == "tests" else f"--{option.replace('_', '-')}" for option in _ALONE if given.get(option))
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
    if missing := [name for name in _NEEDS if find_spec(name) is None]:
        raise PolicyctlError(f"the queue needs {' and '.join(missing)}; install it with: pip install 'policyctl[fleet]'")
    from policyctl.reconcile.queue import JobQueue

    if (url := database_url(os.environ.get(VARIABLE, ""), VARIABLE)) is None:
        raise UsageError(f"{VARIABLE} must name the database of the queue: postgresql://HOST/DATABASE, or service=NAME")
    return JobQueue(url, make=make)


def queue_runner(
    fleet: Fleet, command: str, run: str, shown: Mapping[str, str] | None, stopped: Callable[[], bool]
) -> QueueRunner:
    """The runner of one wave. The jobs of all waves of a run have its id in common."""
    from policyctl.cli.fleet_apply import revision_of
    from policyctl.cli.github_actions import run_page
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
