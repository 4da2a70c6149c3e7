"""What is kept of each request: a line of the access log, a record that `policyctl effect --records` reads, and counts.

Nothing of a request's or an answer's content is kept, no header and no key. Lines are gathered and written together.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from policyctl.effect.gateway import RetryAfter, answer_value, is_served
from policyctl.gateway.metrics import Metrics
from policyctl.gateway.relay import Relayed
from policyctl.gateway.table import Destination

_FLUSH_SECONDS = 0.25
_RECORDS_BYTES = 64 << 20  # of one file of records, before it is rotated
_KEPT = 4  # rotated files: FILE.1 is the youngest


@dataclass(slots=True)
class ClientRequest:
    """One request of a client, and what became of it so far."""

    operation: str
    id: str
    began: float = field(default_factory=time.perf_counter)
    first_byte: float | None = None
    held: int = 0  # bytes of its body
    caller: str = ""
    route: Destination | None = None
    stream: bool = False
    relayed: Relayed = field(default_factory=Relayed)
    status: int = 0
    tokens: tuple[int, int] | None = None


class Lines:
    """Writes lines to a file descriptor, a quarter of a second later. Lines are lost if that fails; the gateway continues."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._waiting: list[bytes] = []
        self._timer: asyncio.TimerHandle | None = None

    def write(self, value: Any) -> None:
        """Write a value as a line of JSON."""
        self._waiting.append(msgspec.json.encode(value))
        if self._timer is None:
            try:
                self._timer = asyncio.get_running_loop().call_later(_FLUSH_SECONDS, self.flush)
            except RuntimeError:  # before the loop runs, and after
                self.flush()

    def flush(self) -> None:
        """Write what was gathered."""
        self._timer = None
        data = b"".join(b"%s\n" % line for line in self._waiting)
        self._waiting.clear()
        with suppress(OSError):
            self.put(data)

    def put(self, data: bytes) -> None:
        """Write bytes to the descriptor, all of them."""
        while data:
            data = data[os.write(self.descriptor, data) :]


class EventLog:
    """Events with their time and level, one JSON object a line."""

    def __init__(self, lines: Lines) -> None:
        self.lines = lines

    def __call__(self, level: str, event: str, **fields: Any) -> None:
        self.lines.write({"time": _now(), "level": level, "event": event, **fields})


class LibraryEvents(logging.Handler):
    """Turns the log records of libraries into events, without the texts of errors, which may have what a client sent."""

    def __init__(self, log: EventLog) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        if record.getMessage() not in _EXPECTED:
            error = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else None
            self._log(record.levelname.lower(), "library", message=record.getMessage().strip(), error=error)


# A stream that broke off is ended so on purpose.
_EXPECTED = frozenset({"ASGI callable returned without completing response."})


class Records(Lines):
    """The file of records, which several workers may write to. It is rotated once it is large."""

    def __init__(self, path: Path, most: int = _RECORDS_BYTES) -> None:
        self.path = path
        self.most = most
        super().__init__(self._open())

    def _open(self) -> int:
        return os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def put(self, data: bytes) -> None:
        self._follow()
        super().put(data)

    def _follow(self) -> None:
        """Rotate the file if it is large, and write to the new one if this or another worker has rotated it."""
        if os.fstat(self.descriptor).st_size >= self.most:
            # Not flock: workers begin with the same open file, whose lock they would hold together.
            fcntl.lockf(self.descriptor, fcntl.LOCK_EX)
            try:
                if self._is_current():
                    self._rotate()
            finally:  # the other workers wait for it
                fcntl.lockf(self.descriptor, fcntl.LOCK_UN)
        if not self._is_current():
            fresh = self._open()  # first: if it fails, the old number must not be left to what is opened next, such as a client
            os.close(self.descriptor)
            self.descriptor = fresh

    def _rotate(self) -> None:
        for number in range(_KEPT - 1, 0, -1):
            with suppress(FileNotFoundError):
                os.replace(f"{self.path}.{number}", f"{self.path}.{number + 1}")
        os.replace(self.path, f"{self.path}.1")

    def _is_current(self) -> bool:
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(self.descriptor))
        except FileNotFoundError:
            return False


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
            self.records.write({"time": _now(), **_record(request, seconds)})

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


def _now() -> str:
    """The time of a line."""
    return datetime.fromtimestamp(time.time(), UTC).isoformat(timespec="milliseconds")
