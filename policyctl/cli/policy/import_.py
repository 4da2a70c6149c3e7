"""policyctl policy import."""

from __future__ import annotations

from pathlib import Path

import click

from policyctl.cli.console import Console
from policyctl.cli.options import NAMES, Options, with_options
from policyctl.cli.policy.change import ChangeOptions, with_change_options, write_policy
from policyctl.cli.session import Session, open_session
from policyctl.errors import InvalidInput, UsageError, errors_in
from policyctl.load.documents import read_contents
from policyctl.load.source import SUFFIXES, read_source, redact_linked
from policyctl.load.variables import in_environment
from policyctl.policy.document import Policy

EPILOG = """\b
Example:
  policyctl policy import --file anygem.yaml
  policyctl policy import --file anygem.json --env prod --dry-run"""


@click.command("import", epilog=EPILOG)
@click.option(
    "--file", "-f", required=True, type=click.Path(path_type=Path), metavar="FILE", help="One policy, as YAML or JSON."
)
@with_change_options
@with_options(*NAMES)
def command(options: Options, how: ChangeOptions, file: Path) -> int:
    """Add the policy of a file, or update the live one of its name."""
    return import_policy(options, how, file)


def import_policy(options: Options, how: ChangeOptions, file: Path) -> int:
    place = open_session(options)
    return write_policy(read_policy(file, place, Console(options)), options, place, how)


def read_policy(file: Path, place: Session, console: Console) -> Policy:
    """The one policy of a file, for the environment's vars. Raises InvalidInput with every error; warnings are printed."""
    if file.suffix not in SUFFIXES:
        why = "; Python is not run here, write the policy as YAML" if file.suffix == ".py" else ""
        raise UsageError(f"--file: {file} is none of {', '.join(SUFFIXES)}{why}")
    contents = read_contents(read_source(file), place.environment.vars)
    problems = redact_linked(in_environment(contents.problems, place.environment))
    if errors_in(problems):
        raise InvalidInput(problems)
    if len(contents.policies) != 1:
        raise UsageError(f"--file: {file} holds {len(contents.policies) or 'no'} policies; one is imported at a time")
    console.problems(problems)
    return contents.policies[0]
