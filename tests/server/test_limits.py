"""What strangers can do to a running `policyctl serve`: nothing lasting. Real sockets, and clients that misbehave."""

from __future__ import annotations

import json
import re
import socket
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from http.client import HTTPConnection, HTTPResponse
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.patience import LONGEST
from tests.server.serving import Served, serving
from tests.sqlite_rows import put, row

HEAD = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n"
POST = b"POST /v1/models HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
BODIED = POST + b"Content-Length: 9\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


@contextmanager
def connected(served: Served) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", served.port), timeout=LONGEST) as connection:
        yield connection


def answer_on(connection: socket.socket) -> HTTPResponse:
    """One answer, whose body is still to be read."""
    answer = HTTPResponse(connection)
    answer.begin()
    return answer


class Answer(NamedTuple):
    status: int
    headers: list[str]  # their names
    text: str


def asked(served: Served, request: bytes) -> Answer:
    with connected(served) as connection:
        connection.sendall(request)
        answer = answer_on(connection)
        return Answer(answer.status, [name.lower() for name in answer.headers], answer.read().decode())


def memory(served: Served, kind: str) -> int:
    """Bytes that the server has now (VmRSS) or had at most (VmHWM)."""
    text = Path(f"/proc/{served.process.pid}/status").read_text()
    found = re.search(rf"{kind}:\s+(\d+) kB", text)
    assert found
    return int(found.group(1)) * 1024


@pytest.mark.parametrize("begin", [HEAD + b"Transfer-Encoding: chunked\r\n\r\n", CHUNKED])
def test_a_body_without_end_takes_no_memory(served: Served, begin: bytes) -> None:
    """Of a body that no operation takes, and of one that is too large, the rest is thrown away."""
    with connected(served) as connection:
        connection.sendall(begin)
        before = memory(served, "VmHWM")
        for _ in range(1024):
            connection.sendall(b"10000\r\n" + b" " * 65536 + b"\r\n")
        assert answer_on(connection).status == (413 if begin == CHUNKED else 200)
    assert memory(served, "VmHWM") - before < 16 << 20


def test_a_connection_that_keeps_asking_is_kept(served: Served) -> None:
    with closing(HTTPConnection("127.0.0.1", served.port)) as client:
        sources = set()
        for _ in range(9):
            client.request("GET", "/healthz")
            assert client.getresponse().read() == b'{"status":"ok"}'
            sources.add(client.sock.getsockname())
    assert len(sources) == 1


def test_one_client_too_many_gets_a_503_and_the_others_are_served(tmp_path: Path) -> None:
    with serving(tmp_path / "a.db", "--max-connections", "3") as served, ExitStack() as opened:
        inside = [opened.enter_context(connected(served)) for _ in range(3)]
        for client in inside:
            client.sendall(HEAD + b"\r\n")
            answer = answer_on(client)
            assert (answer.status, answer.read()) == (200, b'{"status":"ok"}')
        beyond = opened.enter_context(connected(served))
        beyond.sendall(HEAD + b"\r\n")
        refused = answer_on(beyond)
        assert (refused.status, refused.headers["connection"]) == (503, "close")
        refused.read()
        assert beyond.recv(1) == b""
        served_again = []
        for client in inside:  # the first may still meet the one that is just leaving
            client.sendall(HEAD + b"\r\n")
            served_again.append(answer_on(client).status)
        assert served_again[-1] == 200


def test_a_body_that_claims_to_be_too_large_is_refused_before_it_is_sent(served: Served) -> None:
    for more in (b"", b"Expect: 100-continue\r\n"):
        assert asked(served, POST + more + b"Content-Length: 1048577\r\n\r\n").status == 413


def test_who_sends_too_large_a_body_gets_to_read_why(served: Served) -> None:
    """The rest is read and dropped; a connection that is reset at once would take the answer with it."""
    with closing(HTTPConnection("127.0.0.1", served.port)) as client:
        for _ in range(2):  # and the connection is good for another request
            client.request("POST", "/v1/models", b" " * (8 << 20), {"Content-Type": "application/json"})
            answer = client.getresponse()
            assert (answer.status, json.loads(answer.read())) == (413, {"detail": "the body has more than 1048576 bytes"})


