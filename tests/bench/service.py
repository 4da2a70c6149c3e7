"""The smallest service that policyctl can plan against and apply to: `python -m tests.bench.service [ROWS.json]`.

It prints its port. It keeps rows in memory, checks nothing, and answers as quickly as the standard library lets it, so that
what is measured is the client. `GET /stop` ends it.
"""

from __future__ import annotations

import json
import socket
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

PATH = "/v1/model_policy"


class Service(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    rows: ClassVar[dict[str, Any]] = {}  # by name
    listed: ClassVar[bytes | None] = None  # the whole list as it was last said

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/stop":
            self._answer(200, b"{}")
            self.server._BaseServer__shutdown_request = True
        elif url.path != PATH:
            self._answer(404, b"{}")
        elif url.query:
            asked = parse_qs(url.query)["name"]
            self._answer(200, json.dumps([self.rows[name] for name in asked if name in self.rows]).encode())
        else:
            if Service.listed is None:
                Service.listed = json.dumps(list(self.rows.values())).encode()
            self._answer(200, Service.listed)

    def do_POST(self) -> None:
        row = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        row["id"] = f"id-{len(self.rows)}"
        self.rows[row["name"]] = row
        Service.listed = None
        self._answer(201, json.dumps({"id": row["id"]}).encode())

    def do_DELETE(self) -> None:
        """Forget everything, between two measurements."""
        self.rows.clear()
        Service.listed = None
        self._answer(200, b"{}")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.wfile.write(head.encode() + body)


def main() -> None:
    if len(sys.argv) > 1:
        Service.rows.update((row["name"], row) for row in json.loads(Path(sys.argv[1]).read_bytes()))
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever(poll_interval=0.1)


if __name__ == "__main__":
    main()
