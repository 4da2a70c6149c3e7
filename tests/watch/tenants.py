"""Many tenants in one process of their own: `python -m tests.watch.tenants`, which prints its port.

Each tenant has the same policies at first. `POST /control/seed` gives them, `POST /control/edit` edits some by hand, and
`GET /control/journal` has every write. Rows have an etag, and a write with an If-Match of before is refused.
"""

from __future__ import annotations

import json
import threading
import time
from http.server import BaseHTTPRequestHandler
from typing import Any, ClassVar
from urllib.parse import parse_qs, urlsplit

from tests.stub_service import StubHandler, StubServer


class Tenants(StubHandler, BaseHTTPRequestHandler):
    """Answers one connection."""

    lock: ClassVar = threading.Lock()
    seeded: ClassVar[list[dict[str, Any]]] = []
    changed: ClassVar[dict[str, dict[str, dict[str, Any]]]] = {}  # the rows by id, of tenants that are not as they were seeded
    lists: ClassVar[dict[str, bytes]] = {}  # what those were answered
    plain: ClassVar[bytes] = b"[]"
    journal: ClassVar[list[tuple[float, str, str, str]]] = []
    looks: ClassVar[int] = 0
    slowness: ClassVar[float] = 0.0  # seconds of a write

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if url.path == "/control/journal":
            self.answer(200, json.dumps({"journal": self.journal, "looks": Tenants.looks}).encode())
            return
        tenant, rest = self._tenant(url.path)
        if not rest.endswith("/model_policy"):
            self.answer(200, b"[]")
        elif asked := parse_qs(url.query).get("name"):
            self.answer(200, json.dumps([row for row in self._rows(tenant).values() if row["name"] in asked]).encode())
        else:
            Tenants.looks += 1
            if tenant in self.changed and tenant not in self.lists:
                self.lists[tenant] = json.dumps([*self.changed[tenant].values()]).encode()
            self.answer(200, self.lists.get(tenant, self.plain))

    def do_POST(self) -> None:
        body = json.loads(self.body())
        if self.path == "/control/seed":
            Tenants.seeded = [{**one, "id": f"id-{place}", "etag": "0"} for place, one in enumerate(body)]
            Tenants.plain = json.dumps(self.seeded).encode()
        elif self.path == "/control/edit":
            Tenants.slowness = body["slowness"]
            for tenant in body["tenants"]:
                for identifier in [*self._rows(tenant)][: body["policies"]]:
                    self._put(tenant, identifier, {"description": f"edited by hand at {time.time()}"})
        else:
            self.answer(400, b'{"detail": "no such thing"}')
            return
        self.answer(200, b"{}")

    def do_PUT(self) -> None:
        body = json.loads(self.body())
        tenant, rest = self._tenant(self.path)
        time.sleep(Tenants.slowness)  # a client that is killed meanwhile does not see the answer
        with self.lock:
            row = self._rows(tenant)[rest.rpartition("/")[2]]
            expected = self.headers.get("If-Match", "").strip('"')
            if expected and expected != row["etag"]:
                status = 412
            else:
                status = 200
                self.journal.append((time.time(), tenant, "PUT", row["name"]))
                row["description"] = None
                self._put(tenant, row["id"], body)
        self.answer(status, b"{}")

    def _put(self, tenant: str, identifier: str, body: dict[str, Any]) -> None:
        rows = self._rows(tenant)
        old = {key: value for key, value in rows[identifier].items() if value is not None}
        self.changed[tenant] = {**rows, identifier: {**old, **body, "etag": str(int(old["etag"]) + 1)}}
        self.lists.pop(tenant, None)

    def _rows(self, tenant: str) -> dict[str, dict[str, Any]]:
        return self.changed.get(tenant) or {row["id"]: dict(row) for row in self.seeded}

    def _tenant(self, path: str) -> tuple[str, str]:
        _, _, tenant, *rest = path.split("/")
        return tenant, "/" + "/".join(rest)


def main() -> None:
    server = StubServer(("127.0.0.1", 0), Tenants)
    print(server.server_address[1], flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
