"""The service that hosts the repository, GitHub or GitLab, as far as a workflow needs it: comments, issues, who merged what."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import count
from typing import Any, NamedTuple, Protocol

from policyctl.errors import PolicyctlError, RemoteError
from policyctl.load.urls import http_complaint, is_safe_for_secrets
from policyctl.remote.answers import describe
from policyctl.remote.credentials import resolve_secret
from policyctl.remote.scrubbing import Scrubber
from policyctl.remote.wire import Ask, Wire, host_of

LABEL = "policyctl-drift"
_PAGE = 100  # rows of one answer, the most that both services give
_BOT = "github-actions[bot]"  # who a workflow's own token writes as; it may not ask who it is


class NotAllowed(RemoteError):
    """The token may not do that."""


class Post(NamedTuple):
    """A comment or an issue that we wrote: its id, and its text."""

    id: str
    body: str


class Forge(Protocol):
    """What a workflow's step asks of the service. Only what the token's own user wrote is ever seen or changed."""

    longest: int  # characters of a text
    link: str  # to the run that this is a step of

    def comments(self) -> list[Post]:
        """The comments on the pull request that is being checked."""
        ...

    def merged(self) -> list[Post]:
        """The comments on the pull request whose merge made the commit that is being built."""
        ...

    def comment(self, body: str, old: Post | None) -> None:
        """Write a comment on the pull request that is being checked, or a new text into the old one."""
        ...

    def issues(self) -> list[Post]:
        """The open issues with our label."""
        ...

    def issue(self, title: str, body: str, old: Post | None) -> None:
        """Open an issue, or write a new text into the old one."""
        ...

    def close_issue(self, old: Post) -> None:
        """Close an issue."""
        ...


@contextmanager
def open_forge(environ: Mapping[str, str]) -> Iterator[Forge | None]:
    """The service that this is a step of, by the variables that it sets, for a while; None where there is no token for it.

    Raises PolicyctlError when it is neither.
    """
    name = "GITHUB_TOKEN" if environ.get("GITHUB_ACTIONS") else "GITLAB_TOKEN" if environ.get("GITLAB_CI") else None
    if name is None:
        raise PolicyctlError("this is no step of GitHub Actions or GitLab CI, so there is nobody to tell")
    if not environ.get(name):
        yield None
        return
    service = GitHub(environ) if name == "GITHUB_TOKEN" else GitLab(environ)
    try:
        yield service
    finally:
        service.close()


class _Service:
    """Requests to one service, as one user."""

    def __init__(self, api: str, header: str, secret: str, author: tuple[str, str]) -> None:
        """`header` carries the token, after the words before it; `author` is where a row says who wrote it, and who asks."""
        if complaint := http_complaint(api):
            raise PolicyctlError(f"the address of the service {complaint}")
        if not is_safe_for_secrets(api):
            raise PolicyctlError(f"{host_of(api)} is not asked: the token would be sent in the clear")
        name, _, lead = header.partition(": ")
        self._scrub = Scrubber()
        self._scrub.hide(secret)
        self._api = api
        self._headers = {name: f"{lead}{secret}"}
        self._author = author
        self._wire = Wire(self._scrub)

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, query: Mapping[str, str] = {}) -> Any:
        """What the service answers. Raises NotAllowed, or RemoteError for everything else that is no success."""
        asked = Ask(method, f"{self._api}{path}", tuple(query.items()), body, headers=self._headers)
        answer = self._wire.send(asked, writes=method != "GET")
        if answer.good:
            return answer.content
        kind = NotAllowed if answer.status in (401, 403, 404) else RemoteError
        raise kind(f"{host_of(self._api)} answered {describe(answer.response, self._scrub)}")

    def rows(self, path: str, query: Mapping[str, str] = {}) -> Iterator[dict[str, Any]]:
        """All rows of a list, page after page."""
        for page in count(1):
            found = self.ask("GET", path, query={**query, "per_page": str(_PAGE), "page": str(page)})
            if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
                raise RemoteError(f"{host_of(self._api)} answered something else than a list of objects")
            yield from found
            if len(found) < _PAGE:
                return

    def posts(self, path: str, number: str, text: str, query: Mapping[str, str] = {}) -> list[Post]:
        """Those rows of a list that the token's user wrote: anybody may write what looks like ours.

        `number` and `text` are the keys of a row's id and its text. GitHub lists pull requests among the issues.
        """
        found = [row for row in self.rows(path, query) if "pull_request" not in row]
        me = self._me() if found else None
        key, name = self._author
        return [Post(str(row.get(number)), str(row.get(text) or "")) for row in found if (row.get(key) or {}).get(name) == me]

    def close(self) -> None:
        """Let the connection go."""
        self._wire.close()

    def _me(self) -> str:
        try:
            found = self.ask("GET", "/user")
        except NotAllowed:
            return _BOT
        return str(found.get(self._author[1])) if isinstance(found, dict) else _BOT


class GitHub:
    """GitHub's REST API, with a workflow's own token or another one."""

    longest = 65_536

    def __init__(self, environ: Mapping[str, str]) -> None:
        api = environ.get("GITHUB_API_URL", "https://api.github.com")
        self._service = _Service(api, "Authorization: Bearer ", _token("GITHUB_TOKEN", environ), ("user", "login"))
        self._repository = f"/repos/{environ.get('GITHUB_REPOSITORY', '')}"
        self._ref = environ.get("GITHUB_REF", "")
        self._commit = environ.get("GITHUB_SHA", "")
        server, run = environ.get("GITHUB_SERVER_URL", "https://github.com"), environ.get("GITHUB_RUN_ID", "")
        self.link = f"{server}/{environ.get('GITHUB_REPOSITORY', '')}/actions/runs/{run}"
        self.close = self._service.close

    def comments(self) -> list[Post]:
        return self._comments(self._number())

    def merged(self) -> list[Post]:
        pulls = self._service.rows(f"{self._repository}/commits/{self._commit}/pulls")
        made = [pull for pull in pulls if pull.get("merged_at") and pull.get("merge_commit_sha") == self._commit]
        return [post for pull in made for post in self._comments(pull.get("number"))]

    def comment(self, body: str, old: Post | None) -> None:
        if old is None:
            self._service.ask("POST", f"{self._repository}/issues/{self._number()}/comments", {"body": body})
        else:
            self._service.ask("PATCH", f"{self._repository}/issues/comments/{old.id}", {"body": body})

    def issues(self) -> list[Post]:
        return self._service.posts(f"{self._repository}/issues", "number", "body", {"state": "open", "labels": LABEL})

    def issue(self, title: str, body: str, old: Post | None) -> None:
        if old is None:
            self._service.ask("POST", f"{self._repository}/issues", {"title": title, "body": body, "labels": [LABEL]})
        else:
            self._service.ask("PATCH", f"{self._repository}/issues/{old.id}", {"body": body})

    def close_issue(self, old: Post) -> None:
        self._service.ask("PATCH", f"{self._repository}/issues/{old.id}", {"state": "closed"})

    def _comments(self, number: Any) -> list[Post]:
        return self._service.posts(f"{self._repository}/issues/{number}/comments", "id", "body")

    def _number(self) -> str:
        found = re.fullmatch(r"refs/pull/([0-9]+)/(?:merge|head)", self._ref)
        if found is None:
            raise PolicyctlError(f"this run is for no pull request (GITHUB_REF is {self._ref!r})")
        return found[1]


class GitLab:
    """GitLab's REST API, with an access token of a user, a group or a project; a job's own token may not write notes."""

    longest = 1_000_000

    def __init__(self, environ: Mapping[str, str]) -> None:
        api = environ.get("CI_API_V4_URL", "https://gitlab.com/api/v4")
        self._service = _Service(api, "PRIVATE-TOKEN: ", _token("GITLAB_TOKEN", environ), ("author", "username"))
        self._project = f"/projects/{environ.get('CI_PROJECT_ID', '')}"
        self._number = environ.get("CI_MERGE_REQUEST_IID", "")
        self._commit = environ.get("CI_COMMIT_SHA", "")
        self.link = environ.get("CI_PIPELINE_URL", "")
        self.close = self._service.close

    def comments(self) -> list[Post]:
        return self._service.posts(self._notes(), "id", "body")

    def merged(self) -> list[Post]:
        requests = self._service.rows(f"{self._project}/repository/commits/{self._commit}/merge_requests")
        keys = ("merge_commit_sha", "squash_commit_sha", "sha")
        made = [one for one in requests if one.get("state") == "merged" and self._commit in map(one.get, keys)]
        paths = [f"{self._project}/merge_requests/{one.get('iid')}/notes" for one in made]
        return [post for path in paths for post in self._service.posts(path, "id", "body")]

    def comment(self, body: str, old: Post | None) -> None:
        if old is None:
            self._service.ask("POST", self._notes(), {"body": body})
        else:
            self._service.ask("PUT", f"{self._notes()}/{old.id}", {"body": body})

    def issues(self) -> list[Post]:
        return self._service.posts(f"{self._project}/issues", "iid", "description", {"state": "opened", "labels": LABEL})

    def issue(self, title: str, body: str, old: Post | None) -> None:
        if old is None:
            self._service.ask("POST", f"{self._project}/issues", {"title": title, "description": body, "labels": LABEL})
        else:
            self._service.ask("PUT", f"{self._project}/issues/{old.id}", {"description": body})

    def close_issue(self, old: Post) -> None:
        self._service.ask("PUT", f"{self._project}/issues/{old.id}", {"state_event": "close"})

    def _notes(self) -> str:
        if not self._number.isdigit():
            raise PolicyctlError("this pipeline is for no merge request (CI_MERGE_REQUEST_IID is not set)")
        return f"{self._project}/merge_requests/{self._number}/notes"


def _token(name: str, environ: Mapping[str, str]) -> str:
    return resolve_secret("the token", f"env:{name}", environ=environ)
