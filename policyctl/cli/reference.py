"""policyctl help, rules, schema and completion: what ships with policyctl, to read."""

from __future__ import annotations

import sys
from importlib.resources import files

import click

from policyctl.cli.console import Console
from policyctl.cli.options import Commands, Options, complete_help_words, complete_rules, with_form, with_options
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
    "drift",
    "watch",
    "github",
    "gitlab",
    "threat-model",
    "orchestrate",
    "serve",
    "gateway",
    "operate",
    "where-to-run",
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
  policyctl help policy add
  policyctl help configuration | less"""


@click.command("help", epilog=HELP_EPILOG)
@click.argument("words", nargs=-1, metavar="[TOPIC | COMMAND...]", shell_complete=complete_help_words(TOPICS))
@with_options("verbose")
def show_help(options: Options, words: tuple[str, ...]) -> int:
    """Show a page of the manual, the help of a command, or the list of both. On a terminal a page opens in the pager of PAGER.

    A page with the name of a command is what is shown; policyctl COMMAND --help has the help.
    """
    console, topic = Console(options), " ".join(words)
    if not words:
        console.result(_contents())
    elif topic not in TOPICS:
        console.result(_command_help(words))
    elif sys.stdin.isatty() and sys.stdout.isatty():
        click.echo_via_pager(page_text(topic))
    else:
        console.result(page_text(topic))
    return 0


def _contents() -> str:
    from policyctl.cli.main import COMMANDS

    width = max(map(len, (*TOPICS, *COMMANDS)))
    pages = "".join(f"  {name:{width}}  {_title(page_text(name))}\n" for name in TOPICS)
    commands = "".join(f"  {name:{width}}  {about}\n" for name, about in COMMANDS.items())
    head, other = "policyctl help TOPIC shows one of these pages:", "policyctl help COMMAND shows the options of one of these:"
    return f"{head}\n\n{pages}\n{other}\n\n{commands}"


def _command_help(words: tuple[str, ...]) -> str:
    """The help of a command, as its --help prints it. Raises UsageError for an unknown one."""
    context = click.get_current_context().find_root()
    command: click.Command = context.command
    for place, word in enumerate(words):
        if not isinstance(command, Commands) or word not in command.table:
            raise UsageError(_unknown(word, command if place else None, words[:place]))
        command = command.get_command(context, word) or command
        context = click.Context(command, parent=context, info_name=word)
    return f"{command.get_help(context)}\n"


def page_text(topic: str) -> str:
    """The Markdown text of one of `TOPICS`."""
    return files("policyctl").joinpath("manual", f"{topic}.md").read_text("utf-8")


def _title(text: str) -> str:
    return text.partition("\n")[0].removeprefix("# ")


def _unknown(word: str, group: click.Command | None, before: tuple[str, ...]) -> str:
    """Why a word is neither a page nor a command; `group` is what is before it, if anything is."""
    if group is not None:
        known = [*group.table] if isinstance(group, Commands) else []
        return f"{' '.join(before)} has no command {word}{did_you_mean(word, known)}; policyctl help {before[0]} explains it"
    if word.upper() in RULES:
        return f"unknown topic {word}; policyctl rules {word} explains the rule"
    from policyctl.cli.main import COMMANDS

    return f"unknown topic {word}{did_you_mean(word, [*TOPICS, *COMMANDS])}; policyctl help lists all"


RULES_EPILOG = """\b
Example:
  policyctl rules
  policyctl rules P4
  policyctl rules P415"""


@click.command("rules", epilog=RULES_EPILOG)
@click.argument("code", required=False, shell_complete=complete_rules)
@with_form("text", "json")
@with_options("color", "verbose")
def show_rules(options: Options, code: str | None, form: str) -> int:
    """List the rules that validate checks, or explain the one with this CODE. The beginning of a code lists its family.

    P0 is about the text of a file, P1 about the format, P2 about files together, P3 about policyctl.yaml. P4 and P5 are lint
    rules, which can be selected and ignored; validate checks those of P5 only with --deep.
    """
    from policyctl.report.checks import rule_text, rules_json, rules_text

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
    (test), of policyctl.yaml (config), or of the JSON that plan, apply, several environments (fleet), env list (environments),
    runs, validate, policy list (policies), model list (models), consumers, effect (with --records: calibration), history,
    doctor and watch (its page: status) print."""
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
    script = found(policyctl, {}, "policyctl", "_POLICYCTL_COMPLETE").source()
    # From its file in fpath click's script for zsh completes only the first time: then its function is loaded already.
    Console(options).result(script.replace("$zsh_eval_context[-1] == loadautofunc", "$funcstack[1] == _policyctl"))
    return 0
