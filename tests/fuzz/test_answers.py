"""Whatever a service answers, a command ends with what the answer holds or with one clear error, and soon."""

from __future__ import annotations

import gzip
import itertools
import json
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.errors import LostAnswer, PolicyctlError, RemoteError
from policyctl.load.settings_file import AuthFile
from policyctl.policy.live import observe_rows
from policyctl.report.format import Style
from policyctl.report.policies import live_json, live_text
from tests.examples import examples
from tests.fuzz.mutating import contents, values
from tests.remote.fake_server import Reply, StandIn, standing_in
from tests.remote.http_helpers import document, reach, row
from tests.strategies import json_values

LOGIN = AuthFile.model_validate({"type": "ibm_iam", "api_key": "env:KEY"})
ROWS = [row("a", "virtual-model/x/a"), row("virtual-policy/b")]
TOKEN = {"access_token": "t0k3n-t0k3n", "expires_in": 3600}
ERROR = {"detail": [{"loc": ["body", "policy"], "msg": "bad"}], "errors": [{"message": "worse"}], "code": "X"}
HEADERS = st.dictionaries(
    st.sampled_from(["Retry-After", "Date", "Content-Type", "Content-Encoding", "ETag", "Location", "Set-Cookie"]),
    st.sampled_from(
        [
            *("0", "9" * 400, "-1", "soon", "Wed, 21 Oct 2015 07:28:30 GMT", "Wed, 21 Oct 2015 07:28:30 +99999999999999"),
            *("text/html", "application/json; charset=utf-16", "gzip", "br", "gzip, gzip", "identity", "", "http://x.invalid/"),
        ]
    )
    | st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=20),
    max_size=3,
)
STATUSES = st.sampled_from([200, 201, 204, 301, 400, 401, 403, 404, 409, 410, 412, 422, 429, 500, 502, 503, 599])
BODIES = st.one_of(
    values(ROWS, json_values).map(lambda value: json.dumps(value).encode()),
    values(TOKEN, json_values).map(lambda value: json.dumps(value).encode()),
    values(ERROR, json_values).map(lambda value: json.dumps(value).encode()),
    contents(json.dumps(ROWS), json.dumps(TOKEN), "<html>no</html>"),
    json_values.map(lambda value: gzip.compress(json.dumps(value).encode())),
    st.sampled_from(
        [b"", b" ", b"[" * 5000, b'{"a":' * 900, b'"\\ud800"', b"\xff\xfe", b"9" * 5000, b'{"expires_in":1' + b"0" * 400 + b"}"]
    ),
)
REPLIES = st.builds(Reply, STATUSES, BODIES, HEADERS, st.integers(0, 3).map(lambda cut: max(0, cut - 2)))
ACTIONS = {
    "list": lambda remote: live_text("policy", observe_rows(remote.rows()), "dev", "x", Style()),
    "list as JSON": lambda remote: live_json("policy", observe_rows(remote.rows()), "dev", "x"),
    "find": lambda remote: observe_rows(remote.find({"virtual-policy/a"})),
    "models": lambda remote: remote.models(),
    "add": lambda remote: remote.add(document("a")),
    "update": lambda remote: remote.update("1", document("a"), "etag"),
    "remove": lambda remote: remote.remove("1"),
}


@pytest.fixture(scope="module")
def server() -> Iterator[StandIn]:
    with standing_in(lambda _: Reply()) as running:
        yield running


@pytest.mark.parametrize("action", ACTIONS)
@given(st.lists(REPLIES, min_size=1, max_size=3), st.booleans())
@settings(max_examples=examples(40))
def test_any_answers(server: StandIn, action: str, replies: list[Reply], logged_in: bool) -> None:
    answers = itertools.chain(replies, itertools.repeat(replies[-1]))
    server.handler = lambda _: next(answers)
    auth = LOGIN.model_copy(update={"url": server.url}) if logged_in else None
    with reach(server.url, auth, {"KEY": "k3y-k3y-k3y"}) as remote:
        told = ""
        try:
            ACTIONS[action](remote)
        except PolicyctlError as error:
            told = str(error)
    assert "\n" not in told
    assert len(told) < 1000
    assert "k3y-k3y-k3y" not in told


@contextmanager
def saying(*pieces: bytes | Iterable[bytes]) -> Iterator[str]:
    """The URL of a server that reads a request and sends these bytes, on every connection."""
    listener = socket.create_server(("127.0.0.1", 0))
    closing = threading.Event()

    def serve() -> None:
        while not closing.is_set():
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection, suppress(OSError):
                connection.recv(65_536)
                for piece in pieces:
                    for part in [piece] if isinstance(piece, bytes) else piece:
                        connection.sendall(part)

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        closing.set()
        with suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join()


OK, CHUNKED = b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
LENGTHS = b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n"
MEBIBYTE = b" " * 1024 * 1024
CHUNK = b"100000\r\n" + MEBIBYTE + b"\r\n"


