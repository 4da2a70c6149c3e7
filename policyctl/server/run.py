"""Running the application on a socket, until SIGTERM or SIGINT."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from policyctl.errors import PolicyctlError
from policyctl.server.log import Log, LogHandler

MAX_HEAD = 32 * 1024  # bytes of a head that is not whole yet; the application counts whole ones
MAX_CONNECTIONS = 512
KEEP_ALIVE_SECONDS = 30
SHUTDOWN_SECONDS = 10


class ImpatientProtocol(H11Protocol):
    """HTTP/1.1 that closes a connection on which no whole request line with headers arrives in time.

    Uvicorn itself waits for ever, so that a few hundred silent connections would shut everyone else out.
    """

    head_seconds = 10.0
    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._rest()
        elif self._waiting is None:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._waiting = self.loop.call_later(self.head_seconds, self.transport.close)

    def _rest(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None


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


def configure(app: Starlette, protocol: type[ImpatientProtocol] = ImpatientProtocol) -> uvicorn.Config:
    """How uvicorn is to run the application."""
    return uvicorn.Config(
        app,
        http=protocol,
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MAX_CONNECTIONS,
        h11_max_incomplete_event_size=MAX_HEAD,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


def run(app: Starlette, listener: socket.socket, log: Log) -> None:
    """Serve until a signal comes; what was begun is finished, within SHUTDOWN_SECONDS."""
    library = logging.getLogger("uvicorn")
    library.addHandler(LogHandler(log))
    library.propagate = False
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises again what stopped it, once its own handlers are gone
        signal.signal(number, lambda *_: None)
    log("info", "started", url=url_of(listener))
    uvicorn.Server(configure(app)).run(sockets=[listener])
    log("info", "stopped")
