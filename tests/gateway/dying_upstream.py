"""An upstream that really dies and returns: its port refuses, and its connections are reset, also within an answer."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
import threading
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import uvloop

from tests.gateway.live import DONE, EVENTS, answer_of, event
from tests.patience import LONGEST

EVENTS_OF_A_STREAM = 5
_BETWEEN = 0.01  # seconds between two pieces of an answer
_RESET = struct.pack("ii", 1, 0)  # closes with RST, and what was not sent yet is lost


@dataclass
class Call:
    """One request that the upstream was sent: the first part of its path, its model, and what became of it.

    That is `asked`, `503`, `begun`, `answered`, or after a death `cut` or `perhaps`: all was sent, but may not have arrived.
    """

    base: str
    model: str
    became: str = "asked"


class DyingUpstream:
    """Answers chats and streams in pieces, or all with `status`. `calls` are by the id of the client's request."""

    def __init__(self) -> None:
        self.port = 0
        self.status = 200
        self.calls: dict[str, list[Call]] = {}
        self._server: asyncio.Server | None = None
        self._open: dict[asyncio.StreamWriter, Call | None] = {}

    @property
    def is_alive(self) -> bool:
        """Whether it listens."""
        return self._server is not None

    async def live(self) -> None:
        """Listen, at the same port each time."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, backlog=512)
        self.port = self._server.sockets[0].getsockname()[1]

    async def die(self) -> None:
        """Refuse connections from now on, and reset those that are open."""
        assert self._server is not None
        self._server.close()
        self._server = None
        for writer, call in self._open.items():
            if call is not None:
                call.became = {"begun": "cut", "answered": "perhaps"}.get(call.became, call.became)
            if not writer.is_closing():  # by its client, and its task may not know it yet
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._open[writer] = None
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while self.is_alive:
                    await self._answer(reader, writer)
        finally:
            del self._open[writer]
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        body = json.loads(await reader.readexactly(int(headers["content-length"])))
        call = self._open[writer] = Call(first.split("/")[1], body["model"])
        number = headers["x-request-id"]
        self.calls.setdefault(number, []).append(call)
        if self.status != 200:
            call.became = str(self.status)
            writer.write(answer_of(self.status, call.model))
            return
        call.became = "begun"
        *pieces, last = _streamed(number) if body.get("stream") else _whole(number)
        for piece in pieces:
            writer.write(piece)
            await asyncio.sleep(_BETWEEN)
            if writer.is_closing():
                raise ConnectionResetError
        call.became = "answered"
        writer.write(last)
        await writer.drain()


def events_of(number: str) -> list[dict[str, Any]]:
    """What the stream to a request has."""
    return [{"id": number, "n": position} for position in range(EVENTS_OF_A_STREAM)]


def _streamed(number: str) -> list[bytes]:
    return _pieces(EVENTS, b"".join(map(event, events_of(number))) + DONE, 2 * EVENTS_OF_A_STREAM)


def _whole(number: str) -> list[bytes]:
    head, end, body = answer_of(200, "", body={"id": number, "more": "x" * 1000}).partition(b"\r\n\r\n")
    return _pieces(head + end, body, 2)


def _pieces(head: bytes, body: bytes, number: int) -> list[bytes]:
    """An answer in so many pieces, which end anywhere in its body."""
    size = len(body) // number + 1
    parts = [body[start : start + size] for start in range(0, len(body), size)]
    return [head + parts[0], *parts[1:]]


class Loop:
    """A loop in a thread of its own.

    That of asyncio would lose a connection that it has just accepted when its server is closed: it is never closed itself.
    """

    def __init__(self) -> None:
        self._loop = uvloop.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run something in the loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(LONGEST)

    def close(self) -> None:
        """End it."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(LONGEST)
        self._loop.close()


@contextmanager
def in_a_loop() -> Iterator[Loop]:
    """A loop for upstreams, which are dead in the end."""
    loop = Loop()
    try:
        yield loop
    finally:
        loop.call(_end_of_all())
        loop.close()


async def _end_of_all() -> None:
    """Wait for what serves connections that were reset: it would be reported that a task of theirs was cancelled."""
    await asyncio.gather(*asyncio.all_tasks() - {asyncio.current_task()}, return_exceptions=True)
