"""Connections: where a client's request ends and the next one begins, and how often a provider is sent one."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from contextlib import suppress

import pytest

from policyctl.gateway import run
from tests.gateway.live import EVENTS, Running, answer_of, event, running, sends
from tests.patience import LONGEST

SINGLE = {"strategy": {"mode": "single"}, "targets": [{"model_name": "a"}]}
BODY = b'{"model":"p","messages":[]}'
FIRST = b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n"
LAST = b"GET /livez HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"
ALIVE = b'{"status":"alive"}'
UPGRADES = {
    "h2c": b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAEAAEAAAAIAAAAB\r\n",
    "websocket": b"Connection: upgrade\r\nUpgrade: websocket\r\nsec-websocket-version: 13\r\n",
    "h2c, and close": b"connection: close, Upgrade\r\nupgrade: h2c\r\n",
}


def post(more: bytes, body: bytes = BODY, *, chunked: bool = False) -> tuple[bytes, bytes]:
    """The head and the body of a request."""
    length = b"transfer-encoding: chunked" if chunked else b"content-length: %d" % len(body)
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n%b%b\r\n\r\n"
    return head % (more, length), b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body) if chunked else body


def connected(gateway: Running) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(gateway.url.rpartition(":")[2])), timeout=LONGEST)


def answers(gateway: Running, *parts: bytes) -> list[bytes]:
    """The answers to what is sent in these parts, and to one request more that ends the connection."""
    with connected(gateway) as raw:
        for part in (*parts[:-1], parts[-1] + LAST):
            raw.sendall(part)
            gateway.call(_turns())
        return b"".join(iter(lambda: raw.recv(1 << 16), b"")).split(b"HTTP/1.1 ")[1:]


async def _turns() -> None:
    """Some turns of the loop, in which the gateway reads what has come."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
@pytest.mark.parametrize("case", UPGRADES)
def test_a_request_that_asks_for_another_protocol_is_answered_as_any_other(gateway: Running, case: str, chunked: bool) -> None:
    """As Java's client sends it: in one packet, in several, and behind another request."""
    gateway.take({"p": SINGLE}, "a")
    gateway.upstream.play({})
    head, body = post(UPGRADES[case], chunked=chunked)
    for parts in ([head + body], [head, body], [head[:50], head[50:] + body[:9], body[9:]], [FIRST + head, body]):
        *found, last = answers(gateway, *parts)
        if "close" not in case:
            assert last.endswith(ALIVE)
            last = found.pop()
        assert last.startswith(b"200 OK")
        assert last.endswith(b'"choices": []}')
        assert [one[-len(ALIVE) :] for one in found] == [ALIVE] * parts[0].startswith(FIRST)
    assert [one.raw for one in gateway.upstream.heard] == [BODY.replace(b'"p"', b'"a"')] * 4
    assert {"upgrade", "http2-settings"}.isdisjoint(gateway.upstream.heard[0].headers)


@pytest.mark.parametrize("case", UPGRADES)
def test_the_body_of_a_request_is_never_the_next_request(gateway: Running, case: str) -> None:
    """A proxy would give the second answer to another client."""
    head, body = post(UPGRADES[case], FIRST)
    for parts in ([head + body], [head, body]):
        found = answers(gateway, *parts)
        assert [one[:3] for one in found] == [b"400"] + [b"200"] * ("close" not in case)


TRAILER = b"authorization: Bearer key\r\nx-request-id: of-a-trailer\r\nopenai-beta: of-a-trailer\r\n\r\n"


@pytest.mark.parametrize("apart", [False, True], ids=["with the body", "apart"])
def test_a_trailer_is_not_a_header(gateway: Running, apart: bool) -> None:
    """A proxy in front has checked and set the headers, and passes trailers on as they are."""
    gateway.take({"p": SINGLE}, "a")
    gateway.upstream.play({})
    head, body = post(b"", chunked=True)
    sent = (head, body.removesuffix(b"\r\n"), TRAILER) if apart else (head + body.removesuffix(b"\r\n") + TRAILER,)
    found, _ = answers(gateway, *sent)
    assert found.startswith(b"200 OK")
    assert b"of-a-trailer" not in found
    assert "of-a-trailer" not in gateway.upstream.heard[0].headers.values()


