"""policyctl env: the environments of a policyctl.yaml, as they are after templates and inventories."""

from __future__ import annotations

import click

from policyctl.cli import completion
from policyctl.cli.console import Console
from policyctl.cli.environments import choose, raise_broken, with_environments
from policyctl.cli.options import NAMES, Commands, Options, with_options
from policyctl.load.discovery import find_config, load_config
from policyctl.load.selector import EnvironmentFilter
from policyctl.report.environments import (
    NONE_AFFECTED,
    environment_json,
    environment_text,
    environments_json,
    environments_text,
)

COMMANDS = {"list": "List the environments, or those that a selection has.", "show": "Show the settings of one environment."}

EPILOG = """\b
Example:
  policyctl env list
  policyctl env show prod-acme"""

LIST_EPILOG = """\b
Example:
  policyctl env list
  policyctl env list --env 'prod-*' --exclude-env prod-old
  policyctl env list -l 'tier=gold,ring in (canary,1)' --format json"""

SHOW_EPILOG = """\b
Example:
  policyctl env show prod-acme
  policyctl env show prod-acme --format json | jq -r '.settings[].from'"""


@click.group(
    "env", cls=Commands, package="policyctl.cli", table=COMMANDS, modules={"list": "env", "show": "env"}, epilog=EPILOG
)
@with_options(*NAMES)
def command(options: Options) -> None:
    """The environments of policyctl.yaml: which there are, and what settings each has once templates and inventories are
    merged."""


@click.command("list", epilog=LIST_EPILOG)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@with_options("dir", "env", "color", "verbose")
@with_environments
def list_environments(options: Options, form: str, chosen: EnvironmentFilter) -> int:
    """List the environments, one a line: remote, labels, and whether one is suspended. A selection that matches nothing is an
    error, so this is also the way to try one."""
    config = load_config(find_config(options.dir))
    names = choose(options, config, chosen)
    console = Console(options)
    if not names and form != "json":
        console.say(NONE_AFFECTED)
        return 0
    if form == "json":
        console.result(environments_json(config, names))
    else:
        console.result(environments_text(config, names, console.out_style))
    raise_broken(config, names)
    return 0


@click.command("show", epilog=SHOW_EPILOG)
@click.argument("name", shell_complete=completion.environments)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@with_options("dir", "color", "verbose")
def show_environment(options: Options, name: str, form: str) -> int:
    """Show the resolved settings of one environment, each with where it comes from: a template, a row of an inventory, the
    entry of the environment, or the top of policyctl.yaml. Secrets are shown as the references that they are."""
    config = load_config(find_config(options.dir))
    environment, console = config.environment(name), Console(options)
    render = (
        environment_json(config, environment) if form == "json" else environment_text(config, environment, console.out_style)
    )
    console.result(render)
    return 0
