"""How long another writer's change can be overwritten where rows have no version: from the look to the write that it is for.

Measured against a stand-in of the platform without `etag`, on this machine and with the time that a distant remote takes.
"""

from __future__ import annotations

import statistics
import threading
import time
from dataclasses import dataclass, field
from itertools import pairwise

from policyctl.plan.plan import make_plan
from policyctl.plan.settings import Settings
from policyctl.policy.document import policy_from_file
from policyctl.policy.live import observe_rows
from policyctl.reconcile.apply import BATCH, apply_changes
from policyctl.remote.http import HttpClient
from policyctl.remote.orchestrate import OrchestrateRemote
from policyctl.remote.redaction import Redactor
from tests.remote.fake_server import Reply, Seen, Silence, standing_in
from tests.remote.fake_tenant import Tenant
from tests.remote.http_helpers import document, row

COUNT = 4 * BATCH
THREADS = 4  # as apply has it by default


@dataclass(frozen=True)
class Window:
    """Seconds from a look to the writes that it is for, where an answer takes `latency` seconds."""

    latency: float
    median: float
    longest: float


@dataclass
class _Watching:
    """A tenant that notes when it was looked at and when it was written to."""

    tenant: Tenant
    latency: float
    looked: list[float] = field(default_factory=list)
    written: list[float] = field(default_factory=list)

    def __call__(self, seen: Seen) -> Reply | Silence:
        if self.latency:
            threading.Event().wait(self.latency)
        reply = self.tenant(seen)
        (self.looked if seen.method == "GET" else self.written).append(time.perf_counter())
        return reply

    def windows(self) -> list[float]:
        """Of each write, the time since the last look before it; looks of one batch come together, the last counts."""
        looks = [(look, following) for look, following in pairwise([*self.looked, float("inf")])]
        return [at - look for at in self.written for look, following in looks if look <= at < following]


def measure(latencies: tuple[float, ...] = (0.0, 0.1)) -> list[Window]:
    """Update some hundred policies in batches, by as many threads as apply has."""
    return [_measure(latency) for latency in latencies]


def _measure(latency: float) -> Window:
    names = [f"p{number:03}" for number in range(COUNT)]
    tenant = Tenant()
    tenant.put(*(row(f"virtual-policy/{name}", "virtual-model/x/was") for name in names))
    plan = make_plan(
        environment="e",
        remote="r",
        config="c",
        desired=[policy_from_file(document(name, "virtual-model/x/new"), "x.yaml") for name in names],
        observed=observe_rows(tenant.rows.values()),
        settings=Settings(),
        removes=True,
    )
    watching = _Watching(tenant, latency)
    with standing_in(watching) as server, OrchestrateRemote(server.url, HttpClient(scrub := Redactor()), scrub) as remote:
        outcomes = apply_changes(
            plan.changes, remote, parallelism=THREADS, on_outcome=lambda outcome: None, stopped=lambda: False
        )
    assert {outcome.status for outcome in outcomes} == {"applied"}
    found = watching.windows()
    return Window(latency, statistics.median(found), max(found))


def table(windows: list[Window]) -> str:
    """The measurements in Markdown."""
    lines = [
        f"| from look to write, no `etag` ({BATCH} policies a look, {THREADS} writes at once) | median | longest |",
        "|---|---:|---:|",
    ]
    for window in windows:
        where = "on this machine" if not window.latency else f"where an answer takes {window.latency * 1000:.0f} ms"
        lines.append(f"| {where} | {window.median * 1000:,.0f} ms | {window.longest * 1000:,.0f} ms |")
    return "\n".join(lines)
