"""What holds for every request: limits, hosts, unknown paths, logs, and errors that were not expected."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path
from threading import Event
from typing import Any

import httpx
import pytest

from policyctl.errors import LostAnswer
from policyctl.load.urls import is_loopback_host
from policyctl.policy.document import Document
from policyctl.remote.sqlite import SqliteRemote
from policyctl.server.api import Service
from policyctl.server.app import BODY_BYTES, LOGIN_BYTES, JsonLog, make_app
from policyctl.server.login import TokenIssuer
from tests.patience import LONGEST
from tests.remote.http_helpers import document
from tests.server.serving import HOST, Events, Inside, inside

UNROUTED = {
    "an unknown path": ("GET", "/v1/nothing", 404),
    "a page that there is not": ("GET", "/redoc", 404),
    "a slash too many": ("GET", "/v1/model_policy/", 404),
    "no prefix": ("GET", "/model_policy", 404),
    "an id with a slash": ("GET", "/v1/model_policy/a%2Fb", 404),
    "a method that the path has not": ("PATCH", "/v1/model_policy", 405),
    "a method that nothing has": ("BREW", "/healthz", 405),
}


@pytest.mark.parametrize("case", UNROUTED)
def test_what_there_is_not_is_answered_in_json(client: httpx.Client, case: str) -> None:
    method, path, status = UNROUTED[case]
    answer = client.request(method, path)
    assert (answer.status_code, list(answer.json())) == (status, ["detail"])


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_person_is_answered_with_one_small_page_whose_links_lead_somewhere(server: Inside, path: str) -> None:
    answer = server.client.get(path)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert len(answer.content) < 2000
    links = re.findall('href="([^"]+)"', answer.text)
    assert links
    assert [server.client.get(link).status_code for link in links] == [200] * len(links)


def test_the_page_needs_no_token(tmp_path: Path) -> None:
    with SqliteRemote(tmp_path / "a.db") as store, inside(store, TokenIssuer("secret")) as server:
        assert server.client.get("/").status_code == 200
        assert server.client.get("/openapi.json").status_code == 401


def test_a_405_shows_every_method_that_the_path_has(client: httpx.Client) -> None:
    allowed = client.patch("/v1/model_policy/x").headers["allow"]
    assert set(allowed.split(", ")) == {"GET", "PUT", "DELETE"}


def test_head_is_get_without_the_body(client: httpx.Client) -> None:
    assert client.head("/v1/model_policy").status_code == 200


@pytest.mark.parametrize(
    ("path", "kind", "most"),
    [
        ("/v1/model_policy", "application/json", BODY_BYTES),
        ("/identity/token", "application/x-www-form-urlencoded", LOGIN_BYTES),
        ("/v1/authorize", "application/json", LOGIN_BYTES),
    ],
)
def test_a_body_over_the_limit_is_a_413_and_one_at_the_limit_is_read(
    client: httpx.Client, path: str, kind: str, most: int
) -> None:
    """Of those who are not known yet less is read."""
    for size, status in ((most + 1, 413), (most, 422)):
        assert client.post(path, content=b" " * size, headers={"Content-Type": kind}).status_code == status


HEADS: dict[str, dict[str, Any]] = {
    "a long header": {"headers": {"X": "x" * 40_000}},
    "many headers": {"headers": {f"X-{number}": "x" * 40 for number in range(1_000)}},
    "a long query": {"params": {"name": "x" * 40_000}},
}


@pytest.mark.parametrize("case", HEADS)
def test_a_head_over_the_limit_is_a_431(client: httpx.Client, case: str) -> None:
    assert client.get("/v1/model_policy", **HEADS[case]).status_code == 431


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
def test_a_page_elsewhere_cannot_write_without_a_preflight(client: httpx.Client, kind: str) -> None:
    """Browsers send these content types to any site without asking; JSON they do not."""
    answer = client.post("/v1/models", content=b'{"name": "x"}', headers={"Content-Type": kind})
    assert answer.status_code == 415
    assert client.get("/v1/models").json() == []


HOSTS = {
    "127.0.0.1": True,
    "127.0.0.2": True,
    "::1": True,
    "localhost": True,
    "LOCALHOST": True,
    "0.0.0.0": False,
    "10.0.0.1": False,
    "localhost.example.com": False,
    "example.com": False,
    "": False,
}


@pytest.mark.parametrize("host", HOSTS)
def test_what_means_this_machine(host: str) -> None:
    assert is_loopback_host(host) is HOSTS[host]


@pytest.mark.parametrize("path", ["/v1/model_policy", "/healthz", "/livez", "/readyz", "/openapi.json", "/", "/docs"])
def test_a_server_without_a_secret_answers_to_loopback_names_only(client: httpx.Client, path: str) -> None:
    """Else a page whose name was made to mean 127.0.0.1 could write through its visitor's browser."""
    for host in (
        "evil.example.com",
        "evil.example.com:80",
        "evil@127.0.0.1",
        "127.0.0.1.example.com",
        "[",
        "[::1",
        "[::2]:80",
        "[::1].evil.example.com",
        "[::1]x",
        "[127.0.0.1]x",
        "[127.0.0.1]",
        "[localhost]",
        "localhost:80:80",
        "localhost:x",
        "]",
        "[::1].evil.example.com",
        "[::1]:80.evil.example.com",
        "[127.0.0.1]evil",
        "[127.0.0.1]",
        "[localhost]",
        "[::1]x:80",
        "x[::1]",
        "127.0.0.1:80:80",
        "localhost:x",
        "localhost:evil.example.com",
        "::1",
    ):
        assert client.get(path, headers={"Host": host}).status_code == 403, host
    for host in ("LOCALHOST:4321", "localhost", "[::1]:80", "127.0.0.2"):
        assert client.get(path, headers={"Host": host}).status_code == 200, host


