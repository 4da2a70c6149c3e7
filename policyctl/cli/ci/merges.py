"""What merged pull requests approve at the head of their branch, and that an apply uses it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import islice, takewhile
from pathlib import Path
from threading import Lock
from typing import TYPE_CHECKING, NamedTuple

from policyctl.ci import service_or_why
from policyctl.ci.comments import approval_in, begun, ends_of, finished, is_in, not_begun
from policyctl.ci.forge import Comment, Forge, Merge, NotAllowed, moment_in
from policyctl.errors import PolicyctlError, RemoteError, StalePlan
from policyctl.load.kinds import CONFIG_FILE
from policyctl.plan.approval import (
    APPLIED,
    NONE,
    Approvable,
    Approval,
    SettingsMarks,
    all_shown,
    held,
    moved_otherwise,
    overtaken,
    unapproved,
    waiting,
)
from policyctl.report.format import count

if TYPE_CHECKING:
    from policyctl.load.environment import EnvironmentFilter
    from policyctl.load.history import Lineage
    from policyctl.load.past import SettingsHistory

REPLACED = "Replaced by what was merged later."
_ENDED = {True: "wrote all of it", False: "did not finish"}
_NAMED = 5  # policies in a message
_BY_RUN = "Used by [this run]({link}), which applies it at {commit}."
BY_WATCH = "Used by policyctl watch, which applies it at {commit}."
LOOKED = 100  # merged pull requests that are read, from the newest back


HIDDEN = "no comment shows what it changes"
_LATER = "it was merged after the commit that is checked out"
_TWIN = "another pull request of the same commit was merged, so it is not known which of them was read"
_OFF_LINE = "the branch was fast-forwarded to one that had taken in this merge, so it is not known what became of it there"
_CAME_ALONG = "its commit came into the branch with another merge or a push; it was not merged for itself"


class Merged(NamedTuple):
    """A merged pull request, and our comments on it about one environment, or one selection of several, and directory."""

    merge: Merge
    ours: list[Comment]


def waiting_merges(forge: Forge, environment: str, directory: str) -> tuple[list[Merged], Approval | None]:
    """The merged pull requests back to the last one that was applied, the newest first: everything older was applied with it or
    before it. That one is the last of them, here without comments, and its approval comes beside them. What is older than all
    that are read counts as applied too, without a note of which settings were approved; None if there is nothing older."""
    return _waiting(((merge, forge.comments_on(merge)) for merge in _newest(forge)), environment, directory)


def _newest(forge: Forge) -> Iterator[Merge]:
    return islice(forge.merges(forge.branch), LOOKED) if forge.branch else iter(())


def _waiting(
    merges: Iterable[tuple[Merge, list[Comment]]], environment: str, directory: str
) -> tuple[list[Merged], Approval | None]:
    found: list[Merged] = []
    for number, (merge, comments) in enumerate(merges, 1):
        ours = [one for one in comments if is_in(one.body, environment, directory)]
        approval = approval_in([one.body for one in ours], environment, directory, merge.name)
        if approval is not None and approval.digest == APPLIED:
            return [*found, Merged(merge, [])], approval
        found.append(Merged(merge, ours))
        if number == LOOKED:
            return found, Approval(APPLIED)
    return found, None


class SharedMerges:
    """The newest merged pull requests, and of our comments on each what shows whether its plan was applied: read once, for any
    number of environments. For several threads."""

    def __init__(self, forge: Forge, began: float, before: SharedMerges | None = None) -> None:
        """`began` is a time directly before this. What the reading `before` this one and the one before that found without a
        comment of ours is not asked again: one that is written so late approves nothing."""
        self.began, self._merges = began, [*_newest(forge)]
        self._bare: set[str] = set() if before is None else before._without()
        known: set[str] = set() if before is None else self._bare & before._bare
        self._comments: dict[str, list[Comment]] = {one.name: [] for one in self._merges if one.name in known}
        self._lock = Lock()

    def _without(self) -> set[str]:
        """The merged pull requests that were found without a comment of ours."""
        with self._lock:
            return {name for name, ours in self._comments.items() if not ours}

    def wait(self, forge: Forge, environment: str, directory: str) -> tuple[bool, Approval | None]:
        """Whether any of them has a plan of an environment that was not applied yet, and the last one that was applied."""
        read = ((merge, self._comments_on(forge, merge, directory)) for merge in self._merges)
        found, applied = _waiting(read, environment, directory)
        return any(one.ours for one in found), applied

    def _comments_on(self, forge: Forge, merge: Merge, directory: str) -> list[Comment]:
        with self._lock:
            if merge.name not in self._comments:
                found = [one for one in forge.comments_on(merge) if is_in(one.body, None, directory)]
                self._comments[merge.name] = [one._replace(body=ends_of(one.body)) for one in found]  # pages are long
            return self._comments[merge.name]


class ApprovalPlace(NamedTuple):
    """What approvals are for: an environment, or a selection of several; the directory, by its path from the repository's top;
    that top; and the files that its configuration refers to."""

    environment: str
    directory: str
    top: Path | None
    referred: Collection[str]


def approvals_of(forge: Forge, place: ApprovalPlace) -> tuple[list[Approval], Approval | None]:
    """What the merged pull requests approve that wait, the newest first, and the last one that was applied."""
    found, applied = waiting_merges(forge, place.environment, place.directory)
    return approvals_in(forge, found, place), applied


def approvals_in(forge: Forge, found: Sequence[Merged], place: ApprovalPlace) -> list[Approval]:
    """What merged pull requests approve: nothing if the plan was not made for what was merged, or not seen then. One without a
    comment counts only as one of which it is not known what it changes, and only if it changed a file that policies come from
    and there is something older, which it replaces."""
    from policyctl.load.history import lineage_at  # imports subprocess

    approvals, hidden = list[Approval](), list[Merged]()
    if not found:  # there may be no commit yet
        return approvals
    lineage = lineage_at(place.top)
    for one in _as_in_branch(found, lineage):
        if _is_off_line(one, found, place, lineage):
            approvals += _off_line(forge, one, place)
            continue
        if not one.ours:
            hidden.append(one)
            continue
        newer, hidden = hidden, []
        if all(approval.subjects is not None for approval in approvals):
            unknown = (two.merge for two in newer if not _why_not(two, found, place) and _changes(forge, two.merge, place))
            approvals += [Approval(NONE, merge.name, why=HIDDEN) for merge in islice(unknown, 1)]
        approval = approval_in([one.ours[-1].body], place.environment, place.directory, one.merge.name)
        if approval is None:
            continue
        if why := _why_not(one, found, place):
            along = Approval(NONE, one.merge.name, why=why, known=True)
            approvals.append(along._replace(begun=approval.begun, finished=approval.finished))
        else:
            seen = _is_seen(approval, one.merge, one.ours[-1])
            approval = held(approval._replace(end=one.merge.end), one.merge.what, seen=seen)
            why = _LATER if _is_later(forge, one.merge, lineage) else _TWIN if _has_twin(one, found) else ""
            approvals.append(_only_replacing(approval, why) if why else approval)
    return approvals


def _is_off_line(one: Merged, found: Sequence[Merged], place: ApprovalPlace, lineage: Lineage) -> bool:
    """Whether a merge that is not in the line of the branch is in its history, and came there by no merge of the service's."""
    from policyctl.load.history import arrival  # imports subprocess

    if one.merge.end in lineage.line or one.merge.end not in lineage.places:
        return False
    with suppress(PolicyctlError):
        step, *parents = arrival(place.top, one.merge.end, one.merge.end).step or ("",)
        return all(two.merge.end != step or two.merge.what.head not in parents[1:] for two in found)
    return True


