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
    """The approvals that a watch takes. Each is noted on its pull request as used before anything is applied, so none counts
    twice, wherever the process ends; this process goes on with what it took until the environment is in sync. Several threads
    may use it, each for environments of its own."""

    def __init__(self) -> None:
        self._taken: dict[str, tuple[Approval, ...]] = {}  # by environment
        self._owing: set[str] = set()  # environments that are in sync by other means, which could not be noted

    def unapproved(self, opened: Opened, name: str, plan: Plan) -> str | None:
        """Why no merged pull request approved this plan of an environment, as what it waits for; None if one did, which is
        used then.

        An approval counts if the plan's digest, or the sum of several, is that of now, and so are the safety settings and the
        way to the remote. Raises PolicyctlError when the service cannot be asked, or what was used cannot be noted.
        """
        with _forge(opened) as forge:
            if isinstance(forge, str):
                return f"{_WHOSE}, which cannot be read: {forge}"
            found, _ = approvals_of(forge, name, opened.place)
            if why := why_not_head(forge, opened.place, opened.referred):
                return f"{_WHOSE}: {why}"
            valid = [one for one in (*self._taken.get(name, ()), *found) if _is_for(one, opened, name)]
            if not (any(one.digest == plan.digest for one in valid) or (valid and adds_up(valid, plan))):
                merged = f"of {', '.join(one.source for one in found)}" if found else "of a pull request"
                why = f"no merged plan {merged} is this one ({plan.digest})"
                return f"{_WHOSE}: {why}; policyctl apply by hand, or a new pull request"
            try:
                _note(forge, opened, name)
            except PolicyctlError as error:
                return f"{_WHOSE}, which cannot be noted as used: {error}"
        self._taken[name] = tuple(valid)
        return None

    def owes(self, name: str) -> bool:
        """Whether something could not be noted yet."""
        return name in self._owing

    def settle(self, opened: Opened, name: str) -> bool:
        """Note that an environment has what the files want. Returns whether the settings of now were approved with it."""
        if self._taken.pop(name, None) is not None:
            return True
        try:
            released = _use_up(opened, name)
        except Exception:  # noqa: BLE001 - whatever the service answers, the environment is in sync
            self._owing.add(name)
            return False
        self._owing.discard(name)
        return released


def _use_up(opened: Opened, name: str) -> bool:
    """Note what waits for an environment that was applied by others. Raises PolicyctlError if that cannot be done."""
    with _forge(opened) as forge:
        if isinstance(forge, str):
            raise RemoteError(forge)
        found, _ = approvals_of(forge, name, opened.place)
        if why := why_not_head(forge, opened.place, opened.referred):
            raise RemoteError(why)
        _note(forge, opened, name)
        return any(_is_for(one, opened, name) for one in found)


def _note(forge: Forge, opened: Opened, name: str) -> None:
    """Note on the pull requests that wait for an environment that a watch applies them."""
    for _, comments in waiting_merges(forge, name, opened.place)[0]:
        for one in comments:
            forge.rewrite(one, applied(one.body, "Used by policyctl watch, which applies it.", opened.access(name)))


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
        yield "the token is missing" if forge is None else forge


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
