"""policyctl ci approved."""

from __future__ import annotations

import os

import click

from policyctl.cli.console import Console
from policyctl.cli.github import repository_path
from policyctl.cli.options import Options, with_options
from policyctl.load.environment import find_config, load_config
from policyctl.remote.forge import open_forge
from policyctl.report.posts import approved_in

EPILOG = """\b
Example:
  policyctl apply --yes --expect-digest "$(policyctl ci approved)\""""


@click.command("approved", epilog=EPILOG)
@click.option("--digest", default="", help="What a person approved by hand; where it is not empty, it is the answer.")
@with_options("dir", "env", "verbose")
def command(options: Options, digest: str) -> int:
    """Print the digest of the plan of the directory and environment, from our comment on the pull request whose merge made
    this commit.

    Without a pull request, a comment or a token it is `none`, with which apply applies an empty plan and nothing else.
    """
    return approved(options, digest)


def approved(options: Options, digest: str) -> int:
    console = Console(options)
    if not digest:
        environment = load_config(find_config(options.dir)).environment(options.env).name
        with open_forge(os.environ) as forge:
            bodies = [] if forge is None else [one.body for one in forge.merged()]
        digest = approved_in(bodies, environment, repository_path(str(options.dir)))
    console.result(f"{digest}\n")
    return 0
