"""What is kept of each request: a line of the access log, a record, and counts. Never anything of its content."""

from __future__ import annotations

import time
from typing import Any

from policyctl.effect.gateway import RetryAfter, answer_value, is_served
from policyctl.gateway.log import EventLog, Records, now
from policyctl.gateway.metrics import Metrics
from policyctl.gateway.relay import Relayed
from policyctl.gateway.table import Destination


class ClientRequest:
    """One request of a client, and what became of it so far."""

    __slots__ = (
        "began", "caller", "first_byte", "held", "id", "operation", "relayed", "route", "status", "stream", "tokens"
    )  # fmt: skip

    def __init__(self, operation: str, identifier: str) -> None:
        self.operation = operation
        self.id = identifier
        self.began = time.perf_counter()
        self.first_byte: float | None = None
        self.held = 0  # bytes of its body
        self.caller = ""
        self.route: Destination | None = None
        self.stream = False
        self.relayed = Relayed()
        self.status = 0
        self.tokens: tuple[int, int] | None = None


class Observer:
    """Notes requests where they are to be noted."""

    def __init__(self, metrics: Metrics, log: EventLog, records: Records | None = None) -> None:
        self.metrics = metrics
        self.log = log
        self.records = records

    def begin(self) -> None:
        """A request has come."""
        self.metrics.add("requests_in_flight")

    def end(self, request: ClientRequest) -> None:
        """It is answered, or its client has left."""
        seconds = time.perf_counter() - request.began
        self.metrics.add("requests_in_flight", -1)
        self._count(request, seconds)
        self.log("info", "request", **_line(request, seconds))
        if self.records is not None and request.route is not None:
            self.records.write({"time": now(), **_record(request, seconds)})

    def close(self) -> None:
        """Write what is still to be written."""
        self.metrics.share()
        self.log.lines.flush()
        if self.records is not None:
            self.records.flush()

    def metrics_text(self, revision: str, refused: bool) -> str:
        """All counters, and what this worker runs."""
        self.note(revision, refused)
        return self.metrics.text()

    def note(self, revision: str, refused: bool) -> None:
        """Note what this worker runs."""
        counts = self.metrics.counts
        for key in [key for key in counts if key[0] == "revision_info"]:
            del counts[key]
        counts["revision_info", (("revision", revision),)] = 1
        counts["refused_sets", ()] = float(refused)

    def _count(self, request: ClientRequest, seconds: float) -> None:
        metrics, operation = self.metrics, request.operation[1:]
        policy = request.route.name if request.route is not None else ""
        metrics.add("requests_total", policy=policy, operation=operation, status=str(request.status))
        metrics.time("request_duration_seconds", seconds, policy=policy, operation=operation)
        if request.first_byte is not None:
            metrics.time("time_to_first_byte_seconds", request.first_byte - request.began, policy=policy, operation=operation)
        tried = request.relayed.tried
        for one in tried:
            # A provider chooses how long it asks to wait: as a label that would be series without end.
            answer = 429 if isinstance(one.answer, RetryAfter) else answer_value(one.answer)
            metrics.add("attempts_total", model=one.model, answer=str(answer))
        if len({one.model for one in tried}) > 1:
            metrics.add("fallbacks_total", policy=policy)
        if request.tokens is not None and tried:
            metrics.add("tokens_total", request.tokens[0], model=tried[-1].model, type="input")
            metrics.add("tokens_total", request.tokens[1], model=tried[-1].model, type="output")


def _line(request: ClientRequest, seconds: float) -> dict[str, Any]:
    line: dict[str, Any] = {"id": request.id, "path": f"/v1{request.operation}", "status": request.status}
    if request.caller:
        line["caller"] = request.caller
    if request.route is not None:
        line |= {"policy": request.route.name, "model": request.relayed.served_by, "attempts": len(request.relayed.tried)}
    return {**line, "ms": round(seconds * 1000, 1)}


def _record(request: ClientRequest, seconds: float) -> dict[str, Any]:
    relayed, route = request.relayed, request.route
    record: dict[str, Any] = {
        "policy": route.name if route else "",
        "version": route.version if route else "",
        "operation": request.operation[1:],
        "stream": request.stream,
        "attempts": [
            {"model": one.model, "wait": one.wait, "answer": answer_value(one.answer), "ms": round(one.seconds * 1000, 1)}
            for one in relayed.tried
        ],
        "wait": relayed.wait,
        "status": request.status,
        "served": is_served(request.status) and not (relayed.tried and relayed.tried[-1].answer == "cut-stream"),
        "ms": round(seconds * 1000, 1),
    }
    if request.tokens is not None:
        record["tokens"] = list(request.tokens)
    return record
