"""Short ways to reach a remote over http in tests: with a clock that only moves when a thread sleeps."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from policyctl.load.settings_file import AuthFile
from policyctl.remote import Backoff
from policyctl.remote.http import HttpClient
from policyctl.remote.login import LoginSession
from policyctl.remote.orchestrate import OrchestrateRemote, Sender
from policyctl.remote.redaction import Credentials, Redactor
from tests.patience import LONGEST

SHORT = httpx.Timeout(1.0, connect=LONGEST)  # only a server that hangs on purpose is waited for


@dataclass
class Clock:
    """A clock that does not move until a thread sleeps; `slept` keeps the waits."""

    time: float = 1_000_000.0
    slept: list[float] = field(default_factory=list)

    def now(self) -> float:
        return self.time

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds

    def patience(self, **more: Any) -> Backoff:
        """Patience by this clock, that always draws the longest wait."""
        return Backoff(sleep=self.sleep, clock=self.now, chance=lambda: 1.0, **more)


def reach(
    url: str,
    auth: AuthFile | None = None,
    environ: Mapping[str, str] = {},
    *,
    clock: Clock | None = None,
    ca_file: Path | None = None,
    timeout: httpx.Timeout = httpx.Timeout(10),
    base: Path = Path(),
    models: bool = False,
) -> OrchestrateRemote:
    """A remote at a URL, with injected time."""
    clock = clock or Clock()
    scrub = Redactor()
    wire = HttpClient(scrub, ca_file, timeout, clock.patience())
    sender: Sender = wire
    if auth is not None:
        sender = LoginSession(wire, auth, url, Credentials(auth, scrub, base, environ), clock.now)
    return OrchestrateRemote(url, sender, scrub, models=models)


def row(name: str, *models: str, **more: Any) -> dict[str, Any]:
    """A remote's row, whose id is made of its name."""
    return {"id": f"id-{name}", **document(name, *models), **more}


def document(name: str, *models: str, **policy: Any) -> dict[str, Any]:
    """A policy's document."""
    targets = [{"model_name": model} for model in models or ("virtual-model/x/a",)]
    body = {"strategy": {"mode": "single"}, "targets": targets, **policy}
    return {"name": name, "display_name": name, "description": name, "policy": body}
