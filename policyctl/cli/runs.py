"""policyctl runs."""

from __future__ import annotations

import click

from policyctl.cli.console import Console
from policyctl.cli.options import Options, with_options
from policyctl.load.atomic import state_folder
from policyctl.reconcile.fleet import Run, read_run, run_ids
from policyctl.report.format import Style, count, escape, json_text

EPILOG = """\b
Example:
  policyctl runs
  policyctl runs 20261128-204632-af3d
  policyctl apply --resume 20261128-204632-af3d"""

_DONE = ("applied", "suspended")


@click.command("runs", epilog=EPILOG)
@click.argument("run", required=False)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@with_options("dir", "color", "verbose")
def runs(options: Options, run: str | None, form: str) -> int:
    """List the recorded runs of apply over several environments, or show what became of each environment in RUN. Runs are
    recorded in .policyctl/runs beside the policy directory."""
    folder, console = state_folder(options.dir), Console(options)
    found = [read_run(folder, one) for one in (run_ids(folder) if run is None else [run])]
    if form == "json":
        console.result(json_text({"format": "policyctl/runs", "version": 1, "runs": [_data(one) for one in found]}))
    elif run is not None:
        console.result(_whole(found[0], console.out_style))
    elif not found:
        console.say("no run is recorded here; apply records one when it works on several environments")
    else:
        console.result("".join(f"{_line(one, console.out_style)}\n" for one in found))
    return 0


def _line(run: Run, style: Style) -> str:
    left = f"{len(run.left):,} left" if run.left else "done"
    looks = style.paint(left, "yellow" if run.left else "green")
    return f"{style.paint(escape(run.id), 'bold')}  {escape(run.began)}  {count(len(run.names), 'environment')}  {looks}"


def _whole(run: Run, style: Style) -> str:
    """One line an environment, those that are left first."""
    lines = []
    for name in sorted(run.names, key=lambda one: one not in run.left):
        result = run.results.get(name, {})
        status = str(result.get("status", "not finished: the process ended before it was done"))
        why = str(result.get("outcome") or result.get("reason") or "").partition("\n")[0]
        looks = style.paint(escape(status), "green" if status in _DONE else "red")
        lines.append(f"{escape(name)}  {looks}{f'  {escape(why)}' if why else ''}\n")
    return f"{_line(run, style)}\n\n{''.join(lines)}"


def _data(run: Run) -> dict[str, object]:
    return {
        "id": run.id,
        "command": run.command,
        "began": run.began,
        "revision": run.revision or None,
        **({"to": run.to} if run.to else {}),
        "left": list(run.left),
        "environments": [{"name": name, **_result(run, name)} for name in run.names],
    }


def _result(run: Run, name: str) -> dict[str, object]:
    result = run.results.get(name)
    keys = ("status", "code", "reason", "digest", "outcome")
    return {"status": None} if result is None else {key: result.get(key) for key in keys}
