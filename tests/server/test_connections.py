"""/connections: metadata of connections, and that credentials were entered; never a credential."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.server.serving import Inside

BASE = "/v1/connections/applications"
SECRET = "canary-7132-of-a-connection"
KEY_VALUE = {"preference": "team", "security_scheme": "key_value_creds"}


def add(client: httpx.Client, app_id: str, *environments: str, **more: Any) -> str:
    answer = client.post(BASE, json={"app_id": app_id, **more})
    assert answer.status_code == 201, answer.text
    for environment in environments:
        body = {**KEY_VALUE, "environment": environment}
        assert client.post(f"{BASE}/{app_id}/configurations", json=body).status_code == 201
    identifier: str = answer.json()["connection_id"]
    return identifier


def test_a_connection_is_found_by_its_app_id_and_by_its_id(client: httpx.Client) -> None:
    identifier = add(client, "creds", resource={"component": "knowledge"})
    by_name = client.get(BASE, params={"app_id": "creds"}).json()
    assert (by_name["connection_id"], by_name["resource"]) == (identifier, {"component": "knowledge"})
    assert client.get(BASE, params={"connection_id": identifier}).json() == by_name
    assert add(client, "chosen", connection_id="an-id") == "an-id"
    assert client.delete(f"{BASE}/creds").status_code == 204
    for missing in ({"app_id": "creds"}, {"connection_id": identifier}):
        assert client.get(BASE, params=missing).status_code == 404


@pytest.mark.parametrize("prefix", ["/v1", "/api/v1/orchestrate", "/instances/x/v1/orchestrate", "/api/v1"])
def test_connections_are_there_in_every_layout(client: httpx.Client, prefix: str) -> None:
    add(client, "creds", "draft")
    assert client.get(f"{prefix}/connections/applications", params={"app_id": "creds"}).status_code == 200
    assert client.get(f"{prefix}/connections/applications/creds/configurations/draft").status_code == 200


def test_a_configuration_is_made_replaced_and_changed(client: httpx.Client) -> None:
    add(client, "creds", "draft")
    path = f"{BASE}/creds/configurations"
    made = client.get(f"{path}/draft").json()
    expected = {**KEY_VALUE, "app_id": "creds", "environment": "draft", "auth_type": None, "sso": False, "server_url": None}
    assert {key: made[key] for key in expected} == expected
    assert client.get(f"{path}/live").status_code == 404
    assert client.post(path, json={**KEY_VALUE, "environment": "draft"}).status_code == 409
    changed = client.patch(f"{path}/draft", json={"server_url": "https://example.invalid"}).json()
    assert changed == {**made, "server_url": "https://example.invalid"}
    replaced = client.put(f"{path}/draft", json={"preference": "member", "security_scheme": "basic_auth"}).json()
    assert replaced == {**made, "preference": "member", "security_scheme": "basic_auth"}
    assert client.put(f"{path}/live", json=KEY_VALUE).json()["environment"] == "live"
    assert client.put(f"{path}/test", json=KEY_VALUE).status_code == 404


def test_the_list_has_one_row_for_each_environment(client: httpx.Client) -> None:
    both, bare = add(client, "both", "live", "draft"), add(client, "bare")
    client.post(f"{BASE}/both/configs/live/runtime_credentials", json={"runtime_credentials": {"api_key": SECRET}})
    page = client.get(BASE, params={"include_details": "true"}).json()
    assert (page["page"], page["limit"], page["total"]) == (1, 50, 3)
    keys = ("app_id", "connection_id", "environment", "security_scheme", "preference", "credentials_entered", "is_configured")
    assert [tuple(row[key] for key in keys) for row in page["applications"]] == [
        ("bare", bare, None, None, None, False, False),
        ("both", both, "draft", "key_value_creds", "team", False, True),
        ("both", both, "live", "key_value_creds", "team", True, True),
    ]
    some = client.get(BASE, params={"include_details": "true", "connectionIds": f"{bare},none"}).json()
    assert [row["app_id"] for row in some["applications"]] == ["bare"]


def test_the_list_comes_in_pages(client: httpx.Client) -> None:
    for number in range(26):
        add(client, f"app-{number:02}", "draft", "live")
    pages = [client.get(BASE, params={"include_details": "true", "page": page}).json() for page in (1, 2, 3)]
    assert [len(page["applications"]) for page in pages] == [50, 2, 0]
    assert {page["total"] for page in pages} == {52}
    assert client.get(BASE, params={"limit": 3, "page": 2}).json()["applications"][0]["app_id"] == "app-01"


@pytest.mark.parametrize("kind", ["credentials", "runtime_credentials"])
@pytest.mark.parametrize("method", ["POST", "PATCH"])
def test_credentials_are_noted_and_not_stored(server: Inside, kind: str, method: str) -> None:
    client = server.client
    add(client, "creds", "draft")
    state = {
        "credentials": lambda: client.get(f"{BASE}/creds/credentials/draft"),
        "runtime_credentials": lambda: client.get(f"{BASE}/runtime_credentials", params={"app_id": "creds", "env": "draft"}),
    }
    assert {name: ask().status_code for name, ask in state.items()} == dict.fromkeys(state, 404)
    path = f"{BASE}/creds/configs/draft/{kind}"
    answer = client.request(method, path, json={"app_credentials": {"client_secret": SECRET}})
    assert answer.json() == {"app_id": "creds", "environment": "draft", "credentials_entered": True}
    assert {name: ask().status_code for name, ask in state.items()} == {**dict.fromkeys(state, 404), kind: 200}
    answers = [answer, *(ask() for ask in state.values()), client.get(BASE)]
    assert SECRET not in json.dumps([each.json() for each in answers])
    assert SECRET.encode() not in server.store.path.read_bytes()
    assert client.delete(path).json()["credentials_entered"] is False
    assert state[kind]().status_code == 404


def test_a_configuration_holds_no_secret(server: Inside) -> None:
    add(server.client, "creds")
    body = {**KEY_VALUE, "environment": "draft", "idp_config_data": {"header": {"api-key": SECRET}}}
    server.client.post(f"{BASE}/creds/configurations", json=body)
    read = server.client.get(f"{BASE}/creds/configurations/draft").json()
    assert read["idp_config_data"] == {"header": {"api-key": "***"}}
    assert SECRET.encode() not in server.store.path.read_bytes()


FAULTS: dict[str, tuple[str, str, Any, int]] = {
    "an app id that is taken": ("POST", "", {"app_id": "creds"}, 409),
    "no app id": ("POST", "", {}, 422),
    "removing what does not exist": ("DELETE", "/none", None, 404),
    "configuring what does not exist": ("POST", "/none/configurations", {**KEY_VALUE, "environment": "draft"}, 404),
    "another environment": ("POST", "/creds/configurations", {**KEY_VALUE, "environment": "test"}, 422),
    "another preference": ("PUT", "/creds/configurations/draft", {"preference": "all"}, 422),
    "credentials of what does not exist": ("POST", "/none/configs/draft/credentials", {}, 404),
    "credentials without a configuration": ("POST", "/creds/configs/live/credentials", {}, 404),
    "runtime credentials of nothing": ("GET", "/runtime_credentials?app_id=creds", None, 422),
    "a page that is not a number": ("GET", "?page=x", None, 422),
    "page nought": ("GET", "?page=0", None, 422),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults(client: httpx.Client, case: str) -> None:
    method, path, body, status = FAULTS[case]
    add(client, "creds", "draft")
    answer = client.request(method, BASE + path, json=body)
    assert (answer.status_code, list(answer.json())) == (status, ["detail"])
