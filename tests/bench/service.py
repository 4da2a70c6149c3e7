"""The smallest service that policyctl can plan against and apply to: `python -m tests.bench.service`.

It prints its port. It keeps rows in memory, checks nothing, and answers as quickly as the standard library lets it, so that
what is measured is the client. `GET /requests` gives what was asked since the last `DELETE` of everything.
"""

from __future__ import annotations

import json
import socket
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

PATH = "/v1/model_policy"


class Service(BaseHTTPRequestHandler):
    """Answers one connection."""

    protocol_version = "HTTP/1.1"
    rows: ClassVar[dict[str, Any]] = {}  # by name
    requests: ClassVar[list[tuple[str, str, str | None]]] = []
    listed: ClassVar[bytes | None] = None  # the whole list as it was last said

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do_GET(self) -> None:
        if self.path == "/requests":
            self._answer(200, json.dumps(self.requests).encode())
            return
        self.requests.append(("GET", self.path, None))
        url = urlsplit(self.path)
        if asked := parse_qs(url.query).get("name"):
            self._answer(200, json.dumps([self.rows[name] for name in asked if name in self.rows]).encode())
        elif url.path.endswith(PATH):  # every instance has the same rows
            if Service.listed is None:
                Service.listed = json.dumps(list(self.rows.values())).encode()
            self._answer(200, Service.listed)
        else:
            self._answer(200, b"[]")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.requests.append(("POST", self.path, body.decode()))
        row = json.loads(body)
        row["id"] = f"id-{len(self.rows)}"
        self.rows[row["name"]] = row
        Service.listed = None
        self._answer(201, json.dumps({"id": row["id"]}).encode())

    def do_DELETE(self) -> None:
        """Forget everything, between two measurements."""
        self.rows.clear()
        self.requests.clear()
        Service.listed = None
        self._answer(200, b"{}")

    def log_message(self, *_: Any) -> None:
        """Say nothing."""

    def _answer(self, status: int, body: bytes) -> None:
        head = f"HTTP/1.1 {status} OK\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        self.wfile.write(head.encode() + body)


def main() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
