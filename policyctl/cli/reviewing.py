"""From a directory to its reviewed plan, and what its review forbids: the same for plan and for apply."""

from __future__ import annotations

from dataclasses import replace

from policyctl.cli.console import Console
from policyctl.cli.github import is_ci
from policyctl.cli.opening import Place, load_policies
from policyctl.cli.options import Options
from policyctl.cli.selecting import Overrides, raise_if_idle
from policyctl.core.guards import Review
from policyctl.core.plan import Selection
from policyctl.errors import Incomplete, Problem, Refused
from policyctl.load.directory import Loaded
from policyctl.load.idle import idle_anywhere
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
        raise_if_idle(selection, overrides, loaded.names, reviewed.live)
        reviewed = replace(reviewed, warnings=_warnings(reviewed, loaded))
        reviewed = check_models(reader, note_untracked(reviewed, unread) if is_ci() else reviewed, loaded, place.environment)
        return with_idle_settings(reviewed, place, loaded.names, overrides)


def _warnings(reviewed: Review, loaded: Loaded) -> tuple[Problem, ...]:
    """What the rules find in the files of the policies that change, and in what was not read."""
    files = {change.file for change in reviewed.plan.changes if change.file is not None}
    warnings = [problem for problem in loaded.problems if problem.severity == "warning"]
    return tuple(problem for problem in warnings if problem.mark.file in files or problem.code in CODES)


def with_idle_settings(reviewed: Review, place: Place, files: frozenset[str], overrides: Overrides) -> Review:
    """The review with a note for what does nothing: names in the directory's own safety settings that match no policy, and
    overrides of guards that are not set."""
    found = idle_anywhere(place.config, place.config.environment(place.environment.name), files, reviewed.live)
    notes = [f"{problem.mark}: {problem.message}" for problem in found]
    guards = place.environment.settings.guards.active
    unset = [one for one in overrides.allow_guard if one.guard not in guards]
    notes += [f"{one.reason} does nothing: {one.guard} is not set for {place.environment.name}" for one in unset]
    return replace(reviewed, notes=(*reviewed.notes, *notes))


def raise_if_unsafe(review: Review, *, listed: bool = True) -> None:
    """Raise Refused or Incomplete for a plan that must not, or cannot wholly, be applied.

    Where the plan was printed as text, the reasons are `listed` there, and are not printed again.
    """
    if review.refusals:
        said = f"refused by {count(len(review.refusals), 'safety rule')}"
        raise Refused(f"{said}; see above" if listed else "\n  ".join([f"{said}:", *review.refusals]))
    if review.plan.blocked:
        names = ", ".join(block.name for block in review.plan.blocked)
        raise Incomplete(f"rows on the remote block {names}")
