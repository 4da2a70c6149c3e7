"""The real remote: the model-policy API of watsonx Orchestrate, over http(s).

Paths, bodies and statuses are those of IBM's API reference and of what its CLI sends. Where the service's
behaviour is unknown, each possibility works: ids may be missing, a filter may be ignored or answer 404, any 2xx is a success.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from typing import Any, NoReturn, Protocol
from urllib.parse import quote, quote_plus

from policyctl.errors import Conflict, LoginRefused, Moved, NotFound, RemoteError
from policyctl.load.urls import API, is_local, origin
from policyctl.plan.consumers import Sources
from policyctl.policy.document import Document
from policyctl.policy.live import named_rows
from policyctl.policy.model_settings import is_placeholder, secret_texts, unknown_settings
from policyctl.policy.names import KINDS, Kind, canonical_name, kind_of, row_names, virtual_model
from policyctl.policy.virtual_model import VirtualModelRow
from policyctl.remote import SECRETS_SHOWN, Closing
from policyctl.remote.http import Request, Response, describe, host_of, is_quota
from policyctl.remote.redaction import Redactor
from policyctl.remote.tenant_lists import Connections, every_row, is_envelope, read_sources, total_of

PLURALS: dict[Kind, str] = {"policy": "policies", "model": "models"}
MAX_ROWS = 500_000  # of a list
_SECRET_LENGTH = 8  # characters of a text that may be a secret although its key does not suggest one
QUERY = 4000  # characters of one query: gateways commonly refuse request lines of more than 8 KiB
CHECK_LOGIN = "check auth in policyctl.yaml (it only goes to the origin of the environment's own remote)"
_ETAG = re.compile(r"[\x21\x23-\x7e]+")


class Sender(Protocol):
    """What sends requests: an `HttpClient`, or a `LoginSession`."""

    def send(self, ask: Request, *, writes: bool = False) -> Response: ...

    def close(self) -> None: ...


class OrchestrateReader(Closing):
    """Reads the policies of one instance, and its virtual models where asked to. It has no methods for writing."""

    embedded = False

    def __init__(self, url: str, sender: Sender, scrub: Redactor, login: str = CHECK_LOGIN, *, models: bool = False) -> None:
        """`url` is the instance's, as IBM's CLI takes it; the API's own path is added. `login` is what to do about a 401.

        With `models` virtual models are rows too, beside policies.
        """
        url = url.rstrip("/")
        self.identity = _identity(url)
        self._api = _api(url)
        self._paths: dict[Kind, str] = {"policy": f"{self._api}/model_policy", "model": f"{self._api}/models"}
        self._kinds: tuple[Kind, ...] = KINDS if models else ("policy",)
        self.connections = Connections(self._connections_for)
        self.shows_keys = True  # until a list of models does not promise it
        self._sender, self._scrub, self._login = sender, scrub, login
        self._models_read: dict[str, Document] = {}  # by id

    def rows(self) -> list[Any]:
        return [row for kind in self._kinds for row in self._list(kind)]

    def find(self, names: Collection[str]) -> list[Any]:
        return [row for kind in KINDS for row in self._find(kind, [name for name in names if kind_of(name) == kind])]

    def _find(self, kind: Kind, names: Collection[str]) -> list[Any]:
        if not all(map(_is_sendable, names)):
            return _named(self._list(kind), names)
        found: list[Any] = []
        for query in _queries(names):
            answer = self._read(self._paths[kind], query)
            # 404 may mean that the filter found nothing; only the whole list shows whether the URL is wrong.
            found += self._list(kind) if answer.status == 404 else self._rows_of(kind, answer, query)
        return _named(found, names)

    def _list(self, kind: Kind) -> list[Any]:
        return self._rows_of(kind, self._read(self._paths[kind]))

    def _connections_for(self, query: tuple[tuple[str, str], ...]) -> Any:
        """What the tenant's list of connections answers; None for 404. On a local server it has a path of its own."""
        api = self._api if self._api.endswith("/orchestrate") else self._api.removesuffix("/v1") + "/api/v1/orchestrate"
        return self._get(f"{api}/connections/applications", query)

    def models(self) -> frozenset[str]:
        answer = self._read(f"{self._api}/models/list")
        if answer.status == 404:  # a remote without models; with a wrong URL, listing policies fails
            return frozenset()
        if not answer.good:
            self._refuse(answer)
        self._keep_out_secrets(answer)
        entries = answer.content.get("resources") if isinstance(answer.content, dict) else answer.content
        entries = entries if isinstance(entries, list) else []
        return frozenset(entry["id"] for entry in entries if isinstance(entry, dict) and isinstance(entry.get("id"), str))

    def sources(self) -> Sources:
        return read_sources(self._get, self._api, _agents_api(self._api))

    def _read(self, url: str, query: tuple[tuple[str, str], ...] = ()) -> Response:
        return self._sender.send(Request("GET", url, query, in_look=True))

    def _get(self, url: str, query: tuple[tuple[str, str], ...]) -> Any:
        """What is answered; None for 404. Raises RemoteError for any other status that is not a success."""
        answer = self._read(url, query)
        if answer.status == 404:
            return None
        if not answer.good:
            self._refuse(answer)
        if answer.content is None or (_is_page(answer) and total_of(answer.content) is None):
            raise RemoteError(f"{_host(answer)} answered with {'nothing' if answer.content is None else 'one page of a list'}")
        self._keep_out_secrets(answer)
        return answer.content

    def close(self) -> None:
        self._sender.close()

    def _rows_of(self, kind: Kind, answer: Response, query: tuple[tuple[str, str], ...] = ()) -> list[Any]:
        if not answer.good:
            self._refuse(answer)
        rows = self._all_pages(answer, query) if kind == "model" and is_envelope(answer.content) else answer.content
        if not isinstance(rows, list):
            text = f"{_host(answer)} answered {answer.status} without a list of {PLURALS[kind]}"
            raise RemoteError(f"{text}; check the URL of the remote")
        if len(rows) > MAX_ROWS:
            text = f"{_host(answer)} answered {answer.status} with more than {MAX_ROWS:,} rows"
            raise RemoteError(f"{text}, which no list of {PLURALS[kind]} has; check the URL of the remote")
        if _is_page(answer):
            raise RemoteError(f"{_host(answer)} answered with one page of a list; policyctl needs all of it at once")
        self._keep_out_secrets(answer)
        self.shows_keys &= kind == "policy" or answer.response.headers.get(SECRETS_SHOWN[0]) == SECRETS_SHOWN[1]
        return rows if kind == "policy" else [self._with_app_id(row) for row in rows]

    def _all_pages(self, first: Response, query: tuple[tuple[str, str], ...]) -> list[Any] | None:
        """Every model of a list that comes in pages, of which this is the first. Raises RemoteError unless that is all."""

        def get(url: str, asked: tuple[tuple[str, str], ...]) -> Any:
            return first.content if asked == query else self._get(url, asked)

        return every_row(get, self._paths["model"], query)

    def _with_app_id(self, row: Any) -> Any:
        """A row of a model, with the app id of its connection. Whatever else is in the list stays as it is."""
        if not isinstance(row, dict):
            return row
        if isinstance(identifier := row.get("id"), str):
            self._models_read[identifier] = row
        connection = row.get("connection_id")
        app_id = {"app_id": self.connections.app_id_of(connection)} if isinstance(connection, str) and connection else {}
        return VirtualModelRow({**{key: value for key, value in row.items() if key != "app_id"}, **app_id})

    def _keep_out_secrets(self, answer: Response) -> None:
        """Raise RemoteError for rows that contain this process's credentials: they would be shown, saved and compared."""
        if self._scrub.finds(answer.content):
            raise RemoteError(
                f"{_host(answer)} answered with the secret that it was sent; the answer is neither used nor shown"
            )

    def _refuse(self, answer: Response, scrub: Redactor | None = None) -> NoReturn:
        """Raise the error for a response that is not a success, of a read or a write; `scrub` redacts what is shown of it."""
        status, text = answer.status, f"{_host(answer)} answered {describe(answer.response, scrub or self._scrub)}"
        match status:
            case 401:
                raise LoginRefused(f"{text}; {self._login}")
            case 403:
                raise RemoteError(
                    f"{text}; {'this login is not allowed to do that' if self._login == CHECK_LOGIN else self._login}"
                )
            case 404 | 405:
                raise RemoteError(
                    f"{text} to {answer.response.url.copy_with(query=None)}; the URL of the remote is probably wrong"
                )
            case 429 if is_quota(answer.response):
                raise RemoteError(f"{text} (the tenant is full; waiting does not help)")
            case _ if 300 <= status < 400:
                raise RemoteError(f"{text}, a redirect; if that is right, write the URL that it leads to as the remote")
        raise RemoteError(text)


