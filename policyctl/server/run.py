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
IDLE_SECONDS = 30  # that a connection is kept after an answer. Long, since closing one may cross a new request
MAX_CONNECTIONS = 512


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


def configure(app: Starlette, max_connections: int = MAX_CONNECTIONS) -> uvicorn.Config:
    """How uvicorn is to run the application. Beyond `max_connections` it answers 503."""
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        h11_max_incomplete_event_size=HEAD_BYTES,  # of a head that is not whole yet; the application counts whole ones
        timeout_keep_alive=IDLE_SECONDS,
        limit_concurrency=max_connections + 1,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )


def run(app: Starlette, listener: socket.socket, log: Log, max_connections: int = MAX_CONNECTIONS) -> None:
    """Serve until a signal comes; what was begun is finished, within SHUTDOWN_SECONDS."""
    gc.enable()  # the program switches it off, for commands that end; what a server drops would pile up
    for name in ("uvicorn", "asyncio"):
        library = logging.getLogger(name)
        library.addHandler(LogHandler(log))
        library.propagate = False
    for number in (signal.SIGINT, signal.SIGTERM):  # uvicorn raises again what stopped it, once its own handlers are gone
        signal.signal(number, lambda *_: None)
    log("info", "started", url=url_of(listener))
    uvicorn.Server(configure(app, max_connections)).run(sockets=[listener])
    log("info", "stopped")
