"""One deadline for a whole request, however its answer trickles in.

httpx bounds each single wait, so a server that sends one byte a minute would hold a request for ever. Here every connection
lies inside one whose waits end when the request must be over: connecting, the handshake of TLS, sending, each read.
"""

from __future__ import annotations

import ssl
import threading
from collections.abc import Callable, Iterable
from typing import Any

import httpcore


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


class Network(httpcore.NetworkBackend):
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
        return _Stream(self._inner.connect_tcp(host, port, wait, local_address, socket_options), self._deadline)


class _Stream(httpcore.NetworkStream):
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
        return _Stream(self._inner.start_tls(ssl_context, server_hostname, wait), self._deadline)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)
