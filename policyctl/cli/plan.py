"""policyctl plan."""

from __future__ import annotations

from pathlib import Path

import click

from policyctl.cli.console import Console
from policyctl.cli.github import tell_plan
from policyctl.cli.opening import find_place, load_policies
from policyctl.cli.options import Options, with_options
from policyctl.cli.selecting import Overrides, with_selection
from policyctl.core.guards import Review
from policyctl.core.plan import Selection
from policyctl.core.saved import write_plan
from policyctl.errors import Incomplete, Refused
from policyctl.load.files import write_atomically
from policyctl.reconcile.plan import check_models, plan_directory
from policyctl.remote.open import open_reader
from policyctl.report.plain import count
from policyctl.report.plan_json import plan_json
from policyctl.report.plan_text import plan_text

EPILOG = """\b
Example:
  policyctl plan
  policyctl plan --env prod --detailed-exitcode
  policyctl plan --remote git:origin/main
  policyctl plan --out plan.json && policyctl apply plan.json"""


@click.command("plan", epilog=EPILOG)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Save the plan, for apply.")
@click.option("--detailed-exitcode", is_flag=True, help="Exit with 2 when there are changes.")
@with_selection
@with_options
def command(
    options: Options, form: str, out: Path | None, detailed_exitcode: bool, selection: Selection, overrides: Overrides
) -> int:
    """Show what apply would change, field by field. Nothing is written to the remote."""
    return plan(options, form, out, detailed_exitcode, selection, overrides)


def plan(
    options: Options, form: str, out: Path | None, detailed_exitcode: bool, selection: Selection, overrides: Overrides
) -> int:
    console = Console(options)
    place = find_place(options)
    loaded = load_policies(options, place, console, deep=True)
    settings = overrides.on(place.environment.settings)
    with open_reader(place.url, place.access) as reader:
        review = plan_directory(reader, loaded.policies, place.environment, settings, selection, loaded.timeouts)
        review = check_models(reader, review, loaded)
    if out is not None:
        write_atomically(out, write_plan(review.plan), private=True)
    if form == "json":
        console.result(plan_json(review))
    else:
        console.result(plan_text(review, place.remote, console.out_style, verbose=console.verbose))
    tell_plan(review, place.remote, out, console)
    raise_if_unsafe(review)
    return 2 if detailed_exitcode and review.plan.changes else 0


def raise_if_unsafe(review: Review) -> None:
    """Raise Refused or Incomplete for a plan that must not, or cannot wholly, be applied; its report says why."""
    if review.refusals:
        lead = "\n  " if len(review.refusals) > 1 else " "
        raise Refused(f"refused by {count(len(review.refusals), 'safety rule')}:{lead}{lead.join(review.refusals)}")
    if review.plan.blocked:
        names = ", ".join(block.name for block in review.plan.blocked)
        raise Incomplete(f"rows on the remote block {names}")
