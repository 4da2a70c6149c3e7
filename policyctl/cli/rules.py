"""policyctl rules."""

from __future__ import annotations

import click

from policyctl.cli.console import Console
from policyctl.cli.options import Options, with_options
from policyctl.errors import UsageError
from policyctl.report.problems import rule_text, rules_json, rules_text
from policyctl.rules.catalogue import RULES, guess_rule, with_prefix

EPILOG = """\b
Example:
  policyctl rules
  policyctl rules P4
  policyctl rules P415"""


@click.command("rules", epilog=EPILOG)
@click.argument("code", required=False)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@with_options("color", "verbose")
def command(options: Options, code: str | None, form: str) -> int:
    """List the rules that validate checks, or explain the one with this CODE. The beginning of a code lists its family.

    P0 is about a file's text, P1 about the format, P2 about files together, P3 about policyctl.yaml. P4 and P5 are the lint
    rules, which can be selected and ignored; P5 are those that validate checks with --deep only.
    """
    return rules(options, code, form)


def rules(options: Options, code: str | None, form: str) -> int:
    console = Console(options)
    chosen = [RULES[found] for found in _found(code)]
    if form == "json":
        console.result(rules_json(chosen))
    elif len(chosen) == 1:
        console.result(rule_text(chosen[0], console.out_style))
    else:
        console.result(rules_text(chosen, console.out_style))
    return 0


def _found(code: str | None) -> list[str]:
    """The codes asked for, sorted. Raises UsageError when no code begins like that."""
    codes = sorted(RULES) if code is None else sorted(with_prefix(code.upper(), RULES))
    if not codes:
        raise UsageError(f"there is no rule {code}{guess_rule(str(code), RULES)}; policyctl rules lists all")
    return codes
