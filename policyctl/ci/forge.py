"""The service that hosts the repository, GitHub or GitLab: comments, issues, and which pull request a commit came from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import count, islice
from typing import Any, NamedTuple, Protocol

from policyctl.errors import PolicyctlError, RemoteError
from policyctl.load.urls import http_url_error, is_safe_for_secrets
from policyctl.plan.approval import Proposal
from policyctl.remote.http import HttpClient, Request, host_of
from policyctl.remote.redaction import Redactor, resolve_secret
from policyctl.remote.responses import describe

LABEL = "policyctl-drift"
PAGE = 100  # rows of one answer, the most that both services give


class NotAllowed(RemoteError):
    """The token may not do that."""


class Comment(NamedTuple):
    """A comment or an issue that we wrote: the path of its text, and the text."""

    path: str
    body: str


class Author(NamedTuple):
    """What a person wrote where a pull request is discussed: their name and number at the service, the text, and when they
    wrote it, where the service says so."""

    who: str
    id: str
    text: str
    when: datetime | None


class Merge(NamedTuple):
    """A merged pull request: its number, how people name it, when it was merged, and which commit into which branch."""

    number: str
    name: str
    when: str
    what: Proposal


class Forge(Protocol):
    """What a workflow's step asks of the service. Only what the token's own user wrote is ever changed, or taken for ours."""

    longest: int  # characters of a text
    link: str  # to the run that this is a step of
    commit: str  # that is checked out
    branch: str | None  # that this run is for; None for a pull request
    proposal: Proposal | None  # what the pull request asked for when this run was started; None where that is not known
    queued: bool  # whether this run is for a merge queue, or a merge train

    def comments(self) -> list[Comment]:
        """Our comments on the pull request that is being checked."""
        ...

    def comment(self, body: str, old: Comment | None) -> None:
        """Write a comment on the pull request that is being checked, or a new text into the old one."""
        ...

    def is_merged(self) -> bool:
        """Whether the pull request that is being checked is merged already."""
        ...

    def said(self) -> list[Author]:
        """What people wrote on the pull request that is being checked."""
        ...

    def since(self) -> datetime | None:
        """A moment at which the commit that is being checked was the pull request's newest already, by the service's clock.

        None where it is not the newest any more, and in a merge queue, where that is not to be told.
        """
        ...

    def may_approve(self, said: Author) -> bool:
        """Whether who wrote it may approve that pull request: may write to the repository, and did not open it."""
        ...

    def head(self, branch: str) -> str:
        """The commit that a branch is at now."""
        ...

    def changed(self, until: str) -> list[str] | None:
        """The files that changed from the commit that is checked out to a later one; None where that cannot be told."""
        ...

    def merges(self, branch: str) -> Iterator[Merge]:
        """The pull requests that were merged into a branch last, the newest first."""
        ...

    def comments_on(self, merge: Merge) -> list[Comment]:
        """Our comments on a merged pull request."""
        ...

    def rewrite(self, old: Comment, body: str) -> None:
        """Give a comment a new text."""
        ...

    def issues(self) -> list[Comment]:
        """The open issues with our label."""
        ...

    def issue(self, title: str, body: str, old: Comment | None) -> None:
        """Open an issue, or write a new text into the old one."""
        ...

    def close_issue(self, old: Comment) -> None:
        """Close an issue."""
        ...


@contextmanager
def open_forge(environ: Mapping[str, str]) -> Iterator[Forge | None]:
    """The service that this is a step of, by the variables that it sets, for a while; None where there is no token for it.

    Raises PolicyctlError when it is neither.
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


def token(name: str, environ: Mapping[str, str]) -> str:
    """The token that a variable of the workflow holds."""
    return resolve_secret("the token", f"env:{name}", environ=environ)


class CiService:
    """Requests to one service, as one user."""

    def __init__(self, api: str, header: str, secret: str) -> None:
        """`header` carries the token, after the words before it."""
        if complaint := http_url_error(api):
            raise PolicyctlError(f"the address of the service {complaint}")
        if not is_safe_for_secrets(api):
            raise PolicyctlError(f"{host_of(api)} is not asked: the token would be sent in the clear")
        name, _, lead = header.partition(": ")
        self._scrub = Redactor()
        self._scrub.hide(secret)
        self._api = api
        self._headers = {name: f"{lead}{secret}"}
        self._wire = HttpClient(self._scrub)

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, query: Mapping[str, str] = {}) -> Any:
        """What the service answers. Raises NotAllowed, or RemoteError for everything else that is not a success."""
        asked = Request(method, f"{self._api}{path}", tuple(query.items()), body, headers=self._headers)
        answer = self._wire.send(asked, writes=method != "GET")
        if answer.good:
            return answer.content
        kind = NotAllowed if answer.status in (401, 403, 404) else RemoteError
        raise kind(f"{host_of(self._api)} answered {describe(answer.response, self._scrub)}")

    def fields(self, path: str, query: Mapping[str, str] = {}) -> dict[str, Any]:
        """One object. Raises NotAllowed, or RemoteError for anything else."""
        found = self.ask("GET", path, query=query)
        if not isinstance(found, dict):
            raise RemoteError(f"{host_of(self._api)} answered something else than an object")
        return found

    def rows(self, path: str, query: Mapping[str, str] = {}, most: int | None = None) -> Iterator[dict[str, Any]]:
        """All rows of a list, page after page; the first `most` where that is given."""
        return islice(self._rows(path, query), most)

    def _rows(self, path: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        for page in count(1):
            found = self.ask("GET", path, query={**query, "per_page": str(PAGE), "page": str(page)})
            if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
                raise RemoteError(f"{host_of(self._api)} answered something else than a list of objects")
            yield from found
            if len(found) < PAGE:
                return

    def close(self) -> None:
        """Let the connection go."""
        self._wire.close()


def moment_in(row: Mapping[str, Any], key: str) -> datetime | None:
    """The moment that a row names, None where it names none."""
    try:
        found = datetime.fromisoformat(str(row.get(key)))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def name_in(row: Mapping[str, Any], key: str, name: str) -> str | None:
    """The user that a row names, None where it names none."""
    user = row.get(key)
    found = user.get(name) if isinstance(user, dict) else None
    return found if isinstance(found, str) else None
