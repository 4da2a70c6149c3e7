"""policyctl ci overrides."""

from __future__ import annotations

import os
from pathlib import Path

import click

from policyctl.cli.console import Console
from policyctl.cli.options import Options, with_options
from policyctl.cli.overriding import MOST, commands_in, parse_overrides, write_overrides
from policyctl.core.settings import Override
from policyctl.errors import UsageError
from policyctl.remote.forge import Forge, NotAllowed, open_forge
from policyctl.report.plain import count

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
@with_options("verbose")
def command(options: Options, out: Path) -> int:
    """Write down what people let the plan of this pull request override.

    It counts what somebody wrote in a comment who may approve the pull request: who may write to the repository and did not
    open it. What the branch holds never counts. A comment that is deleted or edited counts as it is now.
    """
    return overrides(options, out)


def overrides(options: Options, out: Path) -> int:
    console = Console(options)
    found: list[Override] = []
    try:
        with open_forge(os.environ) as forge:
            if forge is None:
                console.say("there is no token, so no comment is read, and nothing is overridden")
            else:
                found = _allowed(forge, console)
    except NotAllowed as error:
        console.say(f"the comments cannot be read, so nothing is overridden: {error}")
    if len(found) > MOST:
        raise UsageError(f"{len(found)} settings are overridden; at most {MOST} can be shown, so split the change")
    write_overrides(out, found)
    console.say(f"{count(len(found), 'override')} by people who may approve: {', '.join(one.text for one in found) or 'none'}")
    return 0


def _allowed(forge: Forge, console: Console) -> list[Override]:
    found: dict[str, Override] = {}
    for said in forge.said():
        commands = commands_in(said.text)
        if commands and not forge.may_approve(said):
            console.say(f"what {said.who} allows does not count: they opened the pull request, or may not write here")
            continue
        for text in commands:
            try:
                found.update((one.text, one) for one in parse_overrides(text, said.who))
            except UsageError as error:
                console.say(f"what {said.who} allows does not count: {error}")
    return list(found.values())
