"""Whether a merged pull request approved the plan of an environment that is watched, outside a workflow."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from policyctl.ci import open_forge
from policyctl.ci.comments import applied
from policyctl.cli.ci.approved import approvals_of, waiting_merges, why_not_head
from policyctl.errors import PolicyctlError, RemoteError
from policyctl.plan.approval import Approval, adds_up

if TYPE_CHECKING:
    from policyctl.ci.forge import Forge
    from policyctl.cli.watch_source import Opened
    from policyctl.plan.plan import Plan

_WHOSE = "an approval"


class UsedApprovals:
    """What approved the plans that a watch applies, and what could not be noted as used yet. Several threads may use it, each
    for environments of its own."""

    def __init__(self) -> None:
        self._approved: dict[str, frozenset[str]] = {}  # by environment, what approved the plan that is applied
        self._unnoted: dict[str, tuple[frozenset[str], str]] = {}  # what of it could not be noted, and why
        self._owing: set[str] = set()  # environments that are in sync by other means, which could not be noted

    def unapproved(self, opened: Opened, name: str, plan: Plan) -> str | None:
        """Why a plan is not approved, as what it waits for; None if it is. Raises RemoteError."""
        if (left := self._unnoted.get(name)) is not None:
            self._note(opened, name, left[0])
        if (left := self._unnoted.get(name)) is not None:
            return f"{_WHOSE}: it cannot be noted that the last one was used: {left[1]}"
        found = approving(opened, name, plan)
        if isinstance(found, str):
            return found
        self._approved[name] = found
        return None

    def owes(self, name: str) -> bool:
        """Whether something could not be noted yet."""
        return name in self._owing or name in self._unnoted

    def use_up(self, opened: Opened, name: str) -> bool:
        """Note that an environment has what was approved. Returns whether the settings of now were approved with it."""
        approved, left = self._approved.pop(name, None), self._unnoted.get(name)
        return self._note(opened, name, approved if left is None else left[0] | (approved or frozenset()))

    def _note(self, opened: Opened, name: str, sources: frozenset[str] | None) -> bool:
        try:
            released = use_up(opened, name, sources)
        except PolicyctlError as error:
            if sources is None:
                self._owing.add(name)
            else:
                self._unnoted[name] = sources, str(error)
            return False
        self._unnoted.pop(name, None)
        self._owing.discard(name)
        return released


def approving(opened: Opened, name: str, plan: Plan) -> frozenset[str] | str:
    """The merged pull requests that wait to be applied, if they approved this plan of an environment, else why they did not, as
    what it waits for.

    An approval counts if the plan's digest, or the sum of several, is that of now, and so are the safety settings and the way
    to the remote. Raises RemoteError when the service cannot be asked.
    """
    with _forge(opened) as forge:
        if isinstance(forge, str):
            return f"{_WHOSE}, which cannot be read: {forge}"
        found, _ = approvals_of(forge, name, opened.place)
        if why := why_not_head(forge, opened.place, opened.referred):
            return f"{_WHOSE}: {why}"
    valid = [one for one in found if _is_for(one, opened, name)]
    if any(one.digest == plan.digest for one in valid) or (valid and adds_up(valid, plan)):
        return frozenset(one.source for one in found)
    merged = f"of {', '.join(one.source for one in found)}" if found else "of a pull request"
    return f"{_WHOSE}: no merged plan {merged} is this one ({plan.digest}); policyctl apply by hand, or a new pull request"


def unapproved_access(opened: Opened, name: str, access: str) -> str | None:
    """Why no merged pull request that waits to be applied approved this way to the remote of an environment (see `access_at`);
    None if one did. Raises RemoteError when the service cannot be asked."""
    with _forge(opened) as forge:
        if isinstance(forge, str):
            return f"no approval can be read: {forge}"
        found, last = approvals_of(forge, name, opened.place)
        if why := why_not_head(forge, opened.place, opened.referred):
            return why
    shown = {one.terms.access for one in found if one.terms is not None} | ({last.access} if last is not None else set())
    return None if access in shown else "no merged pull request shows it; read it, then start the watch with another --state"


def use_up(opened: Opened, name: str, sources: frozenset[str] | None) -> bool:
    """Note on merged pull requests that their plans for an environment were applied: an approval is used once. `sources` are
    those that approved what was applied; None is all that wait, if the newest commit of the branch has nothing else.

    Returns whether one of them approved the settings of now. Raises PolicyctlError unless all of this was noted.
    """
    with _forge(opened) as forge:
        if isinstance(forge, str):
            raise RemoteError(forge)
        waiting, _ = waiting_merges(forge, name, opened.place)
        if sources is None and (why := why_not_head(forge, opened.place, opened.referred)):
            raise RemoteError(why)
        chosen = [(merge, comments) for merge, comments in waiting if sources is None or merge.name in sources]
        found, _ = approvals_of(forge, name, opened.place) if chosen else ([], None)
        names = {merge.name for merge, _ in chosen}
        for _, comments in chosen:
            for one in comments:
                forge.rewrite(one, applied(one.body, "policyctl watch", opened.access(name)))
        return any(_is_for(one, opened, name) for one in found if one.source in names)


def _is_for(approval: Approval, opened: Opened, name: str) -> bool:
    """Whether an approval shows the safety settings of now, and the way to the remote."""
    rules, access = opened.fleet.config.environments[name].rules, opened.access(name)
    return approval.terms is not None and (approval.terms.rules, approval.terms.access) == (rules, access)


@contextmanager
def _forge(opened: Opened) -> Iterator[Forge | str]:
    """The service that has the approvals, or why it cannot be asked."""
    environ = environment_of(opened, os.environ)
    if isinstance(environ, str):
        yield environ
        return
    with open_forge(environ) as forge:
        yield "there is no token" if forge is None else forge


def environment_of(opened: Opened, environ: Mapping[str, str]) -> dict[str, str] | str:
    """The variables that a CI service would set for the commit that is watched, or which one is missing."""
    if opened.commit is None or not opened.branch:
        return "the source is not a branch of a git repository"
    found = service_of(environ)
    if isinstance(found, str):
        return found
    if "GITHUB_ACTIONS" in found:
        return found | {"GITHUB_SHA": opened.commit, "GITHUB_REF": f"refs/heads/{opened.branch}"}
    return found | {"CI_COMMIT_SHA": opened.commit, "CI_COMMIT_BRANCH": opened.branch}


def service_of(environ: Mapping[str, str]) -> dict[str, str] | str:
    """The variables by which a watch, outside a workflow, asks the service that a token is for, or which one is missing."""
    events = ("CI_MERGE_REQUEST_", "GITHUB_EVENT_", "GITHUB_ACTIONS", "GITLAB_CI")
    plain = {key: one for key, one in environ.items() if not key.startswith(events)}
    if environ.get("GITHUB_TOKEN"):
        return plain | {"GITHUB_ACTIONS": "true"} if environ.get("GITHUB_REPOSITORY") else "set GITHUB_REPOSITORY (owner/name)"
    if environ.get("GITLAB_TOKEN"):
        return plain | {"GITLAB_CI": "true"} if environ.get("CI_PROJECT_ID") else "set CI_PROJECT_ID"
    return "set GITHUB_TOKEN and GITHUB_REPOSITORY, or GITLAB_TOKEN and CI_PROJECT_ID"
