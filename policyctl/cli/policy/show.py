"""policyctl policy show."""

from __future__ import annotations

import click

from policyctl.cli.console import Console
from policyctl.cli.options import Options, with_options
from policyctl.cli.policy.change import with_name
from policyctl.cli.session import find_live, open_session
from policyctl.policy.live import LiveRows
from policyctl.policy.names import canonical_name
from policyctl.remote.open import open_reader
from policyctl.report.policies import policies_json, policy_text_or_why

EPILOG = """\b
Example:
  policyctl policy show anygem
  policyctl policy show anygem --format json"""


@click.command("show", epilog=EPILOG)
@with_name
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@with_options("dir", "env", "remote", "verbose")
def command(options: Options, name: str, form: str) -> int:
    """Show the live policy NAME: as a policy file, or as JSON."""
    return show(options, canonical_name(name), form)


def show(options: Options, name: str, form: str) -> int:
    place = open_session(options)
    with open_reader(place.url, place.access) as reader:
        live = find_live(reader, name, place.environment.name)
        remote = reader.identity
    as_json = form == "json"
    text = policies_json(LiveRows({name: live}), place.environment.name, remote) if as_json else policy_text_or_why(live)
    Console(options).result(text)
    return 0
