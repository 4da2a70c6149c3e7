"""Reading who uses models over HTTP: every list, page by page, and what could not be read is named."""

from __future__ import annotations

from typing import Any

import pytest

from policyctl.plan.consumers import Sources
from policyctl.remote import tenant_lists
from tests.examples import crossed
from tests.remote.fake_server import Handler, Reply, Seen, standing_in
from tests.remote.http_helpers import reach

LISTS = {
    "/v1/orchestrate/agents": "agents",
    "/v1/workspaces": "workspaces",
    "/v1/agents/external-chat": "external agents",
    "/v1/assistants/watsonx": "assistants",
    "/v1/tools": "tools",
    "/v1/orchestrate/knowledge-bases": "knowledge bases",
    "/v1/policies/bindings": "controls",
    "/v1/model-selection": "model selection",
}
ROWS = [{"id": "1", "name": "one"}]
OPTIONAL = {"workspaces", "external agents", "assistants", "controls", "model selection"}


def empty(seen: Seen) -> Reply:
    """A tenant that has all lists, with nothing in them."""
    return Reply(200, {"model_selection_settings": {}} if seen.path.endswith("/model-selection") else [])


def sources_of(handler: Handler) -> tuple[Sources, set[str]]:
    """What is read of a server, and the paths that were asked for."""
    with standing_in(handler) as server:
        with reach(server.url) as remote:
            found = remote.sources()
        return found, {seen.path for seen in server.seen}


def test_each_list_is_asked_for_once() -> None:
    found, asked = sources_of(empty)
    assert asked == LISTS.keys()
    assert (found.unread, found.absent, found.agents) == ({}, (), ())


@pytest.mark.parametrize(("path", "status"), crossed(LISTS, [401, 403, 500]))
def test_a_list_that_cannot_be_read_is_named_and_the_others_are_read(path: str, status: int) -> None:
    def answer(seen: Seen) -> Reply:
        if seen.path == path:
            return Reply(status)
        return empty(seen) if seen.path.endswith(("/workspaces", "/model-selection")) else Reply(200, ROWS)

    found, asked = sources_of(answer)
    assert asked == LISTS.keys()
    assert found.unread.keys() == {LISTS[path]}
    assert str(status) in found.unread[LISTS[path]]


@pytest.mark.parametrize("path", LISTS)
def test_a_list_that_is_not_there_is_absent_or_not_known(path: str) -> None:
    found, _ = sources_of(lambda seen: Reply(404) if seen.path == path else empty(seen))
    name = LISTS[path]
    assert (found.absent, list(found.unread)) == (((name,), []) if name in OPTIONAL else ((), [name]))


def test_agents_of_every_workspace_count_once() -> None:
    def answer(seen: Seen) -> Reply:
        if seen.path.endswith("/workspaces"):
            return Reply(200, [{"workspace_id": "w1"}, {"workspace_id": "w2"}])
        own = dict(seen.query).get("workspace_id")
        rows = [{"id": "0", "name": "everywhere"}, *([{"id": own, "name": own, "workspace_id": own}] if own else [])]
        return Reply(200, rows if seen.path.endswith("/agents") else [])

    found, _ = sources_of(answer)
    assert [row["name"] for row in found.agents] == ["everywhere", "w1", "w2"]


@pytest.mark.parametrize("status", [403, 500])
def test_a_workspace_whose_agents_cannot_be_read_is_named(status: int) -> None:
    def answer(seen: Seen) -> Reply:
        if seen.path.endswith("/workspaces"):
            return Reply(200, [{"workspace_id": "w1"}])
        return Reply(status) if ("workspace_id", "w1") in seen.query else empty(seen)

    assert sources_of(answer)[0].unread.keys() == {"agents of workspace w1"}


def pages(total: int, rows: list[list[str]]) -> Handler:
    """A server whose tools come as an envelope, page by page."""

    def answer(seen: Seen) -> Reply:
        if not seen.path.endswith("/tools"):
            return empty(seen)
        page = int(dict(seen.query).get("page", 1)) - 1
        content: list[Any] = [{"id": name, "name": name} for name in rows[min(page, len(rows) - 1)]]
        return Reply(200, {"tools": content, "total": total})

    return answer


def test_an_envelope_is_read_page_by_page() -> None:
    found, _ = sources_of(pages(3, [["a", "b"], ["c"]]))
    assert [row["name"] for row in found.others["flow"]] == ["a", "b", "c"]


def test_a_list_that_is_cut_short_is_not_known() -> None:
    found, _ = sources_of(pages(3, [["a", "b"]]))
    assert found.unread == {"tools": "its list has 3 entries and shows 2 of them"}


