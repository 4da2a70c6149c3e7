"""What is read of an answer: its status, its body, whether it is whole, and whether its connection can be used again."""

from __future__ import annotations

import asyncio
import tracemalloc
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.gateway.pool import CLOSED, MOST_HEAD, MOST_UNREAD, Broken, Exchange, HttpConnection


class Read(NamedTuple):
    """What came of an answer. `why` is why it broke off."""

    status: int
    body: bytes
    keeps: bool = False
    why: str = ""


OK = b"HTTP/1.1 200 OK\r\n"
LONG = b"x" * (MOST_HEAD + 1)
NOT_HTTP, TOO_LONG = "what came is not HTTP", "it has a head that is too long"

WHOLE: dict[str, tuple[bytes, Read]] = {
    "a length": (OK + b"content-length: 3\r\n\r\nabc", Read(200, b"abc", keeps=True)),
    "a length of 0": (OK + b"content-length: 0\r\n\r\n", Read(200, b"", keeps=True)),
    "chunks": (OK + b"Transfer-Encoding: Chunked\r\n\r\n1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", Read(200, b"abc", keeps=True)),
    "chunks with extensions and trailers": (
        OK + b"transfer-encoding: chunked\r\n\r\n3;a=b\r\nabc\r\n0\r\nset-cookie: x\r\n\r\n",
        Read(200, b"abc", keeps=True),
    ),
    "until the end of the connection": (OK + b"\r\nabc", Read(200, b"abc")),
    "of HTTP/1.0": (b"HTTP/1.0 200 OK\r\ncontent-length: 3\r\n\r\nabc", Read(200, b"abc")),
    "with Connection: close": (OK + b"connection: close\r\ncontent-length: 3\r\n\r\nabc", Read(200, b"abc")),
    "204": (b"HTTP/1.1 204 X\r\n\r\n", Read(204, b"", keeps=True)),
    "304 with a length": (b"HTTP/1.1 304 X\r\ncontent-length: 9\r\n\r\n", Read(304, b"", keeps=True)),
    "after 100": (b"HTTP/1.1 100 X\r\n\r\n" + OK + b"content-length: 1\r\n\r\na", Read(200, b"a", keeps=True)),
    "after 103 and 102": (
        b"HTTP/1.1 103 X\r\ncontent-type: x\r\n\r\nHTTP/1.1 102 X\r\n\r\nHTTP/1.1 500 X\r\ncontent-length: 1\r\n\r\na",
        Read(500, b"a", keeps=True),
    ),
    "without a reason": (b"HTTP/1.1 429\r\ncontent-length: 1\r\n\r\na", Read(429, b"a", keeps=True)),
    "lines without CR": (b"HTTP/1.1 200 OK\ncontent-length: 1\n\na", Read(200, b"a", keeps=True)),
    "a header in two lines": (OK + b"x: a\r\n b\r\ncontent-length: 1\r\n\r\na", Read(200, b"a", keeps=True)),
    "another protocol": (b"HTTP/1.1 101 X\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n", Read(101, b"")),
    "more behind it": (OK + b"content-length: 1\r\n\r\naHTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nb", Read(200, b"a")),
    "what is not HTTP behind it": (OK + b"content-length: 1\r\n\r\na\x00\x01", Read(200, b"a")),
    "more behind Connection: close": (OK + b"connection: close\r\ncontent-length: 1\r\n\r\nab", Read(200, b"a")),
}
BROKEN: dict[str, tuple[bytes, Read]] = {
    "nothing": (b"", Read(0, b"", why=CLOSED)),
    "half a head": (OK + b"content-le", Read(0, b"", why=CLOSED)),
    "half a body": (OK + b"content-length: 3\r\n\r\nab", Read(200, b"ab", why=CLOSED)),
    "half a body, with a space behind the header's name": (
        OK + b"content-length : 3\r\n\r\nab",
        Read(200, b"ab", why=CLOSED),
    ),
    "half of the chunks, with one too": (
        OK + b"transfer-encoding : chunked\r\n\r\n1\r\na\r\n",
        Read(200, b"a", why=CLOSED),
    ),
    "a framing that is not known": (OK + b"transfer-encoding: chunked, gzip\r\n\r\nab", Read(200, b"ab", why=CLOSED)),
    "half of the chunks": (OK + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n", Read(200, b"a", why=CLOSED)),
    "all but the last line": (OK + b"transfer-encoding: chunked\r\n\r\n1\r\na\r\n0\r\n", Read(200, b"a", why=CLOSED)),
    "only what comes before": (b"HTTP/1.1 100 X\r\n\r\n", Read(0, b"", why=CLOSED)),
    "what is not HTTP": (b"what?\r\n\r\n", Read(0, b"", why=NOT_HTTP)),
    "a chunk without a size": (OK + b"transfer-encoding: chunked\r\n\r\nzz\r\n", Read(200, b"", why=NOT_HTTP)),
    "two lengths": (OK + b"content-length: 1\r\ncontent-length: 2\r\n\r\na", Read(0, b"", why=NOT_HTTP)),
    "a length and chunks": (OK + b"content-length: 1\r\ntransfer-encoding: chunked\r\n\r\na", Read(0, b"", why=NOT_HTTP)),
    "a header that is too long": (OK + b"x: " + LONG, Read(0, b"", why=TOO_LONG)),
    "too many answers before it": (b"HTTP/1.1 100 X\r\n\r\n" * (MOST_HEAD // 18 + 1), Read(0, b"", why=TOO_LONG)),
    "an extension that is too long": (OK + b"transfer-encoding: chunked\r\n\r\n1;" + LONG, Read(200, b"", why=TOO_LONG)),
    "trailers that are too long": (OK + b"transfer-encoding: chunked\r\n\r\n0\r\nx: " + LONG, Read(200, b"", why=TOO_LONG)),
}
ALL = WHOLE | BROKEN


def read(*parts: bytes) -> Read:
    """What comes of an answer that arrives in these parts."""
    exchange = Exchange(HttpConnection(print, print))
    for part in parts:
        if part and not exchange.feed(part):
            break
    exchange.feed_end()

    async def taken() -> Read:
        body = b""
        try:
            await exchange.head()
            while chunk := await exchange.read():
                body += chunk
        except Broken as error:
            return Read(exchange.status, body, exchange.keeps_connection, str(error))
        return Read(exchange.status, body, exchange.keeps_connection)

    return asyncio.run(taken())


@pytest.mark.parametrize("case", ALL)
def test_an_answer_is_read(case: str) -> None:
    raw, expected = ALL[case]
    assert read(raw) == expected


@given(case=st.sampled_from(sorted(case for case, (raw, _) in ALL.items() if len(raw) < MOST_HEAD)), data=st.data())
def test_however_it_arrives_the_same_is_read(case: str, data: st.DataObject) -> None:
    raw, expected = ALL[case]
    cuts = sorted(data.draw(st.sets(st.integers(0, len(raw)))))
    found = read(*(raw[one:other] for one, other in zip([0, *cuts], [*cuts, len(raw)], strict=True)))
    # What follows a whole answer in another packet is not its own: the connection is closed when it comes.
    assert found._replace(keeps=False) == expected._replace(keeps=False)
    assert found.keeps == expected.keeps or case.startswith(("more behind", "what is not HTTP behind"))


@pytest.mark.parametrize("number", [1, 100])
def test_headers_have_names_in_lower_case_and_a_bound_in_all(number: int) -> None:
    exchange = Exchange(HttpConnection(print, print))
    exchange.feed(OK + b"".join(b"X-%d: %b\r\n" % (one, b"v" * 800) for one in range(number)) + b"content-length: 0\r\n\r\n")
    assert exchange.is_whole is (number == 1)
    if number == 1:
        assert exchange.headers == [(b"x-0", b"v" * 800), (b"content-length", b"0")]


@pytest.mark.slow
def test_what_waits_for_its_reader_takes_about_as_much_memory_as_it_has_bytes() -> None:
    """However small the chunks are in which it came."""
    exchange = Exchange(HttpConnection(print, print))
    exchange.feed(OK + b"transfer-encoding: chunked\r\n\r\n")
    packet = b"1\r\nx\r\n" * 1000
    tracemalloc.start()
    while not exchange.is_full:
        exchange.feed(packet)
    size, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert size < 2 * MOST_UNREAD


def test_headers_of_what_comes_before_an_answer_are_not_its_own() -> None:
    exchange = Exchange(HttpConnection(print, print))
    exchange.feed(b"HTTP/1.1 103 X\r\nretry-after: 9\r\n\r\nHTTP/1.1 429 X\r\ncontent-length: 0\r\n\r\n")
    assert exchange.headers == [(b"content-length", b"0")]
