"""policyctl ci: what workflows do besides planning and applying."""

from __future__ import annotations

import click

from policyctl.cli.options import NAMES, Commands, Options, with_options

COMMANDS = {
    "comment": "Show a plan as a comment on the pull request, always the same one.",
    "overrides": "Write the overrides that people who may approve the pull request allow.",
    "approved": "Print the digest of the plan that merged pull requests approved.",
    "applied": "Note on merged pull requests that their plan was applied.",
    "drift": "Open, update or close the issue about a remote that does not match the files.",
}

EPILOG = """\b
Example:
  policyctl plan --base origin/main --out plan.json --report markdown=plan.md
  policyctl ci comment plan.md --plan plan.json"""


_MODULES = {"applied": "approved", "drift": "comment", "overrides": "comment"}


@click.group("ci", cls=Commands, package="policyctl.cli.ci", table=COMMANDS, modules=_MODULES, epilog=EPILOG)
@with_options(*NAMES)
def command(options: Options) -> None:
    """Steps of GitHub Actions and GitLab CI, as `policyctl init --ci` writes them. They use the token in GITHUB_TOKEN or
    GITLAB_TOKEN, and read and change only what its user wrote."""
