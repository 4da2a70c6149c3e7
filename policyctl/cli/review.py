"""From a directory to its reviewed plan, which plan and apply share; and what lets an apply write it: the digest of what was
approved, the windows, and a note before the first write."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property, partial
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

import click

from policyctl.cli.console import Console, is_ci, repository_path
from policyctl.cli.options import Options
from policyctl.cli.selection import UNSEEN, Overrides, idle_options, raise_if_idle
from policyctl.cli.session import Session
from policyctl.errors import PolicyctlError, Problem, Refused, StalePlan, UsageError
from policyctl.lint.directory import idle_anywhere
from policyctl.load.discovery import CODES
from policyctl.load.environment import Environment
from policyctl.load.git import repository_top
from policyctl.load.urls import GIT, is_git
from policyctl.plan.plan import Desired, Plan, Selection, equal, normal_of
from policyctl.plan.safety import BranchChecks, Review
from policyctl.plan.settings import Override, Settings
from policyctl.policy.document import Document, digest
from policyctl.policy.live import LiveRows
from policyctl.reconcile.observe import observe, with_consumers
from policyctl.reconcile.plan import (
    KnownModels,
    check_models,
    note_untracked,
    plan_directory,
    raise_if_blocked,
    raise_if_refused,
)

if TYPE_CHECKING:
    from policyctl.effect.tree import DeclaredModels
    from policyctl.load.base_config import BaseCommits, BaseConfig
    from policyctl.load.directory import Loaded
    from policyctl.load.environment import Config
    from policyctl.load.past import PastDirectory
    from policyctl.plan.diff import FieldChange
    from policyctl.reconcile.apply import ApplySettings
    from policyctl.reconcile.audit import AuditRecord
    from policyctl.reconcile.drift import Spell
    from policyctl.remote import Reader


def review_directory(
    session: Session,
    selection: Selection,
    overrides: Overrides,
    *,
    base: BaseCommits | None = None,
    tests: bool = False,
    on_idle: Callable[[Mapping[str, str]], None] | None = None,
    audit: AuditRecord | None = None,
    judged: bool = False,
) -> Review:
    """Read the directory and the remote, and compare. Raises InvalidInput with every error, and prints warnings.

    A change back to the `base` revision, as it was applied last, is a restoration. With `tests` the scenario tests are run too.
    Raises UsageError for options that match no policy, unless they go to `on_idle`: see `idle_options`. The `audit` file, as
    far as there is one, shows what was written last. `judged` looks for who moved each change also where environments share a
    directory.
    """
    compared = base is not None or is_git(session.url)
    _, loaded, unread = session.read(deep=True, tests=tests, as_committed=compared)
    settings = overrides.on(session.environment.settings)
    before = Before(session, base, audit)
    declared = loaded.declared._replace(before=before.declared)
    with session.reader() as reader, session.console.progress.of("Comparing", "live policy") as step:
        models = KnownModels(reader, loaded.models)
        review = plan_directory(
            reader, loaded.desired, session.environment, settings, selection, declared, step, unread, before.documents, models
        )
        if on_idle is None:
            raise_if_idle(selection, overrides, loaded.names, review.live)
        else:
            on_idle(idle_options(selection, overrides, loaded.names, review.live))
        spell = models.speller(review.live | loaded.names)
        review = judged_changes(review, session, spell, audit, base) if judged else review
        review = without_edited(review, session, settings, spell, audit, base)
        review = check_models(models, note_untracked(review, unread) if is_ci() else review, loaded, session.environment)
        review = read_consumers_of(review, reader, loaded, settings, session, overrides)
    review = with_idle_settings(review, session, loaded.names, overrides)
    review = review if session.past is None else gone_back(review, session.past)
    return review._replace(
        notes=(*review.notes, *_environment_notes(session, settings, loaded)),
        plan=review.plan._replace(overrides=overrides.given, edited=before.edited(loaded.desired)),
        branch=BranchChecks(warnings=_warnings(review, loaded), failed_tests=failed_tests(loaded) if tests else ()),
    )


def resolved_base(base: str | None, options: Options, console: Console) -> BaseCommits | None:
    """The commits of a base revision, found once for all that rests on it. Why they are not known is reported: then no change
    is a restoration, which is the stricter way."""
    if base is None:
        return None
    from policyctl.load.base_config import BaseCommits, base_commits  # imports subprocess

    try:
        return base_commits(options.dir, base)
    except PolicyctlError as error:
        console.say(_NONE_BACK.format(error))
        return BaseCommits(base)


def access_of(session: Session) -> str:
    """How the remote is reached, once what is checked out is merged (see `access_at`). Raises PolicyctlError if that cannot be
    found out."""
    from policyctl.load.base_config import access_now  # with git behind it

    return access_now(session.options.dir, session.config)(session.config.environment(session.environment.name))


def gone_back(review: Review, past: PastDirectory) -> Review:
    """The review of a plan that goes back to the files of a revision, which it names."""
    return review._replace(plan=review.plan._replace(to=past.then.commit), notes=(*review.notes, past.note))


_NONE_BACK = "no change is taken for a restoration: {}"
_RECENT = 2000  # commits of the repository that a plan looks at for who moved; drift looks at all


def judged_changes(
    review: Review, session: Session, spell: Spell, audit: AuditRecord | None, base: BaseCommits | None = None
) -> Review:
    """The review with who moved each of its changes."""
    if not review.plan.changes:
        return review
    found = session.evidence(audit, base=base).judge(review.plan.changes, session.environment, review, spell)
    return review._replace(drifts={one.change.name: one for one in found})


def without_edited(
    review: Review,
    session: Session,
    settings: Settings,
    spell: Spell,
    audit: AuditRecord | None = None,
    base: BaseCommits | None = None,
) -> Review:
    """The review with who moved what it changes, and a refusal for each policy that it would remove though it was edited on the
    remote since git had it. Outside a repository nothing is looked for.

    The `audit` record wins over git history. It may not exist yet. With a `base` only its commits show that what is live was
    applied from Git.
    """
    changed = [change for change in review.plan.changes if change.before is not None]
    if not changed or is_git(session.url) or repository_top(session.options.dir.absolute()) is None:
        return review
    from policyctl.reconcile.drift import hold_edited  # with git behind it

    audit = audit if audit is not None and audit.exists() else None
    if session.past is None and not review.drifts:
        quick = session.evidence(audit, _RECENT, base)
        if quick.history is None:
            return review
        found = quick.judge(changed, session.environment, review, spell)
        if session.directory is not None:  # equal plans are shown once
            found = [replace(one, written="") for one in found]
        review = review._replace(drifts={one.change.name: one for one in found})
    if review.plan.count("remove"):
        review = hold_edited(review, session.evidence(audit, base=base), session.environment, settings, spell)
    return review


def read_consumers_of(
    review: Review, reader: Reader, loaded: Loaded, settings: Settings, session: Session, overrides: Overrides
) -> Review:
    """The review with who uses what it changes, as far as that is to be read; -v shows how long it took."""
    began, console, unseen = time.monotonic(), session.console, overrides.unseen_consumers
    with console.progress.of("Reading who uses what", "list"):
        found = with_consumers(review, reader, loaded, settings, read=overrides.consumers, unseen=unseen)
    if found.consumers is not None and console.verbose:
        console.say(f"reading who uses what took {time.monotonic() - began:.2f} s")
    removes = found.plan.count("remove")
    missing = not overrides.consumers or (found.consumers is not None and bool(found.consumers.unread))
    if unseen and not (removes and missing):
        why = "everything could be read" if removes else "nothing is removed"
        found = found._replace(notes=(*found.notes, f"{UNSEEN} does nothing: {why}"))
    return found


def _environment_notes(session: Session, settings: Settings, loaded: Loaded) -> Iterator[str]:
    """What an environment leaves alone: models that it does not manage, though files have settings for them, or everything."""
    if not settings.models and (models := sum(model.has_settings for model in loaded.model_documents)):
        are = "1 model is" if models == 1 else f"{models:,} models are"
        how = "write manage: [policies, models] in policyctl.yaml to apply them too"
        yield f"{are} declared with settings and not managed; {how}"
    if why := session.environment.suspended:
        yield f"{session.environment.name} is suspended, so apply leaves it as it is: {why}"


def _warnings(review: Review, loaded: Loaded) -> tuple[Problem, ...]:
    """The warnings about the files of the changed policies, and about files that were not read."""
    files = {change.file for change in review.plan.changes if change.file is not None}
    warnings = [problem for problem in loaded.problems if problem.severity == "warning"]
    return tuple(problem for problem in warnings if problem.mark.file in files or problem.code in CODES)


def with_idle_settings(review: Review, session: Session, files: frozenset[str], overrides: Overrides) -> Review:
    """The review with a note for each setting without an effect: a name in the directory's own safety settings that matches
    no policy, and an override of a guard that is not set."""
    name = session.environment.name
    found = idle_anywhere(session.config, session.config.environment(name), files, review.live)
    notes = [f"{problem.mark}: {problem.coded}" for problem in found]
    guards = session.environment.settings.guards.active
    unset = [(guard, text) for guard, text in overrides.guards if guard not in guards]
    notes += [f"{text} does nothing: {guard} is not set for {name}" for guard, text in unset]
    return review._replace(notes=(*review.notes, *notes))


_UNNAMED = "the way to the remote or a safety setting changes and is not among the settings above, so a merge approves nothing"


def as_merged(review: Review, session: Session, base: BaseConfig, *, settings: bool = True) -> Review:
    """The review with the `settings` that the branch changes, and what of them a merge approves (unless they are shown
    elsewhere).

    The plan gets the branch's own configuration, so that its digest is that of the same plan after the merge.
    """
    from policyctl.plan.approval import Terms, shown_terms

    merged = session.config.environment(session.environment.name)
    held = session.environment.settings.guard_exceptions
    new = [one for one in merged.settings.guard_exceptions if one not in held]
    notes = [f"the exception from {one.guard} for {one.policy} takes effect after its merge: {one.reason}" for one in new]
    plan = review.plan._replace(config=merged.digest, settings=merged.decides)
    branch = review.branch
    if settings:
        changed = changed_settings(base, session.options.dir, session.config, session.environment.name)
        before = base.start.holds_for(merged, own_remote=False)  # as what the page shows: the base may have moved on since
        terms = Terms(base.start.access(before), before.rules, access_of(session), merged.rules)
        shown = shown_terms(terms, [one.path for one in changed])
        notes += [] if shown else [_UNNAMED]
        branch = branch._replace(settings=changed, terms=shown)
    return review._replace(plan=plan, branch=branch, notes=(*review.notes, *notes))


def changed_settings(base: BaseConfig, directory: Path, now: Config, environment: str = "") -> tuple[FieldChange, ...]:
    """What the branch changes in the settings, those of an environment first, and where its models lead in any of them."""
    from policyctl.remote.git import moved_addresses  # with git behind it

    return (*base.settings(now, environment), *moved_addresses(directory, now, base))


class Before:
    """The directory at the commit where the checked-out branch left its base. It is read once, on demand.

    Without a base, or when it cannot be read (which is reported), no change is a restoration. That is the stricter way.
    """

    def __init__(self, session: Session, base: BaseCommits | None, audit: AuditRecord | None = None) -> None:
        """The `audit` record may not exist yet."""
        self._session, self._base = session, base
        self._audit = audit if base is not None and audit is not None and audit.exists() else None

    def documents(self, plan: Plan) -> Mapping[str, Document]:
        """The policies by canonical name; of those that a plan changes only what the audit record shows to have been applied
        last. Git alone cannot show that, and what was never live is not brought back."""
        if self._base is None or self._audit is None or self._read is None:
            return {}
        applied = self._session.evidence(self._audit, _RECENT, self._base).applied(plan.remote)
        known = {name: live.document for name, live in self._rows.policies.items()}
        others = {
            change.name
            for change in plan.policies
            if change.after is None or digest(normal_of(change.after)) != applied.get(change.name)
        }
        return {name: known[name] for name in known.keys() - others}

    @property
    def declared(self) -> DeclaredModels | None:
        """The facts about models at that revision, or at the one that is planned against; None when neither is known."""
        return None if self._read is None else self._read[1]

    def edited(self, desired: Sequence[Desired]) -> frozenset[str] | None:
        """The policies and models that differ from those of the base; None without one, or where not all of it can be read."""
        if self._base is None or self._read is None or self._rows.twins or self._rows.unreadable:
            return None
        live = self._rows.live
        same = {one.name for one in desired if one.name in live and equal(one, live[one.name])}
        return frozenset({one.name for one in desired} | live.keys()) - same

    @property
    def _rows(self) -> LiveRows:
        """The files of the base; nothing without one."""
        return LiveRows({}) if self._base is None or self._read is None else self._read[0]

    @cached_property
    def _read(self) -> tuple[LiveRows, DeclaredModels] | None:
        session = self._session
        if self._base is None and not is_git(session.url):
            return None
        if self._base is not None and self._base.left is None:
            return None
        from policyctl.remote.git import GitReader  # imports subprocess

        try:
            url = session.url if self._base is None else f"{GIT}{self._base.left}"
            with GitReader(url, session.options.dir, session.environment) as reader:
                return observe(reader), reader.declared
        except PolicyctlError as error:
            if self._base is not None:
                session.console.say(_NONE_BACK.format(error))
            return None


def failed_tests(loaded: Loaded) -> tuple[str, ...]:
    """The scenario tests that fail, one sentence each, with the first expectation that is not met."""
    from policyctl.plan.scenario import run_suite  # imports the effect engine

    policies = {policy.name: policy.document for policy in loaded.policies}
    failed = [result for suite in loaded.suites for result in run_suite(suite, policies, loaded.declared) if result.failures]
    return tuple(
        f"{one.suite.file}: {one.name}: {one.failures[0].about}: expected {one.failures[0].expected}, got {one.failures[0].got}"
        for one in failed
    )


def raise_if_unsafe(review: Review, *, listed: bool = True) -> None:
    """Raise Refused or Incomplete for a plan that must not be applied, or not as a whole.

    When the plan was printed as text, the reasons are `listed` there and not repeated.
    """
    raise_if_refused(review, listed=listed)
    raise_if_blocked(review)


_EXPECTED = re.compile(r"(none)|(sha256:[0-9a-f]{64})(?:@(sha256:[0-9a-f]{64}))?")
LED_ELSEWHERE = "remote, auth or ca_file is another one"  # so nothing logs in


class Expectation(NamedTuple):
    """What may be applied: the plan with this digest (`none`: only one without changes), and where `access` is not empty, only
    with this way to the remote (see `access_at`)."""

    digest: str
    access: str = ""

    def raise_if_led_elsewhere(self, now: Callable[[], str]) -> None:
        """Raise StalePlan if the remote is reached in another way `now`. Call it before anything logs in."""
        if self.access and (found := now()) != self.access:
            raise StalePlan(
                f"{LED_ELSEWHERE} than the approved one, so nothing logged in: the hash of the way there is {found}, not "
                f"{self.access}; read these settings in policyctl.yaml, then plan again"
            )


def expectation(_: click.Context, __: click.Parameter, text: str | None) -> Expectation | None:
    """The value of --expect-digest. Raises UsageError for an impossible digest. An empty one counts as impossible: a missing
    step output is not an approval."""
    if text is None:
        return None
    if (found := _EXPECTED.fullmatch(text)) is None:
        raise UsageError(
            "--expect-digest takes sha256: and 64 hexadecimal digits, as plan --format json prints them, or none; with @ and "
            "the access printed there, it holds for that way to the remote only"
        )
    return Expectation(found[1] or found[2], found[3] or "")


class FirstWrite:
    """Notes something directly before the first write of an apply. For several threads."""

    def __init__(self, note: Callable[[], object], finish: Callable[[], object] = lambda: None) -> None:
        """`note` raises PolicyctlError if it cannot be noted, as does `finish`, which notes that everything was written."""
        self._note, self._finish, self._lock, self._is_noted = note, finish, Lock(), False
        self._failed: PolicyctlError | None = None

    def __call__(self) -> None:
        """Call it before each write. Raises PolicyctlError if it cannot be noted: then nothing must be written."""
        with self._lock:
            if self._failed is not None:
                raise self._failed
            if self._is_noted:
                return
            try:
                self._note()
            except PolicyctlError as error:
                self._failed = error
                raise
            self._is_noted = True

    def ended(self, code: int, console: Console) -> int:
        """The exit code of the apply. If that is 0, note that everything was written, where it was noted that it began; why
        that cannot be noted is reported."""
        try:
            if code == 0 and self._is_noted:
                self._finish()
        except PolicyctlError as error:
            console.say(f"it cannot be noted that all of it was written: {error}")
        return code


def use_of(options: Options, uses: Sequence[str]) -> FirstWrite:
    """What notes that a run `uses` approvals: of what is chosen (see `Subject.name`), by these pull requests. With nothing to
    use it notes nothing."""
    if not uses:
        return FirstWrite(lambda: None)
    from policyctl.cli.ci.merges import note_finished_use, note_use  # imports HTTP

    name, *sources = uses
    what = os.environ, name, repository_path(str(options.dir)), sources
    return FirstWrite(partial(note_use, *what), partial(note_finished_use, *what))


def within_windows(settings: ApplySettings, environment: Environment, reason: str | None) -> ApplySettings:
    """The settings of an apply that asks the windows of an environment directly before its first write.

    A `reason` is why a person writes in a deny window; empty for none. None is for what writes by itself: it keeps to every
    window. The apply raises Refused where a window does not let it write, PolicyctlError if windows cannot be judged.
    """
    return replace(settings, admit=partial(_admit, environment, reason))


def _admit(environment: Environment, reason: str | None) -> tuple[Override, ...]:
    from policyctl.load.windows import writing_at, writing_by_hand  # only an apply asks

    asked = writing_at if reason is None else writing_by_hand
    writing = asked(environment.watch.windows, datetime.now(UTC))
    if writing.allowed:
        return ()
    if not reason:
        remedy = "" if reason is None else "; wait, or give a reason with --outside-window REASON"
        raise Refused(f"nothing was written to {environment.name}: {writing.why}{remedy}")
    return (Override("--outside-window", "", reason),)
