"""policyctl ci overrides."""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import click

from policyctl.ci.comments import approval_in
from policyctl.ci.forge import Forge, NotAllowed, open_forge
from policyctl.cli.console import Console
from policyctl.cli.github_actions import repository_path
from policyctl.cli.options import Options, with_options
from policyctl.cli.selection import MOST, commands_in, parse_overrides, write_overrides
from policyctl.errors import UsageError
from policyctl.plan.settings import Override
from policyctl.report.format import count

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
def overrides(options: Options, out: Path) -> int:
    """Write down what people let the plan of this pull request override.

    It counts what somebody wrote in a comment who may approve the pull request: who may write to the repository and did not
    open it. It counts for the commit that was the newest when it was written, and must be repeated for a later one. What the
    branch holds never counts. A comment that is deleted or edited counts as it is now. In a merge queue those count that the
    comment with the plan shows.
    """
    console = Console(options)
    found: list[Override] = []
    try:
        with open_forge(os.environ) as forge:
            if forge is None:
                console.say("there is no token, so no comment is read, and nothing is overridden")
            elif forge.queued:
                found = _shown(forge, options)
            else:
                found = _allowed(forge, console)
    except NotAllowed as error:
        console.say(f"the comments cannot be read, so nothing is overridden: {error}")
    if len(found) > MOST:
        raise UsageError(f"{len(found)} settings are overridden; at most {MOST} can be shown, so split the change")
    write_overrides(out, found)
    console.say(f"{count(len(found), 'override')} by people who may approve: {', '.join(one.text for one in found) or 'none'}")
    return 0


def _shown(forge: Forge, options: Options) -> list[Override]:
    """What the comment with the plan shows as overridden."""
    bodies = [one.body for one in forge.comments()]
    approval = approval_in(bodies, options.env, repository_path(str(options.dir)))
    return list(approval.overrides) if approval else []


def _allowed(forge: Forge, console: Console) -> list[Override]:
    found: dict[str, Override] = {}
    asked = [(said, commands) for said in forge.said() if (commands := commands_in(said.text))]
    since = _since(forge, console) if asked else None
    for said, commands in asked if since is not None else ():
        if not forge.may_approve(said):
            console.say(f"what {said.who} allows does not count: they opened the pull request, or may not write here")
            continue
        if said.when is None or since is None or said.when <= since:
            what = "; ".join(commands)
            console.say(f"what {said.who} allows does not count: {what!r} was given for an earlier commit; repeat it")
            continue
        for text in commands:
            try:
                found.update((one.text, one) for one in parse_overrides(text, said.who))
            except UsageError as error:
                console.say(f"what {said.who} allows does not count: {error}")
    return list(found.values())


def _since(forge: Forge, console: Console) -> datetime | None:
    """Since when a comment is one about this commit; None, with a word about it, where that cannot be told."""
    try:
        found = forge.since()
    except NotAllowed as error:
        console.say(
            f"the run cannot be read, so it is not known which commit a comment is about: {error} (on GitHub the job "
            "needs the permission actions: read)"
        )
        return None
    if found is None:
        console.say("this commit is not the newest one of the pull request any more; the run for that one reads the comments")
    return found
