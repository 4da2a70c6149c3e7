"""policyctl policy: single policies on a remote, like the platform's own `orchestrate models policy`."""

from __future__ import annotations

import click

from policyctl.cli.options import NAMES, Commands, Options, with_options

COMMANDS = {
    "add": "Add a policy over some models, or update the one of that name.",
    "import": "Add or update the policy of a file.",
    "remove": "Remove a policy.",
    "export": "Write a live policy as a file.",
    "list": "List the live policies.",
    "show": "Show one live policy.",
}

EPILOG = """\b
Example:
  policyctl policy list
  policyctl policy add anygem --strategy fallback --model virtual-model/a/x --model virtual-model/b/y
  policyctl policy import --file anygem.yaml --dry-run"""


@click.group(
    "policy", cls=Commands, package="policyctl.cli", table=COMMANDS, modules=dict.fromkeys(COMMANDS, "single"), epilog=EPILOG
)
@with_options(*NAMES)
def command(options: Options) -> None:
    """Single policies on a remote, for when a pull request would take too long. The files of the directory still win at
    the next apply; add --save to change them instead."""