ODD: dict[str, tuple[bytes, int]] = {
    "an absolute target": (b"GET http://evil.example.com/healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
    "two slashes": (b"GET //healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
    "dots": (b"GET /v1/../healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
    "encoded dots": (b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
    "a NUL": (b"GET /v1/model_policy/%00 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
    "no UTF-8": (b"GET /v1/model_policy/%ff%ed%a0%80 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
    "a query of neither": (b"GET /v1/model_policy?name=%ff&id=%00&=&& HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 200),
    "bytes that no URL has": (b"GET /v1/\xff HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 400),
    "a method for the whole server": (b"OPTIONS * HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
    "a method for proxies": (b"CONNECT evil.example.com:443 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n", 404),
    "a method that tells headers": (b"TRACE /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nX: canary\r\n\r\n", 405),
    "HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 404),
    "HTTP/1.0 without a host": (b"GET /healthz HTTP/1.0\r\n\r\n", 403),
    "an empty host": (b"GET /healthz HTTP/1.1\r\nHost:\r\n\r\n", 403),
    "a user in the host": (b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1@evil.example.com\r\n\r\n", 403),
    "two hosts": (HEAD + b"Host: evil.example.com\r\n\r\n", 400),
    "a space before the colon": (b"GET /healthz HTTP/1.1\r\nHost : 127.0.0.1\r\n\r\n", 400),
    "a NUL in a header": (HEAD + b"X: a\0b\r\n\r\n", 400),
    "a websocket": (HEAD + b"Connection: upgrade\r\nUpgrade: websocket\r\n\r\n", 200),
    "a token that is not text": (HEAD + b"Authorization: Bearer \xff\xfe\r\n\r\n", 200),
    "a length below nothing": (POST + b"Content-Length: -5\r\n\r\n", 400),
    "a length with a sign": (POST + b"Content-Length: +5\r\n\r\n", 400),
    "two lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n", 400),
    "two kinds of length": (POST + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "a length of 64 bits": (POST + b"Content-Length: 18446744073709551615\r\n\r\n", 413),
    "an encoding that is not known": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", 400),
    "a chunk that is none": (CHUNKED + b"zz\r\n\r\n", 400),
}
PLAIN_HEADERS = {"date", "content-type", "content-length", "connection", "allow", "transfer-encoding", "retry-after"}


@pytest.mark.parametrize("case", ODD)
def test_an_odd_request_gets_an_ordinary_answer(served: Served, case: str) -> None:
    """Never a 5xx, and never a word about what answers: no header names a program or a version."""
    request, status = ODD[case]
    answer = asked(served, request)
    assert answer.status == status
    assert set(answer.headers) <= PLAIN_HEADERS
    assert not re.search(r"canary|uvicorn|starlette|python|Traceback|\.py|\.db", answer.text)


def test_a_broken_document_spoils_no_list(tmp_path: Path) -> None:
    """Its row has a name and nothing else: a plan reports it as unreadable, and goes on with the others."""
    database = tmp_path / "a.db"
    put([row("whole")], database)
    with serving(database) as served:
        with closing(sqlite3.connect(database)) as connection, connection:
            for table in ("policy", "model"):
                connection.execute(f"INSERT INTO {table} VALUES ('id', 'broken', 'canary, and no JSON', '', '')")
        listed = {}
        for path in ("model_policy", "models", "models?name=broken", "models/list", "models/id", "model_policy/id"):
            answer = asked(served, f"GET /v1/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
            assert answer.status == 200
            assert "canary" not in answer.text
            listed[path] = json.loads(answer.text)
    assert [one["name"] for one in listed["model_policy"]] == ["broken", "virtual-policy/whole"]
    assert [one["name"] for one in listed["models?name=broken"]] == ["broken"]
    assert [one["id"] for one in listed["models/list"]["resources"]] == ["broken"]


def test_a_bug_is_a_500_and_a_file_that_is_broken_a_503_without_a_trace(tmp_path: Path) -> None:
    """What went wrong is in the log, without what was stored; the server goes on."""
    database = tmp_path / "a.db"
    put([row("whole")], database)
    ask = b"GET /v1/model_policy HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with serving(database) as served:
        with closing(sqlite3.connect(database)) as connection, connection:
            # Bytes for a time, which no JSON can say: nothing but a hand in the file makes such a row.
            connection.execute("INSERT INTO policy VALUES ('id', 'name', '{}', CAST('canary' AS BLOB), '')")
        failed = asked(served, ask)
        assert (failed.status, failed.text) == (500, '{"detail":"the server failed; see its log"}')
        assert asked(served, HEAD + b"\r\n").status == 200
        database.write_bytes(b"canary" * (database.stat().st_size // 6))
        broken = asked(served, ask)
        assert broken.status == 503
        assert broken.text == '{"detail":"the store cannot be used now; see the server\'s log"}'
    log = served.log.read_text()
    events = [event["event"] for event in served.events()]
    assert events == ["started", "bug", "request", "request", "store", "request", "stopped"]
    assert "canary" not in log
    assert "Traceback" not in log


def test_what_connections_leave_behind_is_collected(served: Served) -> None:
    """Commands run without a garbage collector, for they end; a server must not."""

    def connect(times: int) -> int:
        for _ in range(times):
            assert asked(served, HEAD + b"Connection: close\r\n\r\n").status == 200
        return memory(served, "VmRSS")

    settled = connect(1000)
    assert connect(2000) - settled < 1 << 20