def _off_line(forge: Forge, one: Merged, place: ApprovalPlace) -> list[Approval]:
    """What counts of a merge that is in the history of the branch and not in its line: that it is not known what became of what
    it changed, if that may be anything here."""
    if not (one.ours or _changes(forge, one.merge, place)):
        return []
    shown = approval_in([two.body for two in one.ours[-1:]], place.environment, place.directory) or Approval(NONE)
    return [Approval(NONE, one.merge.name, why=_OFF_LINE, begun=shown.begun, finished=shown.finished)]


def _only_replacing(approval: Approval, why: str) -> Approval:
    """What approves and shows nothing, but replaces what is older as before: all of that if it changed the settings."""
    return approval._replace(digest=NONE, why=why, terms=None, known=approval.known and not approval.moves_settings)


def _has_twin(one: Merged, found: Sequence[Merged]) -> bool:
    """Whether another pull request of the same commit was merged, which everyone may open who can read it."""
    return any(two.merge.number != one.merge.number and two.merge.what.head == one.merge.what.head for two in found)


def _as_in_branch(found: Sequence[Merged], lineage: Lineage) -> list[Merged]:
    """Merges in the order of the branch, the newest first: a queue merges several at once, and the service notes each in its
    own time. What is not in the branch comes first: it was merged later."""
    return sorted(found, key=lambda one: lineage.places.get(one.merge.end, -1))


def _is_later(forge: Forge, merge: Merge, lineage: Lineage) -> bool:
    """Whether the checked-out commit is older than a merge. How that came about is not known there."""
    return merge.end != forge.commit and merge.end not in lineage.places