def packed(content: bytes) -> bytes:
    return OK + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(content) + content


def plain_list(*rows: Any) -> bytes:
    content = json.dumps(rows).encode()
    return OK + b"Content-Length: %d\r\n\r\n" % len(content) + content


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = {"a": [value]} if depth % 2 else [value]
    return value


# What is sent, made when a test asks for it (some of it is large), and what the error then reports.
WIRES: dict[str, tuple[Callable[[], tuple[Any, ...]], str]] = {
    "nothing": (lambda: (b"",), "closed the connection before its answer was complete"),
    "no HTTP": (lambda: (b"SSH-2.0-x\r\n",), "closed the connection before its answer was complete"),
    "half a status line": (lambda: (b"HTTP/1.1 20",), "closed the connection before its answer was complete"),
    "endless headers": (
        lambda: (OK, itertools.repeat(b"X-A: " + b"a" * 1000 + b"\r\n", 5000)),
        "closed the connection before its answer was complete",
    ),
    "a body shorter than its length": (
        lambda: (OK + b"Content-Length: 50\r\n\r\n[]",),
        "closed the connection before its answer was complete",
    ),
    "an endless body": (lambda: (CHUNKED, itertools.repeat(CHUNK, 500)), "more than 64 MiB"),
    "a body that goes on after the length": (lambda: (OK + b"Content-Length: 2\r\n\r\n[]" + MEBIBYTE,), ""),
    "a gzip bomb": (lambda: (packed(gzip.compress(b"0" * 200_000_000, 9)),), "more than 64 MiB"),
    "half a gzip": (lambda: (packed(gzip.compress(b"[]")[:-4]),), "cut short"),
    "no gzip": (lambda: (packed(b"[]"),), "a body that is not valid gzip"),
    "packed twice": (lambda: (OK + b"Content-Encoding: gzip, gzip\r\nContent-Length: 2\r\n\r\n[]",), "not asked for"),
    "a packed list": (lambda: (packed(gzip.compress(b"[]")),), ""),
    "two lengths": (lambda: (OK + LENGTHS, itertools.repeat(CHUNK, 500)), "two lengths, Content-Length and Transfer-Encoding"),
    "two lengths of an error": (lambda: (b"HTTP/1.1 403 No\r\n" + LENGTHS, itertools.repeat(CHUNK, 500)), "two lengths"),
    "a length of more digits than a number has": (
        lambda: (OK + b"Content-Length: " + b"0" * 20 + b"99\r\n\r\n", itertools.repeat(MEBIBYTE, 100)),
        "closed the connection before its answer was complete",
    ),
    "more values than memory": (
        lambda: (packed(gzip.compress(b"[" + b"0," * 14_000_000 + b"0]", 1)),),
        "more than 1 GiB of memory",
    ),
    "more objects than memory": (
        lambda: (packed(gzip.compress(b"[" + b"{}," * 4_000_000 + b"0]", 1)),),
        "more than 1 GiB of memory",
    ),
    "more rows than any tenant has": (
        lambda: (packed(gzip.compress(b"[" + b"0," * 500_000 + b"0]", 1)),),
        "more than 500,000 rows",
    ),
    "lists in lists without end": (lambda: (packed(gzip.compress(b"[" * 5_000_000, 1)),), "nested more than 200 deep"),
    "a row nested too deeply": (lambda: (plain_list({**row("a"), "limits": nested(200)}),), "nested more than 200 deep"),
    "brackets in text are no nesting": (lambda: (plain_list({**row("a"), "limits": "[" * 500 + "{" * 500}),), ""),
    "a row nested deeply": (lambda: (plain_list({**row("a"), "limits": nested(150)}),), ""),
    "one page of several": (
        lambda: (OK + b'Link: </x?page=2>; rel="next"\r\nContent-Length: 2\r\n\r\n[]',),
        "one page of a list",
    ),
    "an error of many words": (
        lambda: (b"HTTP/1.1 400 Bad\r\nTransfer-Encoding: chunked\r\n\r\n", itertools.repeat(CHUNK, 500)),
        "400 Bad",
    ),
}


@pytest.mark.parametrize("case", WIRES)
def test_what_comes_over_the_wire_is_bounded_and_reported(case: str) -> None:
    pieces, told = WIRES[case]
    with saying(*pieces()) as url, reach(url) as remote:
        if not told:
            assert len(remote.rows()) < 2
            return
        with pytest.raises(RemoteError, match=told):
            remote.rows()


@pytest.mark.parametrize(
    ("head", "said"),
    [(CHUNKED, "more than 16 MiB"), (b"HTTP/1.1 409 No\r\n" + LENGTHS, "two lengths")],
    ids=["size", "lengths"],
)
def test_a_write_whose_answer_is_too_much_may_have_happened(head: bytes, said: str) -> None:
    told = pytest.raises(LostAnswer, match=said)
    with saying(head, itertools.repeat(CHUNK, 500)) as url, reach(url) as remote, told:
        remote.add(document("a"))
