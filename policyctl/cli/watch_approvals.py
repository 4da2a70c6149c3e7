"""Whether a merged pull request approved the plan of an environment that is watched, outside a workflow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from policyctl.ci import open_forge
from policyctl.cli.ci.approved import approvals_of, why_not_head
from policyctl.plan.approval import adds_up

if TYPE_CHECKING:
    from policyctl.cli.watch_source import Opened
    from policyctl.plan.plan import Plan

_WHOSE = "an approval"


def why_unapproved(opened: Opened, name: str, plan: Plan) -> str | None:
    """Why no merged pull request approved this plan of an environment, as what it waits for; None if one did.

    An approval counts if the plan's digest, or the sum of several, is that of now, and so are the safety settings and the way
    to the remote. Raises RemoteError when the service cannot be asked.
    """
    environ = environment_of(opened, os.environ)
    if isinstance(environ, str):
        return f"{_WHOSE}, which cannot be read: {environ}"
    with open_forge(environ) as forge:
        if forge is None:
            return f"{_WHOSE}, which cannot be read without a token"
        found, _ = approvals_of(forge, name, opened.place)
        if why := why_not_head(forge, opened.place):
            return f"{_WHOSE}: {why}"
    rules, access = opened.fleet.config.environments[name].rules, opened.access(name)
    valid = [one for one in found if one.terms is not None and (one.terms.rules, one.terms.access) == (rules, access)]
    if any(one.digest == plan.digest for one in valid) or (valid and adds_up(valid, plan)):
        return None
    merged = f"of {', '.join(one.source for one in found)}" if found else "of a pull request"
    return f"{_WHOSE}: no merged plan {merged} is this one ({plan.digest}); policyctl apply by hand, or a new pull request"


def environment_of(opened: Opened, environ: Mapping[str, str]) -> dict[str, str] | str:
    """The variables that a CI service would set for the commit that is watched, or which one is missing."""
    if opened.commit is None or not opened.branch:
        return "the source is not a branch of a git repository"
    plain = {key: one for key, one in environ.items() if not key.startswith(("CI_MERGE_REQUEST_", "GITHUB_EVENT_"))}
    if environ.get("GITHUB_TOKEN"):
        if not environ.get("GITHUB_REPOSITORY"):
            return "set GITHUB_REPOSITORY (owner/name)"
        more = {"GITHUB_ACTIONS": "true", "GITHUB_SHA": opened.commit, "GITHUB_REF": f"refs/heads/{opened.branch}"}
        return plain | more
    if environ.get("GITLAB_TOKEN"):
        if not environ.get("CI_PROJECT_ID"):
            return "set CI_PROJECT_ID"
        return plain | {"GITLAB_CI": "true", "CI_COMMIT_SHA": opened.commit, "CI_COMMIT_BRANCH": opened.branch}
    return "set GITHUB_TOKEN and GITHUB_REPOSITORY, or GITLAB_TOKEN and CI_PROJECT_ID"
