"""GitHub and GitLab: workflows, comments on pull requests, and what a merge approved."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING

from policyctl.errors import PolicyctlError

if TYPE_CHECKING:
    from policyctl.ci.forge import Forge


@contextmanager
def open_forge(environ: Mapping[str, str]) -> Iterator[Forge | None]:
    """The CI service that this job runs on, detected from its environment variables. None without a token.

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
    try:
        yield service
    finally:
        service.close()