class OrchestrateRemote(OrchestrateReader):
    """Reads and writes the policies and virtual models of one instance."""

    _sent: frozenset[str] = frozenset()  # secrets of live models that were sent back; the report of a test may repeat them

    def add(self, document: Document, kind: Kind = "policy") -> str | None:
        ask = self._asking("POST", self._paths[kind], document, kind)
        answer = self._sender.send(ask, writes=True)
        if not answer.good:
            self._refuse_write(answer, ask)
        row = answer.content if isinstance(answer.content, dict) else {}
        identifier, name = row.get("id"), row.get("name", document["name"])
        # A response about something else, such as a job, has its own id.
        canonical = virtual_model if kind == "model" else canonical_name
        is_it = isinstance(name, str) and canonical(name) == canonical(document["name"])
        return identifier if is_it and isinstance(identifier, str) else None

    def update(self, identifier: str, document: Document, version: str | None = None, kind: Kind = "policy") -> None:
        ask = self._asking("PUT", self._one(identifier, kind), document, kind)
        self._write_one(ask._replace(headers=_only_if(version)), identifier, kind)

    def remove(self, identifier: str, version: str | None = None, kind: Kind = "policy") -> None:
        secrets = tuple(_secrets(self._models_read.get(identifier, {})))  # an answer may repeat what it is about
        ask = Request("DELETE", self._one(identifier, kind), headers=_only_if(version), secrets=secrets)
        self._write_one(ask, identifier, kind)

    def test_model(self, name: str) -> Any:
        ask = Request("POST", f"{self._paths['model']}/validate", body={"model": name}, secrets=tuple(self._sent))
        answer, scrub = self._sender.send(ask, writes=True), self._scrub.with_more(ask.secrets)
        if not answer.good:
            self._refuse(answer, scrub)
        self._keep_out_secrets(answer)
        return _scrubbed(answer.content, scrub)

    def _asking(self, method: str, url: str, document: Document, kind: Kind) -> Request:
        """The request that sends a document: a model's connection by the id that this tenant has for it."""
        if kind == "policy":
            return Request(method, url, body=document)
        body = {key: value for key, value in document.items() if key != "app_id"}
        if "app_id" in document:
            body["connection_id"] = self.connections.id_of(document["app_id"])
        secrets = frozenset(_secrets(body))
        self._sent |= secrets
        return Request(method, url, body=body, secrets=tuple(secrets))

    def _one(self, identifier: str, kind: Kind) -> str:
        if identifier in (".", "..") or not _is_sendable(identifier):
            raise RemoteError(f"the id {identifier!r} does not fit into a URL; repair that {kind} on the remote")
        return f"{self._paths[kind]}/{quote(identifier, safe='')}"

    def _write_one(self, ask: Request, identifier: str, kind: Kind) -> None:
        answer = self._sender.send(ask, writes=True)
        if answer.status in (404, 410):
            raise NotFound(f"{_host(answer)} has no {kind} with the id {identifier} any more")
        if not answer.good:
            self._refuse_write(answer, ask)

    def _refuse_write(self, answer: Response, ask: Request) -> NoReturn:
        scrub = self._scrub.with_more(ask.secrets)
        text = f"{_host(answer)} answered {describe(answer.response, scrub)}"
        if answer.status == 409:
            raise Conflict(text)
        if answer.status == 412:
            raise Moved(text)
        self._refuse(answer, scrub)


