"""A tenant in memory that speaks the model-policy API, strictly or loosely, for the stand-in server."""

from __future__ import annotations

import copy
import threading
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from policyctl.policy.names import canonical_name
from tests.remote.fake_server import Reply, Seen, Silence

POLICIES = "/v1/model_policy"
CONSUMERS = ("/agents", "/tools", "/knowledge-bases")  # lists that every tenant has; here they are empty


@dataclass
class Tenant:
    """Rows by id. `unique` refuses a second policy of one name; `merges` makes an update keep what it does not mention."""

    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    unique: bool = True
    merges: bool = False
    models: list[str] | None = None
    lock: Any = field(default_factory=threading.Lock)

    def put(self, *rows: dict[str, Any]) -> None:
        """Add rows that are there already."""
        self.rows |= {row["id"]: copy.deepcopy(row) for row in rows}

    def named(self, name: str) -> list[dict[str, Any]]:
        """The rows of one policy."""
        return [row for row in self.rows.values() if canonical_name(row["name"]) == canonical_name(name)]

    def __call__(self, seen: Seen) -> Reply | Silence:
        with self.lock:
            return self._answer(seen)

    def _answer(self, seen: Seen) -> Reply:
        if seen.path.endswith("/models/list"):
            return Reply(404) if self.models is None else Reply(200, {"resources": [{"id": model} for model in self.models]})
        identifier = seen.path.removeprefix(POLICIES).removeprefix("/")
        if not seen.path.startswith(POLICIES):
            if seen.method == "GET" and seen.path.endswith(CONSUMERS):
                return Reply(200, [])
            return Reply(404, {"detail": "Not Found"})
        if seen.method == "GET":
            names = [value for key, value in seen.query if key == "name"]
            return Reply(200, [row for row in self.rows.values() if not names or row["name"] in names])
        if seen.method == "POST":
            return self._add(seen.json)
        if identifier not in self.rows:
            return Reply(404, {"detail": "no such policy"})
        if seen.method == "DELETE":
            del self.rows[identifier]
            return Reply(204)
        row = self.rows[identifier]
        kept = row if self.merges else {"id": identifier}
        self.rows[identifier] = _merged(kept, seen.json) if self.merges else {**kept, **seen.json}
        return Reply(200, self.rows[identifier])

    def _add(self, document: dict[str, Any]) -> Reply:
        if self.unique and self.named(document["name"]):
            return Reply(409, {"detail": "there is one already"})
        identifier = next(f"new-{number}" for number in count(len(self.rows)) if f"new-{number}" not in self.rows)
        self.rows[identifier] = {"id": identifier, **document}
        return Reply(201, self.rows[identifier])


def _merged(kept: Any, sent: Any) -> Any:
    """What a server keeps that takes an update for a partial one, at every depth."""
    if not isinstance(kept, dict) or not isinstance(sent, dict):
        return sent
    return {**kept, **{key: _merged(kept.get(key), value) for key, value in sent.items()}}
