"""policyctl policy list."""

from __future__ import annotations

import click

from policyctl.cli.console import Console
from policyctl.cli.options import Options, with_options
from policyctl.cli.session import open_session
from policyctl.reconcile.observe import observe
from policyctl.remote.open import open_reader
from policyctl.report.policies import policies_json, policies_text

EPILOG = """\b
Example:
  policyctl policy list
  policyctl policy list --format json | jq -r '.policies[].name'"""


@click.command("list", epilog=EPILOG)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@with_options("dir", "env", "remote", "color", "verbose")
def command(options: Options, form: str) -> int:
    """List every policy on the remote, in scope or not."""
    return list_policies(options, form)


def list_policies(options: Options, form: str) -> int:
    console = Console(options)
    place = open_session(options)
    with open_reader(place.url, place.access) as reader:
        with console.progress.of("Listing", "live policy") as step:
            observed = observe(reader, on_row=step)
        remote = reader.identity
    if form == "json":
        console.result(policies_json(observed, place.environment.name, remote))
    else:
        console.result(policies_text(observed, place.environment.name, place.remote, console.out_style))
    return 0
