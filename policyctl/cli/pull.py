"""policyctl pull."""

from __future__ import annotations

import click

from policyctl.cli.options import NAMES, Options, with_options
from policyctl.cli.session import OpenedDirectory, Session, open_session
from policyctl.errors import Incomplete
from policyctl.load.atomic import make_folder, write_atomically
from policyctl.load.placement import FileLayout, Pull, plan_pull
from policyctl.plan.plan import Plan, Selection
from policyctl.policy.names import MODEL_PREFIX, counted, kind_of
from policyctl.reconcile.models import KnownModels
from policyctl.reconcile.observe import observe
from policyctl.reconcile.plan import plan_directory
from policyctl.remote.protocol import Reader
from policyctl.report.policies import pull_text

EPILOG = """\b
Example:
  policyctl pull
  policyctl pull --env prod --dir policies --overwrite"""


@click.command("pull", epilog=EPILOG)
@click.option("--overwrite", is_flag=True, help="Replace files that differ from what is live.")
@with_options(*NAMES)
def pull(options: Options, overwrite: bool) -> int:
    """Write every live policy in scope as a file, so that plan has nothing to change.

    Virtual models are written too, below models/, where policyctl.yaml has `manage: [policies, models]`, as init writes it;
    without a policyctl.yaml only policies are. No file holds a secret. A policy or model that is in a file already stays in
    that file, and files of what is not live are left alone. Exit code 5 means that something live does not match a file: it
    cannot be written as one, or its file differs.
    """
    session = open_session(options)
    console, opened = session.console, _read(session)
    loaded, layout = opened.loaded, FileLayout(options.dir, *opened, session.environment)
    with session.reader() as reader:
        with console.progress.of("Listing", "live policy") as step:
            observed = observe(reader, on_row=step)
        models = KnownModels(reader, loaded.models)
        policies = {*observed.live, *observed.obstacles(), *loaded.names}
        done = plan_pull(observed, layout, session.environment.settings, models.speller(policies), overwrite=overwrite)
        _write(done, session)
        plan = _plan(session, reader, models) if done.writes or loaded.desired else None
        unmanaged = 0 if session.environment.settings.models else sum(name.startswith(MODEL_PREFIX) for name in models.listed)
    console.result(pull_text(done, observed, plan, unmanaged, console.out_style))
    if missing := (*done.kept, *done.left):
        raise Incomplete(f"{counted(map(kind_of, missing), 'live ')} not pulled; see above. Read the plan before you apply")
    return 0


def _read(session: Session) -> OpenedDirectory:
    opened = session.read(lenient=True)
    opened.raise_if_errors()
    return opened


def _write(done: Pull, session: Session) -> None:
    directory = session.options.dir
    with session.console.progress.of("Writing", "file", len(done.writes)) as step:
        for path, text, _ in done.writes:
            make_folder(path.parent)
            write_atomically(path, text, inside=directory)
            step()


def _plan(session: Session, reader: Reader, models: KnownModels) -> Plan:
    """The plan from the files as they were written and the remote read again."""
    _, loaded, unread = _read(session)
    environment, desired = session.environment, loaded.desired
    with session.console.progress.of("Comparing", "live policy") as step:
        review = plan_directory(
            reader, desired, environment, environment.settings, Selection(), on_row=step, unread=unread, models=models
        )
    return review.plan
