"""What IBM's CLI asked for in 68 commands, asked again: every response is still one that the CLI can work with."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from policyctl.remote.sqlite import SqliteRemote
from policyctl.server.api import Variant
from tests.server.serving import inside

RECORDINGS = json.loads(Path(__file__).with_name("recordings.json").read_text("utf-8"))
# An id that the recorded server chose; those of documents that were stored beforehand are all zeros but the end.
CHOSEN = re.compile("(?!00000000)[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
LAYOUTS = {
    "local": {"/connections": "/api/v1/orchestrate", "/agents": "/v1/orchestrate", "/knowledge-bases": "/v1/orchestrate"},
    "saas": {"/": "/instances/x/v1/orchestrate"},
}


def place(layout: str, path: str) -> str:
    """Where IBM's CLI looks for a path. External agents are not where native ones are."""
    if layout == "local" and path.startswith("/agents/external-chat"):
        return f"/v1{path}"
    return next((prefix for start, prefix in LAYOUTS[layout].items() if path.startswith(start)), "/v1") + path


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    """A server with the documents that the recorded one had. It was one that removes a model although a policy targets it."""
    with SqliteRemote(tmp_path / "a.db") as store, inside(store, variant=Variant(allow_dangling=True)) as server:
        _fill(server.client)
        yield server.client


def _fill(client: httpx.Client) -> None:
    for path, documents in RECORDINGS["documents"].items():
        for document in documents:
            assert client.post(f"/v1{path}", json=document).status_code == 201
    base = "/v1/connections/applications"
    for row in RECORDINGS["connections"]:
        client.post(base, json={key: row[key] for key in ("app_id", "connection_id")})
        if row["environment"] is not None:
            made = client.post(f"{base}/{row['app_id']}/configurations", json=row)
            assert made.status_code == 201, made.text
        if row["credentials_entered"]:
            noted = client.post(f"{base}/{row['app_id']}/configs/{row['environment']}/runtime_credentials", json={})
            assert noted.status_code == 200, noted.text


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_recorded_command_is_answered_as_it_was(client: httpx.Client, layout: str) -> None:
    ids: dict[str, str] = {}  # of the recorded server, to those of this one
    for command in RECORDINGS["commands"]:
        for exchange in command["exchanges"]:
            answer = _ask(client, layout, exchange, ids)
            asked = f"{command['command']}: {exchange['method']} {exchange['path']} gave {answer.status_code} {answer.text}"
            made_up = exchange.get("made_up", False)
            same = (
                answer.status_code // 100 == exchange["status"] // 100 if made_up else answer.status_code == exchange["status"]
            )
            assert same, asked
            if "reply" in exchange:
                found = answer.json() if answer.content else None
                assert differences(exchange["reply"], found, ids, shape=made_up) == [], asked
    assert len(RECORDINGS["commands"]) == 68
    assert len(ids) >= 4, "models and policies were written"


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({"a": 1}, {"b": 1}),
        ({"a": {"b": [1]}}, {"a": {"b": [2]}}),
        ([1], []),
        ([], [1]),
        ("x", None),
        ({"id": "9c41f5eb-1099-45ed-8a9b-b9ee1ac5ca45"}, {"id": "another"}),
    ],
)
def test_a_different_response_is_noticed(wanted: Any, found: Any) -> None:
    """Of the shape alone, missing keys and another kind of value are."""
    assert differences(wanted, found, {"9c41f5eb-1099-45ed-8a9b-b9ee1ac5ca45": "one"}) != []
    assert differences({"a": [{"b": None}]}, {"a": [{}]}, {}, shape=True) == [".a[].b is missing"]
    assert differences({"a": []}, {"a": {}}, {}, shape=True) != []
    assert differences({"a": [1]}, {"a": ["x", "y"]}, {}, shape=True) == []


def _ask(client: httpx.Client, layout: str, exchange: dict[str, Any], ids: dict[str, str]) -> httpx.Response:
    path, body = exchange["path"], exchange.get("body")
    for recorded, actual in ids.items():
        path = path.replace(recorded, actual)
    url = place(layout, path) + (f"?{exchange['query']}" if "query" in exchange else "")
    return client.request(exchange["method"], url, **({} if body is None else {"json": body}))


def differences(wanted: Any, found: Any, ids: dict[str, str], at: str = "", *, shape: bool = False) -> list[str]:
    """Where a response lacks what the recorded one has. It may have more keys; an id that the server chose is learned.

    Of a `shape`, keys and kinds count, not values, nor how many elements a list has.
    """
    if isinstance(wanted, dict) and isinstance(found, dict):
        missing = [f"{at}.{key} is missing" for key in wanted if key not in found]
        shared = [key for key in wanted if key in found]
        return missing + [
            each for key in shared for each in differences(wanted[key], found[key], ids, f"{at}.{key}", shape=shape)
        ]
    if isinstance(wanted, list) and isinstance(found, list):
        if len(wanted) != len(found) and not shape:
            return [f"{at} has {len(found)} elements, not {len(wanted)}"]
        pairs = zip(wanted, found, strict=not shape)
        return [each for one, other in pairs for each in differences(one, other, ids, f"{at}[]", shape=shape)]
    if shape:
        kinds = (dict, list)
        return [f"{at} is {found!r}, not {wanted!r}"] if isinstance(wanted, kinds) or isinstance(found, kinds) else []
    if isinstance(wanted, str) and CHOSEN.fullmatch(wanted) and isinstance(found, str):
        wanted = ids.setdefault(wanted, found)
    return [] if wanted == found else [f"{at} is {found!r}, not {wanted!r}"]
