"""Requests that end in time, and early when they are stopped.

httpx limits only each single wait, so a server that sends one byte a minute would keep a request open forever. Here every
wait of a connection (connect, TLS handshake, send, read) ends at the deadline of the whole request.
"""

from __future__ import annotations

import math
import ssl
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import httpcore

from policyctl.errors import RemoteError

_SLICE = 0.5  # seconds between two looks whether to stop


class Deadline:
    """The time at which a thread's current request must end; each thread has its own. `latest` is the end for all requests."""

    def __init__(self, seconds: float, clock: Callable[[], float], sleep: Callable[[float], None] = time.sleep) -> None:
        self.latest = math.inf
        self._seconds = seconds
        self._clock, self._sleep = clock, sleep
        self._mine = threading.local()

    def begin(self) -> None:
        """Start the time of this thread's next request."""
        self._mine.end = self._clock() + self._seconds

    @contextmanager
    def until(self, stopped: Callable[[], bool]) -> Iterator[None]:
        """Give up what this thread asks and waits for, soon after it was `stopped`. For what only reads."""
        self._mine.stopped = stopped
        try:
            yield
        finally:
            self._mine.stopped = None

    def sleep(self, seconds: float) -> None:
        """Wait between two requests. Raises RemoteError once it was stopped."""
        while self.can_stop and seconds > _SLICE:
            self.raise_if_stopped()
            self._sleep(_SLICE)
            seconds -= _SLICE
        self._sleep(seconds)
        self.raise_if_stopped()

    def raise_if_stopped(self) -> None:
        """Raise RemoteError if this thread's work was stopped."""
        if self.can_stop and self._mine.stopped():
            raise RemoteError("it was stopped")

    @property
    def can_stop(self) -> bool:
        """Whether this thread's work may be stopped."""
        return getattr(self._mine, "stopped", None) is not None

    def within(self, timeout: float | None, late: type[httpcore.TimeoutException]) -> float:
        """The seconds that one wait may take, at most `timeout`. Raises `late` when the request's time is over."""
        self.raise_if_stopped()
        left: float = min(self._mine.end, self.latest) - self._clock()
        if left <= 0:
            raise late("the request took too long")
        return left if timeout is None else min(timeout, left)


class DeadlineNetwork(httpcore.NetworkBackend):
    """Connections that keep to a deadline, over a network backend that has none."""

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
        wait = self._deadline.within(timeout, httpcore.ReadTimeout)
        while self._deadline.can_stop and wait > _SLICE:
            try:
                return self._inner.read(max_bytes, _SLICE)
            except httpcore.ReadTimeout:  # nothing was read, so this can be asked again
                self._deadline.raise_if_stopped()
                wait -= _SLICE
        return self._inner.read(max_bytes, wait)

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
