"""What merged pull requests approve at the head of their branch, and that an apply uses it."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from threading import Lock

from policyctl.ci import open_forge
from policyctl.ci.comments import approval_in, begun, ends_of, is_in, not_begun
from policyctl.ci.forge import Comment, Forge, Merge, NotAllowed, moment_in
from policyctl.cli.github_actions import repository_path
from policyctl.errors import PolicyctlError, StalePlan
from policyctl.load.kinds import CONFIG_FILE
from policyctl.plan.approval import APPLIED, Approval, held

_LOOKED = 100  # merged pull requests that are read, from the newest back


def waiting_merges(forge: Forge, environment: str, directory: str) -> tuple[list[tuple[Merge, list[Comment]]], Approval | None]:
    """The merged pull requests whose plan was not applied yet, with our comments, the newest first; and the approval of the
    last one that was applied, where the search ends: everything older was applied with it or before it. What is older than all
    that are read counts as applied too, though nothing is known of it; None if there is nothing older."""
    return _waiting(((merge, forge.comments_on(merge)) for merge in _newest(forge)), environment, directory)


def _newest(forge: Forge) -> Iterator[Merge]:
    return islice(forge.merges(forge.branch), _LOOKED) if forge.branch else iter(())


def _waiting(
    merges: Iterable[tuple[Merge, list[Comment]]], environment: str, directory: str
) -> tuple[list[tuple[Merge, list[Comment]]], Approval | None]:
    found: list[tuple[Merge, list[Comment]]] = []
    for number, (merge, comments) in enumerate(merges, 1):
        ours = [one for one in comments if is_in(one.body, environment, directory)]
        approval = approval_in([one.body for one in ours], environment, directory)
        if approval is not None and approval.digest == APPLIED:
            return found, approval
        if ours:
            found.append((merge, ours))
        if number == _LOOKED:
            return found, Approval(APPLIED)
    return found, None


class SharedMerges:
    """The newest merged pull requests, and of our comments on each what shows whether its plan was applied: read once, for any
    number of environments. For several threads."""

    def __init__(self, forge: Forge, began: float) -> None:
        """`began` is a time directly before this."""
        self.began, self._merges = began, [*_newest(forge)]
        self._comments: dict[str, list[Comment]] = {}
        self._lock = Lock()

    def wait(self, forge: Forge, environment: str, directory: str) -> tuple[bool, Approval | None]:
        """Whether any of them has a plan of an environment that was not applied yet, and the last one that was applied."""
        read = ((merge, self._comments_on(forge, merge)) for merge in self._merges)
        found, applied = _waiting(read, environment, directory)
        return bool(found), applied

    def _comments_on(self, forge: Forge, merge: Merge) -> list[Comment]:
        with self._lock:
            if merge.name not in self._comments:
                found = forge.comments_on(merge)
                self._comments[merge.name] = [one._replace(body=ends_of(one.body)) for one in found]  # pages are long
            return self._comments[merge.name]


def approvals_of(forge: Forge, environment: str, directory: str) -> tuple[list[Approval], Approval | None]:
    """What those pull requests approve, the newest first, and the last one that was applied."""
    found, applied = waiting_merges(forge, environment, directory)
    return approvals_in(found, environment, directory), applied


def approvals_in(found: Sequence[tuple[Merge, list[Comment]]], environment: str, directory: str) -> list[Approval]:
    """What merged pull requests approve: nothing if the plan was not made for what was merged, or not seen then."""
    made = [(approval_in([ours[-1].body], environment, directory, merge.name), merge, ours[-1]) for merge, ours in found]
    return [held(one, merge.what, seen=_is_seen(one, merge, ours)) for one, merge, ours in made if one is not None]


def _is_seen(approval: Approval, merge: Merge, comment: Comment) -> bool:
    """Whether a comment already had its plan when the pull request was merged, by the clock of the service: a run that begins
    before the merge may end after it. What `begin` notes keeps the time."""
    shown = moment_in(approval._asdict(), "shown") or comment.changed
    return shown is not None and merge.when is not None and shown < merge.when


def begin(forge: Forge, environment: str, directory: str, uses: Collection[str], sentence: str) -> None:
    """Note on merged pull requests, by their names, that an apply of the checked-out commit begins to write what they approve.

    Call it before the first write: from then on they approve nothing for any other commit, wherever this apply ends. Raises
    StalePlan if one of them was used by another run meanwhile, and RemoteError if it cannot be noted.
    """
    found = {merge.name: ours[-1] for merge, ours in waiting_merges(forge, environment, directory)[0]}
    read = {name: approval_in([one.body], environment, directory, name) for name, one in found.items()}
    for name in uses:
        approval = read.get(name)
        if approval is None or not approval.holds(forge.commit):
            raise StalePlan(f"another run used the approval of pull request {name} meanwhile; nothing more is written")
        if not approval.begun:
            forge.rewrite(found[name], begun(found[name].body, sentence, forge.commit, found[name].changed))


def give_back(forge: Forge, environment: str, directory: str, uses: Collection[str], sentence: str) -> None:
    """Note on these pull requests that an apply, noted with a `sentence`, did not begin: they approve what they did."""
    for merge, ours in waiting_merges(forge, environment, directory)[0]:
        if merge.name in uses:
            forge.rewrite(ours[-1], not_begun(ours[-1].body, sentence))


def why_not_head(forge: Forge, directory: str, referred: Collection[str] = ()) -> str | None:
    """Why approvals do not count for the checked-out commit; None when it is the head of the branch, or when later commits
    change nothing in the directory, and none of the files that are `referred` to (paths from the repository's top).

    Call it after `waiting_merges`: then all of those are in this commit. See manual/architecture.md, safety rule 12.
    """
    if forge.branch is None:
        return "this run is not for a branch, so nothing is approved for it; start it by hand with the plan's digest"
    try:
        head = forge.head(forge.branch)
    except NotAllowed as error:
        return (
            f"cannot read whether {forge.branch} is still at this commit, so nothing is approved for it ({error}); "
            "start this by hand with the plan's digest"
        )
    if head and (head == forge.commit or _is_the_same_for(directory, referred, forge, head)):
        return None
    return (
        f"{forge.branch} has moved on to {head[:12] or 'another commit'}, and this run is for {forge.commit[:12]}: nothing is "
        f"approved for an older commit. The run for the newest one applies what is merged; to apply this all the same, "
        "start it by hand with the plan's digest"
    )


def _is_the_same_for(directory: str, referred: Collection[str], forge: Forge, head: str) -> bool:
    """Whether nothing in the directory, and none of these files, changed up to a later commit."""
    try:
        changed = forge.changed(head)
    except NotAllowed:
        return False
    return changed is not None and not any(name in referred or _concerns(name, directory) for name in changed)


def _concerns(file: str, directory: str) -> bool:
    """Whether a file, by its path from the repository's top, may affect a plan of the directory."""
    return directory == "." or file.startswith(f"{directory}/") or file.rpartition("/")[2] == CONFIG_FILE


class ApprovalUse:
    """Notes, directly before the first write of an apply, that this uses the approvals that `ci approved` named. For several
    threads."""

    def __init__(self, directory: Path, uses: Sequence[str]) -> None:
        """`uses` has what the comments are for, an environment or several, and the names of the pull requests."""
        self._directory, (self._environment, *self._uses) = directory, uses
        self._lock, self._failed = Lock(), PolicyctlError("")

    def __call__(self) -> None:
        """Call it before each write. Raises PolicyctlError if it cannot be noted: then nothing must be written."""
        with self._lock:
            if str(self._failed):
                raise self._failed
            if not self._uses:
                return
            try:
                self._note()
            except PolicyctlError as error:
                self._failed = error
                raise
            self._uses = []

    def _note(self) -> None:
        with open_forge(os.environ) as forge:
            if forge is None:
                raise PolicyctlError("without a token it cannot be noted that an approval is used; give it to this step too")
            sentence = f"Used by [this run]({forge.link}), which applies it at {forge.commit[:12]}."
            try:
                begin(forge, self._environment, repository_path(str(self._directory)), self._uses, sentence)
            except NotAllowed as error:
                raise PolicyctlError(f"it cannot be noted that an approval is used: {error}") from None
