"""--on queue: the environments of a run are planned or applied by workers."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from importlib.util import find_spec
from typing import TYPE_CHECKING

import click

from policyctl.errors import PolicyctlError, UsageError
from policyctl.load.urls import POSTGRES, postgres_url_error, remote_identity

if TYPE_CHECKING:
    from policyctl.cli.fleet import Fleet
    from policyctl.reconcile.queue import Queue, QueueRunner

VARIABLE = "POLICYCTL_DATABASE"
_NEEDS = ("procrastinate", "psycopg")

with_queue = click.option(
    "--on",
    "place",
    type=click.Choice(["here", "queue"]),
    default="here",
    help=f"Where several environments are worked on: here, or by workers (see policyctl worker), which the database in "
    f"{VARIABLE} leads to.  [default: here]",
)


def open_queue() -> Queue:
    """The queue that the environment variable names. Raises UsageError without one, and for one with a password in it."""
    if missing := [name for name in _NEEDS if find_spec(name) is None]:
        raise PolicyctlError(f"the queue needs {' and '.join(missing)}; install it with: pip install 'policyctl[fleet]'")
    from policyctl.reconcile.queue import Queue

    text = os.environ.get(VARIABLE, "")
    url = f"{POSTGRES}?{text}" if text.startswith("service=") else text
    if not url.startswith(POSTGRES):
        raise UsageError(f"{VARIABLE} must name the database of the queue: postgresql://HOST/DATABASE, or service=NAME")
    if complaint := postgres_url_error(url):
        raise UsageError(f"{VARIABLE} {complaint}")
    return Queue(url)


def refuse_on_queue(place: str, **given: object) -> None:
    """Raise UsageError for options that do not go with --on queue, which are given unless they are None, False or empty."""
    for option, value in given.items() if place == "queue" else ():
        if value:
            raise UsageError(f"--on queue and --{option} exclude each other: workers have the files that are committed")


def queue_runner(
    fleet: Fleet, command: str, run: str, shown: Mapping[str, str] | None, stopped: Callable[[], bool]
) -> QueueRunner:
    """The runner of one wave. The jobs of all waves of a run have its id in common."""
    from policyctl.cli.fleet_apply import revision_of
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
    )

    def identity_of(name: str) -> str:
        found = fleet.config.environments.get(name)
        return name if found is None else remote_identity(found.remote, name)

    return QueueRunner(open_queue(), order, identity_of, stopped, fleet.console.say)
