"""policyctl pull."""

from __future__ import annotations

import click

from policyctl.cli.console import Console
from policyctl.cli.options import NAMES, Options, with_options
from policyctl.cli.session import OpenedDirectory, Session, open_session, read_directory
from policyctl.errors import Incomplete, InvalidInput, errors_in
from policyctl.load.atomic import make_folder, write_atomically
from policyctl.load.placement import FileLayout, Pull, plan_pull
from policyctl.plan.plan import Plan, Selection
from policyctl.reconcile.observe import KnownModels, observe
from policyctl.reconcile.plan import plan_directory
from policyctl.remote.open import open_reader
from policyctl.remote.protocol import Reader
from policyctl.report.format import count
from policyctl.report.policies import pull_text

EPILOG = """\b
Example:
  policyctl pull
  policyctl pull --env prod --dir policies --overwrite"""


@click.command("pull", epilog=EPILOG)
@click.option("--overwrite", is_flag=True, help="Write over files that say otherwise than the live policy.")
@with_options(*NAMES)
def command(options: Options, overwrite: bool) -> int:
    """Write every live policy in scope as a policy file, so that plan has nothing to change.

    A policy that a file already says stays in that file, and files whose policy is not live are left alone. Exit code 5
    means that some live policy is not said by a file: it cannot be, or its file says otherwise.
    """
    return pull(options, overwrite)


def pull(options: Options, overwrite: bool) -> int:
    console = Console(options)
    place = open_session(options)
    files, loaded, unread = _read(options, place, console)
    homes = FileLayout(options.dir, files, loaded, unread, place.environment)
    with open_reader(place.url, place.access) as reader:
        with console.progress.of("Listing", "live policy") as step:
            observed = observe(reader, on_row=step)
        models = KnownModels(reader, loaded.models)
        policies = {*observed.live, *observed.obstacles(), *(policy.name for policy in loaded.policies)}
        done = plan_pull(observed, homes, place.environment.settings, models.speller(policies), overwrite=overwrite)
        _write(done, options, console)
        plan = _plan(options, place, reader, models, console) if done.writes or loaded.policies else None
    console.result(pull_text(done, observed, plan, console.out_style))
    if done.kept or done.left:
        missing = count(len(done.kept) + len(done.left), "live policy")
        raise Incomplete(f"{missing} not pulled; see above. Until that is settled, look at plan before you apply")
    return 0


def _read(options: Options, place: Session, console: Console) -> OpenedDirectory:
    """What the directory says. Raises InvalidInput with every error; warnings are for validate and plan to print."""
    opened = read_directory(options, place, console)
    if errors_in(opened.loaded.problems):
        raise InvalidInput(opened.loaded.problems)
    return opened


def _write(done: Pull, options: Options, console: Console) -> None:
    if done.writes:
        make_folder(options.dir)
    with console.progress.of("Writing", "file", len(done.writes)) as step:
        for path, text, _ in done.writes:
            write_atomically(path, text, inside=options.dir)
            step()


def _plan(options: Options, place: Session, reader: Reader, models: KnownModels, console: Console) -> Plan:
    """What plan says now, from the files as they were written and the remote read again."""
    _, loaded, unread = _read(options, place, console)
    settings = place.environment.settings
    with console.progress.of("Comparing", "live policy") as step:
        reviewed = plan_directory(
            reader,
            loaded.policies,
            place.environment,
            settings,
            Selection(),
            on_row=step,
            unread=unread,
            models=models,
        )
        return reviewed.plan
