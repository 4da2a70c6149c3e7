"""A small HTTP server for tests: it records what it is asked, and answers (or misbehaves) as a test decides."""

from __future__ import annotations

import atexit
import json
import shutil
import socket
import ssl
import struct
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import trustme

from tests.patience import LONGEST


@cache
def certificates() -> Path:
    """A folder with an authority's certificate, `ca.pem`, and a server's with its key, `server.pem`; made anew for each run."""
    folder = Path(tempfile.mkdtemp(prefix="policyctl-certificates-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    authority.issue_cert("127.0.0.1", "localhost").private_key_and_cert_chain_pem.write_to_path(folder / "server.pem")
    return folder


@dataclass(frozen=True)
class Seen:
    """One request as it arrived. `target` is the raw request target; headers have lower-case names."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return unquote(urlsplit(self.target).path)

    @property
    def query(self) -> list[tuple[str, str]]:
        return parse_qsl(urlsplit(self.target).query, keep_blank_values=True)

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def form(self) -> dict[str, str]:
        return dict(parse_qsl(self.body.decode()))

    @property
    def authorization(self) -> str | None:
        return self.headers.get("authorization")


@dataclass(frozen=True)
class Reply:
    """An answer: bytes as they are, anything else as JSON, None as an empty body. `cut` leaves that many bytes out."""

    status: int = 200
    body: Any = None
    headers: dict[str, str] = field(default_factory=dict)
    cut: int = 0

    @property
    def content(self) -> bytes:
        if self.body is None:
            return b""
        return self.body if isinstance(self.body, bytes) else json.dumps(self.body).encode()


class Silence(Enum):
    """No answer at all."""

    RESET = auto()  # the connection is reset
    HANG = auto()  # nothing comes until the server is closed


Handler = Callable[[Seen], Reply | Silence]


class StandIn:
    """A running server."""

    def __init__(self, handler: Handler, *, tls: bool = False) -> None:
        self.handler = handler
        self.seen: list[Seen] = []
        self.connections = 0
        self.closing = threading.Event()
        self._server = _Server(self)
        if tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificates() / "server.pem")
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def asked(self, method: str | None = None) -> list[str]:
        """`METHOD /path` of what was asked so far."""
        return [f"{seen.method} {seen.path}" for seen in self.seen if method in (None, seen.method)]

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        self.closing.set()
        with suppress(OSError):  # wakes the thread; where it does not, this waits for its next look
            self._server.socket.shutdown(socket.SHUT_RDWR)
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@contextmanager
def standing_in(handler: Handler, *, tls: bool = False) -> Iterator[StandIn]:
    """Run a stand-in for a while."""
    server = StandIn(handler, tls=tls)
    server.start()
    try:
        yield server
    finally:
        server.close()


@cache
def closed_port() -> int:
    """A port on which nothing listens. It is kept, so that no other process is given it."""
    kept = socket.socket()
    atexit.register(kept.close)
    kept.bind(("127.0.0.1", 0))
    port: int = kept.getsockname()[1]
    return port


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, stand_in: StandIn) -> None:
        self.stand_in = stand_in
        super().__init__(("127.0.0.1", 0), _Handling)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        self.stand_in.connections += 1
        return super().verify_request(request, client_address)


class _Handling(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    @property
    def stand_in(self) -> StandIn:
        assert isinstance(self.server, _Server)
        return self.server.stand_in

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        headers = {name.lower(): value for name, value in self.headers.items()}
        seen = Seen(self.command, self.path, headers, body)
        self.stand_in.seen.append(seen)
        reply = self.stand_in.handler(seen)
        if isinstance(reply, Reply):
            self._answer(reply)
        else:
            self._keep_silent(reply)

    do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = _handle  # noqa: N815 - the names that http.server calls

    def _answer(self, reply: Reply) -> None:
        content = reply.content
        if "Date" in reply.headers:
            self.send_response_only(reply.status)
        else:
            self.send_response(reply.status)
        if content and "Content-Type" not in reply.headers:
            self.send_header("Content-Type", "application/json")
        for name, value in reply.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content[: len(content) - reply.cut])
        self.close_connection = reply.cut > 0

    def _keep_silent(self, silence: Silence) -> None:
        if silence is Silence.HANG:
            self.stand_in.closing.wait(LONGEST)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True

    def handle(self) -> None:
        try:
            super().handle()
        except (OSError, ValueError):  # the other side, or this one, closed the connection
            self.close_connection = True

    def finish(self) -> None:
        try:
            super().finish()
        except (OSError, ValueError):
            self.close_connection = True

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - the base's own name
        """Say nothing."""
