"""The smallest service that policyctl can plan against and apply to: `python -m tests.bench.service`.

It prints its port. It keeps rows in memory, checks nothing, and answers as quickly as the standard library lets it, so that
what is measured is the client. `GET /requests` gives what was asked since the last `DELETE` of everything.
"""

from __future__ import annotations

import json
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from tests.stub_service import StubHandler, StubServer

PATH = "/v1/model_policy"


class Service(StubHandler, BaseHTTPRequestHandler):
    """Answers one connection."""

    rows: ClassVar[dict[str, Any]] = {}  # by name
    requests: ClassVar[list[tuple[str, str, str | None]]] = []
    listed: ClassVar[bytes | None] = None  # the whole list as it was last said

    def do_GET(self) -> None:
        if self.path == "/requests":
            self.answer(200, json.dumps(self.requests).encode())
            return
        self.requests.append(("GET", self.path, None))
        url = urlsplit(self.path)
        if asked := parse_qs(url.query).get("name"):
            self.answer(200, json.dumps([self.rows[name] for name in asked if name in self.rows]).encode())
        elif url.path.endswith(PATH):  # every instance has the same rows
            if Service.listed is None:
                Service.listed = json.dumps(list(self.rows.values())).encode()
            self.answer(200, Service.listed)
        else:
            self.answer(200, b"[]")

    def do_POST(self) -> None:
        body = self.body()
        self.requests.append(("POST", self.path, body.decode()))
        row = json.loads(body)
        row["id"] = f"id-{len(self.rows)}"
        self.rows[row["name"]] = row
        Service.listed = None
        self.answer(201, json.dumps({"id": row["id"]}).encode())

    def do_DELETE(self) -> None:
        """Forget everything, between two measurements."""
        self.rows.clear()
        self.requests.clear()
        Service.listed = None
        self.answer(200, b"{}")


def main() -> None:
    server = StubServer(("127.0.0.1", 0), Service)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