def settings_shown(
    history: SettingsHistory | None,
    about: str | EnvironmentFilter,
    now: SettingsMarks,
    since: Iterable[str | None],
    approvals: Sequence[Approval],
    *,
    way_only: bool = False,
) -> bool:
    """Whether the plans of merged pull requests showed each change of the settings, up to those of `now`, from one of the
    commits `since`, whose settings were approved; see `SettingsHistory.steps` and `all_shown`. What is older than one of which
    it is not known what it changes shows nothing: it may have come along with that one."""
    if history is None:
        return False
    approvals = [*takewhile(lambda one: one.subjects is not None, approvals)]
    ends = {one.end for one in approvals}
    for commit in since:
        with suppress(PolicyctlError):
            if all_shown(history.steps(about, now, commit, ends), approvals, way_only=way_only):
                return True
    return False


def _changes(forge: Forge, merge: Merge, place: ApprovalPlace) -> bool:
    """Whether a pull request changed a file of the directory, or one that its configuration refers to, or may have."""
    try:
        files = forge.files(merge)
    except NotAllowed:
        return True
    return files is None or may_matter(files, place.directory, place.referred)


def _why_not(one: Merged, found: Sequence[Merged], place: ApprovalPlace) -> str:
    """Why a pull request was not merged for itself; empty if it was. What it changes then belongs to what it came along with.

    A service marks each pull request as merged whose commit is in the branch, however that came there, and whatever the rules
    for merging it are. So the step of the branch that brought the commit must be the merge of just that commit. Without merge
    commits no other pull request that contains it may have been merged until then. What was squashed or rebased is in no
    branch."""
    from policyctl.load.history import arrival  # imports subprocess

    try:
        came = arrival(place.top, one.merge.what.head, one.merge.end)
    except PolicyctlError as error:
        return str(error)
    others = (
        other.merge for other in found if other.merge.what.head in came.since and other.merge.what.head != one.merge.what.head
    )
    along = any(other.when is None or one.merge.when is None or other.when <= one.merge.when for other in others)
    return _CAME_ALONG if along or not came.alone else ""


def _is_seen(approval: Approval, merge: Merge, comment: Comment) -> bool:
    """Whether a comment already had its plan when the pull request was merged, by the clock of the service: a run that begins
    before the merge may end after it. What `begin` notes keeps the time."""
    shown = moment_in(approval._asdict(), "shown") or comment.changed
    return shown is not None and merge.when is not None and shown < merge.when


def begin(forge: Forge, environment: str, directory: str, uses: Collection[str], sentence: str) -> None:
    """Note on merged pull requests, by their names, that an apply of the checked-out commit begins to write what they approve,
    or what a person approved although they do not.

    Call it directly before the first write: from then on they approve nothing for any other commit, wherever this apply ends.
    Raises StalePlan if one of them was used by another run meanwhile, and RemoteError if it cannot be noted on each of them;
    then what was noted on the others is taken back.
    """
    found = {merge.name: ours[-1] for merge, ours in waiting_merges(forge, environment, directory)[0] if ours}
    read = {name: approval_in([one.body], environment, directory, name) for name, one in found.items()}
    noted = dict[str, str]()
    try:
        for name in uses:
            approval = read.get(name)
            if approval is None or not (approval.holds(forge.commit) or approval.digest == NONE):
                raise StalePlan(f"another run used the approval of pull request {name} meanwhile; nothing more is written")
            if approval.begun != forge.commit:
                noted[name] = begun(found[name].body, sentence, forge.commit, found[name].changed)
                forge.rewrite(found[name], noted[name])
    except PolicyctlError:
        for name, body in noted.items():  # the last one too: its answer may have been lost
            with suppress(PolicyctlError):
                forge.rewrite(found[name], not_begun(body, sentence))
        raise


class NotHead(NamedTuple):
    """Why approvals do not count for the checked-out commit, and whether what a person gives by hand does not `either`."""

    why: str
    either: bool = False


