"""Reading who uses models on a tenant: eight lists, and one of agents for each workspace, side by side.

Nothing is asked about single objects. A list that cannot be read is reported as such, since it shows nothing about what is in
it; a few are missing on some deployments, and those hold nothing there (see the manual, consumers).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple

from policyctl.errors import RemoteError
from policyctl.plan.consumers import ConsumerKind, Sources
from policyctl.policy.document import Document

_WORKERS = 6
MAX_WORKSPACES = 100  # whose agents are read
_PAGES = 200  # of one list
Query = tuple[tuple[str, str], ...]
# The content of an answer; None for 404. Raises RemoteError for any other that is no success.
Get = Callable[[str, Query], Any]


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


def read_sources(get: Get, api: str, agents_api: str) -> Sources:
    """Read what may use a model. Never raises RemoteError: what could not be read is in the result.

    `api` is the base of the API, `agents_api` that of agents and knowledge bases, which differs on a local server.
    """
    with ThreadPoolExecutor(_WORKERS) as pool:
        reading = _Reading(pool, get, api, agents_api)
        lists = {name: reading.start(one) for name, (_, one) in _LISTS.items()}
        selection, general = pool.submit(get, f"{api}/model-selection", ()), reading.start(_AGENTS)
        workspaces = reading.taken("workspaces", reading.start(_WORKSPACES), optional=True)
        ids = [one["workspace_id"] for one in workspaces if isinstance(one.get("workspace_id"), str)]
        if len(ids) > MAX_WORKSPACES:
            reading.unread["workspaces"] = f"there are {len(ids):,}, and the agents of {MAX_WORKSPACES} are read"
        each = {one: reading.start(_AGENTS, ("workspace_id", one)) for one in ids[:MAX_WORKSPACES]}
        agents = [*reading.taken("agents", general)]
        for one, future in each.items():
            agents += reading.taken(f"agents of workspace {one}", future)
        others = {kind: reading.taken(name, lists[name], optional=one.optional) for name, (kind, one) in _LISTS.items()}
        settings = reading.selection(selection)
    return Sources(tuple(_each_once(agents)), others, settings, reading.unread, tuple(reading.absent))


class _Reading:
    """The lists that are being read, and what came of those that could not be."""

    def __init__(self, pool: ThreadPoolExecutor, get: Get, api: str, agents_api: str) -> None:
        self._pool, self._get, self._api, self._agents_api = pool, get, api, agents_api
        self.unread: dict[str, str] = {}
        self.absent: list[str] = []

    def start(self, one: _List, *query: tuple[str, str]) -> Future[list[Document] | None]:
        """Begin to read a list."""
        below_agents = one.path.startswith("//")
        url = f"{self._agents_api}/{one.path[2:]}" if below_agents else f"{self._api}/{one.path}"
        return self._pool.submit(_rows, self._get, url, (*one.query, *query))

    def taken(self, name: str, future: Future[list[Document] | None], *, optional: bool = False) -> tuple[Document, ...]:
        """The rows of a list; none where it could not be read, of which note is taken."""
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
        settings = found.get("model_selection_settings") if isinstance(found, dict) else None
        return settings if isinstance(settings, dict) else {}


def _each_once(rows: list[Document]) -> Iterator[Document]:
    """Rows without those that several lists have: agents of all workspaces are in each workspace's list."""
    seen = set[str]()
    for row in rows:
        identifier = row.get("id")
        if not isinstance(identifier, str):
            yield row
        elif identifier not in seen:
            seen.add(identifier)
            yield row


def _rows(get: Get, url: str, query: Query) -> list[Document] | None:
    """Every row of a list, page by page where it comes as an envelope; None where there is no such list."""
    found: list[Document] = []
    for page in range(1, _PAGES + 1):
        content = get(url, query if page == 1 else (*query, ("page", str(page))))
        if content is None and page == 1:
            return None
        rows, total = _page(content, url)
        new = [row for row in rows if isinstance(row, dict) and row not in found] if page > 1 else rows
        found += (row for row in new if isinstance(row, dict))
        if total is None or len(found) >= total:
            return found
        if not new:
            break
    raise RemoteError(f"its list has {total:,} entries and shows {len(found):,} of them")


def _page(content: Any, url: str) -> tuple[list[Any], int | None]:
    """The rows of one page and how many there are in all, None where that is not given."""
    if isinstance(content, list):
        return content, None
    if isinstance(content, Mapping):
        lists = [value for value in content.values() if isinstance(value, list)]
        total = content.get("total")
        if len(lists) == 1:
            return lists[0], total if isinstance(total, int) else None
    raise RemoteError(f"{url.rpartition('/')[2]} was answered without a list")