def test_a_server_with_a_secret_answers_to_any_name(tmp_path: Path) -> None:
    with SqliteRemote(tmp_path / "a.db") as store, inside(store, TokenIssuer("secret")) as server:
        headers = {"Host": "policies.example.com", "Authorization": "Bearer secret"}
        assert server.client.get("/v1/model_policy", headers=headers).status_code == 200


def test_every_request_is_one_event_without_query_header_or_body(server: Inside) -> None:
    secret = "canary-5417"
    server.client.post("/identity/token?x=" + secret, data={"apikey": secret}, headers={"Authorization": f"Bearer {secret}"})
    (event,) = server.events.kept
    assert {key: event[key] for key in ("level", "event", "method", "path", "status")} == {
        "level": "info",
        "event": "request",
        "method": "POST",
        "path": "/identity/token",
        "status": 200,
    }
    assert secret not in json.dumps(event)


class Broken(SqliteRemote):
    """A store with a bug in it."""

    def rows(self) -> list[Any]:
        raise KeyError("canary-5418")


def test_an_error_that_was_not_expected_is_a_500_that_shows_nothing_of_the_inside(tmp_path: Path) -> None:
    with Broken(tmp_path / "a.db") as store, inside(store) as server:
        answer = server.client.get("/v1/model_policy")
        assert (answer.status_code, answer.json()) == (500, {"detail": "the server failed; see its log"})
        bug, request = server.events.kept
        assert (bug["event"], bug["error"], request["status"]) == ("bug", "KeyError", 500)
        assert __file__ in bug["at"]
        assert "canary-5418" not in json.dumps(server.events.kept)


class Lost(SqliteRemote):
    """A store whose writes are carried out, and their answers lost."""

    def insert(self, document: Document, most: int | None = None) -> Document:
        super().insert(document, most)
        raise LostAnswer("canary-5419: the connection broke")


def test_a_write_of_unknown_outcome_is_a_500_that_policyctl_does_not_repeat_blindly(tmp_path: Path) -> None:
    """A 503 with Retry-After would mean that nothing was done."""
    body = document("virtual-policy/a")
    with Lost(tmp_path / "a.db") as store, inside(store) as server:
        answer = server.client.post("/v1/model_policy", json=body)
        assert (answer.status_code, "retry-after" in answer.headers) == (500, False)
        assert "not known" in answer.json()["detail"]
        assert "canary-5419" not in answer.text
        assert [row["name"] for row in store.rows()] == ["virtual-policy/a"]


class Stuck(SqliteRemote):
    """A store that does not answer until it is released."""

    released = Event()

    def rows(self) -> Iterable[Any]:
        self.released.wait(LONGEST)
        return ()


def test_the_server_is_alive_while_every_thread_waits_for_the_store(tmp_path: Path) -> None:
    """A supervisor would end it otherwise, which does not bring a store back."""

    async def ask(app: Any) -> list[int]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url=HOST) as client:
            waiting = [asyncio.create_task(client.get("/v1/model_policy")) for _ in range(60)]
            await asyncio.sleep(0)
            alive = await client.get("/livez")
            pending = sum(not task.done() for task in waiting)
            Stuck.released.set()
            return [alive.status_code, pending, *{(await task).status_code for task in waiting}]

    with Stuck(tmp_path / "a.db") as store:
        app = make_app(Service(store, TokenIssuer()), Events())
        assert asyncio.run(ask(app)) == [200, 60, 200]


def test_a_log_line_is_one_json_object_with_the_time() -> None:
    stream = StringIO()
    JsonLog(stream, lambda: datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC))("info", "request", path="/\n\x1b[2J")
    assert stream.getvalue().count("\n") == 1
    assert json.loads(stream.getvalue()) == {
        "time": "2026-01-02T03:04:05.000+00:00",
        "level": "info",
        "event": "request",
        "path": "/\n\x1b[2J",
    }
