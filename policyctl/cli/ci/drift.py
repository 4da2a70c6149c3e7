"""policyctl ci drift."""

from __future__ import annotations

import os
from pathlib import Path

import click

from policyctl.ci.comments import comment_text, is_of, shown_in
from policyctl.ci.forge import Forge, open_forge
from policyctl.cli.ci.comment import read_page, with_page
from policyctl.cli.console import Console
from policyctl.cli.github_actions import repository_path
from policyctl.cli.options import Options, with_options
from policyctl.errors import PolicyctlError
from policyctl.load.urls import is_git
from policyctl.plan.approval import NONE
from policyctl.plan.plan import Plan

EPILOG = """\b
Example:
  policyctl plan --out plan.json --report markdown=plan.md
  policyctl ci drift plan.md --plan plan.json"""


@click.command("drift", epilog=EPILOG)
@with_page
@with_options("dir", "verbose")
def command(options: Options, page: Path, planfile: Path) -> int:
    """Keep one open issue while a plan has changes: open it, update it, close it when the plan is empty.

    It stays open while the plan is empty only because it was refused, or because rows of the remote could not be compared.
    """
    return drift(options, page, planfile)


def drift(options: Options, page: Path, planfile: Path) -> int:
    console = Console(options)
    text, plan = read_page(page, planfile, repository_path(str(options.dir)))
    with open_forge(os.environ) as forge:
        if forge is None:
            raise PolicyctlError("there is no token to open an issue with; set GITHUB_TOKEN or GITLAB_TOKEN")
        if done := _keep(forge, text, plan):
            console.say(done)
    return 0


def _keep(forge: Forge, text: str, plan: Plan) -> str | None:
    """Bring the issue to what the plan says; what was done, None when it is so already."""
    old = next((one for one in forge.issues() if is_of(one.body, text)), None)
    if plan.changes:
        body = comment_text(text, plan, forge.link, forge.longest)
        forge.issue(f"policyctl: {plan.environment} is not as the files say", body, old)
        return "the issue was updated" if old else "an issue was opened"
    if old is None:
        return None
    stopped = not is_git(plan.remote) and (shown_in(text) or (NONE, NONE))[1] == NONE
    if stopped or not plan.counts.whole:
        return "the issue stays open: the plan has no changes, but was stopped, or not all could be compared"
    forge.close_issue(old)
    return "the issue was closed"
