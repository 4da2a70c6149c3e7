"""The pages of the manual that are made from the code: rules, commands, and the tables of keys in three pages."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import click

from policyctl.cli.main import policyctl
from policyctl.report.checks import how_to_silence
from policyctl.rules import RULES

Schema = dict[str, Any]

_FAMILIES = {
    "P0": "The text of a file",
    "P1": "The format",
    "P2": "Files together",
    "P3": "policyctl.yaml",
    "P4": "Lint rules",
    "P5": "Lint rules about traffic",
}

_PLURAL = re.compile(r"^(string|mapping|whole number|number)")

RULES_INTRO = """\
# Rules: what each problem means, by its code

Every problem has the form `file:line:column: message [CODE]`. This page explains the codes; `policyctl rules CODE` shows the
same text, and `policyctl rules` lists all codes. A code never changes its meaning and is never reused.

Errors stop a plan, warnings and infos do not. Lint rules (P4 and P5) can be chosen with `lint` in
[policyctl.yaml](configuration.md) and silenced on one line with a comment. P5 rules are checked by `policyctl validate --deep`
and by `policyctl plan`.
"""

COMMANDS_INTRO = """\
# Commands: every command with its options

What `policyctl COMMAND --help` prints. Shared options may come before or after the command's name; the one after it wins.
Most can be set in the environment too, as the help shows.
"""


def rules_page() -> str:
    """The page `rules`: each rule with an anchor of its own, grouped by family."""
    text = RULES_INTRO
    for family, title in _FAMILIES.items():
        text += f"\n## {family}: {title}\n"
        for code, rule in sorted(RULES.items()):
            if code.startswith(family):
                text += (
                    f"\n### {code}\n\n**{rule.name}** ({rule.severity})\n\n{_escaped(rule.text)}\n\n{how_to_silence(code)}\n"
                )
    return text


def commands_page() -> str:
    """The page `commands`: each command's help with an anchor of its own."""
    top: dict[str, Any] = {**policyctl.context_settings, "info_name": "policyctl", "terminal_width": 100}
    found = list(_commands(policyctl, click.Context(policyctl, **top)))
    rows = "".join(
        f"| [`{path}`](#{path.replace(' ', '-')}) | {_escaped(command.get_short_help_str(300))} |\n"
        for path, command, _ in found
    )
    text = f"{COMMANDS_INTRO}\n| command | does |\n|---|---|\n{rows}"
    for path, command, context in found:
        text += f"\n## {path}\n\n```text\n{command.get_help(context)}\n```\n"
    return text


def _commands(group: click.Group, context: click.Context) -> Iterator[tuple[str, click.Command, click.Context]]:
    """Each command below a group, depth first, with its whole name and a context for its help."""
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        if command is None:
            raise ValueError(f"there is no command {name}")
        inner = click.Context(command, parent=context, info_name=name, terminal_width=100)
        yield inner.command_path, command, inner
        if isinstance(command, click.Group):
            yield from _commands(command, inner)


def with_keys(page: str, schema: Schema, tops: dict[str, str]) -> str:
    """A page with its generated part, between two marks, written anew: a table for each object of the schema.

    `tops` are the titles of the tables by the name of the definition, in order; "" is the schema itself.
    """
    tables = "\n".join(_table(schema, name, title, shared=name != "") for name, title in tops.items())
    marked = re.compile(r"(<!-- keys: written by \.ci/made -->\n).*?(<!-- /keys -->)", re.DOTALL)
    text, number = marked.subn(lambda marks: f"{marks[1]}\n{tables}\n{marks[2]}", page)
    if number != 1:
        raise ValueError("the page has no marks for its keys")
    return text


def _table(schema: Schema, name: str, title: str, *, shared: bool) -> str:
    """One table. Keys that the whole file has too, with the same meaning, are only named where they are `shared`."""
    definition = schema["$defs"][name] if name else schema
    # The platform's own keys, which are accepted and ignored, have no description.
    keys = {key: found for key, found in definition["properties"].items() if "description" in found}
    known = [key for key, found in keys.items() if shared and schema["properties"].get(key) == found]
    also = f"Also {', '.join(f'`{key}`' for key in known)}, which win over those for all environments.\n" if known else ""
    stars = dict.fromkeys(definition.get("required", ()), " \\*")
    rows = "".join(
        f"| `{key}`{stars.get(key, '')} | {_takes(found, schema)} | {_escaped(found['description'])} |\n"
        for key, found in keys.items()
        if key not in known
    )
    return f"### {title}\n\n| key | takes | meaning |\n|---|---|---|\n{rows}{also and chr(10) + also}"


def _escaped(text: str) -> str:
    """Text without the meaning that Markdown gives to some characters; what is in backticks stays as it is."""
    return re.sub(r"(`[^`]*`)|([|*<])", lambda found: found[1] or f"\\{found[2]}", text)


def _takes(schema: Schema, whole: Schema) -> str:
    """What a value may be, in words; null and templates, which may stand almost everywhere, are left out."""
    if "$ref" in schema:
        name = schema["$ref"].rpartition("/")[2]
        return _takes(whole["$defs"][name], whole) if name != "Template" else ""
    choices = [_takes(choice, whole) for choice in schema.get("anyOf", schema.get("oneOf", ()))]
    if choices:
        return ", or ".join(dict.fromkeys(filter(None, choices)))
    if "enum" in schema:
        return " · ".join(f"`{value}`" for value in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    return _typed(schema, whole)


def _typed(schema: Schema, whole: Schema) -> str:
    kind = schema.get("type")
    if kind == "array":
        items = _PLURAL.sub(r"\1s", _takes(schema["items"], whole))
        return f"list of {items or 'values'}"
    if kind in ("integer", "number"):
        return f"{'whole number' if kind == 'integer' else 'number'}{_range(schema)}"
    if kind == "string" and schema.get("pattern", "").startswith(r"\{\{"):
        return ""
    return {"object": "mapping", "boolean": "`true` · `false`", "string": "string", "null": ""}.get(str(kind), "any value")


def _range(schema: Schema) -> str:
    words = {"exclusiveMinimum": "greater than", "minimum": "at least", "exclusiveMaximum": "less than", "maximum": "at most"}
    return "".join(f", {word} {schema[key]:g}" for key, word in words.items() if key in schema)
