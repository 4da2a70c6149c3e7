"""/models: virtual models, and the list that targets are checked against."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.server.serving import Inside

GEMINI = {
    "name": "virtual-model/google/gemini",
    "display_name": "Gemini",
    "description": "text",
    "tags": [],
    "model_type": "chat",
}


def add(client: httpx.Client, **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/models", json={**GEMINI, **more})
    assert answer.status_code == 201, answer.text
    row: dict[str, Any] = answer.json()
    return row


def test_a_model_is_added_read_updated_and_removed(client: httpx.Client) -> None:
    row = add(client, provider_config={"provider": "google", "api_key": None})
    path = f"/v1/models/{row['id']}"
    assert {key: row[key] for key in GEMINI} == GEMINI
    assert row["provider_config"] == {"provider": "google"}
    assert client.get(path).json() == row
    changed = client.put(path, json={"description": "other", "display_name": None}).json()
    assert changed == {**row, "description": "other", "updated_at": changed["updated_at"]}
    assert client.delete(path).status_code == 204
    assert client.get("/v1/models").json() == []


def test_filters_are_repeated_and_exact(client: httpx.Client) -> None:
    rows = [add(client, name=name) for name in ("a", "b", "c")]
    assert client.get("/v1/models").json() == rows
    assert client.get("/v1/models", params={"name": ["a", "c", "d"]}).json() == [rows[0], rows[2]]


def test_in_the_list_of_all_models_the_id_is_the_name(client: httpx.Client) -> None:
    add(client)
    add(client, name="b", description=None, tags=["default", "third party"])
    assert client.get("/v1/models/list").json() == {
        "resources": [
            {"id": "b", "description": "", "tags": ["default", "third party"]},
            {"id": GEMINI["name"], "description": "text", "tags": ["third party"]},
        ]
    }
    assert [entry["id"] for entry in client.get("/v1/models/list", params={"id": ["b", "z"]}).json()["resources"]] == ["b"]


def test_the_embedded_remote_knows_the_models_that_were_added(server: Inside) -> None:
    assert server.store.models() == frozenset()
    add(server.client)
    assert server.store.models() == {GEMINI["name"]}


FAULTS: dict[str, tuple[str, str, Any, int]] = {
    "a name that is taken": ("POST", "/v1/models", GEMINI, 409),
    "no name": ("POST", "/v1/models", {}, 422),
    "tags that are no list": ("POST", "/v1/models", {"name": "b", "tags": "x"}, 422),
    "reading what is not there": ("GET", "/v1/models/none", None, 404),
    "updating what is not there": ("PUT", "/v1/models/none", {}, 404),
    "removing what is not there": ("DELETE", "/v1/models/none", None, 404),
    "trying what is not there": ("POST", "/v1/models/validate", {"model": "none"}, 404),
    "trying nothing": ("POST", "/v1/models/validate", {}, 422),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults(client: httpx.Client, case: str) -> None:
    method, path, body, status = FAULTS[case]
    row = add(client)
    answer = client.request(method, path, json=body)
    assert (answer.status_code, list(answer.json())) == (status, ["detail"])
    assert client.get("/v1/models").json() == [row]


def test_renaming_onto_another_model_is_a_409(client: httpx.Client) -> None:
    add(client, name="a")
    other = add(client, name="b")
    assert client.put(f"/v1/models/{other['id']}", json={"name": "a"}).status_code == 409


def test_trying_a_model_says_that_nothing_was_tested(client: httpx.Client) -> None:
    add(client)
    report = client.post("/v1/models/validate", json={"model": GEMINI["name"]}).json()
    assert (report["overall_status"], report["summary"]["total_tests"], report["tests"]) == ("skipped", 0, [])


@pytest.mark.parametrize("prefix", ["/v1", "/v1/orchestrate", "/instances/x/v1/orchestrate"])
def test_the_login_probe_of_ibms_cli_finds_a_list(client: httpx.Client, prefix: str) -> None:
    assert client.get(f"{prefix}/knowledge-bases").json() == []
