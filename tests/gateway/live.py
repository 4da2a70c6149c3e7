"""A gateway and a scripted upstream, both on real sockets, in a loop of their own beside the test."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import httpx
import uvicorn
import uvloop

from policyctl.gateway.app import CallerKeys, GatewayApp, GatewayLimits
from policyctl.gateway.observed import EventLog, Lines, Metrics, Observer
from policyctl.gateway.relay import HttpUpstreams, Upstreams
from policyctl.gateway.run import configure, listen, url_of
from policyctl.gateway.table import PolicySnapshot, RouteTable, Upstream
from tests.patience import LONGEST

Writer = asyncio.StreamWriter
Act = Callable[[Writer, dict[str, Any]], Awaitable[None]]  # writes an answer to a body; what it leaves open is closed
Answers = Sequence[int | Act]


class Heard:
    """One request that the upstream was sent."""

    def __init__(self, head: bytes, body: bytes) -> None:
        self.path = head.split()[1].decode()
        lines = [line.partition(b":") for line in head.split(b"\r\n")[1:] if line]
        self.headers = {name.decode().lower(): value.strip().decode() for name, _, value in lines}
        self.raw = body
        self.body: dict[str, Any] = json.loads(body)


@dataclass
class ScriptedUpstream:
    """Answers each model by its script, the last answer again and again; without one with 200."""

    script: Mapping[str, Answers] = field(default_factory=dict)
    heard: list[Heard] = field(default_factory=list)
    open_connections: int = 0
    base: str = ""
    given: dict[str, int] = field(default_factory=dict)

    def play(self, script: Mapping[str, Answers]) -> None:
        """Begin a script."""
        self.script, self.heard, self.given = script, [], {}

    @property
    def calls(self) -> list[str]:
        """The models that were called, in order."""
        return [one.body["model"] for one in self.heard]

    async def serve(self, reader: asyncio.StreamReader, writer: Writer) -> None:
        """One connection."""
        self.open_connections += 1
        try:
            with suppress(asyncio.IncompleteReadError, ConnectionError):
                while await self._answer(reader, writer):
                    pass
        finally:
            self.open_connections -= 1
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: Writer) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
        one = Heard(head, await reader.readexactly(length))
        self.heard.append(one)
        model = one.body["model"]
        answers, number = self.script.get(model, (200,)), self.given.get(model, 0)
        self.given[model] = number + 1
        answer = answers[min(number, len(answers) - 1)]
        if isinstance(answer, int):
            writer.write(answer_of(answer, model))
            await writer.drain()
            return True
        await answer(writer, one.body)
        return False


def answer_of(status: int, model: str, *headers: str, body: Any = None) -> bytes:
    """A whole answer, on a connection that stays open."""
    content = {"id": f"{model}-{status}", "model": model, "choices": []} if 200 <= status < 300 else {"error": {"code": status}}
    text = b"" if status in (204, 304) else json.dumps(content if body is None else body).encode()
    kind = [] if status in (204, 304) else ["content-type: application/json", f"content-length: {len(text)}"]
    return "\r\n".join([f"HTTP/1.1 {status} X", *kind, *headers, "", ""]).encode() + text


def sends(*parts: bytes) -> Act:
    """Writes these parts and closes the connection."""

    async def act(writer: Writer, _: dict[str, Any]) -> None:
        for part in parts:
            writer.write(part)
            await writer.drain()

    return act


EVENTS = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def chunk(data: bytes) -> bytes:
    """A part of a chunked body; the empty one ends it."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def event(value: Any) -> bytes:
    """One event of a stream."""
    return chunk(b"data: %s\n\n" % json.dumps(value).encode())


DONE = chunk(b"data: [DONE]\n\n") + chunk(b"")


@dataclass
class Running:
    """A gateway, its upstream, and what it waited for."""

    app: GatewayApp
    upstream: ScriptedUpstream
    url: str
    loop: asyncio.AbstractEventLoop
    client: httpx.Client
    log: list[dict[str, Any]]
    waits: list[float] = field(default_factory=list)

    def take(self, policies: Mapping[str, Any], *models: str, **more: Any) -> None:
        """Run these policies from now on (bodies by bare name); their models are the upstream's, and `more` is of the first."""
        documents = {
            f"virtual-policy/{name}": {"name": f"virtual-policy/{name}", "policy": body} for name, body in policies.items()
        }
        upstreams = {name: Upstream(name, name, self.upstream.base, **(more if name == models[0] else {})) for name in models}
        self.app.table = RouteTable(PolicySnapshot(documents, upstreams))
        self.waits.clear()

    def chat(self, model: str = "p", **more: Any) -> httpx.Response:
        """Ask for a chat completion."""
        return self.client.post("/v1/chat/completions", json={"model": model, "messages": [], **more})

    def call(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        """Run something in the loop, and wait for it."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(LONGEST)


@contextmanager
def running(
    *,
    keys: CallerKeys | None = None,
    limits: GatewayLimits = GatewayLimits(),
    real_waits: bool = False,
    connect: Callable[[], Upstreams] = HttpUpstreams,
) -> Iterator[Running]:
    """A gateway that runs no policy yet. Without `real_waits` it only notes how long it would wait."""
    loop = uvloop.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    reads, writes = os.pipe()
    waits: list[float] = []

    async def note(seconds: float) -> None:
        waits.append(seconds)
        if real_waits:
            await asyncio.sleep(seconds)

    async def start() -> tuple[uvicorn.Server, asyncio.Task[None], asyncio.Server]:
        behind = await asyncio.start_server(upstream.serve, "127.0.0.1", 0, backlog=2048)
        upstream.base = f"http://127.0.0.1:{behind.sockets[0].getsockname()[1]}/v1"
        server = uvicorn.Server(configure(app, 5))
        return server, asyncio.ensure_future(server._serve([listener])), behind

    upstream = ScriptedUpstream()
    observer = Observer(Metrics(), EventLog(Lines(writes)))
    app = GatewayApp(RouteTable(PolicySnapshot({})), connect, observer, keys=keys, limits=limits, sleep=note)
    listener = listen("127.0.0.1", 0)
    listener.listen(2048)
    url, log = url_of(listener), list[dict[str, Any]]()
    server, task, behind = asyncio.run_coroutine_threadsafe(start(), loop).result(LONGEST)
    reading = threading.Thread(target=_keep_lines, args=(reads, log), daemon=True)
    reading.start()
    try:
        with httpx.Client(base_url=url, trust_env=False, timeout=LONGEST) as client:
            yield Running(app, upstream, url, loop, client, log, waits)
    finally:
        server.should_exit = True
        asyncio.run_coroutine_threadsafe(_end(task, behind), loop).result(LONGEST)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(LONGEST)
        loop.close()
        os.close(writes)
        reading.join(LONGEST)


async def _end(task: asyncio.Task[None], behind: asyncio.Server) -> None:
    await task
    behind.close()
    rest = [one for one in asyncio.all_tasks() if one is not asyncio.current_task()]
    for one in rest:
        one.cancel()
    await asyncio.gather(*rest, return_exceptions=True)


def _keep_lines(reads: int, log: list[dict[str, Any]]) -> None:
    with os.fdopen(reads, encoding="utf-8") as lines:
        log.extend(json.loads(line) for line in lines)
