"""Many tenants in one process, which know who wrote what to them: for workers that are killed and stopped."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

from tests.stub_service import StubHandler, StubServer

PATH = "/v1/model_policy"


class Write(NamedTuple):
    """One write to a tenant: when, which process sent it, and the policy."""

    at: float
    process: int
    policy: str


class Tenants:
    """The rows of every tenant, and all writes to them. `done` counts those that have all their policies."""

    def __init__(self, policies: int) -> None:
        self.policies = policies
        self.rows: defaultdict[str, dict[str, dict[str, Any]]] = defaultdict(dict)
        self.writes: defaultdict[str, list[Write]] = defaultdict(list)
        self.changed = threading.Condition()
        self.processes: dict[int, Path] = {}  # that may be clients, by number
        self.port = 0

    def done(self) -> int:
        """How many tenants have all their policies."""
        with self.changed:
            return sum(len(rows) == self.policies for rows in self.rows.values())

    def wait(self, is_so: Callable[[], bool], seconds: float) -> bool:
        """Wait until something is so; whether it was in time."""
        end = time.monotonic() + seconds
        with self.changed:
            while not is_so():
                if (left := end - time.monotonic()) <= 0:
                    return False
                self.changed.wait(min(left, 1.0))
        return True

    def add(self, tenant: str, document: dict[str, Any], process: int) -> dict[str, Any]:
        with self.changed:
            rows = self.rows[tenant]
            name = document["name"]
            self.writes[tenant].append(Write(time.monotonic(), process, name))
            row = {**document, "id": f"{tenant}-{len(self.writes[tenant])}"}
            rows.setdefault(name, row)
            self.changed.notify_all()
            return row

    @property
    def doubled(self) -> list[str]:
        """The policies that were added more than once."""
        return [
            f"{tenant}: {name}"
            for tenant, writes in self.writes.items()
            for name, times in Counter(write.policy for write in writes).items()
            if times > 1
        ]

    @property
    def overlapping(self) -> list[str]:
        """The tenants to which one process wrote while another one was not done."""
        found = []
        for tenant, writes in self.writes.items():
            spans: dict[int, tuple[float, float]] = {}
            for write in writes:
                first, _ = spans.get(write.process, (write.at, write.at))
                spans[write.process] = first, write.at
            ordered = sorted(spans.values())
            if any(later[0] < earlier[1] for earlier, later in pairwise(ordered)):
                found.append(tenant)
        return found

    def process_of(self, port: int) -> int:
        """The process at the other end of a connection, by its port; 0 if it is none of those that are known."""
        wanted = f":{port:04X} "
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            fields = line.split()
            if f"{fields[1]} ".endswith(wanted) and fields[2].endswith(f":{self.port:04X}"):
                inode = f"socket:[{fields[9]}]"
                return next((number for number in self.processes if _has(number, inode)), 0)
        return 0


def _has(process: int, inode: str) -> bool:
    with suppress(OSError):
        return any(_target(link) == inode for link in Path(f"/proc/{process}/fd").iterdir())
    return False


def _target(link: Path) -> str:
    try:
        return str(link.readlink())
    except OSError:
        return ""


class _Server(StubServer):
    tenants: Tenants


class _Handler(StubHandler, BaseHTTPRequestHandler):
    server: _Server

    def setup(self) -> None:
        super().setup()
        self.process: int | None = None

    def do_GET(self) -> None:
        url = urlsplit(self.path)
        if not url.path.endswith(PATH):
            self._answer(200, [])
            return
        with self.server.tenants.changed:
            rows = dict(self.server.tenants.rows.get(self._tenant(), {}))
        asked = parse_qs(url.query).get("name")
        self._answer(200, list(rows.values()) if asked is None else [rows[name] for name in asked if name in rows])

    def do_POST(self) -> None:
        document = json.loads(self.body())
        if self.process is None:
            self.process = self.server.tenants.process_of(self.client_address[1])
        self._answer(201, {"id": self.server.tenants.add(self._tenant(), document, self.process)["id"]})

    def _tenant(self) -> str:
        return self.path.removeprefix("/instances/").partition("/")[0]

    def _answer(self, status: int, data: Any) -> None:
        self.answer(status, json.dumps(data).encode())


@contextmanager
def serving_tenants(policies: int) -> Iterator[tuple[Tenants, str]]:
    """Empty tenants, each at `URL/instances/NAME`, and that URL."""
    server = _Server(("127.0.0.1", 0), _Handler)
    server.tenants = Tenants(policies)
    server.tenants.port = server.server_address[1]
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield server.tenants, f"http://127.0.0.1:{server.tenants.port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
