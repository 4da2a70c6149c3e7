"""The HTTP server of a watch, over sockets."""

from __future__ import annotations

import hashlib
import hmac
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from urllib.parse import urlsplit

import httpx
import pytest

from policyctl.errors import PolicyctlError, RemoteError
from policyctl.watch import Board, State
from policyctl.watch.http import MOST_CONNECTIONS, SECONDS, StatusServer, WatchSite
from tests.patience import LONGEST
from tests.watch.boards import NOW, board, status

SECRET = "a secret of the hook"


@contextmanager
def serving(site: WatchSite | None = None, seconds: float = 15) -> Iterator[str]:
    made = site or WatchSite(board(status("eu", State.DRIFTED)), lambda: 0.0, now=lambda: NOW)
    with StatusServer("127.0.0.1", 0, made, seconds) as server:
        yield server.url


def connected(url: str) -> socket.socket:
    parts = urlsplit(url)
    return socket.create_connection((parts.hostname, parts.port), timeout=LONGEST)


def test_pages_are_answered_with_their_kind() -> None:
    site = WatchSite(board(status("eu", State.DRIFTED)), lambda: 0.0, lambda: b"up 1\n", now=lambda: NOW)
    with serving(site) as url, httpx.Client(base_url=url, timeout=LONGEST) as client:
        page = client.get("/?state=drifted")
        assert (page.status_code, page.headers["content-type"]) == (200, "text/html; charset=utf-8")
        assert "edited on the remote: anygem" in page.text
        assert page.headers["x-frame-options"] == "DENY"
        assert client.get("/status.json").json()["environments"][0]["state"] == "drifted"
        assert client.get("/metrics").text == "up 1\n"
        assert client.head("/").content == b""
        assert client.get("/nothing").status_code == 404
        assert client.get("/hook").status_code == 405
        assert client.put("/").status_code == 501
        assert "Python" not in page.headers["server"]


def asked_as(url: str, host: str | None, request: str = "GET /status.json") -> bytes:
    """The answer to a request with that Host header."""
    with connected(url) as client:
        named = "" if host is None else f"Host: {host}\r\n"
        client.sendall(f"{request} HTTP/1.1\r\n{named}\r\n".encode())
        return b"".join(iter(lambda: client.recv(65536), b""))


@pytest.mark.parametrize("host", ["evil.example", "evil.example:4410", "127.0.0.1.evil.example", "[::1].evil", "", None])
@pytest.mark.parametrize("path", ["/", "/status.json", "/metrics", "/readyz", "/nothing"])
def test_on_loopback_it_answers_to_loopback_names_only(host: str | None, path: str) -> None:
    """Or a web page could read it from its visitor's browser, by a name that resolves to this machine."""
    with serving() as url:
        answer = asked_as(url, host, f"GET {path}")
    assert answer.startswith(b"HTTP/1.0 403 ")
    assert b"eu" not in answer.partition(b"\r\n\r\n")[2]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost:4410", "LOCALHOST", "[::1]:4410"])
def test_loopback_names_are_answered(host: str) -> None:
    with serving() as url:
        assert asked_as(url, host).startswith(b"HTTP/1.0 200 ")


def test_a_signed_hint_counts_by_any_name() -> None:
    """A proxy in front passes on the name that it was asked by."""
    hints: list[int] = []
    site = WatchSite(Board(), lambda: 0.0, hint=lambda: hints.append(1), hook_secret=lambda: SECRET)
    with serving(site) as url:
        answer = asked_as(url, f"ops.example\r\nX-Gitlab-Token: {SECRET}\r\nContent-Length: 0", "POST /hook")
    assert (answer[:12], hints) == (b"HTTP/1.0 202", [1])


def test_at_any_other_address_it_answers_to_any_name() -> None:
    site = WatchSite(board(status("eu")), lambda: 0.0, now=lambda: NOW)
    with StatusServer("0.0.0.0", 0, site) as server:
        assert asked_as(server.url.replace("0.0.0.0", "127.0.0.1"), "ops.example").startswith(b"HTTP/1.0 200 ")


@pytest.mark.parametrize("query", ["a=b&" * 30, "&" * 3_000, "state=drifted&" + "x=" * 900, "text=%00%ff%F0", "%"])
def test_a_query_that_is_not_known_is_left_out_of_account(query: str, capfd: pytest.CaptureFixture[str]) -> None:
    with serving() as url:
        assert asked_as(url, "localhost", f"GET /?{query}").startswith(b"HTTP/1.0 200 ")
    assert capfd.readouterr().err == ""


