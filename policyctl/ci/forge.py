"""The service that hosts the repository, GitHub or GitLab: comments, issues, and the pull request of a commit."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from functools import cache
from heapq import heappop, heappush
from itertools import count, islice
from typing import Any, NamedTuple, Protocol

from policyctl.errors import PolicyctlError, RemoteError
from policyctl.load.urls import http_url_error, is_safe_for_secrets
from policyctl.plan.approval import Proposal
from policyctl.remote import Backoff
from policyctl.remote.http import HttpClient, Request, Response, describe, host_of
from policyctl.remote.redaction import Redactor, resolve_secret

LABEL = "policyctl-drift"
DRAFT = "The safety rules refuse this change, so it is a draft:"  # in the text of a pull request of ours
PAGE = 100  # rows in one response, the most that both services return


class NotAllowed(RemoteError):
    """The token lacks the permission."""


class Comment(NamedTuple):
    """A comment or an issue that the token's user wrote: the API path of its text, the text, and when it was last changed."""

    path: str
    body: str
    changed: datetime | None = None


class Remark(NamedTuple):
    """A person's comment on a pull request: their name and id at the service, the text, when it was written, if known, and
    whether it may have been edited since, maybe by others."""

    who: str
    id: str
    text: str
    when: datetime | None
    edited: bool


class Merge(NamedTuple):
    """A merged pull request: its number, its name for people, when it was merged, which commit into which branch, and the
    commit of that branch with which it was."""

    number: str
    name: str
    when: datetime | None
    what: Proposal
    end: str


class Proposed(NamedTuple):
    """Changed files for a pull request: a branch of ours, the commit that it starts from, and the branch to merge into.

    `files` has the text of each file by its path from the repository's top; None for one to delete. `created` are the new ones.
    A `draft` is not ready to merge.
    """

    branch: str
    start: str
    into: str
    title: str
    body: str
    files: Mapping[str, str | None]
    created: frozenset[str] = frozenset()
    draft: bool = False


class Forge(Protocol):
    """What a workflow step needs from the service. Only comments and issues of the token's own user are changed or trusted."""

    longest: int  # characters that a comment may have
    link: str  # to the run that this step belongs to
    commit: str  # that is checked out
    branch: str | None  # that this run is for; None for a pull request
    proposal: Proposal | None  # what the pull request proposed when this run was started; None if not known
    queued: bool  # whether this run is for a merge queue or a merge train
    again: bool  # whether this run was started again, with what it was given; False where that is not known

    def comments(self) -> list[Comment]:
        """Our comments on the current pull request."""
        ...

    def comment(self, body: str, old: Comment | None) -> None:
        """Write a comment on the current pull request, or replace the text of `old`."""
        ...

    def is_merged(self) -> bool:
        """Whether the current pull request has been merged."""
        ...

    def remarks(self) -> list[Remark]:
        """What people wrote on the current pull request."""
        ...

    def since(self) -> datetime | None:
        """A moment, by the service's clock, at which the current commit was already the newest of the pull request.

        None if it no longer is the newest, and in a merge queue, where that is not known.
        """
        ...

    def may_approve(self, remark: Remark) -> bool:
        """Whether its author may approve the current pull request: may write to the repository, and did not open it."""
        ...

    def head(self, branch: str) -> str:
        """The commit at the head of a branch."""
        ...

    def changed(self, until: str, /) -> list[str] | None:
        """The files that changed from the current commit to a later one; None if not known."""
        ...

    def lacks(self, branch: str, /) -> list[str] | None:
        """The files that changed in a branch since the current commit left it; None if not known."""
        ...

    def merges(self, branch: str) -> Iterator[Merge]:
        """The pull requests that were merged into a branch, the newest first; read as far as they are taken."""
        ...

    def files(self, merge: Merge) -> list[str] | None:
        """The files that a merged pull request changed, also where they were before; None if not all are known."""
        ...

    def comments_on(self, merge: Merge) -> list[Comment]:
        """Our comments on a merged pull request."""
        ...

    def comment_on(self, merge: Merge, body: str) -> None:
        """Write a comment on a merged pull request."""
        ...

    def rewrite(self, old: Comment, body: str) -> None:
        """Replace the text of a comment."""
        ...

    def knows_me(self) -> bool:
        """Whether the service names the token's user; if not, that is taken for the user of a workflow's own token."""
        ...

    def issues(self) -> list[Comment]:
        """The open issues with our label."""
        ...

    def issue(self, title: str, body: str, old: Comment | None) -> None:
        """Open an issue, or replace the text of `old`."""
        ...

    def requests(self, branch: str) -> list[Comment]:
        """Our open pull requests from a branch of this repository."""
        ...

    def push(self, what: Proposed) -> None:
        """Make the branch of a proposal one commit with its files, whatever the branch was. The branch to merge into stays."""
        ...

    def request(self, what: Proposed, old: Comment | None) -> str | None:
        """Open a pull request for a proposal, or replace the title and the text of `old`; one that is not a draft any more is
        ready to merge. Returns why it could not be made the one or the other."""
        ...

    def close_thread(self, old: Comment) -> None:
        """Close an issue, or a pull request without merging it."""
        ...


