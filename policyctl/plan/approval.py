"""What merged pull requests approved, and which of it is not applied yet."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import groupby
from typing import NamedTuple, Protocol

from policyctl.plan.settings import Override
from policyctl.policy.document import digest

NONE = "none"  # no digest was approved
APPLIED = "applied"  # replaces a digest once it is applied


_SUBJECT, _CHANGE = 12, 40  # digits of the two hashes in a print
PRINT = _SUBJECT + _CHANGE


def print_of(subject: Sequence[str], change: Sequence[object]) -> str:
    """A hash of what is changed, and one of the change."""
    hashes = (digest(list(one)).removeprefix("sha256:") for one in (subject, change))
    return "".join(one[:digits] for one, digits in zip(hashes, (_SUBJECT, _CHANGE), strict=True))


def subject_of(mark: str) -> str:
    """The hash of what a change with this print changes."""
    return mark[:_SUBJECT]


class Proposal(NamedTuple):
    """What a pull request asks for: to merge a commit, its newest one, into a branch."""

    head: str
    into: str


class Terms(NamedTuple):
    """What a plan shows of the settings, as hashes: how the remote is reached (see `access_at`), and the safety settings (see
    `Environment.rules`), both where the branch left its base and in the branch."""

    before: str
    rules_before: str
    access: str
    rules: str


class SettingsMarks(NamedTuple):
    """The settings of an environment, or of several, as hashes: how the remote is reached, and the safety settings."""

    access: str
    rules: str

    @property
    def digest(self) -> str:
        """One hash of both."""
        return digest([*self])


WAY_KEYS = frozenset(("remote", "auth", "ca_file"))  # of how a remote is reached


def shown_terms(terms: Terms, paths: Iterable[str]) -> Terms | None:
    """What a plan shows of the settings, if these paths of changed settings are all that it names; None if they differ in more
    than that. So a merge approves no change that is on no page, whatever kept it from being named."""
    named = [frozenset(re.split(r"[.\s]", path)) for path in paths]
    way = terms.before == terms.access or not all(WAY_KEYS.isdisjoint(one) for one in named)
    return terms if way and (terms.rules_before == terms.rules or named) else None


class SettingsStep(NamedTuple):
    """A change of the settings in a branch: what they were, and became; None where the environment did not exist, or its file
    was not valid. `end` is the commit with which the pull request was merged that may have brought it, empty if none was."""

    end: str
    before: SettingsMarks | None
    after: SettingsMarks | None


def of_several(marks: Mapping[str, str]) -> str:
    """One hash for those of several environments, by name."""
    return digest(dict(marks))


class Approvable(Protocol):
    """What a merge may approve: a plan, or the plans of several environments."""

    @property
    def digest(self) -> str:
        """The hash of all of it, or `none`."""

    @property
    def overrides(self) -> tuple[Override, ...]:
        """The safety settings that are overridden for it."""

    @property
    def prints(self) -> tuple[str, ...]:
        """A hash of each change (see `Plan.prints`)."""

    @property
    def replaces(self) -> tuple[str, ...] | None:
        """Hashes of what else its branch changes in the files (see `Plan.replaces`)."""

    @property
    def changed(self) -> tuple[str, ...]:
        """What each of these changes, in words."""

    @property
    def environments(self) -> Mapping[str, int]:
        """How many of the changes, in their order, are in which of several environments; empty for one."""

    @property
    def traffic(self) -> Mapping[str, str]:
        """A hash of what it does by way of other policies, for each policy that it moves so."""


class Approval(NamedTuple):
    """What the merge of one pull request approved: the plan's digest (or `none`, or `applied`), and what it rests on.

    `source` is how people name the pull request. `prints` are the hashes of the plan's changes (see `Plan.prints`), none
    where the comment had no room for them, and `environments` how many of them are in which of several. `traffic` is what the
    plan does by way of other policies (see `Plan.traffic`), and `replaces` what else its branch changes in the files.
    `proposal` is what the plan was made for. Where nothing is approved although the comment has a digest, `why` is the reason.
    `end` is the commit with which it was merged, and `commit`, once it was applied, the last one whose settings were approved.
    `begun` is the commit whose apply began to write what is approved; from then on `shown` is when the comment was last changed
    before, and `finished` whether all of it was written. `known` is whether all that it changes is known.
    """

    digest: str
    source: str = ""
    overrides: tuple[Override, ...] = ()
    prints: tuple[str, ...] = ()
    traffic: Mapping[str, str] = {}
    proposal: Proposal | None = None
    terms: Terms | None = None
    why: str = ""
    end: str = ""
    commit: str = ""
    environments: Mapping[str, int] = {}
    begun: str = ""
    finished: bool = False
    shown: str = ""
    replaces: frozenset[str] = frozenset()
    known: bool = False

    @property
    def subjects(self) -> frozenset[str] | None:
        """What its plan changes, or its branch in the files, as hashes; None if that is not known."""
        return self.replaces.union(map(subject_of, self.prints)) if self.known else None

    def holds(self, commit: str) -> bool:
        """Whether it approves anything for a run of this commit: only the apply that began with it may go on with it, and once
        that has written all of it, what differs was changed since."""
        return self.digest not in (NONE, APPLIED) and self.begun in ("", commit) and not self.finished

    @property
    def moves_settings(self) -> bool:
        """Whether its merge changed the settings. What older ones show was planned under others, and may come to mean more."""
        terms = self.terms
        return terms is not None and (terms.before, terms.rules_before) != (terms.access, terms.rules)

    @property
    def parts(self) -> list[Approval]:
        """What it approves in each of several environments, else itself."""
        if sum(self.environments.values()) != len(self.prints):
            return [self]
        found, begin = [], 0
        for name, number in self.environments.items():
            traffic = {key: mark for key, mark in self.traffic.items() if key.endswith(f" in {name}")}
            found.append(self._replace(prints=self.prints[begin : begin + number], traffic=traffic, environments={}))
            begin += number
        return found or [self]


def held(approval: Approval, merged: Proposal, *, seen: bool) -> Approval:
    """The approval, if its plan was made for what was `merged` and `seen` then; otherwise one of nothing, with the reason. A
    plan that was made for something else does not show what was merged."""
    made = approval.proposal
    if made != merged:
        approval = approval._replace(known=False)
    if approval.digest in (NONE, APPLIED) or (made == merged and approval.terms is not None and seen):
        return approval
    if not seen:
        why = (
            "its comment was changed at the time of the merge or since (on GitLab a reaction to it counts as a change), so it "
            "is not known what was approved"
        )
    elif made is None or approval.terms is None:
        why = (
            "its comment does not name the commit and settings that the plan was made for: an older policyctl wrote it, or the "
            "settings that it shows are not all that change"
        )
    elif made.head != merged.head:
        why = f"its plan was made for commit {made.head[:12]}, and what was merged is {merged.head[:12] or 'not known'}"
    else:
        why = f"its plan was made for a merge into {made.into}, and it was merged into {merged.into or 'another branch'}"
    return approval._replace(digest=NONE, overrides=(), traffic={}, proposal=None, terms=None, why=why)


def all_shown(steps: Sequence[SettingsStep], approvals: Sequence[Approval], *, way_only: bool = False) -> bool:
    """Whether the plans of merged pull requests showed each change of the settings, or with `way_only` of how the remote is
    reached: exactly what it was before the merge, and what it is since.

    What a push brought is in no plan, or only in the base of one, and neither is what a push takes back. Several changes may
    come with one merge, but not if they cancel each other out.
    """
    shown = [(one.end, one.terms) for one in approvals if one.end and one.terms is not None]
    for end, group in groupby(steps, key=lambda one: one.end):
        states = [(one.before, one.after) for one in group]
        if not any(_shows(terms, states, way_only=way_only) for terms in [None, *(found for at, found in shown if at == end)]):
            return False
    return True


def _shows(terms: Terms | None, states: Sequence[tuple[SettingsMarks | None, SettingsMarks | None]], *, way_only: bool) -> bool:
    """Whether a plan shows these changes, which came with its merge; without terms, whether they need not be shown."""
    (first, _), (_, last) = states[0], states[-1]
    if first is None or last is None or (terms is None and any(None in one for one in states)):
        return False
    pairs = [(first.access, last.access, terms and (terms.before, terms.access))]
    pairs += [] if way_only else [(first.rules, last.rules, terms and (terms.rules_before, terms.rules))]
    for kind, (was, becomes, seen) in enumerate(pairs):
        stayed = {one[kind] for step in states for one in step if one is not None} == {was}  # in between none may be valid
        if not stayed and (was == becomes or seen != (was, becomes)):
            return False
    return True


def begun_at(approvals: Sequence[Approval], commit: str) -> bool:
    """Whether an apply of this commit began to write what approvals are for: then its settings are approved. They were shown,
    or a person who had read them began it."""
    return any(one.begun == commit for one in approvals)


def standing(approvals: Sequence[Approval], commit: str) -> list[Approval]:
    """What of merged approvals (the newest first) still counts for a run of this commit, a part for each environment.

    What a newer merge changes too, in its plan or in the files alone, is replaced for good, whatever became of that one: the
    plan of a way back is empty as long as nothing was applied. A merge of which it is not known what it changes replaces all
    that is older, and so does one that changes the settings. Each is used once: see `Approval.holds`.
    """
    found, replaced = list[Approval](), set[str]()
    for one in approvals:
        if one.holds(commit):
            for part in one.parts:
                kept = tuple(mark for mark in part.prints if subject_of(mark) not in replaced)
                found.append(part._replace(prints=kept, environments={}))
        if one.subjects is None or one.moves_settings:
            break
        replaced |= one.subjects
    return found


def overtaken(approvals: Sequence[Approval]) -> Sequence[Approval]:
    """Those that are older than the newest merge that changed the settings."""
    return approvals[next((number for number, one in enumerate(approvals, 1) if one.moves_settings), len(approvals)) :]


def newest(approvals: Sequence[Approval], commit: str) -> Approval | None:
    """The approval of the newest merge that changes anything, which nothing replaces; None if that approves nothing."""
    found = next((one for one in approvals if one.subjects is None or one.subjects or one.moves_settings), None)
    return found if found is not None and found.holds(commit) else None


def replaced(approvals: Sequence[Approval]) -> set[str]:
    """The sources of those approvals, the newest first, of which newer ones change everything too."""
    found, newer = set[str](), set[str]()
    for one in approvals:
        if one.subjects and one.subjects <= newer:
            found.add(one.source)
        newer |= one.subjects or set()
    return found


def waiting(approvals: Sequence[Approval], plan: Approvable) -> list[tuple[Approval, int]]:
    """The approvals with changes that the plan still has, and how many of them."""
    left = set(plan.prints)
    counted = [(one, len(left & set(one.prints))) for one in approvals]
    return [(one, number) for one, number in counted if number]


def adds_up(approvals: Sequence[Approval], plan: Approvable) -> bool:
    """Whether the plan is exactly the sum of what counts of approvals (see `standing`): each change was shown in one, and each
    of those is there whole, in every environment, has nothing left to do, or was begun, and this is what is left. So is what it
    does by way of other policies."""
    left, covered = set(plan.prints), set[str]()
    for _, parts in groupby(approvals, key=lambda one: one.source):
        together = list(parts)
        own = {mark for one in together for mark in one.prints}
        if own & left and not (own <= left or together[0].begun):
            return False
        covered |= own & left
    return covered == left and not moved_otherwise(approvals, plan)


def moved_otherwise(approvals: Sequence[Approval], plan: Approvable) -> list[str]:
    """The policies to which the plan does something else, by way of others, than those of its approved plans that have
    changes left. What one that was begun did already is not in the plan any more."""
    shown: dict[str, set[str | None]] = {}
    for one, _ in waiting(approvals, plan):
        for name, mark in one.traffic.items():
            if not one.begun or name in plan.traffic:
                shown.setdefault(name, set()).add(mark)
    names = sorted(shown.keys() | plan.traffic.keys())
    return [name for name in names if shown.get(name) != {plan.traffic.get(name)}]


def unapproved(approvals: Sequence[Approval], plan: Approvable) -> Iterator[str]:
    """The names of the policies with changes that none of these approvals has."""
    shown = {mark for one in approvals for mark in one.prints}
    return (name for name, mark in zip(plan.changed, plan.prints, strict=True) if mark not in shown)


def overrides_of(approvals: Sequence[Approval]) -> tuple[Override, ...]:
    """All overrides of these approvals, each once."""
    return tuple({override.text: override for one in approvals for override in one.overrides}.values())
