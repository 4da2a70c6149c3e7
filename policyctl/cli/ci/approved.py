"""policyctl ci approved and applied: which plan merged pull requests approved, and that it was applied.

An approval is about the plan of one environment, or those of several that are approved together.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import click

from policyctl.ci import open_forge
from policyctl.ci.comments import applied as applied_text
from policyctl.ci.comments import applied_by_hand
from policyctl.ci.forge import Forge, NotAllowed
from policyctl.cli.ci.merges import (
    HIDDEN,
    LOOKED,
    REPLACED,
    ApprovalPlace,
    NotHead,
    approvals_in,
    approvals_of,
    difference,
    settings_shown,
    waiting_merges,
    why_not_head,
)
from policyctl.cli.console import Console, repository_path, write_stop_summary
from policyctl.cli.environments import with_environments
from policyctl.cli.options import NAMES, Options, with_options
from policyctl.cli.review import use_of
from policyctl.cli.selection import Overrides, parse_overrides, write_overrides
from policyctl.errors import StalePlan, UsageError
from policyctl.load.discovery import find_config, load_config
from policyctl.load.environment import Config, EnvironmentFilter
from policyctl.load.git import repository_top
from policyctl.plan.approval import (
    NONE,
    Approvable,
    Approval,
    SettingsMarks,
    adds_up,
    begun_at,
    newest,
    overrides_of,
    replaced,
    standing,
    waiting,
)
from policyctl.plan.plan import Plan, Selection
from policyctl.plan.settings import Override
from policyctl.report.format import count

if TYPE_CHECKING:
    from policyctl.load.past import SettingsHistory
    from policyctl.plan.fleet import EnvironmentResult, FleetResult

APPROVED_EPILOG = """\b
Example:
  policyctl ci approved --out overrides.json
  policyctl ci approved --all --out overrides.json
  policyctl ci approved --digest sha256:… --overrides '--max-removes 12 because the old models are gone'"""

_NO_PLAN = "it was refused, its page did not show all of it, or it was not made for an environment"
_NEW_ACCESS = (
    "no approved plan shows how remote, auth and ca_file came to be what they are now, so nothing logs in with them; read "
    "them, then start this by hand with DIGEST@{settings}, where DIGEST is what policyctl plan --format json prints"
)
_NEW_SETTINGS = (
    "a change of the remote or of the safety settings was in no approved plan; read these settings ({where}) "
    "and the plan, then start this by hand with DIGEST@{settings}, where DIGEST is the plan's"
)
_TOO_MANY = f"what was noted further back than the last {LOOKED} merged pull requests is not read"
_OTHER_SETTINGS = (
    "the remote or the safety settings are not those that the given hash is of; read them, then start this by hand with "
    "DIGEST@{settings}"
)


@click.command("approved", epilog=APPROVED_EPILOG)
@click.option(
    "--digest",
    default="",
    help="What a person approved by hand; unless it is empty, it is printed. With @ and the hash that a "
    "run shows which finds that settings were not shown, it approves these settings too.",
)
@click.option("--overrides", "text", default="", metavar="TEXT", help="What that person overrides: OPTIONS because REASON.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write to this file what is overridden, and whose approvals are used, for apply --overrides, which notes that on the "
    "pull requests before its first write. Without it that is noted now.",
)
@with_options(*NAMES)
@with_environments
def approved(options: Options, digest: str, text: str, out: Path | None, chosen: EnvironmentFilter) -> int:
    """Print the digest of the plan that merged pull requests approved, from our comments on them. With the options that choose
    several environments it is the digest of all their plans.

    A pull request counts if it was merged since the last one whose plan was applied (see ci applied), and if its plan was made
    for the merged commit and for this branch. If there are several, the plan made now must be exactly their sum; else standard
    error names what is not applied yet, and how to go on. An approval holds only at the head of the branch, and only if each
    change of the safety settings since then was in an approved plan. If nothing is approved the digest is `none`, which lets
    apply accept an empty plan only.

    If the remote, auth or ca_file of the environment changed, and no approved plan showed that, the exit code is 4 before
    anything logs in.
    """
    console = Console(options)
    if text.strip() and not digest:
        raise UsageError("--overrides is for a plan that a person approved; give its --digest too")
    subject = subject_of(options, chosen)
    found, uses = _by_hand(subject, options, console, digest, text) if digest else _merged(subject, options, console)
    if out is not None:
        write_overrides(out, found.overrides, uses)
    elif uses:
        use_of(options, uses)()
    console.result(f"{found.digest}\n")
    return 0


def _by_hand(subject: Subject, options: Options, console: Console, given: str, text: str) -> tuple[Approval, list[str]]:
    """What a person approves, with overrides, and what that uses: all that waits, at the head of the branch. The digest may be
    that of the plan without overrides, as the failed run showed it: one person gives both at once.

    Raises StalePlan for settings that no approved plan shows, unless what is `given` has their hash: they may be others than
    were read. Also at an older commit: the run that a person started there may have been started again by another one, who
    approved nothing.
    """
    digest, _, settings = given.partition("@")
    found, applied, commit, not_head = _read(options, subject, by_hand=True)
    if not_head and not_head.either:
        raise StalePlan(not_head.why)
    if settings != subject.settings.digest:
        besides = _besides(subject, [], applied)
        if not _may_log_in(subject, found, applied):
            raise _new_access(subject, console, besides)
        if digest != NONE and not subject.shown(_since(applied), found):
            raise StalePlan(f"{_new_settings(subject, applied)}{besides}")
        if settings:
            raise StalePlan(_OTHER_SETTINGS.format(settings=subject.settings.digest))
    approval = Approval(digest)
    if text.strip():
        by = os.environ.get("GITHUB_ACTOR") or os.environ.get("GITLAB_USER_LOGIN") or ""
        overrides = parse_overrides(text, by)
        whole = subject.overriding(overrides).digest if digest == subject.plan.digest else digest
        approval = Approval(whole, overrides=overrides)
    if not_head and (holding := [one for one in found if one.holds(commit)]):
        names = ", ".join(f"pull request {one.source}" for one in reversed(holding))
        console.say(f"not noted as used: {names}; {not_head.why}")
    unused = (one for one in found if one.begun in ("", commit) and not one.finished)
    noting = [one for one in unused if one.holds(commit) or (one.digest == NONE and one.why != HIDDEN)]
    return approval, _uses(subject, approval, [] if not_head else noting)


def _uses(subject: Subject, approval: Approval, holding: Sequence[Approval]) -> list[str]:
    """What `use_of` notes on these pull requests, if anything is approved."""
    return [subject.name, *(one.source for one in holding)] if holding and approval.digest != NONE else []


def _besides(subject: Subject, found: Sequence[Approval], applied: Approval | None) -> str:
    """What else there is to know where a change of the settings was not shown."""
    unknown = subject.why_unknown(_since(applied))
    too_many = "" if applied is None or applied.source else _TOO_MANY
    return "".join(f"; {one}" for one in (unknown, too_many, *(_not_approved(one) for one in found if one.why)) if one)


def _new_access(subject: Subject, console: Console, besides: str) -> StalePlan:
    """What ends the run before anything logs in, which the summary shows too."""
    why = f"{_NEW_ACCESS.format(settings=subject.settings.digest)}{besides}"
    write_stop_summary(why, console)
    return StalePlan(why)


def _new_settings(subject: Subject, applied: Approval | None) -> str:
    """That no approved plan shows a change of the settings, and how to go on."""
    since = _since(applied)
    where = "in policyctl.yaml" if since is None else f"policyctl plan --base {since} lists what changed"
    return _NEW_SETTINGS.format(where=where, settings=subject.settings.digest)


def _merged(subject: Subject, options: Options, console: Console) -> tuple[Approval, list[str]]:
    """What the merges since the last applied one approve, and what that uses (see `use_of`); `none` for nothing, and
    the reason is printed.

    Raises StalePlan when the way in to the remote was not approved: then not even a plan may be made, since that logs in.
    """

    def nothing(why: str) -> Approval:
        console.say(why)
        write_stop_summary(why, console)
        return Approval(NONE)

    found, applied, commit, not_head = _read(options, subject)
    why = not_head and not_head.why
    if not _may_log_in(subject, found, applied):
        besides = _besides(subject, found, applied)
        raise _new_access(subject, console, besides if why is None else f"{besides}; {why}")
    if why is None:
        why = _why_nothing(subject, found, applied)
    if why is not None:
        return nothing(why), []
    holding = [one for one in found if one.holds(commit)]
    approval = _summed(found, commit, subject, console, nothing)
    return approval, _uses(subject, approval, holding)


def _why_nothing(subject: Subject, found: Sequence[Approval], applied: Approval | None) -> str | None:
    """Why nothing is approved at the head of the branch, whatever the plan is, and how to go on; None if something may be."""
    alone = len(found) == 1 and found[0].digest == NONE
    why = _not_approved(found[0]) if alone else None if found else "no merged pull request is waiting to be applied"
    if not subject.shown(_since(applied), found):
        besides = _besides(subject, [] if alone else found, applied)
        return f"{'' if why is None else f'{why}; '}{_new_settings(subject, applied)}{besides}"
    return why and f"{why}; start this by hand with the plan's digest to apply it"


def _read(
    options: Options, subject: Subject, *, by_hand: bool = False
) -> tuple[list[Approval], Approval | None, str, NotHead | None]:
    """The waiting approvals, the newest first; the last one that was applied; the commit of this run; and why none of them
    counts, or None."""
    with open_forge(os.environ) as forge:
        if forge is None:
            return [], None, "", NotHead("without a token no approval can be read; start this by hand with the plan's digest")
        place, found, applied, unread = _place(options, subject), list[Approval](), None, None
        try:
            found, applied = approvals_of(forge, place)
        except NotAllowed as error:
            if not by_hand:
                raise
            unread = NotHead(str(error))
        not_head = why_not_head(forge, place.directory, place.referred, by_hand=by_hand)
        return found, applied, forge.commit, not_head or unread


def _place(options: Options, subject: Subject) -> ApprovalPlace:
    """What approvals of this step are for."""
    top = repository_top(options.dir.absolute())
    return ApprovalPlace(subject.name, repository_path(str(options.dir)), top, subject.referred())


def _since(applied: Approval | None) -> str | None:
    """The commit whose settings were approved last, as the last apply noted; None for the first ones if none was noted."""
    return (applied.commit if applied is not None else "") or None


def _may_log_in(subject: Subject, found: Sequence[Approval], applied: Approval | None) -> bool:
    """Whether the way in to the remote was used before, or approved, or takes no credentials."""
    return not subject.logs_in or subject.shown(_since(applied), found, way_only=True)


def _not_approved(one: Approval) -> str:
    """Why the merge of a pull request approved nothing."""
    return f"pull request {one.source} approved no plan: {one.why or _NO_PLAN}"


def _summed(
    found: Sequence[Approval], commit: str, subject: Subject, console: Console, nothing: Callable[[str], Approval]
) -> Approval:
    """What merges approve together: the plan made now, if it is that of the newest one or exactly the sum of what counts of
    each. So is what is left of one: in some of several environments, or once an apply of this commit began with it."""
    plan, top, parts = subject.plan, newest(found, commit), standing(found, commit)
    if plan.digest == NONE:
        return nothing("an environment could not be planned, so nothing is approved; correct that, and run this again")
    if not plan.prints:
        return Approval(NONE)
    if top is not None and subject.overriding(top.overrides).digest == top.digest:
        console.say(f"approved by pull request {top.source}")
        return top
    left = [one for one, _ in waiting(parts, plan)]
    if adds_up(parts, plan):
        names = list(dict.fromkeys(one.source for one in reversed(left)))
        console.say(f"approved by {count(len(names), 'pull request')}: {', '.join(names)}")
        overrides = overrides_of(left)
        return Approval(subject.overriding(overrides).digest, overrides=overrides)
    return nothing(
        f"{difference(found, parts, commit, plan)}; read the plan, then start this by hand with digest {plan.digest}"
    )


APPLIED_EPILOG = """\b
Example:
  policyctl apply --yes --expect-digest "$digest" && policyctl plan --detailed-exitcode && policyctl ci applied"""


@click.command("applied", epilog=APPLIED_EPILOG)
@click.option(
    "--digest",
    default="",
    help="What a person approved by hand, as for ci approved. Unless it is empty or none, the settings of this commit then "
    "count as approved too.",
)
@with_options("dir", "env", "verbose")
@with_environments
def applied(options: Options, digest: str, chosen: EnvironmentFilter) -> int:
    """Note on the merged pull requests that their plan was applied, so that each approval is used once.

    For the step after apply, once plan has shown that nothing is left to do. It is not an error when this cannot be noted:
    the next run finds the approvals again. Settings that a person approved are noted on the newest merged pull request, if
    none that was waiting has a comment for the environment.
    """
    by_hand = digest.partition("@")[0] not in ("", NONE)
    console = Console(options)
    subject = subject_of(options, chosen)
    try:
        with open_forge(os.environ) as forge:
            if forge is None:
                console.say("without a token nothing is noted on the merged pull requests")
            elif subject.suspended:
                console.say(f"nothing is noted on the merged pull requests: {subject.name} is suspended")
            elif why := _note(forge, subject, _place(options, subject), console, by_hand=by_hand):
                console.say(f"nothing is noted on the merged pull requests: {why}")
    except NotAllowed as error:
        console.say(f"not every merged pull request could be noted as applied: {error}")
    return 0


def _note(forge: Forge, subject: Subject, place: ApprovalPlace, console: Console, *, by_hand: bool) -> str | None:
    """Note it on each of them. Returns why not, if this commit may lack something that was merged. What a person approved
    `by_hand` needs a place also where nothing was written, or where no page was for the environment."""
    found, last = waiting_merges(forge, place.environment, place.directory)
    if not_head := why_not_head(forge, place.directory, place.referred):
        return not_head.why
    approvals = approvals_in(forge, found, place)
    is_shown = begun_at(approvals, forge.commit) or subject.shown(_since(last), approvals)
    commit = forge.commit if is_shown or by_hand else _since(last) or ""
    by_run = f"[this run]({forge.link})"
    if any(one.ours for one in found):
        old, sentence = replaced(approvals), f"Applied by {by_run}, or taken back before."
        for merge, ours in reversed(found):  # if that ends early, what is older must not count while what is newer is used
            for one in ours:
                forge.rewrite(one, applied_text(one.body, REPLACED if merge.name in old else sentence, commit))
                console.say(f"noted as {'replaced' if merge.name in old else 'applied'}: pull request {merge.name}")
    elif not found or not by_hand or (is_shown and _since(last)):
        return f"none that waits to be applied has a comment for {subject.name}"
    else:
        sentence = f"A person approved the settings of {subject.name} at {commit[:12]} for {by_run}."
        forge.comment_on(found[0].merge, applied_by_hand(place.environment, place.directory, sentence, commit))
        console.say(f"noted on pull request {found[0].merge.name}: the settings that a person approved")
    return None


class Subject(ABC):
    """The environment, or the environments, of a step. `name` is how markers of comments name it.

    `plan` is what apply would do now, without any override. It is made once, when it is first asked for: that logs in.
    """

    name: str
    logs_in: bool  # whether a remote may be sent credentials
    rules: str  # the safety settings, as a hash
    suspended: bool  # whether no remote is changed at present

    def __init__(self, options: Options, config: Config, about: str | EnvironmentFilter) -> None:
        """`about` is the environment's name, or which ones."""
        self._options, self._config, self._about = options, config, about

    def referred(self) -> Collection[str]:
        """The files that the configuration refers to, by their paths from the repository's top."""
        from policyctl.load.base_config import referred_paths  # with git behind it

        top = repository_top(self._options.dir.absolute())
        return () if top is None else referred_paths(top.resolve(), self._config)

    @abstractmethod
    def access(self) -> str:
        """How the remotes are reached now, as a hash."""

    @cached_property
    def settings(self) -> SettingsMarks:
        """How the remotes are reached now, and the safety settings."""
        return SettingsMarks(self.access(), self.rules)

    def shown(self, since: str | None, approvals: Sequence[Approval], *, way_only: bool = False) -> bool:
        """Whether approved plans showed each change of the settings since that commit; see `settings_shown`. With None that is
        since the first configuration."""
        return settings_shown(self._history, self._about, self.settings, [since], approvals, way_only=way_only)

    def why_unknown(self, since: str | None) -> str:
        """Why it is not known how the settings changed since that commit; empty if it is."""
        return self._history.why_unknown(since)

    @cached_property
    def _history(self) -> SettingsHistory:
        from policyctl.load.past import SettingsHistory  # imports subprocess

        return SettingsHistory(self._options.dir, "HEAD", self._config)

    @property
    @abstractmethod
    def plan(self) -> Approvable: ...

    @abstractmethod
    def overriding(self, overrides: tuple[Override, ...]) -> Approvable:
        """The plan with what is overridden for it."""


