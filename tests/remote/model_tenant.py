"""A tenant in memory with policies, virtual models and connections, whose model rows others may have written in any way."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from policyctl.policy.model_settings import with_camel_case
from policyctl.policy.names import provider_of
from policyctl.remote import Backoff
from policyctl.remote.http import HttpClient
from policyctl.remote.orchestrate import OrchestrateRemote
from policyctl.remote.redaction import Redactor
from tests.chaos.faults import End, Play
from tests.chaos.messages import Answer, Request, answer
from tests.chaos.network import Memory
from tests.remote.http_helpers import Clock

URL = "http://127.0.0.1:1"
CONNECTIONS = {"app-1": "11111111-0000-0000-0000-000000000000", "app-2": "22222222-0000-0000-0000-000000000000"}
WRITES = ("POST", "PUT", "DELETE")


@dataclass
class ModelTenant:
    """`tables` has the rows of each list, by its path, as they are. A PUT replaces a row, or with `merges` keeps what it leaves
    out; with `camel_case` models are answered as a live tenant does. `fault` decides about each write: None, `refused`,
    `lost before` or `lost after` it was carried out."""

    policies: list[Any] = field(default_factory=list)
    models: list[Any] = field(default_factory=list)
    merges: bool = False
    camel_case: bool = False
    fault: Callable[[], str | None] = lambda: None
    written: list[tuple[str, str, Any]] = field(default_factory=list)
    clock: Clock = field(default_factory=Clock)

    def reach(self) -> OrchestrateRemote:
        """The tenant as the client's own stack reaches it."""
        patience = Backoff(sleep=self.clock.sleep, clock=self.clock.now, chance=lambda: 0.5)
        network = Memory(self.play, self.clock, lambda _: None)
        scrub = Redactor()
        return OrchestrateRemote(URL, HttpClient(scrub, patience=patience, network=network), scrub, models=True)

    def play(self, request: Request) -> Play:
        """Answer, or lose the answer."""
        fault = self.fault() if request.method in WRITES else None
        if fault == "refused":
            return Play(((0.0, answer(400, {"detail": "refused by the script"}).raw),))
        if fault == "lost before":
            return Play((), End.CLOSE)
        given = self._answer(request)
        return Play((), End.CLOSE) if fault == "lost after" else Play(((0.0, given.raw),))

    def _answer(self, request: Request) -> Answer:
        path = unquote(request.path)
        if path.endswith("/connections/applications"):
            return answer(200, [{"app_id": app, "connection_id": one} for app, one in CONNECTIONS.items()])
        if path.endswith("/models/list"):
            listed = [{"id": row["name"]} for row in self.models if isinstance(row, dict) and isinstance(row.get("name"), str)]
            return answer(200, {"resources": listed})
        kind, _, identifier = path.removeprefix("/v1/").partition("/")
        rows = {"model_policy": self.policies, "models": self.models}.get(kind)
        if rows is None:
            return answer(404)
        show = self._shown if kind == "models" and self.camel_case else lambda row: row
        if request.method == "GET":
            names = {value for key, value in parse_qsl(urlsplit(request.target).query, keep_blank_values=True) if key == "name"}
            found = rows if not names else [row for row in rows if isinstance(row, dict) and row.get("name") in names]
            return answer(200, [show(row) for row in found])
        self.written.append((request.method, path, json.loads(request.body) if request.body else None))
        return self._write(request, rows, identifier)

    def _write(self, request: Request, rows: list[Any], identifier: str) -> Answer:
        body = json.loads(request.body) if request.body else {}
        if request.method == "POST":
            rows.append({**body, "id": f"new-{random.getrandbits(64)}"})
            return answer(201, rows[-1])
        place = next((n for n, row in enumerate(rows) if isinstance(row, dict) and row.get("id") == identifier), None)
        if place is None:
            return answer(404, {"detail": "no such row"})
        if request.method == "DELETE":
            del rows[place]
            return answer(204)
        rows[place] = {**(rows[place] if self.merges else {}), **body, "id": identifier}
        return answer(200, rows[place])

    def _shown(self, row: Any) -> Any:
        if not isinstance(row, dict) or not isinstance(row.get("name"), str):
            return row
        config = row.get("provider_config")
        if not isinstance(config, dict):
            return row
        return {**row, "provider_config": {**with_camel_case(config), "provider": provider_of(row["name"])}}
