"""policyctl help, rules, schema and completion: what ships with policyctl, to read."""

from __future__ import annotations

import sys
from importlib.resources import files

import click

from policyctl.cli import completion
from policyctl.cli.console import Console
from policyctl.cli.options import Options, with_options
from policyctl.errors import UsageError
from policyctl.policy.findings import did_you_mean
from policyctl.report import SCHEMAS, schema_text
from policyctl.rules import RULES, guess_rule, with_prefix

# Every page of policyctl/manual, in reading order.
TOPICS = (
    "tutorial",
    "policy-files",
    "virtual-models",
    "templates",
    "tests",
    "configuration",
    "environments",
    "effects",
    "consumers",
    "guards",
    "big-changes",
    "github",
    "gitlab",
    "threat-model",
    "orchestrate",
    "serve",
    "gateway",
    "formats",
    "rules",
    "commands",
    "evidence",
    "architecture",
)

HELP_EPILOG = """\b
Example:
  policyctl help
  policyctl help tutorial
  policyctl help configuration | less"""


@click.command("help", epilog=HELP_EPILOG)
@click.argument("topic", required=False, shell_complete=completion.among(TOPICS))
@with_options("verbose")
def show_help(options: Options, topic: str | None) -> int:
    """Show a page of the manual, or list the pages. On a terminal a page opens in the pager of PAGER."""
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

    if topic in COMMANDS:
        return f"unknown topic {topic}; policyctl {topic} --help explains the command"
    if topic.upper() in RULES:
        return f"unknown topic {topic}; policyctl rules {topic} explains the rule"
    return f"unknown topic {topic}{did_you_mean(topic, TOPICS)}; policyctl help lists all"


RULES_EPILOG = """\b
Example:
  policyctl rules
  policyctl rules P4
  policyctl rules P415"""


@click.command("rules", epilog=RULES_EPILOG)
@click.argument("code", required=False, shell_complete=completion.rules)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@with_options("color", "verbose")
def show_rules(options: Options, code: str | None, form: str) -> int:
    """List the rules that validate checks, or explain the one with this CODE. The beginning of a code lists its family.

    P0 is about the text of a file, P1 about the format, P2 about files together, P3 about policyctl.yaml. P4 and P5 are lint
    rules, which can be selected and ignored; validate checks those of P5 only with --deep.
    """
    from policyctl.report.problems import rule_text, rules_json, rules_text

    console = Console(options)
    chosen = [RULES[found] for found in _codes(code)]
    if form == "json":
        console.result(rules_json(chosen))
    elif len(chosen) == 1:
        console.result(rule_text(chosen[0], console.out_style))
    else:
        console.result(rules_text(chosen, console.out_style))
    return 0


def _codes(prefix: str | None) -> list[str]:
    """The codes with this prefix, sorted. Raises UsageError when there are none."""
    codes = sorted(RULES) if prefix is None else sorted(with_prefix(prefix.upper(), RULES))
    if not codes:
        raise UsageError(f"unknown rule {prefix}{guess_rule(str(prefix), RULES)}; policyctl rules lists all")
    return codes


SCHEMA_EPILOG = """\b
Example:
  policyctl schema > policy.schema.json
  policyctl schema model > model.schema.json
then, as the first line of a policy file, for the YAML language server:
  # yaml-language-server: $schema=policy.schema.json"""


@click.command("schema", epilog=SCHEMA_EPILOG)
@click.argument("name", type=click.Choice(SCHEMAS), default="policy", metavar="[NAME]")
@with_options("verbose")
def show_schema(options: Options, name: str) -> int:
    """Print a JSON Schema (draft 2020-12): of a policy file (policy), of a file of a virtual model (model), of scenario tests
    (test), of policyctl.yaml (config), or of the JSON that plan, validate, policy list (policies), model list (models),
    consumers, effect and history print."""
    Console(options).result(schema_text(name))
    return 0


COMPLETION_EPILOG = """\b
Example:
  policyctl completion bash > ~/.local/share/bash-completion/completions/policyctl
  policyctl completion zsh > ~/.zfunc/_policyctl
  policyctl completion fish > ~/.config/fish/completions/policyctl.fish
then, in a new shell:
  policyctl plan --env <Tab>"""


@click.command("completion", epilog=COMPLETION_EPILOG)
@click.argument("shell", type=click.Choice(("bash", "zsh", "fish")))
@with_options("verbose")
def show_completion(options: Options, shell: str) -> int:
    """Print the script that makes a SHELL complete commands, options, environments, names of policies and models in the files,
    codes of rules and topics of help. For zsh its directory must be in fpath. No remote is asked for a completion."""
    from click.shell_completion import get_completion_class

    from policyctl.cli.main import policyctl

    found = get_completion_class(shell)
    if found is None:
        raise UsageError(f"click has no completion for {shell}; choose another shell")
    Console(options).result(found(policyctl, {}, "policyctl", "_POLICYCTL_COMPLETE").source())
    return 0
