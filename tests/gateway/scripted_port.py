"""A port that is whatever an attempt is to run into: one that refuses, one that never connects, or a model and its answer."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Mapping, Sequence

from policyctl.effect.gateway import Answer, RetryAfter
from policyctl.gateway.relay import Asking, HttpUpstreams, Reply
from policyctl.gateway.table import Upstream
from tests.gateway.live import EVENTS, answer_of, event

Script = Mapping[str, Sequence[Answer]]


class ScriptedPort:
    """Answers each model by its script, the last answer again and again; without one with 200. `calls` are those it heard."""

    def __init__(self) -> None:
        self._held = _bound(0)  # keeps the port, and refuses by itself
        self.base = f"http://127.0.0.1:{self._held.getsockname()[1]}"
        self.script: Script = {}
        self.calls: list[str] = []
        self._given: dict[str, int] = {}
        self._open: list[socket.socket | asyncio.Server] = []

    def play(self, script: Script) -> None:
        """Begin a script."""
        self.script, self.calls, self._given = script, [], {}

    async def be_next(self, model: str) -> None:
        """Be what the next attempt at a model runs into."""
        answers, number = self.script.get(model) or (200,), self._given.get(model, 0)
        self._given[model] = number + 1
        answer = answers[min(number, len(answers) - 1)]
        self.refuse()
        if answer != "refused":
            port = self._held.getsockname()
            listener = _bound(port[1])
            self._open.append(listener)
            if answer == "hang":  # one connection fills the queue, the next one gets no answer
                listener.listen(0)
                self._open.append(socket.create_connection(port))
            else:
                self._open.append(await asyncio.start_server(lambda *both: self._serve(answer, *both), sock=listener))

    def refuse(self) -> None:
        """Listen no more."""
        for one in reversed(self._open):
            one.close()
        self._open.clear()

    def close(self) -> None:
        """Give the port back."""
        self.refuse()
        self._held.close()

    async def _serve(self, answer: Answer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        self.calls.append(json.loads(await reader.readexactly(length))["model"])
        writer.write(_written(answer))
        await writer.drain()
        writer.close()


def _bound(port: int) -> socket.socket:
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    one.bind(("127.0.0.1", port))
    return one


def _written(answer: Answer) -> bytes:
    """An answer as a model sends it."""
    if answer == "cut-stream":
        return EVENTS + event({"id": "cut"})
    if answer == "broken-body":
        return answer_of(200, "", "connection: close")[:-1]
    if isinstance(answer, RetryAfter):
        return answer_of(429, "", f"retry-after: {answer.seconds}", "connection: close")
    return answer_of(int(answer), "", "connection: close")


class ScriptedUpstreams(HttpUpstreams):
    """Asks over HTTP, at a port that is told before each attempt what to be."""

    def __init__(self, port: ScriptedPort) -> None:
        super().__init__()
        self._port = port

    async def ask(self, upstream: Upstream, asking: Asking) -> Reply:
        """One attempt."""
        await self._port.be_next(upstream.name)
        return await super().ask(upstream, asking)
