"""policyctl ci overrides."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import click

from policyctl.ci import open_forge
from policyctl.ci.comments import approval_in
from policyctl.ci.forge import Forge, NotAllowed
from policyctl.cli.console import Console
from policyctl.cli.environments import with_environments
from policyctl.cli.github_actions import repository_path
from policyctl.cli.options import Options, with_options
from policyctl.cli.selection import MOST, asks, commands_in, parse_overrides, write_overrides
from policyctl.errors import UsageError
from policyctl.load.selector import EnvironmentFilter
from policyctl.plan.settings import Override
from policyctl.report.format import count

_ALONE = "such a line needs a paragraph of its own, outside quotes and blocks of code, and no HTML before it"

EPILOG = """\b
Example:
  policyctl ci overrides --out overrides.json && policyctl plan --overrides overrides.json

\b
A comment that allows something, on a line of its own:
  /policyctl allow --max-removes 12 --allow-guard max_traffic_shift=chat because the old models are gone"""


@click.command("overrides", epilog=EPILOG)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    metavar="FILE",
    help="The file to write, for plan --overrides.",
)
@with_options("dir", "env", "verbose")
@with_environments
def overrides(options: Options, out: Path, chosen: EnvironmentFilter) -> int:
    """Write a file of the overrides that people allow for the plan of this pull request.

    A comment counts if its author may approve the pull request: they may write to the repository and did not open the pull
    request. It counts for the commit that was the newest when it was written, and must be repeated for a later one. Nothing in
    the branch itself counts. A comment that is deleted or edited counts as it is now. In a merge queue, the overrides in the
    comment with the plan count.
    """
    console = Console(options)
    found: list[Override] = []
    try:
        with open_forge(os.environ) as forge:
            if forge is None:
                console.say("without a token no comment is read, so nothing is overridden")
            elif forge.queued:
                found = _shown(forge, chosen.text if chosen.several else options.environment, options)
            else:
                found = _allowed(forge, console)
    except NotAllowed as error:
        console.say(f"the comments cannot be read, so nothing is overridden: {error}")
    if len(found) > MOST:
        raise UsageError(f"{len(found)} settings are overridden; at most {MOST} can be shown, so split the change")
    write_overrides(out, found)
    console.say(f"{count(len(found), 'override')} by people who may approve: {', '.join(one.text for one in found) or 'none'}")
    return 0


def _shown(forge: Forge, environment: str | None, options: Options) -> list[Override]:
    """The overrides in the comment with the plan."""
    bodies = [one.body for one in forge.comments()]
    approval = approval_in(bodies, environment, repository_path(str(options.dir)))
    return list(approval.overrides) if approval else []


def _allowed(forge: Forge, console: Console) -> list[Override]:
    found: dict[str, Override] = {}
    everything = forge.remarks()
    for comment in everything:
        if asks(comment.text) and not commands_in(comment.text):
            console.say(f"what {comment.who} writes of /policyctl allow does not count: {_ALONE}")
    asked = [(comment, commands) for comment in everything if (commands := commands_in(comment.text))]
    since = _since(forge, console) if asked else None
    for comment, commands in asked if since is not None else ():
        if not forge.may_approve(comment):
            console.say(f"what {comment.who} allows does not count: they opened the pull request, or may not write here")
            continue
        if comment.when is None or since is None or comment.when <= since:
            what = "; ".join(commands)
            console.say(f"what {comment.who} allows does not count: {what!r} was given for an earlier commit; repeat it")
            continue
        for text in commands:
            try:
                found.update((one.text, one) for one in parse_overrides(text, comment.who))
            except UsageError as error:
                console.say(f"what {comment.who} allows does not count: {error}")
    return list(found.values())


def _since(forge: Forge, console: Console) -> datetime | None:
    """The time from which comments are about this commit; None, with a message, when that is not known."""
    try:
        found = forge.since()
    except NotAllowed as error:
        console.say(
            f"the run cannot be read, so it is not known which commit a comment is about: {error} (on GitHub the job "
            "needs the permission actions: read)"
        )
        return None
    if found is None:
        console.say("the pull request has a newer commit; the run for that one reads the comments")
    return found
