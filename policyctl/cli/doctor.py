"""policyctl doctor: what would stop a plan, from the configuration to the remote's answers."""

from __future__ import annotations

import os

import click

from policyctl.cli.console import Console
from policyctl.cli.doctor_checks import CHECKS, CheckResult, Status, Visit
from policyctl.cli.options import NAMES, Options, with_form, with_options
from policyctl.errors import InvalidInput, PolicyctlError, errors_in
from policyctl.load.urls import is_http
from policyctl.report.format import Style, escape, json_text

_LOOKS: dict[Status, str] = {"ok": "green", "warning": "yellow", "failed": "red", "not checked": "dim"}

EPILOG = """\b
Example:
  policyctl doctor
  policyctl doctor --env prod
  policyctl doctor --env prod --format json | jq -r '.checks[] | select(.status != "ok").detail'"""


@click.command("doctor", epilog=EPILOG)
@with_form("text", "json")
@with_options(*NAMES)
def doctor(options: Options, form: str) -> int:
    """Check what a plan of the environment needs: configuration, files, git, secrets, the way to the remote, login, lists,
    clock and rate limit; and the queue and the audit record that environment variables name. Each line is ok, a warning, or
    what is wrong and what to do; what depends on a failed check is not checked. Only reads, and shows no secret.

    Exit code 1 means that something would stop a plan.
    """
    visit = Visit(options, Console(options))
    found = run_checks(visit)
    visit.console.result(_json(visit, found) if form == "json" else _text(found, visit.console.out_style))
    return 1 if any(one.status == "failed" for one in found.values()) else 0


def run_checks(visit: Visit) -> dict[str, CheckResult]:
    """Every check that applies, by name, in order."""
    found: dict[str, CheckResult] = {}
    for check in CHECKS:
        if check.service and hasattr(visit, "session") and not is_http(visit.session.url):
            continue
        if check.variable and not os.environ.get(check.variable):
            continue
        missing = [name for name in check.needs if name in found and found[name].status in ("failed", "not checked")]
        if missing:
            found[check.name] = CheckResult("not checked", f"needs {missing[0]}")
            continue
        try:
            found[check.name] = check.run(visit)
        except InvalidInput as error:
            problems = errors_in(error.problems)
            more = f"; and {len(problems) - 1} more, which policyctl validate shows" if len(problems) > 1 else ""
            found[check.name] = CheckResult("failed", f"{problems[0]}{more}")
        except PolicyctlError as error:
            found[check.name] = CheckResult("failed", str(error))
    if hasattr(visit, "reader"):
        visit.reader.close()
    return found


def _text(found: dict[str, CheckResult], style: Style) -> str:
    """A line for each check."""
    width = max(map(len, found))
    return "".join(
        f"{style.paint(f'{one.status:11}', _LOOKS[one.status])}  {name:{width}}  {escape(one.detail)}\n"
        for name, one in found.items()
    )


def _json(visit: Visit, found: dict[str, CheckResult]) -> str:
    """The same as JSON text."""
    session = getattr(visit, "session", None)
    data = {
        "format": "policyctl/doctor",
        "version": 1,
        "environment": session and session.environment.name,
        "remote": session and session.remote,
        "checks": [{"name": name, "status": one.status, "detail": one.detail} for name, one in found.items()],
    }
    return json_text(data)
