"""Ways to have a server: in this process, with or without a real socket, or as the real program."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import uvicorn

from policyctl.remote.sqlite import SqliteRemote
from policyctl.server.api import Service, Variant
from policyctl.server.app import configure, listen, make_app, url_of
from policyctl.server.login import TokenIssuer
from tests.patience import LONGEST

HOST = "http://127.0.0.1"
# For requests to servers on this machine: `httpx.get` would read the authorities for TLS from a file again for each of them,
# which takes longer than the request. Each is still a connection of its own.
# A busy machine may take longer than the five seconds that httpx waits; what never answers runs into the time of its test.
loopback = httpx.Client(verify=False, trust_env=False, timeout=LONGEST, limits=httpx.Limits(max_keepalive_connections=0))


@dataclass
class Events:
    """A log that keeps what it is given."""

    kept: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, level: str, event: str, **fields: Any) -> None:
        self.kept.append({"level": level, "event": event, **fields})


class InProcess(httpx.BaseTransport):
    """httpx's ASGI transport for a client that is not asynchronous."""

    def __init__(self, app: Any) -> None:
        self._inner = httpx.ASGITransport(app)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        return asyncio.run(self._ask(request))

    async def _ask(self, request: httpx.Request) -> httpx.Response:
        outgoing = httpx.Request(request.method, request.url, headers=request.headers, content=request.read())
        response = await self._inner.handle_async_request(outgoing)
        return httpx.Response(response.status_code, headers=response.headers, content=await response.aread())


@dataclass
class Inside:
    """An application in this process, its client, its store and its log."""

    client: httpx.Client
    store: SqliteRemote
    events: Events


@contextmanager
def inside(
    store: SqliteRemote, keeper: TokenIssuer | None = None, quota: int | None = None, variant: Variant | None = None
) -> Iterator[Inside]:
    events = Events()
    service = Service(store, keeper or TokenIssuer(), quota, variant or Variant())
    with httpx.Client(transport=InProcess(make_app(service, events)), base_url=HOST) as client:
        yield Inside(client, store, events)


@dataclass
class ServedHere:
    """A server in this process that others reach by its URL."""

    url: str
    folder: Path


class _Server(uvicorn.Server):
    """Ends once it is told to, and not at its next look, which is a tenth of a second after the last one."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told = asyncio.Event()

    async def main_loop(self) -> None:
        await self.on_tick(0)
        self._loop = asyncio.get_running_loop()
        if not self.should_exit:  # it is set before the loop is told
            await self._told.wait()

    def end(self) -> None:
        """For any thread."""
        self.should_exit = True
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._told.set)


@contextmanager
def serving_here(database: Path, *, secret: str | None = None, variant: Variant | None = None) -> Iterator[ServedHere]:
    """Serve a file on a free port from a thread, for tests of what asks a server: it starts in a tenth of the time of the real
    program, and does the same once it listens."""
    with SqliteRemote(database) as store, listen("127.0.0.1", 0) as listener:
        service = Service(store, TokenIssuer(secret), variant=variant or Variant())
        server = _Server(configure(make_app(service, Events())))
        thread = threading.Thread(target=server.run, args=([listener],), name="served here")
        thread.start()
        try:
            yield ServedHere(url_of(listener), database.parent)
        finally:
            server.end()
            thread.join(LONGEST)
            assert not thread.is_alive()


@dataclass
class Served:
    """A running `policyctl serve`."""

    url: str
    process: subprocess.Popen[str]
    log: Path

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    def events(self) -> list[dict[str, Any]]:
        """What it logged so far; every line must be JSON."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]


def serving(database: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> AbstractContextManager[Served]:
    """Run the real program on a free port, for a file; it is ended with SIGTERM."""
    return serving_at(f"sqlite:///{database}", database.with_suffix(".log"), *arguments, environ=environ)


@contextmanager
def serving_at(remote: str, log: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> Iterator[Served]:
    """The same for any store, with a file for its log, beside which it runs."""
    program = [sys.executable, "-W", "error", "-m", "policyctl", "serve", "--port", "0", "--remote", remote]
    environment = {**os.environ, **(environ or {})}
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [*program, *arguments], stdout=subprocess.PIPE, stderr=errors, text=True, env=environment, cwd=log.parent
        ) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.search(r"http://\S+", line)
        assert found, f"{line!r}, then {log.read_text()}"
        try:
            yield Served(found.group(), process, log)
        finally:
            process.terminate()
            process.wait(LONGEST)
