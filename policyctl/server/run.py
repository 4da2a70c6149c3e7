"""Running the application on a socket, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import signal
import socket

import uvicorn
from starlette.applications import Starlette
from starlette.responses import JSONResponse
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from policyctl.errors import PolicyctlError
from policyctl.server.limits import Limits
from policyctl.server.log import Log, LogHandler

SHUTDOWN_SECONDS = 10


class Deadline:
    """Breaks a connection off, unless it is stopped in time."""

    _timer: asyncio.TimerHandle | None = None

    def start(self, transport: asyncio.Transport, seconds: float) -> None:
        """Begin to count; one that counts already goes on as it was."""
        if self._timer is None:
            # Not closed: closing waits until the client has taken what was sent.
            self._timer = asyncio.get_running_loop().call_later(seconds, transport.abort)

    def stop(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 that breaks a connection off on which a whole head does not arrive in time, or an answer is not taken in time,
    and that serves so many connections at once and no more.

    Uvicorn itself waits for ever, so that a few hundred silent connections would shut everyone else out, and as many that
    ask for long lists and read none of them would fill the memory.
    """

    limits = Limits()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        self._head, self._taking = Deadline(), Deadline()
        super().connection_made(transport)
        transport.set_write_buffer_limits(0)  # so that pause_writing tells of every answer that is not taken at once
        if (excess := len(self.connections) - self.limits.connections) > 0:
            self.app = _full
            if excess > self.limits.connections:  # even telling everyone so has an end
                transport.abort()
        self._head.start(transport, self.limits.client_seconds)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._head.stop()
        else:
            self._head.start(self.transport, self.limits.client_seconds)

    def pause_writing(self) -> None:
        super().pause_writing()
        self._taking.start(self.transport, self.limits.taking_seconds(self.transport.get_write_buffer_size()))

    def resume_writing(self) -> None:
        super().resume_writing()
        self._taking.stop()

    def connection_lost(self, exc: Exception | None) -> None:
        self._head.stop()
        self._taking.stop()
        super().connection_lost(exc)


async def _full(scope: Scope, receive: Receive, send: Send) -> None:
    """The answer to those who are one too many; nothing was begun, so asking again is safe."""
    detail = {"detail": "the server has as many clients as it takes; ask again later"}
    await JSONResponse(detail, 503, {"Retry-After": "1", "Connection": "close"})(scope, receive, send)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises PolicyctlError when the address cannot be had."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise PolicyctlError(f"cannot listen on {host} port {port}: {reason}; choose another --host or --port") from None
    # Accepted connections inherit it. asyncio sets it only where a socket names its protocol, which these do not; without it
    # every answer that goes out in two parts waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url_of(listener: socket.socket) -> str:
    """Where a listening socket is reached over HTTP."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def configure(app: Starlette, limits: Limits = Limits()) -> uvicorn.Config:
    """How uvicorn is to run the application."""
    protocol: type[ImpatientProtocol] = type("LimitedProtocol", (ImpatientProtocol,), {"limits": limits})
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=limits.head_bytes,  # of a head that is not whole yet; the application counts whole ones
        timeout_keep_alive=math.ceil(limits.idle_seconds),
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


def run(app: Starlette, listener: socket.socket, log: Log, limits: Limits = Limits()) -> None:
    """Serve until a signal comes; what was begun is finished, within SHUTDOWN_SECONDS."""
    gc.enable()  # the program switches it off, for commands that end; what a server drops would pile up
    for name in ("uvicorn", "asyncio"):
        library = logging.getLogger(name)
        library.addHandler(LogHandler(log))
        library.propagate = False
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises again what stopped it, once its own handlers are gone
        signal.signal(number, lambda *_: None)
    log("info", "started", url=url_of(listener))
    uvicorn.Server(configure(app, limits)).run(sockets=[listener])
    log("info", "stopped")