@pytest.mark.parametrize("begin", [b"0\r\n", b"1;"], ids=["trailers", "an extension of a chunk"])
def test_what_is_neither_head_nor_body_has_a_bound(gateway: Running, begin: bytes) -> None:
    head, _ = post(b"", chunked=True)
    with connected(gateway) as raw, suppress(ConnectionError):
        raw.sendall(head + begin)
        for _ in range(1000):  # until the connection is closed
            raw.sendall(b"a:b\r\n" * 1000 if begin == b"0\r\n" else b"x" * 5000)
        pytest.fail("5 MB were taken")


@pytest.mark.parametrize("line", [b"CONNECT /v1/models HTTP/1.1", b"CONNECT localhost:80 HTTP/1.1", b"PRI * HTTP/2.0"])
def test_a_tunnel_or_another_version_of_http_ends_the_connection(gateway: Running, line: bytes) -> None:
    (found,) = answers(gateway, line + b"\r\nhost: localhost\r\n\r\n")
    assert found.startswith(b"400")
    assert b"connection: close" in found


async def silent(*_: object) -> None:
    await asyncio.sleep(60)


def until_left(gateway: Running, policy: str, requests: int = 1) -> None:
    """Wait until so many requests of a policy have ended because their clients had left."""
    left = f'requests_total{{policy="virtual-policy/{policy}",operation="chat/completions",status="499"}} {requests}'
    end = time.monotonic() + LONGEST
    while left not in gateway.client.get("/metrics").text:
        assert time.monotonic() < end


@pytest.mark.parametrize("size", [1, 3_000_000])
@pytest.mark.parametrize("behind", [b"", FIRST, FIRST * 5], ids=["alone", "another behind", "several behind"])
def test_a_client_that_leaves_ends_its_request(gateway: Running, size: int, behind: bytes) -> None:
    """Though nothing was sent to it yet, so that no write fails; whatever it has sent behind."""
    begun = asyncio.Event()

    async def begin(*_: object) -> None:
        begun.set()
        await silent()

    name = f"left-{size}-{len(behind)}"
    gateway.take({name: SINGLE}, "a")
    gateway.upstream.play({"a": [begin]})
    head, body = post(b"", json.dumps({"model": name, "text": "x" * size}).encode())
    with connected(gateway) as raw:
        raw.sendall(head + body)
        gateway.call(asyncio.wait_for(begun.wait(), LONGEST))
        raw.sendall(behind)
    until_left(gateway, name)
    assert gateway.upstream.calls == ["a"]


def test_a_client_that_leaves_with_its_requests_in_one_packet_ends_the_one_under_way(gateway: Running) -> None:
    gateway.take({"piped": SINGLE}, "a")
    gateway.upstream.play({"a": [silent]})
    with connected(gateway) as raw:
        raw.sendall(b"".join(post(b"", b'{"model":"piped"}')) * 2)
        while not gateway.upstream.calls:
            gateway.call(_turns())
    until_left(gateway, "piped")
    assert gateway.upstream.calls == ["a"]


