"""From a directory to its reviewed plan, and what its review forbids: the same for plan and for apply."""

from __future__ import annotations

from dataclasses import replace

from policyctl.cli.console import Console
from policyctl.cli.github import is_ci
from policyctl.cli.opening import Place, load_policies
from policyctl.cli.options import Options
from policyctl.cli.selecting import Overrides
from policyctl.core.guards import Review
from policyctl.core.plan import Selection
from policyctl.errors import Incomplete, Problem, Refused
from policyctl.load.directory import Loaded
from policyctl.load.unread import CODES
from policyctl.reconcile.gone import note_untracked
from policyctl.reconcile.plan import check_models, plan_directory
from policyctl.remote.open import open_reader
from policyctl.report.plain import count


def review_directory(options: Options, place: Place, console: Console, selection: Selection, overrides: Overrides) -> Review:
    """Read the directory and the remote, and compare. Raises InvalidInput with every error; warnings are printed."""
    _, loaded, unread = load_policies(options, place, console, deep=True)
    settings = overrides.on(place.environment.settings)
    with open_reader(place.url, place.access) as reader, console.progress.of("Comparing", "live policy") as step:
        reviewed = plan_directory(
            reader, loaded.policies, place.environment, settings, selection, loaded.timeouts, step, unread
        )
        reviewed = replace(reviewed, warnings=_warnings(reviewed, loaded))
        return check_models(reader, note_untracked(reviewed, unread) if is_ci() else reviewed, loaded)


def _warnings(reviewed: Review, loaded: Loaded) -> tuple[Problem, ...]:
    """What the rules find in the files of the policies that change, and in what was not read."""
    files = {change.file for change in reviewed.plan.changes if change.file is not None}
    warnings = [problem for problem in loaded.problems if problem.severity == "warning"]
    return tuple(problem for problem in warnings if problem.mark.file in files or problem.code in CODES)


def raise_if_unsafe(review: Review) -> None:
    """Raise Refused or Incomplete for a plan that must not, or cannot wholly, be applied; its report says why."""
    if review.refusals:
        lead = "\n  " if len(review.refusals) > 1 else " "
        raise Refused(f"refused by {count(len(review.refusals), 'safety rule')}:{lead}{lead.join(review.refusals)}")
    if review.plan.blocked:
        names = ", ".join(block.name for block in review.plan.blocked)
        raise Incomplete(f"rows on the remote block {names}")
