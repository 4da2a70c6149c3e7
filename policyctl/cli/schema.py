"""policyctl schema."""

from __future__ import annotations

import click

from policyctl.cli.console import Console
from policyctl.cli.options import Options, with_options
from policyctl.report import SCHEMAS, schema_text

EPILOG = """\b
Example:
  policyctl schema > policy.schema.json
then, as the first line of a policy file, for the YAML language server:
  # yaml-language-server: $schema=policy.schema.json"""


@click.command("schema", epilog=EPILOG)
@click.argument("of", type=click.Choice(SCHEMAS), default="policy", metavar="[NAME]")
@with_options("verbose")
def command(options: Options, of: str) -> int:
    """Print a JSON Schema (draft 2020-12): of a policy file (policy), of scenario tests (test), of policyctl.yaml (config), or
    of the JSON that plan, validate, policy list (policies), effect and history print."""
    return schema(options, of)


def schema(options: Options, of: str) -> int:
    Console(options).result(schema_text(of))
    return 0
