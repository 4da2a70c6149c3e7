"""Bounds on a response: one deadline for the whole request, and a limit on the size of the body.

httpx bounds each single wait, so a server that sends one byte a minute would hold a request for ever. Here every connection
lies inside one whose waits end when the request must be over: connecting, the handshake of TLS, sending, each read.
"""

from __future__ import annotations

import ssl
import threading
import zlib
from collections.abc import Callable, Iterable
from typing import Any

import httpcore
import httpx


class Deadline:
    """When the request that a thread is making must be over; several threads may each be making one."""

    def __init__(self, seconds: float, clock: Callable[[], float]) -> None:
        self._seconds = seconds
        self._clock = clock
        self._mine = threading.local()

    def begin(self) -> None:
        """Start the time of this thread's next request."""
        self._mine.end = self._clock() + self._seconds

    def within(self, timeout: float | None, late: type[httpcore.TimeoutException]) -> float:
        """How long one wait of at most `timeout` seconds may take. Raises `late` when the request's time is over."""
        left: float = self._mine.end - self._clock()
        if left <= 0:
            raise late("the request took too long")
        return left if timeout is None else min(timeout, left)


class DeadlineNetwork(httpcore.NetworkBackend):
    """Makes connections that keep to a deadline, by means of a network that knows of none."""

    def __init__(self, inner: httpcore.NetworkBackend, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        wait = self._deadline.within(timeout, httpcore.ConnectTimeout)
        return _DeadlineStream(self._inner.connect_tcp(host, port, wait, local_address, socket_options), self._deadline)


class _DeadlineStream(httpcore.NetworkStream):
    def __init__(self, inner: httpcore.NetworkStream, deadline: Deadline) -> None:
        self._inner = inner
        self._deadline = deadline

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        return self._inner.read(max_bytes, self._deadline.within(timeout, httpcore.ReadTimeout))

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._deadline.within(timeout, httpcore.WriteTimeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.NetworkStream:
        wait = self._deadline.within(timeout, httpcore.ConnectTimeout)
        return _DeadlineStream(self._inner.start_tls(ssl_context, server_hostname, wait), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


MAX_LIST = 64 * 1024 * 1024  # bytes of an answer to a GET, unpacked
MAX_ROW = 16 * 1024 * 1024  # bytes of any other answer
ENCODING = "gzip"


class ResponseTooLarge(Exception):
    """A body that is not read to its end; the message ends the sentence "it answered 200 with …"."""


def read_whole(response: httpx.Response) -> httpx.Response:
    """The response with its body in memory, unpacked. Raises Unbearable for one of a success that is too much.

    The words of a failure are left out where they are too much: they are not needed, and half of them might end in half a
    secret. What has two lengths is refused whatever it says, as RFC 9112 (6.3) allows: it is not known where it ends, and
    the next answer of the connection may be part of it.
    """
    if "Content-Length" in response.headers and "Transfer-Encoding" in response.headers:
        response.close()
        raise ResponseTooLarge("two lengths, Content-Length and Transfer-Encoding")
    if _is_small(response):
        response.read()
        return response
    try:
        content = _content(response)
    except ResponseTooLarge:
        if response.is_success:
            raise
        content = b""
    finally:
        response.close()
    kept = [(name, value) for name, value in response.headers.raw if name.lower() not in _OF_THE_BODY]
    extensions = {"reason_phrase": response.extensions.get("reason_phrase", b"")}
    return httpx.Response(response.status_code, headers=kept, content=content, request=response.request, extensions=extensions)


def _is_small(response: httpx.Response) -> bool:
    """Whether a body says its size, to which HTTP then holds it, and is not packed: most are."""
    size = response.headers.get("Content-Length", "")
    is_number = size.isascii() and size.isdigit() and len(size) <= 20  # as long as HTTP libraries take them
    return is_number and int(size) <= MAX_ROW and "Content-Encoding" not in response.headers


_OF_THE_BODY = (b"content-encoding", b"content-length", b"transfer-encoding")


def _content(response: httpx.Response) -> bytes:
    most = MAX_LIST if response.request.method == "GET" else MAX_ROW
    encoding = response.headers.get("Content-Encoding", "identity").strip().lower()
    if encoding not in ("identity", ENCODING):
        raise ResponseTooLarge(f"a body in an encoding that was not asked for ({encoding[:40]!r})")
    pieces, size = [], 0
    for piece in response.iter_raw():
        pieces.append(piece)
        size += len(piece)
        if size > most:
            raise _too_large(most)
    content = b"".join(pieces)
    return content if encoding == "identity" else _unpacked(content, most)


def _unpacked(content: bytes, most: int) -> bytes:
    """What gzip packed. A bomb is not let go off: no more than `most` bytes are ever unpacked."""
    unpacker = zlib.decompressobj(zlib.MAX_WBITS | 16)
    try:
        unpacked = unpacker.decompress(content, most + 1)
    except zlib.error:
        raise ResponseTooLarge("a body that is not the gzip it says it is") from None
    if len(unpacked) > most:
        raise _too_large(most)
    if content and not unpacker.eof:
        raise ResponseTooLarge("a body that is cut short")
    return unpacked


def _too_large(most: int) -> ResponseTooLarge:
    return ResponseTooLarge(f"more than {most // (1024 * 1024)} MiB, which no list of policies needs")
