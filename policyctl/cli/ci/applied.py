"""policyctl ci applied."""

from __future__ import annotations

import os

import click

from policyctl.ci.comments import applied as applied_text
from policyctl.ci.forge import Forge, NotAllowed, open_forge
from policyctl.cli.ci.approved import waiting_merges, why_not_head
from policyctl.cli.console import Console
from policyctl.cli.github_actions import repository_path
from policyctl.cli.options import Options, with_options
from policyctl.load.environment import Config
from policyctl.load.nearest import find_config, load_config
from policyctl.load.referred import access_now

EPILOG = """\b
Example:
  policyctl apply --yes --expect-digest "$digest" && policyctl plan --detailed-exitcode && policyctl ci applied"""


@click.command("applied", epilog=EPILOG)
@with_options("dir", "env", "verbose")
def applied(options: Options) -> int:
    """Note on the merged pull requests that their plan was applied, so that each approval is used once.

    For the step after apply, once plan has shown that nothing is left to do. It is not an error when this cannot be noted:
    the next run finds the approvals again.
    """
    console = Console(options)
    config = load_config(find_config(options.dir))
    try:
        with open_forge(os.environ) as forge:
            if forge is None:
                console.say("without a token nothing is noted on the merged pull requests")
            elif why := _note(forge, config, options, console):
                console.say(f"nothing is noted on the merged pull requests: {why}")
    except NotAllowed as error:
        console.say(f"nothing is noted on the merged pull requests: {error}")
    return 0


def _note(forge: Forge, config: Config, options: Options, console: Console) -> str | None:
    """Note it on each of them. Returns why not, if this commit may lack something that was merged."""
    environment, directory = config.environment(options.env), repository_path(str(options.dir))
    access = access_now(options.dir, config, environment)
    found, _ = waiting_merges(forge, environment.name, directory)
    if why := why_not_head(forge, directory):
        return why
    for merge, ours in found:
        for one in ours:
            forge.rewrite(one, applied_text(one.body, forge.link, access))
        console.say(f"noted as applied: pull request {merge.name}")
    return None
