"""The application of `policyctl serve` in this process, asked without a socket."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import unquote

from policyctl.remote.sqlite import SqliteRemote
from policyctl.server.api import Service
from policyctl.server.app import Log, make_app
from policyctl.server.login import TokenIssuer
from tests.chaos.messages import Answer, Request, Upstream


@contextmanager
def running(store: SqliteRemote, keeper: TokenIssuer, log: Log) -> Iterator[Upstream]:
    """Something to ask, from any thread; its event loop runs in a thread of its own."""
    app = make_app(Service(store, keeper), log)
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield lambda request: asyncio.run_coroutine_threadsafe(_ask(app, request), loop).result()
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def _ask(app: Any, request: Request) -> Answer:
    status, headers, body = 0, (), b""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": request.body, "more_body": False}

    async def send(message: dict[str, Any]) -> None:
        nonlocal status, headers, body
        status = message.get("status", status)
        headers = tuple(message.get("headers", headers))
        body += message.get("body", b"")

    raw, _, query = request.target.encode().partition(b"?")
    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": unquote(raw.decode()),
        "raw_path": raw,
        "query_string": query,
        "root_path": "",
        "headers": list(request.headers),
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 1),
    }
    await app(scope, receive, send)
    return Answer(status, headers, body)
