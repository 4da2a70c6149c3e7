"""/model_policy: what every operation answers, which filters there are, and what versions are for."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from pathlib import Path
from typing import Any

import httpx
import pytest

from policyctl.remote.sqlite import SqliteRemote
from tests.server.serving import Inside, inside

POLICY = {"strategy": {"mode": "fallback", "on_status_codes": [503]}, "targets": [{"model_name": "virtual-model/x/a"}]}


def document(name: str = "virtual-policy/a", **more: Any) -> dict[str, Any]:
    return {"name": name, "display_name": "A", "description": "text", "policy": POLICY, **more}


def add(client: httpx.Client, name: str = "virtual-policy/a", **more: Any) -> dict[str, Any]:
    answer = client.post("/v1/model_policy", json=document(name, **more))
    assert answer.status_code == 201, answer.text
    row: dict[str, Any] = answer.json()
    return row


@pytest.mark.parametrize(
    "prefix", ["/v1", "/api/v1", "/v1/orchestrate", "/instances/x/v1/orchestrate", "/orchestrate/ns/i/1/v1/orchestrate"]
)
def test_every_layout_reaches_the_same_policies(client: httpx.Client, prefix: str) -> None:
    row = add(client)
    assert client.get(f"{prefix}/model_policy").json() == [row]
    assert client.get(f"{prefix}/model_policy/{row['id']}").json() == row


def test_an_empty_store_gives_an_empty_array(client: httpx.Client) -> None:
    answer = client.get("/v1/model_policy")
    assert (answer.status_code, answer.json()) == (200, [])


def test_a_row_is_what_was_sent_and_what_the_server_adds(client: httpx.Client) -> None:
    row = add(client, extra={"kept": [1, "x"]})
    server = {key: row.pop(key) for key in ("id", "etag", "created_on", "updated_at")}
    assert row == document(extra={"kept": [1, "x"]})
    assert all(server.values())


def test_nulls_are_omitted_at_any_depth_and_a_null_description_is_empty(client: httpx.Client) -> None:
    row = add(
        client, description=None, extra=None, policy={**POLICY, "cache": None, "targets": [{"model_name": "m", "weight": None}]}
    )
    assert row["description"] == ""
    assert "extra" not in row
    assert row["policy"] == {**POLICY, "targets": [{"model_name": "m"}]}


def test_server_keys_that_a_client_sends_are_not_stored(client: httpx.Client) -> None:
    sent = {"spec_version": "v1", "kind": "model", "id": "mine", "tenant_id": "t", "created_on": "then", "etag": "e"}
    row = add(client, **sent)
    assert not row.keys() & {"spec_version", "kind", "tenant_id"}
    assert all(row.get(key) != value for key, value in sent.items())


def test_what_no_file_may_contain_is_taken(client: httpx.Client) -> None:
    odd = {
        "targets": [{"model_name": "m", "weight": 250}, {"targets": []}],
        "retry": {"attempts": -1, "on_status_codes": [99999]},
    }
    assert add(client, policy=odd)["policy"] == odd


WRONG_BODIES: dict[str, tuple[Any, list[Any]]] = {
    "no name": ({"display_name": "A", "description": "", "policy": {}}, ["body", "name"]),
    "an empty name": (document(""), ["body", "name"]),
    "a null display name": (document(display_name=None), ["body", "display_name"]),
    "no description": ({"name": "a", "display_name": "A", "policy": {}}, ["body", "description"]),
    "no policy": ({"name": "a", "display_name": "A", "description": ""}, ["body", "policy"]),
    "policy no object": (document(policy=[]), ["body", "policy"]),
    "an unknown mode": (document(policy={"strategy": {"mode": "random"}}), ["body", "policy", "strategy", "mode"]),
    "a code as text": (
        document(policy={"retry": {"on_status_codes": ["503"]}}),
        ["body", "policy", "retry", "on_status_codes", 0],
    ),
    "a weight as text": (document(policy={"targets": [{"weight": "1"}]}), ["body", "policy", "targets", 0, "weight"]),
    "a nested mistake": (
        document(policy={"targets": [{"targets": [{"model_name": 1}]}]}),
        ["body", "policy", "targets", 0, "targets", 0, "model_name"],
    ),
    "an array": ([], ["body"]),
}


@pytest.mark.parametrize("case", WRONG_BODIES)
def test_a_body_of_the_wrong_shape_is_named_by_its_place(client: httpx.Client, case: str) -> None:
    body, place = WRONG_BODIES[case]
    answer = client.post("/v1/model_policy", json=body)
    assert answer.status_code == 422
    (mistake,) = answer.json()["detail"]
    assert (mistake["loc"], mistake.keys()) == (place, {"loc", "msg", "type"})
    assert client.get("/v1/model_policy").json() == []


NO_JSON = {
    "nothing": b"",
    "cut short": b'{"name": "a"',
    "NaN": b'{"name": "a", "weight": NaN}',
    "infinity by overflow": b'{"name": "a", "weight": 1e999}',
    "half a character": b'{"name": "\\ud800"}',
    "not UTF-8": b'{"name": "\xff"}',
    "too deep": b"[" * 1000 + b"]" * 1000,
    "a number of 5000 digits": b'{"name": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("case", NO_JSON)
@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_what_is_not_json_is_refused(client: httpx.Client, case: str, method: str) -> None:
    row = add(client)
    path = "/v1/model_policy" if method == "POST" else f"/v1/model_policy/{row['id']}"
    answer = client.request(method, path, content=NO_JSON[case], headers={"Content-Type": "application/json"})
    assert (answer.status_code, answer.json()["detail"][0]["type"]) == (422, "json_invalid")
    assert client.get("/v1/model_policy").json() == [row]


def test_an_update_replaces_the_policy_and_keeps_what_it_does_not_say(client: httpx.Client) -> None:
    row = add(client, extra=1, policy={**POLICY, "cache": {"mode": "simple"}})
    changed = client.put(
        f"/v1/model_policy/{row['id']}", json={"description": None, "display_name": "B", "policy": POLICY}
    ).json()
    assert changed == {
        **row,
        "display_name": "B",
        "policy": POLICY,
        "etag": changed["etag"],
        "updated_at": changed["updated_at"],
    }
    assert client.get(f"/v1/model_policy/{row['id']}").json() == changed


def test_removing_answers_nothing_and_leaves_nothing(client: httpx.Client) -> None:
    row = add(client)
    answer = client.delete(f"/v1/model_policy/{row['id']}")
    assert (answer.status_code, answer.content) == (204, b"")
    assert client.get("/v1/model_policy").json() == []


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_an_id_that_is_not_there_is_a_404(client: httpx.Client, method: str) -> None:
    body = document() if method == "PUT" else None
    answer = client.request(method, "/v1/model_policy/none", json=body)
    assert (answer.status_code, answer.json()) == (404, {"detail": "no policy has the id none"})


@pytest.mark.parametrize("spelling", ["virtual-policy/a", "a"])
def test_a_second_policy_of_one_name_is_a_409(client: httpx.Client, spelling: str) -> None:
    row = add(client)
    answer = client.post("/v1/model_policy", json=document(spelling))
    assert (answer.status_code, answer.json()) == (409, {"detail": "the policy virtual-policy/a already exists"})
    assert client.get("/v1/model_policy").json() == [row]


def test_renaming_onto_another_policy_is_a_409(client: httpx.Client) -> None:
    one, other = add(client), add(client, "virtual-policy/b")
    assert client.put(f"/v1/model_policy/{other['id']}", json={"name": "a"}).status_code == 409
    assert client.get("/v1/model_policy").json() == [one, other]


def test_a_store_made_for_it_takes_duplicate_names(tmp_path: Path) -> None:
    with SqliteRemote(tmp_path / "a.db", unique_names=False) as store, inside(store) as server:
        first, second = add(server.client), add(server.client, "a")
        assert first["id"] != second["id"]
        assert len(server.client.get("/v1/model_policy", params={"name": ["a", "virtual-policy/a"]}).json()) == 2


FILTERS: dict[str, tuple[list[tuple[str, Any]], list[str]]] = {
    "one name": ([("name", "virtual-policy/a")], ["virtual-policy/a"]),
    "several names": ([("name", "virtual-policy/a"), ("name", "plain")], ["plain", "virtual-policy/a"]),
    "the other spelling is another name": ([("name", "a")], []),
    "a name that is not there": ([("name", "nobody")], []),
    "an empty name": ([("name", "")], []),
    "case counts": ([("name", "PLAIN")], []),
    "display name": ([("display_name", "Two words & more")], ["we ird&#+%41/ü"]),
    "two filters must both pass": ([("name", "plain"), ("display_name", "Two words & more")], []),
    "a strange name": ([("name", "we ird&#+%41/ü")], ["we ird&#+%41/ü"]),
    "an unknown filter is ignored": ([("colour", "red")], ["plain", "virtual-policy/a", "we ird&#+%41/ü"]),
}


@pytest.mark.parametrize("case", FILTERS)
def test_filters(client: httpx.Client, case: str) -> None:
    query, expected = FILTERS[case]
    add(client)
    add(client, "plain")
    add(client, "we ird&#+%41/ü", display_name="Two words & more")
    answer = client.get("/v1/model_policy", params=httpx.QueryParams(query))
    assert sorted(row["name"] for row in answer.json()) == expected


def test_the_id_filter(client: httpx.Client) -> None:
    rows = [add(client, name) for name in ("a", "b", "c")]
    found = client.get("/v1/model_policy", params={"id": [rows[0]["id"], rows[2]["id"], "none"]}).json()
    assert found == [rows[0], rows[2]]
    assert client.get("/v1/model_policy", params={"id": rows[0]["id"], "name": "b"}).json() == []


def test_the_etag_is_the_rows_own_on_every_answer_about_one_policy(client: httpx.Client) -> None:
    added = client.post("/v1/model_policy", json=document())
    path = f"/v1/model_policy/{added.json()['id']}"
    answers = [added, client.get(path), client.put(path, json={"display_name": "B"}), client.get(path)]
    tags = [answer.headers["etag"] for answer in answers]
    assert tags == [f'"{answer.json()["etag"]}"' for answer in answers]
    assert (tags[0] == tags[1], tags[2] == tags[3], tags[0] == tags[2]) == (True, True, False)


MATCHES = {
    "the version": ('"{etag}"', True),
    "the version without marks": ("{etag}", True),
    "one of several": ('"other", "{etag}"', True),
    "any": ("*", True),
    "another version": ('"other"', False),
    "a weak tag": ('W/"{etag}"', False),
    "nothing": ("", False),
}


@pytest.mark.parametrize("case", MATCHES)
@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_if_match(client: httpx.Client, case: str, method: str) -> None:
    template, passes = MATCHES[case]
    row = add(client)
    headers = {"If-Match": template.format(etag=row["etag"])}
    answer = client.request(method, f"/v1/model_policy/{row['id']}", headers=headers, json=None if method == "DELETE" else {})
    assert answer.status_code == ({"PUT": 200, "DELETE": 204}[method] if passes else 412)
    assert passes or client.get("/v1/model_policy").json() == [row]


def test_a_version_that_was_overwritten_is_refused(client: httpx.Client) -> None:
    row = add(client)
    path, old = f"/v1/model_policy/{row['id']}", {"If-Match": f'"{row["etag"]}"'}
    assert client.put(path, json={"display_name": "mine"}, headers=old).status_code == 200
    assert client.put(path, json={"display_name": "yours"}, headers=old).status_code == 412
    assert client.get(path).json()["display_name"] == "mine"


class Raced(SqliteRemote):
    """A store into which another program writes between a look at a row and the write over it."""

    def by_id(self, ids: Collection[str]) -> list[Any]:
        rows = super().by_id(ids)
        self.update(rows[0]["id"], {"display_name": "theirs"})
        return rows


@pytest.mark.parametrize("method", ["PUT", "DELETE"])
def test_the_version_still_counts_when_the_write_is_made(tmp_path: Path, method: str) -> None:
    with Raced(tmp_path / "a.db") as store, inside(store) as server:
        row = add(server.client)
        headers = {"If-Match": f'"{row["etag"]}"'}
        answer = server.client.request(method, f"/v1/model_policy/{row['id']}", headers=headers, json={"display_name": "mine"})
        assert answer.status_code == 412
        assert [row["display_name"] for row in store.rows()] == ["theirs"]


def test_the_quota_is_a_lasting_429(tmp_path: Path) -> None:
    with SqliteRemote(tmp_path / "a.db") as store, inside(store, quota=1) as server:
        row = add(server.client)
        answer = server.client.post("/v1/model_policy", json=document("b"))
        assert answer.status_code == 429
        detail = answer.json()["detail"]
        assert (detail["code"], detail["current"], detail["requested"], detail["limit"]) == ("RESOURCE_QUOTA_EXCEEDED", 1, 1, 1)
        assert server.client.put(f"/v1/model_policy/{row['id']}", json={"display_name": "still"}).status_code == 200


def test_a_store_that_fails_is_a_503_that_names_no_file(server: Inside) -> None:
    add(server.client)
    server.store.close()
    server.store.path.write_bytes(b"no database, whatever its name says" * 100)
    assert server.client.get("/livez").status_code == 200
    for path in ("/v1/model_policy", "/healthz", "/readyz"):
        answer = server.client.get(path)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
        assert str(server.store.path) not in answer.text
    assert any(str(server.store.path) in event.get("message", "") for event in server.events.kept)


def test_a_row_that_only_the_database_could_hold_is_given_as_it_is(server: Inside) -> None:
    add(server.client)
    with sqlite3.connect(server.store.path) as connection:
        connection.execute('UPDATE policy SET document = \'{"name": "virtual-policy/a"}\'')
    connection.close()
    (row,) = server.client.get("/v1/model_policy").json()
    assert "policy" not in row
