"""policyctl history and runs: what was done, the option --audit of the commands that history shows, and the run to resume."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from policyctl.cli.console import Console
from policyctl.cli.options import AUDIT_VARIABLE, Options, audit_option, complete_names, with_form, with_options
from policyctl.errors import PolicyctlError, UsageError
from policyctl.load.source import state_folder
from policyctl.plan.audit import AuditEntry
from policyctl.plan.plan import Selection
from policyctl.policy.names import canonical, matches
from policyctl.report.format import Style, count, escape, json_text
from policyctl.report.plan_text import history_json, history_text

if TYPE_CHECKING:
    from policyctl.load.environment import EnvironmentFilter
    from policyctl.reconcile.audit import AuditRecord
    from policyctl.reconcile.fleet import Run


def with_audit(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command --audit, as `audit`: an Audit, or None."""

    @audit_option("Record each change in this file, in lines of JSON, or in this PostgreSQL database; see history.")
    @wraps(function)
    def wrapper(*args: Any, record: AuditRecord | None, **more: Any) -> Any:
        from policyctl.cli.console import run_page
        from policyctl.reconcile.audit import Audit

        command = click.get_current_context().command_path.removeprefix("policyctl ")
        audit = None if record is None else Audit(record, command, run_page())
        return function(*args, audit=audit, **more)

    return wrapper


EPILOG = """\b
Example:
  policyctl apply --audit audit.jsonl
  policyctl history --audit audit.jsonl
  policyctl history --audit audit.jsonl --diff anygem
  policyctl history --audit service=policyctl --env prod
  policyctl history --audit audit.jsonl anygem 'prod-*' --format json"""


@click.command("history", epilog=EPILOG)
@click.argument("names", nargs=-1, metavar="[NAME]...", shell_complete=complete_names)
@audit_option("The file or the PostgreSQL database that apply --audit adds to.")
@click.option("--diff", is_flag=True, help="Show what changed too, field by field.")
@with_form("text", "json")
@with_options("env", "color", "verbose")
def history(options: Options, names: tuple[str, ...], record: AuditRecord | None, diff: bool, form: str) -> int:
    """Show who changed what, when, and from which commit; the newest change comes last.

    NAME is a policy, with or without virtual-policy/, or a glob. With --env only that environment's changes are shown.
    """
    console = Console(options)
    if record is None:
        raise UsageError(f"which record? name it with --audit or {AUDIT_VARIABLE}; policyctl apply --audit FILE adds to it")
    if why := record.why_untrusted():
        console.say(f"warning: {why}")
    bad: list[int] = []
    entries = list(_entries(record, bad, console))

    def wanted(entry: AuditEntry) -> bool:
        named = not names or matches(entry.name, names) or entry.name in map(canonical, names)
        return named and options.environment in (None, entry.environment)

    if form == "json":
        console.result(history_json(entries, wanted, diff=diff))
    else:
        console.result(history_text(entries, wanted, console.out_style, diff=diff))
    if bad:
        raise PolicyctlError(f"{record}: {count(len(bad), 'line')} could not be read, so the history may be incomplete")
    return 0


def _entries(record: AuditRecord, bad: list[int], console: Console) -> Iterator[AuditEntry]:
    """The entries of the record; unreadable lines are reported. An unfinished last line is what a killed process leaves, and
    not an error."""
    for line in record.lines():
        if line.entry is not None:
            yield line.entry
            continue
        console.say(f"{record}:{line.number}: {line.complaint}; line skipped")
        if not line.unfinished:
            bad.append(line.number)


RUNS_EPILOG = """\b
Example:
  policyctl runs
  policyctl runs 20261128-204632-af3d
  policyctl apply --resume 20261128-204632-af3d"""

_DONE = ("applied", "suspended")


@click.command("runs", epilog=RUNS_EPILOG)
@click.argument("run", required=False)
@with_form("text", "json")
@with_options("dir", "color", "verbose")
def runs(options: Options, run: str | None, form: str) -> int:
    """List the recorded runs of apply over several environments, or show what became of each environment in RUN. Runs are
    recorded in .policyctl/runs beside the policy directory."""
    from policyctl.reconcile.fleet import read_run, run_ids

    folder, console = state_folder(options.dir), Console(options)
    found = [read_run(folder, one) for one in (run_ids(folder) if run is None else [run])]
    if form == "json":
        console.result(json_text({"format": "policyctl/runs", "version": 1, "runs": [_run_data(one) for one in found]}))
    elif run is not None:
        console.result(_whole_run(found[0], console.out_style))
    elif not found:
        console.say("no run is recorded here; apply records one when it works on several environments")
    else:
        console.result("".join(f"{_run_line(one, console.out_style)}\n" for one in found))
    return 0


def _run_line(run: Run, style: Style) -> str:
    left = f"{len(run.left):,} left" if run.left else "done"
    looks = style.paint(left, "yellow" if run.left else "green")
    return f"{style.paint(escape(run.id), 'bold')}  {escape(run.began)}  {count(len(run.names), 'environment')}  {looks}"


def _whole_run(run: Run, style: Style) -> str:
    """One line an environment, those that are left first."""
    lines = []
    for name in sorted(run.names, key=lambda one: one not in run.left):
        result = run.results.get(name, {})
        status = str(result.get("status", "not finished: the process ended before it was done"))
        why = str(result.get("outcome") or result.get("reason") or "").partition("\n")[0]
        looks = style.paint(escape(status), "green" if status in _DONE else "red")
        lines.append(f"{escape(name)}  {looks}{f'  {escape(why)}' if why else ''}\n")
    return f"{_run_line(run, style)}\n\n{''.join(lines)}"


def _run_data(run: Run) -> dict[str, object]:
    return {
        "id": run.id,
        "command": run.command,
        "began": run.began,
        "revision": run.revision or None,
        **({"to": run.to} if run.to else {}),
        "left": list(run.left),
        "environments": [{"name": name, **_run_result(run, name)} for name in run.names],
    }


def _run_result(run: Run, name: str) -> dict[str, object]:
    result = run.results.get(name)
    keys = ("status", "code", "reason", "digest", "outcome")
    return {"status": None} if result is None else {key: result.get(key) for key in keys}


def resumed(options: Options, chosen: EnvironmentFilter, selection: Selection, run: str) -> Run:
    """The run that is to be resumed. Raises UsageError when it left nothing, when environments or policies are chosen too, and
    for a run at another commit."""
    from policyctl.reconcile.fleet import read_run

    if chosen.several or chosen.names or selection != Selection():
        raise UsageError("--resume does what a run left; leave out the options that choose environments or policies")
    record, now = read_run(state_folder(options.dir), run), revision_of(options.dir)
    if record.revision != now:
        there, here = record.revision[:12] or "no commit", now[:12] or "none"
        raise UsageError(f"run {run} was at {there}, and this is {here}; start a new apply")
    if not record.left:
        raise UsageError(f"run {run} has nothing left to do; policyctl runs {run} shows it")
    return record


def revision_of(directory: Path) -> str:
    """The commit that is checked out; empty outside a repository."""
    from policyctl.load.git.revision import Revision

    try:
        return Revision(directory, "HEAD").commit
    except PolicyctlError:
        return ""
