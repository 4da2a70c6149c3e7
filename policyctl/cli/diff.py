"""policyctl diff."""

from __future__ import annotations

import click

from policyctl.cli import completion
from policyctl.cli.options import NAMES, Options, with_options
from policyctl.cli.selection import Overrides, raise_if_idle
from policyctl.cli.session import open_session
from policyctl.load.urls import is_git
from policyctl.plan.plan import Selection
from policyctl.reconcile.models import KnownModels
from policyctl.reconcile.plan import plan_directory, raise_if_blocked
from policyctl.report.format import count
from policyctl.report.plan_diff import plan_diff

EPILOG = """\b
Example:
  policyctl diff
  policyctl diff anygem --env prod
  policyctl diff 'virtual-model/*' --detailed-exitcode
  policyctl diff --remote git:origin/main | less"""


@click.command("diff", epilog=EPILOG)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=completion.names)
@click.option("--detailed-exitcode", is_flag=True, help="Exit with 2 when there are differences.")
@with_options(*NAMES)
def diff(options: Options, names: tuple[str, ...], detailed_exitcode: bool) -> int:
    """Show what is live and what the files want as unified YAML, for each policy that apply would change, and for each virtual
    model where they are managed. NAME, which may be a glob, selects some of them.

    Both sides are in one normal form, so order and spelling that mean nothing make no difference. Of a secret only that it is
    set is shown. What the changes do to traffic, and whether they may be applied, is shown by plan.
    """
    session, selection = open_session(options), Selection(only=names)
    _, loaded, unread = session.read(as_committed=is_git(session.url))
    settings, environment = session.environment.settings, session.environment
    with session.reader() as reader, session.console.progress.of("Comparing", "live policy") as step:
        models = KnownModels(reader, loaded.models)
        review = plan_directory(
            reader, loaded.desired, environment, settings, selection, loaded.declared, step, unread, models=models
        )
    raise_if_idle(selection, Overrides(), loaded.names, review.live, only="")
    session.console.result(plan_diff(review.plan.changes, session.console.out_style))
    if review.refusals:
        session.console.say(
            f"note  plan refuses this by {count(len(review.refusals), 'safety rule')}; policyctl plan shows why"
        )
    raise_if_blocked(review)
    return 2 if detailed_exitcode and review.plan.changes else 0
