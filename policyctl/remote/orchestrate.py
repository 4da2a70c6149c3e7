"""The real remote: the model-policy API of watsonx Orchestrate, over http(s).

Paths, bodies and statuses are those of IBM's API reference and of what its CLI sends. Where the service's
behaviour is unknown, each possibility works: ids may be missing, a filter may be ignored or answer 404, any 2xx is a success.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from types import TracebackType
from typing import Any, NoReturn, Protocol, Self
from urllib.parse import quote, quote_plus

from policyctl.errors import Conflict, Moved, NotFound, RemoteError
from policyctl.load.urls import is_local, origin
from policyctl.policy.document import Document
from policyctl.policy.live import named_rows
from policyctl.policy.names import canonical_name, spellings
from policyctl.remote.http import Request, Response, host_of
from policyctl.remote.redaction import Redactor
from policyctl.remote.responses import describe, is_quota

MAX_ROWS = 500_000  # of a list
QUERY = 4000  # characters of one query: gateways commonly refuse request lines of more than 8 KiB
CHECK_LOGIN = "check auth in policyctl.yaml (it only goes to the origin of the environment's own remote)"
_ETAG = re.compile(r"[\x21\x23-\x7e]+")


class Sender(Protocol):
    """What sends requests: an `HttpClient`, or a `LoginSession`."""

    def send(self, ask: Request, *, writes: bool = False) -> Response: ...

    def close(self) -> None: ...


class OrchestrateReader:
    """Reads the policies of one instance. It has no methods for writing."""

    embedded = False

    def __init__(self, url: str, sender: Sender, scrub: Redactor, login: str = CHECK_LOGIN) -> None:
        """`url` is the instance's, as IBM's CLI takes it; the API's own path is added. `login` is what to do about a 401."""
        url = url.rstrip("/")
        self.identity = _identity(url)
        self._api = _api(url)
        self._policies = f"{self._api}/model_policy"
        self._sender = sender
        self._scrub = scrub
        self._login = login

    def rows(self) -> list[Any]:
        answer = self._sender.send(Request("GET", self._policies))
        return self._rows_of(answer)

    def find(self, names: Collection[str]) -> list[Any]:
        if not all(map(_is_sendable, names)):
            return _named(self.rows(), names)
        found: list[Any] = []
        for query in _queries(names):
            answer = self._sender.send(Request("GET", self._policies, query))
            # 404 may mean that the filter found nothing; only the whole list shows whether the URL is wrong.
            found += self.rows() if answer.status == 404 else self._rows_of(answer)
        return _named(found, names)

    def models(self) -> frozenset[str]:
        answer = self._sender.send(Request("GET", f"{self._api}/models/list"))
        if answer.status == 404:  # a remote without models; with a wrong URL, listing policies fails
            return frozenset()
        if not answer.good:
            self._refuse(answer)
        self._keep_out_secrets(answer)
        models = answer.content.get("resources") if isinstance(answer.content, dict) else answer.content
        entries = models if isinstance(models, list) else []
        return frozenset(entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str))

    def close(self) -> None:
        self._sender.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _rows_of(self, answer: Response) -> list[Any]:
        if not answer.good:
            self._refuse(answer)
        if not isinstance(answer.content, list):
            text = f"{_host(answer)} answered {answer.status} without a list of policies"
            raise RemoteError(f"{text}; check the URL of the remote")
        if len(answer.content) > MAX_ROWS:
            text = f"{_host(answer)} answered {answer.status} with more than {MAX_ROWS:,} rows"
            raise RemoteError(f"{text}, which no list of policies has; check the URL of the remote")
        if _is_page(answer):
            raise RemoteError(f"{_host(answer)} answered with one page of a list; policyctl needs all of it at once")
        self._keep_out_secrets(answer)
        return answer.content

    def _keep_out_secrets(self, answer: Response) -> None:
        """Raise RemoteError for rows that contain this process's credentials: they would be shown, saved and compared."""
        if self._scrub.finds(answer.content):
            raise RemoteError(
                f"{_host(answer)} answered with the secret that it was sent; the answer is neither used nor shown"
            )

    def _refuse(self, answer: Response) -> NoReturn:
        """Raise the error for a response that is not a success, of a read or a write."""
        status, text = answer.status, f"{_host(answer)} answered {describe(answer.response, self._scrub)}"
        match status:
            case 401:
                raise RemoteError(f"{text}; {self._login}")
            case 403:
                raise RemoteError(
                    f"{text}; {'this login is not allowed to do that' if self._login == CHECK_LOGIN else self._login}"
                )
            case 404 | 405:
                raise RemoteError(f"{text} to {self._policies}; the URL of the remote is probably wrong")
            case 429 if is_quota(answer.response):
                raise RemoteError(f"{text} (the tenant is full; waiting does not help)")
            case _ if 300 <= status < 400:
                raise RemoteError(f"{text}, a redirect; if that is right, write the URL that it leads to as the remote")
        raise RemoteError(text)


