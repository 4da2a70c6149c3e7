"""A network in memory, below httpx: the client's own HTTP/1.1 and its pool run as ever, time is injected.

Each thread has a time of its own, which moves when it sleeps or waits, as if all others waited meanwhile.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Any, Protocol

import httpcore

from tests.chaos.faults import End, Play
from tests.chaos.messages import Request, Requests


class Clock(Protocol):
    """What has the time, and moves it."""

    def now(self) -> float: ...

    def sleep(self, seconds: float) -> None: ...


class ThreadClock:
    """The time of the thread that asks."""

    def __init__(self) -> None:
        self._mine = threading.local()

    def now(self) -> float:
        time: float = getattr(self._mine, "time", 1_000_000.0)
        return time

    def sleep(self, seconds: float) -> None:
        self._mine.time = self.now() + seconds


class Memory(httpcore.NetworkBackend):
    """Every connection leads to `play`, which is given requests. `felt` is called when a client got, or missed, something."""

    def __init__(self, play: Callable[[Request], Play], clock: Clock, felt: Callable[[Request], None]) -> None:
        self.play = play
        self.clock = clock
        self.felt = felt

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        return _Line(self)


class _Line(httpcore.NetworkStream):
    """One connection."""

    def __init__(self, memory: Memory) -> None:
        self._memory = memory
        self._requests = Requests()
        self._asked: Request | None = None
        self._pieces: deque[tuple[float, bytes]] = deque()
        self._end = End.KEEP

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        request = self._requests.feed(bytes(buffer))
        if request is not None:
            self._asked = request
            play = self._memory.play(request)
            self._pieces, self._end = deque(play.pieces), play.end

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        try:
            return self._read(float("inf") if timeout is None else timeout)
        finally:
            assert self._asked is not None
            self._memory.felt(self._asked)

    def _read(self, timeout: float) -> bytes:
        clock = self._memory.clock
        while self._pieces:
            seconds, data = self._pieces.popleft()
            if seconds > timeout:
                self._pieces.appendleft((seconds - timeout, data))
                clock.sleep(timeout)
                raise httpcore.ReadTimeout("nothing came")
            clock.sleep(seconds)
            if data:
                return data
        if self._end is End.RESET:
            raise httpcore.ReadError("reset by peer")
        if self._end is End.CLOSE:
            return b""
        clock.sleep(timeout)
        raise httpcore.ReadTimeout("nothing came")

    def close(self) -> None:
        self._pieces.clear()

    def get_extra_info(self, info: str) -> Any:
        """Whether an idle connection was closed meanwhile is all that the pool asks."""
        return self._end is not End.KEEP if info == "is_readable" else None
