"""From a directory to its reviewed plan, and what the review forbids: the same for plan and apply."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING

from policyctl.cli.console import Console
from policyctl.cli.github_actions import is_ci
from policyctl.cli.options import Options
from policyctl.cli.selection import Overrides, raise_if_idle
from policyctl.cli.session import Session, load_policies
from policyctl.errors import Incomplete, PolicyctlError, Problem, Refused
from policyctl.load.idle import idle_anywhere
from policyctl.load.unread import CODES
from policyctl.load.urls import GIT, is_git
from policyctl.plan.plan import Selection
from policyctl.plan.safety import Review
from policyctl.policy.document import Document
from policyctl.reconcile.observe import KnownModels, observe
from policyctl.reconcile.plan import check_models, note_untracked, plan_directory
from policyctl.remote.open import open_reader
from policyctl.report.format import count

if TYPE_CHECKING:
    from policyctl.effect.context import DeclaredModels
    from policyctl.load.directory import Loaded


def review_directory(
    options: Options,
    place: Session,
    console: Console,
    selection: Selection,
    overrides: Overrides,
    *,
    base: str | None = None,
    tests: bool = False,
) -> Review:
    """Read the directory and the remote, and compare. Raises InvalidInput with every error; warnings are printed.

    The way back to what a policy was at the `base` revision is a restoration. With `tests` the scenario tests are run too.
    """
    compared = base is not None or is_git(place.url)
    _, loaded, unread = load_policies(options, place, console, deep=True, tests=tests, as_committed=compared)
    settings = overrides.on(place.environment.settings)
    before = Before(options, place, console, base)
    declared = replace(loaded.declared, before=before.declared)
    with open_reader(place.url, place.access) as reader, console.progress.of("Comparing", "live policy") as step:
        models = KnownModels(reader, loaded.models)
        reviewed = plan_directory(
            reader, loaded.policies, place.environment, settings, selection, declared, step, unread, before.documents, models
        )
        raise_if_idle(selection, overrides, loaded.names, reviewed.live)
        reviewed = replace(reviewed, warnings=_warnings(reviewed, loaded))
        reviewed = check_models(models, note_untracked(reviewed, unread) if is_ci() else reviewed, loaded, place.environment)
        reviewed = with_idle_settings(reviewed, place, loaded.names, overrides)
    return replace(
        reviewed,
        plan=replace(reviewed.plan, overrides=overrides.given),
        failed_tests=failed_tests(loaded) if tests else (),
    )


def _warnings(reviewed: Review, loaded: Loaded) -> tuple[Problem, ...]:
    """What the rules find in the files of the policies that change, and in what was not read."""
    files = {change.file for change in reviewed.plan.changes if change.file is not None}
    warnings = [problem for problem in loaded.problems if problem.severity == "warning"]
    return tuple(problem for problem in warnings if problem.mark.file in files or problem.code in CODES)


def with_idle_settings(reviewed: Review, place: Session, files: frozenset[str], overrides: Overrides) -> Review:
    """The review with a note for what does nothing: names in the directory's own safety settings that match no policy, and
    overrides of guards that are not set."""
    found = idle_anywhere(place.config, place.config.environment(place.environment.name), files, reviewed.live)
    notes = [f"{problem.mark}: {problem.message}" for problem in found]
    guards = place.environment.settings.guards.active
    unset = [(guard, text) for guard, text in overrides.guards if guard not in guards]
    notes += [f"{text} does nothing: {guard} is not set for {place.environment.name}" for guard, text in unset]
    return replace(reviewed, notes=(*reviewed.notes, *notes))


class Before:
    """The directory at the commit where the checked out branch left a revision, read once, when something asks for it.

    Without that revision, or where that cannot be had, nothing is a restoration, which is the stricter way, and it is said.
    """

    def __init__(self, options: Options, place: Session, console: Console, base: str | None) -> None:
        self._options, self._place, self._console, self._base = options, place, console, base

    def documents(self) -> Mapping[str, Document]:
        """The policies, by canonical name."""
        return {} if self._base is None or self._read is None else self._read[0]

    @property
    def declared(self) -> DeclaredModels | None:
        """What was declared of models: at that revision, or at the one that is planned against; None where neither is known."""
        return None if self._read is None else self._read[1]

    @cached_property
    def _read(self) -> tuple[Mapping[str, Document], DeclaredModels] | None:
        if self._base is None and not is_git(self._place.url):
            return None
        from policyctl.load.git.revision import merge_base  # with git behind it
        from policyctl.remote.git import GitReader

        try:
            url = self._place.url if self._base is None else f"{GIT}{merge_base(self._options.dir, self._base)}"
            with GitReader(url, self._options.dir, self._place.environment) as reader:
                return {name: live.document for name, live in observe(reader).live.items()}, reader.declared
        except PolicyctlError as error:
            if self._base is not None:
                self._console.say(f"no change is taken for a restoration: {error}")
            return None


def failed_tests(loaded: Loaded) -> tuple[str, ...]:
    """The scenario tests that fail, one sentence each, with the first thing that does not hold."""
    from policyctl.plan.scenario import run_suite  # with the effect engine behind it

    policies = {policy.name: policy.document for policy in loaded.policies}
    failed = [verdict for suite in loaded.suites for verdict in run_suite(suite, policies) if verdict.failures]
    return tuple(
        f"{one.suite.file}: {one.name}: {one.failures[0].about}: expected {one.failures[0].expected}, got {one.failures[0].got}"
        for one in failed
    )


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