class OrchestrateRemote(OrchestrateReader):
    """Reads and writes the policies of one instance."""

    def add(self, document: Document) -> str | None:
        answer = self._sender.send(Request("POST", self._policies, body=document), writes=True)
        if not answer.good:
            self._refuse_write(answer)
        row = answer.content if isinstance(answer.content, dict) else {}
        identifier, name = row.get("id"), row.get("name", document["name"])
        # A response about something else, such as a job, has its own id.
        is_it = isinstance(name, str) and canonical_name(name) == canonical_name(document["name"])
        return identifier if is_it and isinstance(identifier, str) else None

    def update(self, id: str, document: Document, version: str | None = None) -> None:  # noqa: A002 - the platform's word
        ask = Request("PUT", self._policy(id), body=document, headers=_only_if(version))
        self._write_one(ask, id)

    def remove(self, id: str, version: str | None = None) -> None:  # noqa: A002 - the platform's word
        self._write_one(Request("DELETE", self._policy(id), headers=_only_if(version)), id)

    def _policy(self, identifier: str) -> str:
        if identifier in (".", "..") or not _is_sendable(identifier):
            raise RemoteError(f"the id {identifier!r} does not fit into a URL; repair that policy on the remote")
        return f"{self._policies}/{quote(identifier, safe='')}"

    def _write_one(self, ask: Request, identifier: str) -> None:
        answer = self._sender.send(ask, writes=True)
        if answer.status in (404, 410):
            raise NotFound(f"{_host(answer)} has no policy with the id {identifier} any more")
        if not answer.good:
            self._refuse_write(answer)

    def _refuse_write(self, answer: Response) -> NoReturn:
        text = f"{_host(answer)} answered {describe(answer.response, self._scrub)}"
        if answer.status == 409:
            raise Conflict(text)
        if answer.status == 412:
            raise Moved(text)
        self._refuse(answer)


def _api(url: str) -> str:
    """The API's base: `/v1` for the Developer Edition, `/v1/orchestrate` elsewhere, unless the URL has it already."""
    prefix = "/v1" if is_local(url) else "/v1/orchestrate"
    return url if url.endswith(prefix) else url + prefix


def _identity(url: str) -> str:
    """Origin and path, normalised, so that each remote has one identity."""
    scheme, host, port = origin(url)
    usual = {"http": 80, "https": 443}.get(scheme)
    path = url.partition("://")[2].partition("/")[2]
    name = f"[{host}]" if ":" in host else host
    return f"{scheme}://{name}{'' if port == usual else f':{port}'}" + (f"/{path}" if path else "")


def _queries(names: Collection[str]) -> Iterator[tuple[tuple[str, str], ...]]:
    """The names, each in both spellings, as queries of bounded length. A name's two spellings are in the same query."""
    query: list[tuple[str, str]] = []
    length = 0
    for name in sorted(names):
        pair = [("name", spelling) for spelling in spellings(name)]
        size = sum(len(quote_plus(spelling)) + len("&name=") for _, spelling in pair)
        if query and length + size > QUERY:
            yield tuple(query)
            query, length = [], 0
        query += pair
        length += size
    if query:
        yield tuple(query)


def _named(rows: list[Any], names: Collection[str]) -> list[Any]:
    """The rows of these policies: a remote's filter may not know both spellings, or may do nothing."""
    by_name, found = named_rows(rows), list[Any]()
    for name in dict.fromkeys(names):
        once: list[Any] = []  # a row that several queries brought counts once
        once += (row for row in by_name.get(name, ()) if row not in once)
        found += once
    return found


def _is_page(answer: Response) -> bool:
    """Whether a list has a link to a next page (RFC 8288)."""
    return "next" in answer.response.links


def _only_if(version: str | None) -> dict[str, str]:
    """The header that binds a write to the version it replaces, if the remote has versions that fit into a header."""
    return {"If-Match": f'"{version}"'} if version is not None and _ETAG.fullmatch(version) else {}


def _is_sendable(text: str) -> bool:
    """Whether a text fits into a URL: a lone surrogate, which JSON may contain, does not."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _host(answer: Response) -> str:
    return host_of(str(answer.response.url))