def test_a_client_that_takes_nothing_of_its_answer_is_left(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would hold a request of those that there may be at once for as long as it likes."""
    monkeypatch.setattr(run, "TAKE_SECONDS", 0.2)

    async def endless(writer: asyncio.StreamWriter, _: object) -> None:
        writer.write(EVENTS)
        while True:
            writer.write(event("x" * 100_000))
            await writer.drain()

    gateway.take({"stuck": SINGLE}, "a")
    gateway.upstream.play({"a": [endless]})
    with connected(gateway) as raw:
        raw.sendall(b"".join(post(b"", b'{"model":"stuck"}')))
        until_left(gateway, "stuck")


def test_so_is_one_whose_connection_only_waits_for_it(gateway: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its requests are answered and count no more."""
    lost = threading.Event()
    real = run.ClientProtocol.connection_lost

    def note(self: run.ClientProtocol, error: Exception | None) -> None:
        real(self, error)
        lost.set()

    monkeypatch.setattr(run, "TAKE_SECONDS", 0.2)
    monkeypatch.setattr(run.ClientProtocol, "connection_lost", note)
    gateway.take({"p": SINGLE}, "a")
    gateway.upstream.play({"a": [sends(answer_of(200, "a", "connection: close", body="x" * 1_000_000))]})
    with socket.socket() as raw:
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        raw.connect(("127.0.0.1", int(gateway.url.rpartition(":")[2])))
        raw.sendall(b"".join(post(b"")) * 7 + b"".join(post(b"connection: close\r\n")))
        assert lost.wait(LONGEST)


def test_a_client_may_send_some_of_its_requests_ahead(gateway: Running) -> None:
    gateway.take({"p": SINGLE}, "a")
    gateway.upstream.play({})
    requests = b"".join(post(b"")) * 3
    assert [one[:3] for one in answers(gateway, requests[:200], requests[200:] + FIRST)] == [b"200"] * 5
    gateway.upstream.play({"a": [silent]})
    with connected(gateway) as raw, suppress(ConnectionError):
        for _ in range(1000):  # until the connection is closed
            raw.sendall(requests * 10)
        pytest.fail("megabytes were taken")


@pytest.mark.parametrize("behind", [b"what?\r\n\r\n", b"GET /" + b"x" * 70_000], ids=["not HTTP", "too long"])
@pytest.mark.parametrize("between", [b"", FIRST], ids=["next", "in the pipeline"])
def test_what_cannot_be_read_is_not_answered_within_the_answer_under_way(
    gateway: Running, behind: bytes, between: bytes
) -> None:
    """It would be taken for a part of it."""

    async def stream(writer: asyncio.StreamWriter, _: object) -> None:
        writer.write(EVENTS + event("first"))
        await silent()

    gateway.take({"p": SINGLE}, "a")
    gateway.upstream.play({"a": [stream]})
    with connected(gateway) as raw:
        raw.sendall(b"".join(post(b"")))
        found = b""
        while b"first" not in found:
            found += raw.recv(1 << 16)
        raw.sendall(between + behind)
        found += b"".join(iter(lambda: raw.recv(1 << 16), b""))
    assert found.count(b"HTTP/1.1") == 1
    assert found.endswith(b'data: "first"\n\n\r\n')


@pytest.mark.skipif(shutil.which("curl") is None, reason="needs curl")
def test_curl_that_offers_http_2_is_answered(gateway: Running) -> None:
    gateway.take({"p": SINGLE}, "a")
    gateway.upstream.play({})
    url, kind = f"{gateway.url}/v1/chat/completions", "Content-Type: application/json"
    args = ["curl", "-sS", "--http2", "-H", kind, "-d", BODY.decode(), url]
    ran = subprocess.run(args, capture_output=True, check=True, timeout=LONGEST, env={"PATH": os.environ["PATH"]})
    assert json.loads(ran.stdout)["model"] == "a"


def test_a_provider_that_read_a_request_is_not_sent_it_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each attempt is counted: also over a connection that was idle, and that a server might just have closed."""
    with running() as live:
        live.take({"p": SINGLE}, "a")
        live.upstream.play({"a": [200, sends()]})
        assert live.chat().status_code == 200
        now = live.loop.time
        monkeypatch.setattr(live.loop, "time", lambda: now() + 2)
        answer = live.chat()
        assert (answer.status_code, answer.headers["x-policyctl-attempts"]) == (500, "1")
        assert live.upstream.calls == ["a", "a"]