def subject_of(options: Options, chosen: EnvironmentFilter) -> Subject:
    """What the command line chooses. Raises UsageError if it chooses what differs from one run to the next."""
    if chosen.affected is not None:
        raise UsageError("--affected means other environments in each run, so it cannot be approved; leave it out")
    config = load_config(find_config(options.dir))
    return _Several(options, config, chosen) if chosen.several else _One(options, config)


class _One(Subject):
    def __init__(self, options: Options, config: Config) -> None:
        self._environment = config.environment(options.environment)
        super().__init__(options, config, self._environment.name)
        self.name, self.rules = self._environment.name, self._environment.rules
        self.logs_in, self.suspended = self._environment.logs_in, self._environment.suspended is not None

    def access(self) -> str:
        from policyctl.load.base_config import access_now  # with git behind it

        return access_now(self._options.dir, self._config)(self._environment)

    @cached_property
    def plan(self) -> Plan:
        from policyctl.cli.review import review_directory
        from policyctl.cli.session import open_session

        return review_directory(open_session(self._options), Selection(), Overrides(consumers=False)).plan

    def overriding(self, overrides: tuple[Override, ...]) -> Plan:
        return self.plan._replace(overrides=overrides)


class _Several(Subject):
    def __init__(self, options: Options, config: Config, chosen: EnvironmentFilter) -> None:
        from policyctl.load.base_config import access_and_rules  # imports subprocess

        super().__init__(options, config, chosen)
        self._chosen = chosen
        self.name, names = chosen.text, chosen.choose(config.labels, config.unlabelled)
        self._access, self.rules = access_and_rules(options.dir, config, names)
        environments = [config.environments[name] for name in names if name in config.environments]
        self.logs_in = any(one.logs_in for one in environments)
        self.suspended = bool(environments) and all(one.suspended is not None for one in environments)
        self._plans: dict[str, Plan] = {}

    def access(self) -> str:
        return self._access

    @cached_property
    def plan(self) -> FleetResult:
        """A plan that a rule refuses counts as one: an override may let it through, and apply judges that."""
        from policyctl.cli.fleet import open_fleet, run_fleet
        from policyctl.cli.session import Session

        fleet = open_fleet(self._options, self._chosen, Selection(), Overrides(consumers=False), marks=True)

        def work(session: Session) -> EnvironmentResult:
            review, name = fleet.review(session), session.environment.name
            self._plans[name] = review.plan
            return fleet.keep(review, name, session.remote)

        return run_fleet(fleet, "plan", work)

    def overriding(self, overrides: tuple[Override, ...]) -> FleetResult:
        results = tuple(
            replace(one, digest=self._plans[one.name]._replace(overrides=overrides).digest) if one.digest else one
            for one in self.plan.results
        )
        return self.plan._replace(results=results, overrides=overrides)