def test_a_bug_is_an_answer_and_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> bytes:
        raise ValueError("a text that may be secret")

    with serving(WatchSite(Board(), lambda: 0.0, fail)) as url:
        answer = httpx.get(f"{url}/metrics", timeout=LONGEST)
    assert (answer.status_code, "ValueError at " in answer.text, "secret" in answer.text) == (500, True, False)
    assert capfd.readouterr().err == ""


def test_health() -> None:
    shown, since = Board(), [0.0]
    with serving(WatchSite(shown, lambda: since[0])) as url, httpx.Client(base_url=url, timeout=LONGEST) as client:
        assert client.get("/livez").status_code == 200
        ready = client.get("/readyz")
        assert (ready.status_code, ready.text) == (503, "no revision was read yet\n")
        shown.source = board().source
        assert client.get("/readyz").status_code == 200
        shown.stopping = True
        assert client.get("/readyz").text == "stopping\n"
        since[0] = 31.0
        assert client.get("/livez").status_code == 503


def signature(body: bytes, secret: str = SECRET) -> dict[str, str]:
    return {"X-Hub-Signature-256": f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"}


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 403),
        (signature(b"{}"), 202),
        (signature(b"{} "), 403),
        (signature(b"{}", "another"), 403),
        ({"X-Hub-Signature-256": "sha256="}, 403),
        ({"X-Hub-Signature-256": "ü"}, 403),
        ({"X-Gitlab-Token": SECRET}, 202),
        ({"X-Gitlab-Token": ""}, 403),
        ({"X-Gitlab-Token": "another"}, 403),
    ],
)
def test_a_hint_must_be_signed_or_have_the_token(headers: dict[str, str], status: int) -> None:
    hints: list[int] = []
    site = WatchSite(Board(), lambda: 0.0, hint=lambda: hints.append(1), hook_secret=lambda: SECRET)
    with serving(site) as url:
        encoded = {name.encode(): value.encode("latin-1") for name, value in headers.items()}
        assert httpx.post(f"{url}/hook", content=b"{}", headers=encoded, timeout=LONGEST).status_code == status
    assert hints == [1] * (status == 202)


def test_without_a_secret_nothing_can_be_posted() -> None:
    with serving() as url:
        assert httpx.post(f"{url}/hook", content=b"{}", headers=signature(b"{}", ""), timeout=LONGEST).status_code == 404


def test_a_secret_that_cannot_be_read_is_not_an_empty_one() -> None:
    def fail() -> str:
        raise RemoteError("env:HOOK is not set")

    with serving(WatchSite(Board(), lambda: 0.0, hook_secret=fail)) as url:
        assert httpx.post(f"{url}/hook", content=b"{}", headers={"X-Gitlab-Token": ""}, timeout=LONGEST).status_code == 503


@pytest.mark.parametrize(("length", "status"), [("9999999999", 413), ("99999999999999999999", 413), ("-1", 411), ("x", 411)])
def test_a_body_is_bounded(length: str, status: int) -> None:
    with serving() as url:
        client = HTTPConnection(url.removeprefix("http://"))
        client.putrequest("POST", "/hook")
        client.putheader("Content-Length", length)
        client.endheaders()
        assert client.getresponse().status == status
        client.close()


def test_slow_clients_do_not_keep_others_out() -> None:
    with serving() as url, ExitStack() as slow:
        for _ in range(3 * MOST_CONNECTIONS):
            slow.enter_context(connected(url)).sendall(b"GET / HTTP/1.1\r\n")
        assert httpx.get(f"{url}/livez", timeout=LONGEST).status_code == 200


def test_a_connection_is_closed_after_its_time() -> None:
    with serving(seconds=0.0) as url, connected(url) as slow:
        slow.settimeout(SECONDS / 2)  # sooner than the server's own limit for a client that sends nothing
        slow.sendall(b"POST /hook HTTP/1.1\r\nContent-Length: 100\r\n\r\nx")
        assert slow.recv(1) == b""


def test_an_address_that_is_taken_is_reported_in_one_line() -> None:
    with serving() as url:
        port = urlsplit(url).port
        with pytest.raises(PolicyctlError, match=f"cannot listen on 127.0.0.1 port {port}: Address already in use; choose"):
            StatusServer("127.0.0.1", port or 0, WatchSite(Board(), lambda: 0.0))
