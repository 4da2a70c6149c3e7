"""What the small services of tests have in common: connections that stay open, answers without delay, and a quiet server."""

from __future__ import annotations

import socket
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StubHandler(BaseHTTPRequestHandler):
    """Answers one connection, as quickly as the standard library lets it."""

    protocol_version = "HTTP/1.1"

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def body(self) -> bytes:
        """What the request has in its body."""
        return self.rfile.read(int(self.headers["Content-Length"]))

    def answer(self, status: int, body: bytes) -> None:
        """Send an answer in JSON; nothing if the client was killed."""
        head = f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        with suppress(OSError):
            self.wfile.write(head.encode() + body)

    def log_message(self, *_: Any) -> None:
        """Nothing is logged."""


class StubServer(ThreadingHTTPServer):
    """Many clients at once, each in a thread that does not keep the process."""

    request_queue_size = 1024
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """A client that is killed breaks its connections."""
