"""Agents, assistants, tools, toolkits, knowledge bases, workspaces and controls: what is put in is given back."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from policyctl.server.documents import COLLECTIONS, GLOBAL_WORKSPACE

PATHS = [*(collection.path for collection in COLLECTIONS), "/policies/bindings", "/workspaces"]
EVERYWHERE = GLOBAL_WORKSPACE["workspace_id"]
DOCUMENT = {
    "id": "00000000-0000-4000-8000-000000000021",
    "name": "front",
    "kind": "native",
    "tags": None,
    "llm": "virtual-policy/anygem",
    "tools": ["00000000-0000-4000-8000-000000000031"],
    "environments": [{"id": "e", "name": "draft"}],
    "input_schema": {"properties": {"api_key": {"type": "string"}}},
}


def add(client: httpx.Client, path: str, **document: Any) -> dict[str, Any]:
    answer = client.post(f"/v1{path}", json=document)
    assert answer.status_code == 201, answer.text
    row: dict[str, Any] = answer.json()
    return row


def listed(client: httpx.Client, path: str, **query: Any) -> list[str]:
    return [row["name"] for row in client.get(f"/v1{path}", params=query).json()]


@pytest.mark.parametrize("path", PATHS)
def test_a_document_is_stored_read_changed_replaced_and_removed(client: httpx.Client, path: str) -> None:
    row = add(client, path, **DOCUMENT)
    assert {**row, **DOCUMENT} == row
    item = f"/v1{path}/{row['id']}"
    assert {**row, **client.get(item).json()} == row
    changed = client.patch(item, json={"llm": "other"}).json()
    assert {**changed, **DOCUMENT, "llm": "other"} == changed
    replaced = client.put(item, json={"name": "front", "style": "react"}).json()
    assert replaced.keys() - {"created_on", "updated_at", "etag"} == {"id", "name", "style"}
    assert client.post(f"/v1{path}", json=DOCUMENT).status_code == 409, "the id is taken"
    assert client.delete(item).status_code == 204
    for method in ("GET", "PATCH", "PUT", "DELETE"):
        assert client.request(method, item, json={}).status_code == 404


@pytest.mark.parametrize(
    ("path", "words"),
    [
        ("/agents/x", ["Agent", "not found"]),
        ("/agents/external-chat/x", ["not found with the given name"]),
        ("/assistants/watsonx/x", ["Assistant not found"]),
        ("/tools/x", ["not found with the given name"]),
        ("/toolkits/x", ["not found with the given name"]),
    ],
)
def test_a_404_has_the_words_that_ibms_client_looks_for(client: httpx.Client, path: str, words: list[str]) -> None:
    """Without them it takes the absence of a document for an error."""
    answer = client.get(f"/v1{path}")
    assert answer.status_code == 404
    assert all(word in answer.json()["detail"] for word in words)


def test_a_list_has_the_rows_that_were_asked_for(client: httpx.Client) -> None:
    for name, more in (("a", {}), ("b", {}), ("c", {"hidden": True})):
        add(client, "/agents", name=name, id=f"id-{name}", **more)
    assert listed(client, "/agents") == ["a", "b"]
    assert listed(client, "/agents", include_hidden="true") == ["a", "b", "c"]
    assert listed(client, "/agents", names=["a", "z"]) == ["a"]
    assert listed(client, "/agents", ids=["id-a", "id-b"]) == ["a", "b"]
    assert listed(client, "/agents", names=["a"], ids=["id-b"]) == []


def test_a_list_is_of_one_workspace(client: httpx.Client) -> None:
    """The global one, unless another one is named; IBM's client has to ask for each."""
    for name, workspace in (("everywhere", {}), ("global", {"workspace_id": EVERYWHERE}), ("inside", {"workspace_id": "w"})):
        add(client, "/agents", name=name, **workspace)
    assert listed(client, "/agents") == listed(client, "/agents", workspace_id=EVERYWHERE) == ["everywhere", "global"]
    assert listed(client, "/agents", workspace_id="w") == ["inside"]
    assert listed(client, "/agents", workspace_id="w", include="global") == ["everywhere", "global", "inside"]


def test_workspaces_have_the_global_one_among_them(client: httpx.Client) -> None:
    assert client.get("/v1/workspaces").json() == [GLOBAL_WORKSPACE]
    add(client, "/workspaces", name="mine", workspace_id="w")
    rows = client.get("/v1/workspaces", params={"show_all": "true"}).json()
    assert [(row["workspace_id"], row["name"]) for row in rows] == [(EVERYWHERE, "Global workspace"), ("w", "mine")]
    assert client.delete("/v1/workspaces/w").status_code == 204
    add(client, "/workspaces", name="renamed", workspace_id=EVERYWHERE)
    assert listed(client, "/workspaces") == ["renamed"]


@pytest.mark.parametrize("prefix", ["/v1", "/v1/orchestrate", "/api/v1", "/instances/x/v1/orchestrate"])
def test_an_agents_environments(client: httpx.Client, prefix: str) -> None:
    """Every agent has a draft; what else it has is stored with it. Native agents keep `orchestrate` in every layout."""
    for path in ("/agents", "/agents/external-chat", "/knowledge-bases"):
        assert client.get(f"{prefix}{path}").json() == []
    made = add(client, "/agents", name="a")
    assert [found["name"] for found in client.get(f"{prefix}/agents/{made['id']}/environment").json()] == ["draft"]
    given = add(client, "/agents", **DOCUMENT)
    assert client.get(f"{prefix}/agents/{given['id']}/environment").json() == DOCUMENT["environments"]


def test_controls_are_found_by_the_first_filter(client: httpx.Client) -> None:
    one = add(client, "/policies/bindings", name="one", artifact_id="pii", model_ids=["virtual-model/a/b"], agent_ids=["x"])
    two = add(client, "/policies/bindings", name="two", artifact_id="hap", model_ids=["m"])
    for query, rows in (
        ({"sort": "recent"}, [one, two]),
        ({"model_ids": "virtual-model/a/b,z"}, [one]),
        ({"artifact_ids": "hap"}, [two]),
        ({"ids": f"{one['id']},{two['id']}", "agent_ids": "x"}, [one, two]),
        ({"tool_ids": "x"}, []),
    ):
        assert client.get("/v1/policies/bindings", params=query).json() == {"bindings": rows, "total": len(rows)}


@pytest.mark.parametrize("path", PATHS)
def test_a_document_without_a_name_is_refused(client: httpx.Client, path: str) -> None:
    assert client.post(f"/v1{path}", json={"description": "x"}).status_code == 422


def test_documents_may_have_anything_where_others_have_something(client: httpx.Client) -> None:
    """The server does not understand them, so it cannot fail on them."""
    odd = {"workspace_id": {"x": 1}, "environments": 5, "model_ids": 7, "artifact_id": [1], "hidden": "yes"}
    for path in PATHS:
        made = client.post(f"/v1{path}", json={"name": "odd", **odd})
        if path == "/workspaces":
            assert made.status_code == 422, "its workspace_id is its id"
            continue
        assert made.status_code == 201
        for query in ({}, {"workspace_id": "w", "model_ids": "m"}, {"artifact_ids": "a"}):
            assert client.get(f"/v1{path}", params=query).status_code == 200
    (agent,) = client.get("/v1/agents", params={"workspace_id": "{'x': 1}"}).json()
    assert client.get(f"/v1/agents/{agent['id']}/environment").json() == []
