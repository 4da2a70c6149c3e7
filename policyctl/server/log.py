"""Structured logs: one JSON object a line. They contain no query, header or body, and so no secret."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from typing import Any, Protocol, TextIO

from starlette.requests import ClientDisconnect
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from policyctl.errors import where_raised


class Log(Protocol):
    """Writes one event: a level, a name and further fields."""

    def __call__(self, level: str, event: str, **fields: Any) -> None: ...


class JsonLog:
    """Writes events to a stream, with the time. Events are lost if the stream fails; the server continues."""

    def __init__(self, stream: TextIO, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> None:
        self._stream = stream
        self._now = now

    def __call__(self, level: str, event: str, **fields: Any) -> None:
        time_text = self._now().isoformat(timespec="milliseconds")
        with suppress(OSError):
            self._stream.write(json.dumps({"time": time_text, "level": level, "event": event, **fields}) + "\n")
            self._stream.flush()


class LogHandler(logging.Handler):
    """Turns the log records of libraries into events."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        self._log(record.levelname.lower(), "library", message=record.getMessage())


class Watch:
    """Logs every request, and turns an unexpected error into a 500 that reveals nothing about the inside."""

    def __init__(self, app: ASGIApp, log: Log, clock: Callable[[], float] = time.perf_counter) -> None:
        self._app = app
        self._log = log
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = 0, self._clock()

        async def noting(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, noting)
        except ClientDisconnect:
            self._log("info", "disconnected", method=scope["method"], path=scope["path"])
            return
        except Exception as error:  # noqa: BLE001 - the boundary
            self._log("error", "bug", method=scope["method"], path=scope["path"], **where_raised(error))
            if not status:
                await JSONResponse({"detail": "the server failed; see its log"}, 500)(scope, receive, noting)
        milliseconds = round((self._clock() - began) * 1000, 1)
        self._log("info", "request", method=scope["method"], path=scope["path"], status=status, ms=milliseconds)
