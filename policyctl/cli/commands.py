"""A group of commands whose modules are imported when a command is used, so that --help stays quick."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from keyword import iskeyword
from typing import Any

import click


class Commands(click.Group):
    """Commands by name. The command `x` is `command` of the module `x` in a package (`x_` where x is a word of Python's)."""

    def __init__(self, *args: Any, package: str, table: Mapping[str, str], **more: Any) -> None:
        """`table` says what each command does, in the order of --help."""
        super().__init__(*args, **more)
        self.package = package
        self.table = table

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self.table)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.table:
            if not ctx.resilient_parsing:  # a shell that completes is told nothing
                from policyctl.cli.usage import unknown_command

                ctx.fail(unknown_command(cmd_name, ctx, list(self.table)))
            return None
        module = f"{cmd_name}_" if iskeyword(cmd_name) else cmd_name
        command: click.Command = import_module(f"{self.package}.{module}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(self.table.items()))
