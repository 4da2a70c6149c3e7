"""What a tenant has beside policies and models: its connections, and the lists of who may use a model.

A model reaches its credentials through a connection. Its list has one entry for each environment (draft and live) of a
connection; connections that the pages miss are requested one by one. No response that is read here contains a secret.

Consumers are in eight lists, and one of agents for each workspace, which are read in parallel. No object is requested by
itself. A list that cannot be read is reported as such, since it shows nothing about what is in it; a few are missing on some
deployments, and those hold nothing there (see the manual, consumers).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from functools import cache
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from policyctl.errors import RemoteError
from policyctl.plan.consumers import ConsumerKind, Sources
from policyctl.policy.document import Document
from policyctl.policy.virtual_model import UNNAMED

if TYPE_CHECKING:
    from concurrent.futures import Future, ThreadPoolExecutor

_WORKERS = 6
MAX_WORKSPACES = 100  # whose agents are read
_PAGES = 200  # of one list
_MAX_ROWS = 500_000  # of one list
MOST_BYTES = 64 * 1024 * 1024  # of all lists that are read together, as of a list that comes in one answer
_TOTALS = frozenset({"total", "totalcount", "totalitems", "totalresults"})  # in lower case and without underscores
# Under which an envelope has its rows, in lower case and without underscores, besides the name of the list itself.
_ROWS = frozenset(
    "agents applications assistants bindings content connections data entries externalagents items knowledgebases list models "
    "records resources results rows tools values workspaces".split()
)
_NAMES = ("id", "name", "workspace_id", "connection_id")  # each row of a list has one of these
_MORE = ("next", "hasmore", "hasnext", "continuationtoken")
Query = tuple[tuple[str, str], ...]
# The content of an answer to a URL and a query; None for 404. Raises RemoteError for any other that is not a success.
Get = Callable[[str, Query], Any]
_Page = tuple[list[Any], int | None]  # rows, and how many there are in all, None where that is not given


class _Room:
    """The rows of the lists of one tenant, each kept once whatever number of pages and lists have it. For several threads."""

    def __init__(self) -> None:
        self._rows: dict[bytes, Any] = {}
        self._left = MOST_BYTES
        self._lock = threading.Lock()

    def kept(self, row: Any) -> Any:
        """The row, or an equal one that came before. Raises RemoteError if it would exceed the limit."""
        text = json.dumps(row, sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode(errors="surrogatepass")
        mark = sha256(text).digest()
        with self._lock:
            if mark not in self._rows:
                self._left -= len(text)
                if self._left < 0:
                    raise RemoteError(f"its lists have more than {MOST_BYTES >> 20} MiB in all")
                self._rows[mark] = row
            return self._rows[mark]


def _read_pages(get: Callable[[Query], Any], query: Query, page_of: Callable[[Any], _Page], room: _Room) -> _Page | None:
    """The rows of a list, page by page where it comes as an envelope, each once; None where the remote does not have it.

    How to ask for the next page is not documented: reading ends where a page brings nothing new, whatever the total.
    """
    content, found, total, seen = get(query), list[Any](), None, set[int]()
    if content is None:
        return None
    for page in range(2, _PAGES + 2):
        rows, total = page_of(content)
        new = [row for row in map(room.kept, rows) if id(row) not in seen]
        seen.update(map(id, new))
        found += new
        if len(found) > _MAX_ROWS:
            raise RemoteError(f"a list has more than {_MAX_ROWS:,} entries")
        if total is None or len(found) >= total or not new:
            break
        content = get((*query, ("page", str(page))))
    return found, total


class Connection(NamedTuple):
    """A connection in one environment of the tenant (draft, live, or None where it is configured in neither)."""

    connection_id: str
    app_id: str
    environment: str | None = None
    security_scheme: str | None = None
    credentials_entered: bool | None = None
    is_configured: bool = True


class Connections:
    """The connections of one tenant, each read once. Several threads may ask."""

    def __init__(self, get: Callable[[Query], Any]) -> None:
        """`get` gives the answer for a query of the list of connections; None where the tenant does not have it (404)."""
        self._get = get
        self._lock = threading.Lock()
        self._listed: tuple[Connection, ...] | None = None
        self._read = False
        self._single: dict[tuple[str, str], Connection | None] = {}

    def listed(self) -> tuple[Connection, ...] | None:
        """Every connection that the list has; None where the tenant has no list of connections."""
        with self._lock:
            if not self._read:
                self._listed, self._read = self._pages(), True
            return self._listed

    def id_of(self, app_id: str) -> str:
        """The id that this tenant has for a connection. Raises RemoteError where there is none."""
        if app_id.startswith(UNNAMED):
            return app_id.removeprefix(UNNAMED)
        found = self._find("app_id", app_id)
        if found is None:
            why = "this remote has no list of connections" if self.listed() is None else "it does not exist"
            raise RemoteError(f"connection {app_id}: {why}; make it with orchestrate connections add, or correct app_id")
        return found.connection_id

    def exists(self, app_id: str) -> bool:
        """Whether the tenant has a connection of that app id, in its list or when asked for it alone."""
        return self._find("app_id", app_id) is not None

    def app_id_of(self, connection_id: str) -> str:
        """The app id of a connection; `id:…` where it cannot be found, or where that app id leads to another connection: a
        write would then move the model there."""
        found = self._find("connection_id", connection_id)
        named = found is not None and self._find("app_id", found.app_id)
        return named.app_id if named and named.connection_id == connection_id else UNNAMED + connection_id

    def _find(self, key: str, value: str) -> Connection | None:
        for connection in self.listed() or ():
            if getattr(connection, key) == value:
                return connection
        with self._lock:
            if (key, value) not in self._single:
                self._single[key, value] = _single(self._get(((key, value),)), key, value)
            found = self._single[key, value]
        # A filter that is ignored finds any connection.
        return found if found is not None and getattr(found, key) == value else None

    def _pages(self) -> tuple[Connection, ...] | None:
        read = _read_pages(self._get, (("include_details", "true"),), _connection_rows, _Room())
        return None if read is None else tuple(dict.fromkeys(_entries(read[0])))


def _single(content: Any, key: str, value: str) -> Connection | None:
    """The connection that a look-up finds, also where the answer is a list, as of a filter that is ignored; None where there is
    none. Raises RemoteError for an answer of another form, or that is not whole."""
    if content is None:
        return None
    if (found := _entry(content)) is not None:
        return found
    rows, total = _connection_rows(content)
    if total is not None and len(rows) < total:
        raise RemoteError(f"a look-up of one connection has {total:,} entries and shows {len(rows):,} of them")
    return next((one for one in _entries(rows) if getattr(one, key) == value), None)


def total_of(content: Any) -> int | None:
    """How many entries a list has on all its pages, where an envelope shows it."""
    counts = (value for key, value in _envelope(content) if key in _TOTALS and not isinstance(value, bool))
    return next(
        (int(count) for count in counts if isinstance(count, int) or (isinstance(count, str) and count.isdecimal())), None
    )


def _envelope(content: Any) -> Iterator[tuple[str, Any]]:
    """What is beside the rows of a page, also one level down: keys in lower case and without underscores."""
    parts = (content, *content.values()) if isinstance(content, dict) else ()
    for part in parts:
        if isinstance(part, dict):
            yield from ((key.replace("_", "").lower(), value) for key, value in part.items())


def _connection_rows(content: Any) -> _Page:
    """The rows on a page of connections: an odd entry is none that a model could use, and the others are as they are."""
    return _rows_on(content, "connections", some=True)


def _entries(rows: list[Any]) -> Iterator[Connection]:
    for row in rows:
        if (entry := _entry(row)) is not None:
            yield entry


def _entry(row: Any) -> Connection | None:
    if not isinstance(row, dict) or not isinstance(row.get("connection_id"), str) or not isinstance(row.get("app_id"), str):
        return None
    entered = row.get("credentials_entered")
    environment, scheme = (row.get(key) for key in ("environment", "security_scheme"))
    return Connection(
        row["connection_id"],
        row["app_id"],
        environment if isinstance(environment, str) and environment else None,
        scheme if isinstance(scheme, str) and scheme else None,
        entered if isinstance(entered, bool) else None,
        row.get("is_configured") is not False,
    )


class _List(NamedTuple):
    """One list: its path below the API (`//` in front: below the path that agents have), its query, and whether some
    deployments do without it."""

    path: str
    query: Query = ()
    optional: bool = False


_AGENTS = _List("//agents", (("include_hidden", "true"), ("include", "global")))
_WORKSPACES = _List("workspaces", (("show_all", "true"),))
_LISTS: dict[str, tuple[ConsumerKind, _List]] = {
    "external agents": ("external agent", _List("agents/external-chat", (("include_hidden", "true"),), optional=True)),
    "assistants": ("assistant", _List("assistants/watsonx", (("include_hidden", "true"),), optional=True)),
    "tools": ("flow", _List("tools", (("include", "global"),))),
    "knowledge bases": ("knowledge base", _List("//knowledge-bases", (("include", "global"),))),
    "controls": ("control", _List("policies/bindings", (("sort", "recent"),), optional=True)),
}


@cache
def _workers() -> ThreadPoolExecutor:
    """Threads for the lists of all tenants: starting some for each of many environments takes as long as its requests."""
    from concurrent.futures import ThreadPoolExecutor  # plans without changes need none

    return ThreadPoolExecutor(_WORKERS)


def read_sources(get: Get, api: str, agents_api: str) -> Sources:
    """Read what may use a model. Never raises RemoteError: what could not be read is in the result.

    `api` is the base of the API, `agents_api` that of agents and knowledge bases, which differs on a local server.
    """
    pool = _workers()
    reading = _Reading(pool, get, api, agents_api)
    lists = {name: reading.start(one) for name, (_, one) in _LISTS.items()}
    selection, general = pool.submit(get, f"{api}/model-selection", ()), reading.start(_AGENTS)
    workspaces = reading.taken("workspaces", reading.start(_WORKSPACES), optional=True)
    ids = [one["workspace_id"] for one in workspaces if isinstance(one.get("workspace_id"), str)]
    if unnamed := len(workspaces) - len(ids):
        reading.unread["workspaces"] = f"{unnamed:,} of {len(workspaces):,} have no workspace_id, by which agents are read"
    if len(ids) > MAX_WORKSPACES:
        reading.unread["workspaces"] = f"there are {len(ids):,}, and the agents of {MAX_WORKSPACES} are read"
    each = {one: reading.start(_AGENTS, ("workspace_id", one)) for one in ids[:MAX_WORKSPACES]}
    agents = [*reading.taken("agents", general)]
    for one, future in each.items():
        agents += reading.taken(f"agents of workspace {one}", future)
    others = {kind: reading.taken(name, lists[name], optional=one.optional) for name, (kind, one) in _LISTS.items()}
    settings = reading.selection(selection)
    # An agent is in many lists. Rows that differ are kept: one without what it uses does not show that it uses nothing.
    each_once = {id(row): row for row in agents}
    return Sources(tuple(each_once.values()), others, settings, reading.unread, tuple(reading.absent))


class _Reading:
    """The lists that are being read, and what came of those that could not be."""

    def __init__(self, pool: ThreadPoolExecutor, get: Get, api: str, agents_api: str) -> None:
        self._pool, self._get, self._api, self._agents_api = pool, get, api, agents_api
        self._room = _Room()
        self.unread: dict[str, str] = {}
        self.absent: list[str] = []

    def start(self, one: _List, *query: tuple[str, str]) -> Future[list[Document] | None]:
        """Begin to read a list."""
        below_agents = one.path.startswith("//")
        url = f"{self._agents_api}/{one.path[2:]}" if below_agents else f"{self._api}/{one.path}"
        return self._pool.submit(every_row, self._get, url, (*one.query, *query), self._room)

    def taken(self, name: str, future: Future[list[Document] | None], *, optional: bool = False) -> tuple[Document, ...]:
        """The rows of a list; none where it could not be read, which is recorded."""
        try:
            rows = future.result()
        except RemoteError as error:
            self.unread[name] = str(error)
            return ()
        if rows is None and optional:
            self.absent.append(name)
        elif rows is None:
            self.unread[name] = "the remote does not have it (404)"
        return tuple(rows or ())

    def selection(self, future: Future[Any]) -> Document:
        """The tenant's settings for models."""
        try:
            found = future.result()
        except RemoteError as error:
            self.unread["model selection"] = str(error)
            return {}
        if found is None:
            self.absent.append("model selection")
            return {}
        settings = found.get("model_selection_settings") if isinstance(found, dict) else None
        if not isinstance(settings, dict):
            self.unread["model selection"] = "it was answered without model_selection_settings"
            return {}
        return settings


