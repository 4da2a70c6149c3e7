"""GitHub and GitLab: workflows, comments on pull requests, and what a merge approved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from policyctl.errors import PolicyctlError

if TYPE_CHECKING:
    from policyctl.ci.forge import Forge


@contextmanager
def open_forge(environ: Mapping[str, str], seconds: float | None = None) -> Iterator[Forge | None]:
    """The CI service that this job runs on, detected from its environment variables. None without a token. All that is asked
    of it takes at most so many `seconds`, if they are given.

    Raises PolicyctlError outside GitHub Actions and GitLab CI.
    """
    name = "GITHUB_TOKEN" if environ.get("GITHUB_ACTIONS") else "GITLAB_TOKEN" if environ.get("GITLAB_CI") else None
    if name is None:
        raise PolicyctlError("this is not a step of GitHub Actions or GitLab CI; run it in a workflow, as init --ci writes it")
    if not environ.get(name):
        yield None
        return
    from policyctl.ci.github import GitHub
    from policyctl.ci.gitlab import GitLab

    service = GitHub(environ) if name == "GITHUB_TOKEN" else GitLab(environ)
    if seconds is not None:
        service.end_within(seconds)
    try:
        yield service
    finally:
        service.close()


def service_of(environ: Mapping[str, str]) -> dict[str, str] | str:
    """The variables by which a watch, outside a workflow, asks the service that a token is for, or which one is missing."""
    events = ("CI_MERGE_REQUEST_", "GITHUB_EVENT_", "GITHUB_ACTIONS", "GITLAB_CI")
    plain = {key: one for key, one in environ.items() if not key.startswith(events)}
    if environ.get("GITHUB_TOKEN"):
        return plain | {"GITHUB_ACTIONS": "true"} if environ.get("GITHUB_REPOSITORY") else "set GITHUB_REPOSITORY (owner/name)"
    if environ.get("GITLAB_TOKEN"):
        return plain | {"GITLAB_CI": "true"} if environ.get("CI_PROJECT_ID") else "set CI_PROJECT_ID"
    return "set GITHUB_TOKEN and GITHUB_REPOSITORY, or GITLAB_TOKEN and CI_PROJECT_ID"


def service_at(environ: Mapping[str, str], commit: str | None, branch: str) -> dict[str, str] | str:
    """The variables that the service would set for a commit of a branch, or why there are none."""
    if commit is None or not branch:
        return "the source is not a branch of a git repository"
    found = service_of(environ)
    if isinstance(found, str):
        return found
    if "GITHUB_ACTIONS" in found:
        return found | {"GITHUB_SHA": commit, "GITHUB_REF": f"refs/heads/{branch}"}
    return found | {"CI_COMMIT_SHA": commit, "CI_COMMIT_BRANCH": branch}


@contextmanager
def service_or_why(environ: Mapping[str, str] | str, seconds: float | None = None) -> Iterator[Forge | str]:
    """The service of these variables (see `open_forge`), or why it cannot be asked: they are missing, or the token is."""
    if isinstance(environ, str):
        yield environ
        return
    with open_forge(environ, seconds) as forge:
        yield forge or "the token is missing; give it to what applies, too"


class RunOrigin(NamedTuple):
    """What a CI service names of a run: the repository, the branch, the commit and the pull request; empty if it does not."""

    repository: str = ""
    branch: str = ""
    commit: str = ""
    pull_request: str = ""


def origin_in(environ: Mapping[str, str]) -> RunOrigin:
    """Where the files of this run come from, by the variables of the CI service. Nothing is asked of the service."""

    def one(*names: str) -> str:
        return next((text for name in names if (text := environ.get(name))), "")

    if environ.get("GITHUB_ACTIONS"):
        from policyctl.ci.github import proposal_in, pull_number

        number, proposal = pull_number(one("GITHUB_REF")), proposal_in(environ.get("GITHUB_EVENT_PATH"))
        commit = proposal.head if number and proposal else one("GITHUB_SHA")
        branch = one("GITHUB_HEAD_REF", "GITHUB_REF_NAME")
        return RunOrigin(one("GITHUB_REPOSITORY"), branch, commit, f"#{number}" if number else "")
    if environ.get("GITLAB_CI"):
        number = one("CI_MERGE_REQUEST_IID")
        branch = one("CI_MERGE_REQUEST_SOURCE_BRANCH_NAME", "CI_COMMIT_REF_NAME", "CI_COMMIT_BRANCH")
        commit = one("CI_MERGE_REQUEST_SOURCE_BRANCH_SHA", "CI_COMMIT_SHA")
        return RunOrigin(one("CI_PROJECT_PATH"), branch, commit, f"!{number}" if number else "")
    return RunOrigin()
