"""What a shell may complete: environments, names of policies and models, codes of rules.

Everything comes from files and the package; no remote is asked. A completion never fails: what cannot be read completes
nothing, since a message would be drawn into the line that is being typed.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem[str]]"]

# A shell puts what it completes into the command line as it is. A name with other characters might end the command there.
_HARMLESS = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./@+:-]*")


class Line(NamedTuple):
    """The command line so far, and the beginning of the word that is to be completed."""

    context: click.Context
    begun: str


def _completion(values: Callable[[Line], Iterable[tuple[str, str]]]) -> Complete:
    """A completion from a function that gives values, each with a few words about it."""

    @wraps(values)
    def complete(context: click.Context, _: click.Parameter, begun: str) -> list[CompletionItem[str]]:
        try:
            found = dict(values(Line(context, begun)))
        except Exception:  # noqa: BLE001 - a shell that completes shows no errors, whatever is broken
            return []
        from click.shell_completion import CompletionItem  # only a shell asks for it

        return [CompletionItem(value, help=about or None) for value, about in found.items() if _fits(value, begun)]

    return complete


def _fits(value: str, begun: str) -> bool:
    return value.startswith(begun) and _HARMLESS.fullmatch(value) is not None


@_completion
def environments(line: Line) -> Iterable[tuple[str, str]]:
    """The environments of policyctl.yaml."""
    from policyctl.load.discovery import find_config, load_config

    config = load_config(find_config(_directory(line.context)))
    return [(name, "") for name in sorted({*config.environments, *config.broken})]


@_completion
def names(line: Line) -> Iterable[tuple[str, str]]:
    """The policies of the files, and the virtual models that are managed; with their prefixes once one is begun."""
    return _names(line, ("policy", "model"))


@_completion
def policies(line: Line) -> Iterable[tuple[str, str]]:
    """The policies of the files."""
    return _names(line, ("policy",))


def policies_or_files(context: click.Context, parameter: click.Parameter, begun: str) -> list[CompletionItem[str]]:
    """The policies of the files; where none begins like that, any file."""
    from click.shell_completion import CompletionItem

    return policies(context, parameter, begun) or [CompletionItem(begun, type="file")]


@_completion
def models(line: Line) -> Iterable[tuple[str, str]]:
    """The virtual models of the files that are managed."""
    return _names(line, ("model",))


def among(values: Iterable[str]) -> Complete:
    """One of fixed values."""
    return _completion(lambda _: [(value, "") for value in values])


def help_words(topics: Iterable[str]) -> Complete:
    """A page of the manual or a command; after a group of commands one of these."""

    def words(line: Line) -> Iterable[tuple[str, str]]:
        command: click.Command | None = line.context.find_root().command
        before = line.context.params.get("words") or ()
        for word in before:
            command = command.get_command(line.context, word) if isinstance(command, click.Group) else None
        names = command.list_commands(line.context) if isinstance(command, click.Group) else []
        return [(name, "") for name in (*(() if before else topics), *names)]

    return _completion(words)


@_completion
def rules(line: Line) -> Iterable[tuple[str, str]]:
    """The codes of the rules."""
    from policyctl.rules import RULES

    lower = line.begun.startswith("p")  # codes are understood in either case
    return [(code.lower() if lower else code, rule.name) for code, rule in sorted(RULES.items())]


def _names(line: Line, kinds: tuple[str, ...]) -> list[tuple[str, str]]:
    from policyctl.load.directory import Files
    from policyctl.load.discovery import find_config, find_files, load_config
    from policyctl.policy.names import both_spellings, kind_of

    directory = _directory(line.context)
    config = load_config(find_config(directory))
    given = _given(line.context, "env")
    name = given[0] if isinstance(given, tuple) and given else None
    chosen = name or config.default
    environment = config.environments.get(chosen or "", config.shared)
    found = find_files(directory, may_be_empty=True)
    files = [file for file in found.files if not config.is_inventory(file)]
    loaded = Files(files, root=directory, tests=False).load(environment)
    spelled = 0 if line.begun.startswith("virtual-") else 1
    return [(both_spellings(name)[spelled], "") for name in sorted(loaded.names) if kind_of(name) in kinds]


def _directory(context: click.Context) -> Path:
    """The policy directory that the line so far names, or the usual one."""
    from policyctl.load.discovery import nearest_directory

    given = _given(context, "dir")
    return given if isinstance(given, Path) else nearest_directory()


def _given(context: click.Context | None, option: str) -> Any:
    """The value of a shared option behind the command's name, else before it; None without one."""
    while context is not None:
        if value := context.params.get(option):
            return value
        context = context.parent
    return None
