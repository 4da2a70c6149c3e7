"""What was merged and not applied yet, and whether this run is the one that may apply it."""

from __future__ import annotations

from itertools import islice

from policyctl.core.approval import APPLIED, Approval, held
from policyctl.load.kinds import CONFIG_FILE
from policyctl.remote.forge import Forge, Merge, NotAllowed, Post
from policyctl.report.posts import approval_in, is_in

_LOOKED = 50  # pull requests that are looked at, from the newest back


def waiting_merges(forge: Forge, environment: str, directory: str) -> tuple[list[tuple[Merge, list[Post]]], Approval | None]:
    """The merged pull requests with a plan of ours that was not applied yet, and our comments; the newest first. Then what
    the last one that was applied says, to which it looks back: what is older was applied with it or before it.
    """
    found: list[tuple[Merge, list[Post]]] = []
    for merge in islice(forge.merges(forge.branch), _LOOKED) if forge.branch else ():
        ours = [one for one in forge.comments_on(merge) if is_in(one.body, environment, directory)]
        approval = approval_in([one.body for one in ours], environment, directory)
        if approval is not None and approval.digest == APPLIED:
            return found, approval
        if ours:
            found.append((merge, ours))
    return found, None


def approvals_of(forge: Forge, environment: str, directory: str) -> tuple[list[Approval], Approval | None]:
    """What those pull requests approve, the newest first: nothing where the plan was not made for what was merged. Then the
    last one that was applied."""
    found, applied = waiting_merges(forge, environment, directory)
    made = [(approval_in([one.body for one in ours], environment, directory, merge.name), merge) for merge, ours in found]
    return [held(one, merge.what) for one, merge in made if one is not None], applied


def why_not_head(forge: Forge, directory: str) -> str | None:
    """Why an approval does not count for the commit that is checked out; None where the branch is still at it, or at a later
    commit that changes nothing of the directory.

    To be asked after `waiting_merges`: then all of those are in this commit.
    """
    if forge.branch is None:
        return "this run is not for a branch, so nothing is approved for it; start it by hand with the plan's digest"
    try:
        head = forge.head(forge.branch)
    except NotAllowed as error:
        return (
            f"it cannot be told whether {forge.branch} is still at this commit, so nothing is approved for it ({error}); "
            "start this by hand with the plan's digest"
        )
    if head and (head == forge.commit or _is_the_same_for(directory, forge, head)):
        return None
    return (
        f"{forge.branch} has moved on to {head[:12] or 'another commit'}, and this run is for {forge.commit[:12]}: nothing is "
        f"approved for an older commit. The run for the newest one applies what is merged; to apply this all the same, "
        "start it by hand with the plan's digest"
    )


def _is_the_same_for(directory: str, forge: Forge, head: str) -> bool:
    """Whether nothing of the directory changed up to a later commit."""
    try:
        changed = forge.changed(head)
    except NotAllowed:
        return False
    return changed is not None and not any(_concerns(name, directory) for name in changed)


def _concerns(file: str, directory: str) -> bool:
    """Whether a file, by its path from the repository's top, may decide what a plan of the directory is."""
    return directory == "." or file.startswith(f"{directory}/") or file.rpartition("/")[2] == CONFIG_FILE
