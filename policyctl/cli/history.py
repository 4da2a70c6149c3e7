"""policyctl history, and the option --audit of the commands that it shows."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import Any

import click

from policyctl.cli import completion
from policyctl.cli.console import Console
from policyctl.cli.options import Options, with_options
from policyctl.errors import PolicyctlError, UsageError
from policyctl.plan.audit import AuditEntry
from policyctl.policy.names import canonical, matches
from policyctl.report.format import count
from policyctl.report.outcomes import history_json, history_text

AUDIT_VARIABLE = "POLICYCTL_AUDIT"


def audit_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--audit, as `audit_file`; `text` describes it."""
    path = click.Path(path_type=Path, dir_okay=False)
    help_text = f"{text}  [{AUDIT_VARIABLE}]"
    return click.option("--audit", "audit_file", type=path, envvar=AUDIT_VARIABLE, metavar="FILE", help=help_text)


def with_audit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --audit, as `audit`: an Audit, or None."""

    @audit_option("Record each change in this file, in lines of JSON; see history.")
    @wraps(function)
    def wrapper(*args: Any, audit_file: Path | None, **more: Any) -> Any:
        from policyctl.cli.github_actions import run_page
        from policyctl.reconcile.audit import Audit

        command = click.get_current_context().command_path.removeprefix("policyctl ")
        audit = None if audit_file is None else Audit(audit_file, command, run_page())
        return function(*args, audit=audit, **more)

    return wrapper


EPILOG = """\b
Example:
  policyctl apply --audit audit.jsonl
  policyctl history --audit audit.jsonl
  policyctl history --audit audit.jsonl --diff anygem
  policyctl history --audit audit.jsonl anygem 'prod-*' --format json"""


@click.command("history", epilog=EPILOG)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=completion.names)
@audit_option("The file that apply --audit adds to.")
@click.option("--diff", is_flag=True, help="Show what changed too, field by field.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@with_options("env", "color", "verbose")
def history(options: Options, names: tuple[str, ...], audit_file: Path | None, diff: bool, form: str) -> int:
    """Show who changed what, when, and from which commit; the newest change comes last.

    NAME is a policy, with or without virtual-policy/, or a glob. With --env only that environment's changes are shown.
    """
    console = Console(options)
    if audit_file is None:
        raise UsageError(f"which file? name it with --audit or {AUDIT_VARIABLE}; policyctl apply --audit FILE adds to it")
    bad: list[int] = []
    entries = list(_entries(audit_file, bad, console))

    def wanted(entry: AuditEntry) -> bool:
        named = not names or matches(entry.name, names) or entry.name in map(canonical, names)
        return named and options.environment in (None, entry.environment)

    if form == "json":
        console.result(history_json(entries, wanted, diff=diff))
    else:
        console.result(history_text(entries, wanted, console.out_style, diff=diff))
    if bad:
        raise PolicyctlError(f"{audit_file}: {count(len(bad), 'line')} could not be read, so the history may be incomplete")
    return 0


def _entries(file: Path, bad: list[int], console: Console) -> Iterator[AuditEntry]:
    """The entries of the file; unreadable lines are reported. An unfinished last line is what a killed process leaves, and not
    an error."""
    from policyctl.reconcile.audit import read_audit

    for line in read_audit(file):
        if line.entry is not None:
            yield line.entry
            continue
        console.say(f"{file}:{line.number}: {line.complaint}; line skipped")
        if not line.unfinished:
            bad.append(line.number)