def every_row(get: Get, url: str, query: Query, room: _Room | None = None) -> list[Document] | None:
    """Every row of a list; None where the remote does not have it. Raises RemoteError for one that is not shown whole."""
    read = _read_pages(lambda asked: get(url, asked), query, lambda content: _rows_on(content, url), room or _Room())
    if read is None:
        return None
    rows, total = read
    if total is not None and len(rows) < total:
        raise RemoteError(f"its list has {total:,} entries and shows {len(rows):,} of them")
    return rows


def is_envelope(content: Any) -> bool:
    """Whether an answer is one page of a list: an object with one list in it, and how many entries there are in all."""
    if not isinstance(content, dict) or type(content.get("total")) is not int:
        return False
    return sum(isinstance(value, list) for value in content.values()) == 1


def _rows_on(content: Any, url: str, *, some: bool = False) -> _Page:
    """The objects on one page, and how many there are in all. Raises RemoteError for any other form than the known ones: what
    looks like an empty list there may be the list of something else. With `some` a row that is as expected is enough."""
    rows, total = content if isinstance(content, list) else None, total_of(content)
    if isinstance(content, dict):
        lists = [key for key, value in content.items() if _has_list(value)]
        plain = lists[0].replace("_", "").lower() if len(lists) == 1 else ""
        rows = content[lists[0]] if plain in _ROWS else None
    if not isinstance(rows, list):
        raise RemoteError(f"{url.rpartition('/')[2]} was answered without a list of a known form")
    expected = [isinstance(row, dict) and not row.keys().isdisjoint(_NAMES) for row in rows]
    if not (any(expected) or not rows if some else all(expected)):
        raise RemoteError("its list has entries that are not objects with an id or a name")
    if total is None and any(value and key.startswith(_MORE) for key, value in _envelope(content)):
        raise RemoteError("its list goes on after the first page, and does not show how many entries it has")
    return rows, total


def _has_list(value: Any) -> bool:
    """Whether there is a list in a value of an envelope, which may be that of its rows."""
    if isinstance(value, dict):
        return any(map(_has_list, value.values()))
    return isinstance(value, list)
