"""Running the application on a socket, until SIGTERM or SIGINT."""

from __future__ import annotations

import gc
import logging
import os
import signal
import socket

import uvicorn
from starlette.applications import Starlette

from policyctl.errors import PolicyctlError
from policyctl.server.app import HEAD_BYTES
from policyctl.server.log import Log, LogHandler

SHUTDOWN_SECONDS = 10
IDLE_SECONDS = 30  # before an idle connection is closed. Long, since the close may cross a new request
MAX_CONNECTIONS = 512


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises PolicyctlError if the address is not available."""
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        listener = socket.create_server((host, port), family=family, backlog=2048)
    except OSError as error:
        reason = error.strerror if isinstance(error, socket.gaierror) else os.strerror(error.errno or 0)
        raise PolicyctlError(f"cannot listen on {host} port {port}: {reason}; choose another --host or --port") from None
    # Accepted connections inherit it. asyncio sets it only for sockets with an explicit protocol, which these do not have.
    # Without it a response that is sent in two parts waits 40 ms for an acknowledgement.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return listener


def url_of(listener: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def configure(app: Starlette, max_connections: int = MAX_CONNECTIONS) -> uvicorn.Config:
    """The configuration of uvicorn. Connections beyond `max_connections` get a 503."""
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEAD_BYTES,  # while the head is incomplete; the application checks complete ones
        timeout_keep_alive=IDLE_SECONDS,
        limit_concurrency=max_connections + 1,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


def run(app: Starlette, listener: socket.socket, log: Log, max_connections: int = MAX_CONNECTIONS) -> None:
    """Serve until a signal arrives. Open requests are finished first, within SHUTDOWN_SECONDS."""
    gc.enable()  # the program disables it for short commands; in a server, garbage would accumulate
    for name in ("uvicorn", "asyncio"):
        library = logging.getLogger(name)
        library.addHandler(LogHandler(log))
        library.propagate = False
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises the signal again once its own handlers are removed
        signal.signal(number, lambda *_: None)
    log("info", "started", url=url_of(listener))
    uvicorn.Server(configure(app, max_connections)).run(sockets=[listener])
    log("info", "stopped")