def test_lists_that_go_on_and_on_are_read_no_further_than_there_is_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenant_lists, "MOST_BYTES", 1000)
    asked: list[int] = []

    def answer(seen: Seen) -> Reply:
        if not seen.path.endswith("/tools"):
            return empty(seen)
        asked.append(len(asked))
        return Reply(200, {"tools": [{"id": str(asked[-1]), "name": "x" * 300}], "total": 10**9})

    found, _ = sources_of(answer)
    assert ([*found.unread], len(asked)) == (["tools"], 4)
    assert "its lists have more than 0 MiB in all" in found.unread["tools"]


def test_what_many_lists_have_takes_room_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tenant_lists, "MOST_BYTES", 2000)

    def answer(seen: Seen) -> Reply:
        if seen.path.endswith("/workspaces"):
            return Reply(200, [{"workspace_id": f"w{number}"} for number in range(20)])
        return Reply(200, [{"id": "0", "name": "x" * 300}]) if seen.path.endswith("/agents") else empty(seen)

    found, _ = sources_of(answer)
    assert (len(found.agents), found.unread) == (1, {})


@pytest.mark.parametrize(
    ("path", "reply", "unread"),
    [
        ("agents", Reply(200, ROWS, {"Link": '</v1/agents?page=2>; rel="next"'}), "agents"),
        ("agents", Reply(200, {"agents": ROWS, "next": "?cursor=2"}), "agents"),
        ("agents", Reply(200, {"agents": ROWS, "has_more": True}), "agents"),
        ("agents", Reply(200, {"agents": ROWS, "total_count": 2}), "agents"),
        ("agents", Reply(200, {"agents": ROWS, "total": "2"}), "agents"),
        ("agents", Reply(200, {"agents": ROWS, "pagination": {"totalItems": 2}}), "agents"),
        ("agents", Reply(200, [*ROWS, None]), "agents"),
        ("workspaces", Reply(200, [{"id": "w1"}]), "workspaces"),
        ("workspaces", Reply(200, [{"workspace_id": 7}]), "workspaces"),
        ("model-selection", Reply(200, {"default_llm": "virtual-model/openai/x"}), "model selection"),
        ("model-selection", Reply(200, {"model_selection_settings": ["x"]}), "model selection"),
        ("model-selection", Reply(200, []), "model selection"),
        ("model-selection", Reply(200, "none"), "model selection"),
        ("model-selection", Reply(200, b"null"), "model selection"),
        ("model-selection", Reply(200, b""), "model selection"),
        ("agents", Reply(200, b"null"), "agents"),
        ("agents", Reply(200, {}), "agents"),
        ("agents", Reply(200, {"agents": None}), "agents"),
        ("agents", Reply(200, {"warnings": [], "agents": {"1": {"llm": "virtual-model/openai/x"}}}), "agents"),
        ("agents", Reply(200, {"errors": []}), "agents"),
        ("agents", Reply(200, {"data": [], "_embedded": {"agents": ROWS}}), "agents"),
        ("agents", Reply(200, {"data": {"agents": ROWS}}), "agents"),
        ("agents", Reply(200, {"1": ROWS[0]}), "agents"),
        ("agents", Reply(200, [{"entity": {"llm": "virtual-model/openai/x"}}]), "agents"),
        ("agents", Reply(200, [ROWS]), "agents"),
        ("bindings", Reply(200, b"null"), "controls"),
        ("bindings", Reply(200, {"bindings": {}}), "controls"),
    ],
)
@pytest.mark.alike
def test_a_list_that_may_not_be_whole_counts_as_not_read(path: str, reply: Reply, unread: str) -> None:
    found, _ = sources_of(lambda seen: reply if seen.path.endswith(f"/{path}") else empty(seen))
    assert found.unread.keys() == {unread}


@pytest.mark.parametrize("key", ["agents", "resources", "data", "items"])
def test_an_envelope_of_a_known_form_is_a_list(key: str) -> None:
    content = {key: ROWS, "total": 1, "page": {"limit": 50, "next": None}}
    found, _ = sources_of(lambda seen: Reply(200, content) if seen.path.endswith("/agents") else empty(seen))
    assert (found.unread, found.agents) == ({}, tuple(ROWS))


def test_an_agent_that_one_list_shows_in_part_is_known_by_the_other() -> None:
    full = {"id": "1", "name": "bot", "llm": "virtual-model/openai/x"}

    def answer(seen: Seen) -> Reply:
        if seen.path.endswith("/workspaces"):
            return Reply(200, [{"workspace_id": "w1"}])
        in_workspace = dict(seen.query).get("workspace_id") == "w1"
        return Reply(200, [full] if in_workspace else [{"id": "1", "name": "bot"}] if seen.path.endswith("/agents") else [])

    found, _ = sources_of(answer)
    assert full in found.agents