def why_not_head(forge: Forge, directory: str, referred: Collection[str] = (), *, by_hand: bool = False) -> NotHead | None:
    """Why approvals do not count for the checked-out commit; None when it is the head of the branch, or when later commits
    together change nothing in the directory, and none of the files that are `referred` to (paths from the repository's top).
    What a person gives `by_hand` counts at the very head, in the first attempt of a run: the files may become again what they
    were, and others may start the run again.

    Call it after `waiting_merges`: then all of those are in this commit. See manual/architecture.md, safety rule 12.
    """
    if by_hand and forge.again:
        return NotHead("what a person gives by hand counts once, and this run was started again; start a new one", either=True)
    if forge.branch is None:
        return NotHead("this run is not for a branch, so nothing is approved for it; start it by hand with the plan's digest")
    try:
        head = forge.head(forge.branch)
    except NotAllowed as error:
        return NotHead(
            f"cannot read whether {forge.branch} is still at this commit, so nothing is approved for it ({error}); "
            "give the token the permission to read the repository",
            either=True,
        )
    if head and (head == forge.commit or (not by_hand and _is_the_same_for(directory, referred, forge, head))):
        return None
    return NotHead(
        f"{forge.branch} has moved on to {head[:12] or 'another commit'}, and this run is for {forge.commit[:12]}: nothing is "
        "approved for an older commit. The run for the newest one applies what is merged, or what a person starts it with",
        either=True,
    )


def why_behind(forge: Forge, directory: str, referred: Collection[str], into: str) -> str:
    """Why a plan may show as taken back what the target branch has and the checkout lacks; empty if it lacks nothing that
    matters, and where that may not be read."""
    try:
        files = forge.lacks(into)
    except NotAllowed:
        return ""
    if files is not None and not may_matter(files, directory, referred):
        return ""
    return f"{into} has moved on since the branch left it, or since this run was started first; update the branch"


def _is_the_same_for(directory: str, referred: Collection[str], forge: Forge, head: str) -> bool:
    """Whether nothing in the directory, and none of these files, changed up to a later commit."""
    try:
        changed = forge.changed(head)
    except NotAllowed:
        return False
    return changed is not None and not may_matter(changed, directory, referred)


def may_matter(files: Iterable[str], directory: str, referred: Collection[str]) -> bool:
    """Whether one of these files, by their paths from the repository's top, may affect a plan of the directory."""
    return any(
        directory == "." or file in referred or file.startswith(f"{directory}/") or file.rpartition("/")[2] == CONFIG_FILE
        for file in files
    )


def difference(found: Sequence[Approval], parts: Sequence[Approval], commit: str, plan: Approvable) -> str:
    """Which merged pull requests are not applied yet, what counts of them, and what else is in the plan."""
    numbers = Counter[str]()
    for one, number in reversed(waiting(parts, plan)):
        numbers[one.source] += number
    rows = [f"pull request {source} ({count(number, 'change')})" for source, number in numbers.items()]
    rows += [
        f"pull request {one.source} (used by an apply of commit {one.begun[:12]}, which {_ENDED[one.finished]})"
        for one in reversed(found)
        if one.finished or one.begun not in ("", commit)
    ]
    rows += [
        f"pull request {one.source} (approved no plan{f': {one.why}' if one.why else ''})"
        for one in reversed(found)
        if one.digest == NONE
    ]
    older = reversed(overtaken(found))
    rows += [f"pull request {one.source} (a later one changed the settings)" for one in older if one.holds(commit)]
    waits = f"merged and not applied yet: {', '.join(rows)}" if rows else "no merged pull request waits that shows any of this"
    if names := list(unapproved(parts, plan)):
        return f"{waits}; no approved plan showed the change of {_named(names)}"
    if names := moved_otherwise(parts, plan):
        return f"{waits}; together they do to the traffic of {_named(names)} what none of their plans showed"
    return f"{waits}; the plan is not the sum of theirs"


def _named(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{', '.join(names[:_NAMED])}{more}"


def note_use(
    environ: Mapping[str, str] | str, environment: str, directory: str, uses: Collection[str], sentence: str = _BY_RUN
) -> None:
    """Do what `begin` does, if there are any `uses`, with the service of these variables, or there are none for a reason.
    Raises PolicyctlError if that cannot be done: then nothing must be written."""
    if not uses:
        return
    with service_or_why(environ) as forge:
        if isinstance(forge, str):
            raise PolicyctlError(f"it cannot be noted that an approval is used: {forge}")
        try:
            begin(forge, environment, directory, uses, sentence.format(link=forge.link, commit=forge.commit[:12]))
        except RemoteError as error:
            raise PolicyctlError(f"it cannot be noted that an approval is used: {error}") from None


def note_finished_use(environ: Mapping[str, str], environment: str, directory: str, uses: Collection[str]) -> None:
    """Note that everything was written that approvals were used for. Raises PolicyctlError if that cannot be done."""
    with service_or_why(environ) as forge:
        if isinstance(forge, str):
            raise PolicyctlError(forge)
        for merge, ours in waiting_merges(forge, environment, directory)[0]:
            if ours and merge.name in uses:
                forge.rewrite(ours[-1], finished(ours[-1].body))
