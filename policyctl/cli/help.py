"""policyctl help."""

from __future__ import annotations

import sys
from importlib.resources import files

import click

from policyctl.cli.console import Console
from policyctl.cli.options import Options, with_options
from policyctl.errors import UsageError
from policyctl.policy.findings import did_you_mean

# Every page of policyctl/manual, in reading order.
TOPICS = (
    "tutorial",
    "policy-files",
    "templates",
    "tests",
    "configuration",
    "effects",
    "guards",
    "big-changes",
    "github",
    "gitlab",
    "threat-model",
    "orchestrate",
    "serve",
    "formats",
    "rules",
    "commands",
    "evidence",
    "architecture",
)

EPILOG = """\b
Example:
  policyctl help
  policyctl help tutorial
  policyctl help configuration | less"""


@click.command("help", epilog=EPILOG)
@click.argument("topic", required=False)
@with_options("verbose")
def command(options: Options, topic: str | None) -> int:
    """Show a page of the manual, or list the pages. On a terminal a page opens in the pager of PAGER."""
    return show_help(options, topic)


def show_help(options: Options, topic: str | None) -> int:
    """Print the list of topics, or one page. Raises UsageError for an unknown topic."""
    console = Console(options)
    if topic is None:
        width = max(map(len, TOPICS))
        lines = [f"  {name:{width}}  {_title(page_text(name))}\n" for name in TOPICS]
        console.result(f"policyctl help TOPIC shows one of these pages:\n\n{''.join(lines)}")
    elif topic not in TOPICS:
        raise UsageError(_unknown(topic))
    elif sys.stdin.isatty() and sys.stdout.isatty():
        click.echo_via_pager(page_text(topic))
    else:
        console.result(page_text(topic))
    return 0


def page_text(topic: str) -> str:
    """The Markdown text of one of `TOPICS`."""
    return files("policyctl").joinpath("manual", f"{topic}.md").read_text("utf-8")


def _title(text: str) -> str:
    return text.partition("\n")[0].removeprefix("# ")


def _unknown(topic: str) -> str:
    from policyctl.cli.main import COMMANDS
    from policyctl.rules.catalogue import RULES

    if topic in COMMANDS:
        return f"there is no topic {topic}; policyctl {topic} --help explains the command"
    if topic.upper() in RULES:
        return f"there is no topic {topic}; policyctl rules {topic} explains the rule"
    return f"there is no topic {topic}{did_you_mean(topic, TOPICS)}; policyctl help lists all"