def _scrubbed(value: Any, scrub: Redactor) -> Any:
    """A plain value without secrets in its texts."""
    if isinstance(value, dict):
        return {key: _scrubbed(item, scrub) for key, item in value.items()}
    if isinstance(value, list):
        return [_scrubbed(item, scrub) for item in value]
    return scrub(value) if isinstance(value, str) else value


def _secrets(model: Document) -> Iterator[str]:
    """The secrets in a model that is sent or removed, headers with a value, and every text of settings that the format does not
    know, which may be one.

    What a live row holds of its own is sent back to where it was read from, and an answer may repeat what it was sent.
    """
    unknown = secret_texts(unknown_settings(model.get("provider_config")), secret=True)
    found = {*secret_texts(model), *(text for text in unknown if len(text) >= _SECRET_LENGTH)}
    config = model.get("provider_config")
    settings = config if isinstance(config, dict) else {}
    for headers in (settings.get("forward_headers"), settings.get("forwardHeaders")):
        found |= {one for one in headers if isinstance(one, str) and ":" in one} if isinstance(headers, list) else set()
    yield from (text for text in found if not is_placeholder(text))


def _api(url: str) -> str:
    """The API's base: `/v1` for the Developer Edition, `/v1/orchestrate` elsewhere, unless the URL has it already."""
    prefix = API[is_local(url)]
    return url if url.endswith(prefix) else url + prefix


def _agents_api(api: str) -> str:
    """Where agents and knowledge bases are: also on a local server below `/orchestrate`."""
    return api if api.endswith("/orchestrate") else f"{api}/orchestrate"


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
        pair = [("name", spelling) for spelling in row_names(name)]
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
