"""/models and /model-selection: virtual models, the lists that targets are checked against, and the tenant's settings."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from policyctl.remote.open import open_store
from policyctl.remote.sqlite import SqliteReader, SqliteRemote
from policyctl.remote.store import ModelTable
from policyctl.server.api import Service, Variant
from policyctl.server.app import make_app
from policyctl.server.login import TokenIssuer
from tests.server.serving import HOST, Events, InProcess, Inside, inside

NAME = "virtual-model/google/gemini"
GEMINI = {"name": NAME, "display_name": "Gemini", "description": "text", "tags": [], "model_type": "chat"}
SECRET = "canary-7130-of-a-model"


@contextmanager
def variant(tmp_path: Path, *, unique_names: bool = True, **switches: bool) -> Iterator[httpx.Client]:
    """The client of a server that was started with these switches."""
    with (
        SqliteRemote(tmp_path / "variant.db", unique_names=unique_names) as store,
        inside(store, variant=Variant(**switches)) as server,
    ):
        yield server.client


def add(client: httpx.Client, **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/models", json={**GEMINI, **more})
    assert answer.status_code == 201, answer.text
    row: dict[str, Any] = answer.json()
    return row


def add_policy(client: httpx.Client, name: str, *targets: str) -> str:
    body = {
        "name": name,
        "display_name": name,
        "description": "",
        "policy": {"strategy": {"mode": "single"}, "targets": [{"model_name": target} for target in targets]},
    }
    answer = client.post("/v1/model_policy", json=body)
    assert answer.status_code == 201, answer.text
    identifier: str = answer.json()["id"]
    return identifier


def test_a_model_is_added_read_updated_and_removed(client: httpx.Client) -> None:
    row = add(client, provider_config={"provider": "google", "custom_host": None}, unknown={"kept": [1]})
    path = f"/v1/models/{row['id']}"
    assert {key: row[key] for key in GEMINI} == GEMINI
    assert (row["provider_config"], row["unknown"]) == ({"provider": "google"}, {"kept": [1]})
    read = client.get(path)
    assert (read.json(), read.headers["etag"]) == (row, f'"{row["etag"]}"')
    changed = client.put(path, json={"description": "other", "display_name": None}).json()
    assert changed["etag"] != row["etag"]
    assert changed == {**row, "description": "other", "updated_at": changed["updated_at"], "etag": changed["etag"]}
    assert client.delete(path).status_code == 204
    assert client.get("/v1/models").json() == []


def test_filters_are_repeated_and_exact(client: httpx.Client) -> None:
    rows = [add(client, name=name) for name in ("a", "b", "c")]
    assert client.get("/v1/models").json() == rows
    assert client.get("/v1/models", params={"name": ["a", "c", "d"]}).json() == [rows[0], rows[2]]


@pytest.mark.parametrize(("replace", "left"), [(False, {"connection_id": "c", "config": {"top_p": 1}}), (True, {})])
def test_what_a_put_leaves_out_stays_or_is_cleared(tmp_path: Path, replace: bool, left: dict[str, Any]) -> None:
    with variant(tmp_path, replace_models=replace) as client:
        row = add(client, connection_id="c", config={"top_p": 1}, provider_config={"custom_host": "h", "filename": "f"})
        client.put(f"/v1/models/{row['id']}", json={"provider_config": {"filename": "f"}})
        (read,) = client.get("/v1/models").json()
        assert read["provider_config"] == {"filename": "f"}, "it is replaced as a whole either way"
        assert (read["id"], read["name"], read["created_on"]) == (row["id"], NAME, row["created_on"])
        assert {key: read[key] for key in ("connection_id", "config") if key in read} == left
        assert ("description" in read) is not replace


def test_a_version_guards_a_write(client: httpx.Client) -> None:
    row = add(client)
    path, stale = f"/v1/models/{row['id']}", {"If-Match": row["etag"]}
    assert client.put(path, json={"description": "theirs"}, headers=stale).status_code == 200
    assert client.put(path, json={"description": "ours"}, headers=stale).status_code == 412
    assert client.delete(path, headers=stale).status_code == 412
    assert client.get(path).json()["description"] == "theirs"


@pytest.mark.parametrize("unique", [True, False])
def test_whether_a_second_model_of_one_name_is_accepted(tmp_path: Path, unique: bool) -> None:
    with variant(tmp_path, unique_names=unique) as client:
        statuses = [client.post("/v1/models", json=GEMINI).status_code for _ in range(2)]
        assert statuses == [201, 409 if unique else 201]
        rows = client.get("/v1/models", params={"name": NAME}).json()
        assert len({row["id"] for row in rows}) == (1 if unique else 2)


SECRETS: dict[str, dict[str, Any]] = {
    "an API key": {"provider_config": {"api_key": SECRET}},
    "a camelCase key": {"provider_config": {"awsSecretAccessKey": SECRET}},
    "an object": {"provider_config": {"vertex_service_account_json": {"private_key": SECRET, "type": SECRET}}},
    "within an object": {"provider_config": {"metadata": {"team": {"client_secret": SECRET}}}},
    "within a list": {"provider_config": {"before_request_hooks": [{"id": "x"}, {"api_key": SECRET}]}},
    "within a URL": {"provider_config": {"custom_host": f"https://user:{SECRET}@example.invalid/v1"}},
    "an unknown key": {"watsonx_cpd_password": SECRET},
}


@pytest.mark.parametrize("case", SECRETS)
def test_a_secret_is_neither_stored_nor_returned(tmp_path: Path, case: str) -> None:
    """A client that writes back what it read keeps the secret set, in either kind of PUT."""
    for replace in (False, True):
        with variant(tmp_path, replace_models=replace) as client:
            row = add(client, name=f"virtual-model/a/{replace}", **SECRETS[case])
            written = client.put(f"/v1/models/{row['id']}", json=row).json()
            answers = json.dumps([row, written, client.get("/v1/models").json()])
        assert SECRET not in answers
        assert answers.count("***") >= 3
        assert {**written, "updated_at": row["updated_at"], "etag": row["etag"]} == row
        assert SECRET.encode() not in b"".join(path.read_bytes() for path in tmp_path.iterdir())


def test_a_secret_is_set_changed_and_cleared(client: httpx.Client) -> None:
    """The mask keeps what is set, and sets nothing; leaving the key out clears it."""
    row = add(client, provider_config={"api_key": "***", "custom_host": "h"})
    assert row["provider_config"] == {"custom_host": "h"}
    path = f"/v1/models/{row['id']}"
    for sent, stored in (
        ({"api_key": "***"}, {}),
        ({"api_key": "new"}, {"api_key": "***"}),
        ({"api_key": "***", "filename": "f"}, {"api_key": "***", "filename": "f"}),
        ({"filename": "f"}, {"filename": "f"}),
        ({"api_key": "***"}, {}),
    ):
        assert client.put(path, json={"provider_config": sent}).json()["provider_config"] == stored


def test_what_is_not_a_secret_is_returned_as_it_was_written(client: httpx.Client) -> None:
    config = {
        "server_cert": "PEM",
        "forward_headers": ["x-a"],
        "custom_host": "https://example.invalid/a@b",
        "api_version": "1",
    }
    row = add(client, provider_config=config, config={"max_tokens": 5, "stop_token": "END"}, tags=["secret", "token"])
    assert (row["provider_config"], row["config"]) == (config, {"max_tokens": 5, "stop_token": "END"})
    assert row["tags"] == ["secret", "token"]


def test_in_camel_case_models_are_returned_as_a_live_tenant_does(tmp_path: Path) -> None:
    sent = {
        "api_key": "k",
        "custom_host": "h",
        "request_timeout": 5,
        "azure_resource_name": "r",
        "aws_server_side_encryption_kms_key_id": "i",
        "aws_s3_bucket": "b",
    }
    shown = {
        "api_key": "***",
        "customHost": "h",
        "requestTimeout": 5,
        "resourceName": "r",
        "awsServerSideEncryptionKMSKeyId": "i",
        "awsS3Bucket": "b",
        "provider": "google",
    }
    with variant(tmp_path, camel_case=True) as client:
        row = add(client, provider_config=sent)
        assert row["provider_config"] == shown
        assert client.get("/v1/models").json() == [row]
        assert client.get(f"/v1/models/{row['id']}").json() == row
        written = client.put(f"/v1/models/{row['id']}", json=row).json()
        assert written["provider_config"] == shown, "it takes what it answers"
        assert add(client, name="virtual-model/virtual-policy/openai/x")["provider_config"] == {"provider": "openai"}
    with variant(tmp_path) as client:
        stored = client.get("/v1/models", params={"name": NAME}).json()[0]["provider_config"]
        assert stored == {**sent, "api_key": "***", "provider": "google"}, "it is stored in snake_case"


def test_in_the_lists_of_models_the_id_is_the_name(client: httpx.Client) -> None:
    row = add(client)
    add(client, name="b", display_name=None, description=None, tags=["default", "third party"])
    add(client, name="e", model_type="embedding")
    entry = {"id": NAME, "label": "Gemini", "type": "ai_gateway", "description": "text", "tags": ["third party"]}
    other = {"id": "b", "label": "b", "type": "ai_gateway", "description": "", "tags": ["default", "third party"]}
    assert client.get("/v1/models/list").json() == {"resources": [other, entry]}
    for wanted in ([NAME, "z"], [row["id"]]):
        assert client.get("/v1/models/list", params={"id": wanted}).json() == {"resources": [entry]}
    assert [found["id"] for found in client.get("/v1/models/list/embeddings").json()["resources"]] == ["e"]


def test_trying_a_model_calls_none(client: httpx.Client) -> None:
    add(client)
    report = client.post("/v1/models/validate", json={"model": NAME}).json()
    summary = {"total_tests": 0, "passed": 0, "failed": 0, "success_rate": 0, "total_duration_ms": 0}
    assert report == {"overall_status": "skipped", "summary": summary, "tests": []}


def test_a_model_that_policies_target_is_not_removed(client: httpx.Client) -> None:
    """Neither by DELETE nor by giving it another name; the message names the policies."""
    row = add(client)
    users = [add_policy(client, f"p-{number:02}", "virtual-model/x/y", target) for number, target in enumerate([NAME] * 11)]
    users.append(add_policy(client, "bare", "google/gemini"))
    path = f"/v1/models/{row['id']}"
    for refused in (client.delete(path), client.put(path, json={"name": "virtual-model/google/other"})):
        assert refused.status_code == 409
        assert refused.json()["detail"].startswith(f"12 policies target the model {NAME}: bare, p-00, ")
        assert refused.json()["detail"].endswith(" and 2 more; change or remove the policies first")
    assert client.put(path, json={"description": "another text"}).status_code == 200
    for user in users:
        assert client.delete(f"/v1/model_policy/{user}").status_code == 204
    assert client.delete(path).status_code == 204


def test_a_twin_of_a_model_in_use_can_be_removed(tmp_path: Path) -> None:
    with variant(tmp_path, unique_names=False) as client:
        first, second = add(client), add(client)
        add_policy(client, "p", NAME)
        assert client.delete(f"/v1/models/{first['id']}").status_code == 204
        assert client.delete(f"/v1/models/{second['id']}").status_code == 409


def test_on_request_a_model_in_use_is_removed(tmp_path: Path) -> None:
    with variant(tmp_path, allow_dangling=True) as client:
        row = add(client)
        add_policy(client, "p", NAME)
        assert client.delete(f"/v1/models/{row['id']}").status_code == 204


def test_the_embedded_remote_has_the_same_models(server: Inside) -> None:
    assert server.store.models() == frozenset()
    row = add(server.client, provider_config={"api_key": "k"})
    assert server.store.models() == {NAME}
    with SqliteReader(server.store.path) as reader:
        assert ModelTable(reader.database, "model").rows() == ModelTable(reader.database, "model").named([NAME]) == [row]


FAULTS: dict[str, tuple[str, str, Any, int]] = {
    "a name that is taken": ("POST", "/v1/models", GEMINI, 409),
    "no name": ("POST", "/v1/models", {}, 422),
    "tags that are not a list": ("POST", "/v1/models", {"name": "b", "tags": "x"}, 422),
    "reading what does not exist": ("GET", "/v1/models/none", None, 404),
    "updating what does not exist": ("PUT", "/v1/models/none", {}, 404),
    "removing what does not exist": ("DELETE", "/v1/models/none", None, 404),
    "trying what does not exist": ("POST", "/v1/models/validate", {"model": "none"}, 404),
    "trying nothing": ("POST", "/v1/models/validate", {}, 422),
    "no change of the selection": ("PATCH", "/v1/model-selection", {}, 422),
    "a blank default": ("PATCH", "/v1/model-selection", {"default_llm": " "}, 422),
    "denied and allowed at once": (
        "PATCH",
        "/v1/model-selection",
        {"add_to_llm_denylist": ["a", "b"], "remove_from_llm_denylist": ["b"]},
        422,
    ),
}


@pytest.mark.parametrize("case", FAULTS)
def test_faults(client: httpx.Client, case: str) -> None:
    method, path, body, status = FAULTS[case]
    add(client)
    answer = client.request(method, path, json=body)
    assert (answer.status_code, list(answer.json())) == (status, ["detail"])
    assert len(client.get("/v1/models").json()) == 1
    assert client.get("/v1/model-selection").json()["model_selection_settings"]["llm_denylist"] == []


def test_the_selection_is_replaced_changed_and_reset(client: httpx.Client) -> None:
    """Its warnings are the whole response of a write, as IBM's client reads it."""
    add(client)
    add(client, name="virtual-model/b/b")
    path = "/v1/model-selection"
    unset: dict[str, Any] = {"default_llm": None, "llm_denylist": [], "premier_models_enabled": False}
    assert client.get(path).json() == {"model_selection_settings": unset, "warnings": []}
    for method, body, settings, warnings in (
        ("PATCH", {"default_llm": NAME}, {"default_llm": NAME}, []),
        ("PATCH", {"add_to_llm_denylist": ["none", NAME]}, {"llm_denylist": ["none", NAME]}, ["none", "denylist"]),
        ("PATCH", {"remove_from_llm_denylist": ["none"]}, {"llm_denylist": [NAME]}, ["denylist"]),
        ("PATCH", {"premier_models_enabled": True}, {"premier_models_enabled": True}, ["denylist"]),
        ("PUT", {"llm_denylist": [NAME]}, {**unset, "llm_denylist": [NAME]}, []),
    ):
        given = client.request(method, path, json=body).json()
        assert len(given) == len(warnings)
        assert all(word in warning for word, warning in zip(warnings, given, strict=True))
        stored = client.get(path).json()
        assert stored["warnings"] == given
        assert {key: stored["model_selection_settings"][key] for key in settings} == settings
    tags = {entry["id"]: entry["tags"] for entry in client.get("/v1/models/list").json()["resources"]}
    assert tags == {NAME: ["third party", "wxo-reserved-tag-admin-disallowed"], "virtual-model/b/b": ["third party"]}
    assert client.delete(path).status_code == 204
    assert client.get(path).json()["model_selection_settings"] == unset


@pytest.mark.parametrize("kind", ["sqlite", pytest.param("postgres", marks=pytest.mark.slow)])
def test_servers_at_one_store_do_not_undo_each_others_changes_of_the_selection(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    """Each adds to what is stored, and its first write may meet the first write of another."""
    url = f"sqlite:///{tmp_path / 'a.db'}" if kind == "sqlite" else request.getfixturevalue("database")
    with ExitStack() as stack:
        stores = [stack.enter_context(open_store(url, unique_names=True)) for _ in range(2)]
        apps = [make_app(Service(store, TokenIssuer()), Events()) for store in stores]
        clients = [stack.enter_context(httpx.Client(transport=InProcess(app), base_url=HOST)) for app in apps]

        def deny(number: int) -> int:
            body = {"add_to_llm_denylist": [f"m{number}"]}
            return clients[number % 2].patch("/v1/model-selection", json=body).status_code

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(deny, range(16))) == {200}
        settings = clients[0].get("/v1/model-selection").json()["model_selection_settings"]
        assert sorted(settings["llm_denylist"]) == sorted(f"m{number}" for number in range(16))