class ForgeClient(ABC):
    """What the clients of both services share: requests as one user, and how that user's own comments are found."""

    edits: str  # the HTTP method that changes something
    closing: tuple[str, str]  # the field that closes an issue or a pull request, and its value
    author: tuple[str, str]  # the key of a row's author, and of the name in it

    def __init__(self, api: str, header: str, variable: str, environ: Mapping[str, str]) -> None:
        """`variable` holds the token, which `header` carries after what it already contains."""
        if complaint := http_url_error(api):
            raise PolicyctlError(f"the address of the service {complaint}")
        if not is_safe_for_secrets(api):
            raise PolicyctlError(f"{host_of(api)} is not contacted: the token would be sent unencrypted")
        secret = resolve_secret("the token", f"env:{variable}", environ=environ)
        name, _, lead = header.partition(": ")
        self._redactor = Redactor()
        self._redactor.hide(secret)
        self._api = api
        self._headers = {name: f"{lead}{secret}"}
        self._http = HttpClient(self._redactor)
        self._me = cache(self.user)

    def close(self) -> None:
        """End the connections."""
        self._http.close()

    def end_within(self, seconds: float) -> None:
        """Have everything that is asked from now on answered within so many seconds together, and ask nothing twice."""
        self._http.close()
        self._http = HttpClient(self._redactor, patience=Backoff(tries=1, budget=0.0))
        self._http.hosts.deadline.latest = self._http.hosts.patience.clock() + seconds

    @abstractmethod
    def user(self) -> str | None:
        """The name of the token's user; None if not known."""

    def knows_me(self) -> bool:
        return bool(self._me())

    @abstractmethod
    def discussion(self, number: str | None = None) -> str:
        """The path of the comments on the pull request with this number, or on the current one."""

    def comment(self, body: str, old: Comment | None) -> None:
        if old is None:
            self.ask("POST", self.discussion(), {"body": body})
        else:
            self.rewrite(old, body)

    def comment_on(self, merge: Merge, body: str) -> None:
        self.ask("POST", self.discussion(merge.number), {"body": body})

    def rewrite(self, old: Comment, body: str) -> None:
        self.ask(self.edits, old.path, {"body": body})

    def close_thread(self, old: Comment) -> None:
        self.ask(self.edits, old.path, dict([self.closing]))

    def ours(self, rows: Iterable[dict[str, Any]], path: str, key: str, text: str = "body") -> list[Comment]:
        """The rows that the token's user wrote, whose path ends in their `key`: others may write what looks like ours."""
        found = list(rows)
        me = self._me() if found else None
        mine = [row for row in found if me is not None and text_in(row, *self.author) == me]
        return [Comment(f"{path}/{row.get(key)}", str(row.get(text) or ""), moment_in(row, "updated_at")) for row in mine]

    def remarks_in(self, rows: Iterable[dict[str, Any]]) -> list[Remark]:
        """The rows that have an author."""
        key, name = self.author
        return [
            Remark(who, str(row[key].get("id")), str(row.get("body") or ""), moment_in(row, "created_at"), _is_edited(row))
            for row in rows
            if (who := text_in(row, key, name))
        ]

    def ask(self, method: str, path: str, body: Mapping[str, Any] | None = None, query: Mapping[str, str] = {}) -> Any:
        """The content of the service's response. Raises NotAllowed, or RemoteError for any other failure."""
        return self.send(self._request(method, path, query, body)).content

    def _request(self, method: str, path: str, query: Mapping[str, str], body: Mapping[str, Any] | None = None) -> Request:
        return Request(method, f"{self._api}{path}", tuple(query.items()), body, headers=self._headers)

    def send(self, request: Request) -> Response:
        """The service's response to a request that has the token. Raises as `ask` does."""
        answer = self._http.send(request, writes=request.method != "GET")
        if answer.good:
            return answer
        kind = NotAllowed if answer.status in (401, 403, 404) and not _is_paused(answer) else RemoteError
        raise kind(f"{host_of(self._api)} answered {describe(answer.response, self._redactor)}")

    def fields(self, path: str, query: Mapping[str, str] = {}) -> dict[str, Any]:
        """One object. Raises NotAllowed, or RemoteError for anything else."""
        found = self.ask("GET", path, query=query)
        if not isinstance(found, dict):
            raise RemoteError(f"{host_of(self._api)} did not answer with an object")
        return found

    def rows(self, path: str, query: Mapping[str, str] = {}, most: int | None = None) -> Iterator[dict[str, Any]]:
        """All rows of a list, page by page; at most the first `most`."""
        return islice(self._rows(path, query), most)

    def _rows(self, path: str, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        for page in count(1):
            answer = self.send(self._request("GET", path, {**query, "per_page": str(PAGE), "page": str(page)}))
            found = answer.content
            if not isinstance(found, list) or not all(isinstance(row, dict) for row in found):
                raise RemoteError(f"{host_of(self._api)} did not answer with a list of objects")
            yield from found
            if not (len(found) >= PAGE or _has_next(answer)):
                return


def _has_next(answer: Response) -> bool:
    """Whether the service names a page after this one. GitLab takes rows out of a page that the token may not read."""
    headers = answer.response.headers
    return bool(headers.get("X-Next-Page")) or 'rel="next"' in headers.get("Link", "")


def _is_paused(answer: Response) -> bool:
    """Whether the service answers nothing for a while, which GitHub shows as 403: then it is not known what is allowed."""
    headers = answer.response.headers
    return "Retry-After" in headers or headers.get("X-RateLimit-Remaining") == "0"


def newest_first(
    rows: Iterable[dict[str, Any]], key: str, sign: str, proposed: Callable[[dict[str, Any]], Proposal]
) -> Iterator[Merge]:
    """Merged pull requests from the newest down; `key` is that of their number, before which people write `sign`. What was
    neither merged with a commit of its own nor squashed ends with its own newest commit.

    The `rows` come as they were last updated, the newest first, and a remark by anyone counts as an update. So they are read
    until one was updated before a merge: none of the others was merged later than that.
    """
    waiting: list[tuple[float, int, Merge]] = []
    known = set[int]()  # a row may move to a later page while pages are read
    for row in rows:
        updated, when, number = moment_in(row, "updated_at"), moment_in(row, "merged_at"), int(row.get(key) or 0)
        while updated is not None and waiting and -waiting[0][0] > updated.timestamp():
            yield heappop(waiting)[-1]
        if number not in known:
            known.add(number)
            what = proposed(row)
            end = text_in(row, "merge_commit_sha") or text_in(row, "squash_commit_sha") or what.head
            merge = Merge(str(number), f"{sign}{number}", when, what, end)
            heappush(waiting, (-when.timestamp() if when else 0.0, -number, merge))
    while waiting:
        yield heappop(waiting)[-1]


def _is_edited(row: Mapping[str, Any]) -> bool:
    created, updated = moment_in(row, "created_at"), moment_in(row, "updated_at")
    # The two may differ a little for a comment that was just written.
    return created is None or updated is None or updated - created >= timedelta(seconds=1)


def moment_in(row: Mapping[str, Any], key: str) -> datetime | None:
    """The time in a field of a row; None if there is none."""
    try:
        found = datetime.fromisoformat(str(row.get(key)))
    except ValueError:
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def text_in(row: Any, *path: str) -> str | None:
    """The text at a path of keys; None if there is none."""
    found: Any = row
    for key in path:
        found = found.get(key) if isinstance(found, dict) else None
    return found if isinstance(found, str) and found else None
