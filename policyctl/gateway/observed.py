"""What is kept of each request: a line of the access log, a record that `policyctl effect --records` reads, and counts.

Nothing of a request's or an answer's content is kept, no header and no key. Lines are gathered and written together. Counts are
shown as Prometheus reads them. Workers share theirs through files, so that each answers for all.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from policyctl.effect.gateway import RetryAfter, answer_value, is_served
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


BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FORGOTTEN_SECONDS = 10  # after a worker shared its counters last; it does so each second
_METRIC_PREFIX = "policyctl_gateway_"
Labels = tuple[tuple[str, str], ...]

# Name → type and what it counts.
FAMILIES = {
    "requests_total": ("counter", "Requests answered, by policy, operation and status."),
    "request_duration_seconds": ("histogram", "Seconds from a request to the end of its answer."),
    "time_to_first_byte_seconds": ("histogram", "Seconds from a request to the first byte of its answer."),
    "attempts_total": ("counter", "Attempts at models, by what came back."),
    "fallbacks_total": ("counter", "Requests for which more than one target was asked."),
    "tokens_total": ("counter", "Tokens that models reported, by kind."),
    "requests_in_flight": ("gauge", "Requests that are being answered."),
    "refused_sets": ("gauge", "Workers whose newest set of policies was refused, so that an older one is in use."),
    "pulled_timestamp_seconds": ("gauge", "When the directory was last brought up to date, with --pulled."),
    "revision_info": ("gauge", "Workers that run a revision of the policies."),
}


class Metrics:
    """The counters of one worker. With a `folder`, also those of the others. `pulled` is a file that has the time at which the
    policies were brought up to date."""

    def __init__(self, folder: Path | None = None, pulled: Path | None = None) -> None:
        self.counts: defaultdict[tuple[str, Labels], float] = defaultdict(float)
        self.times: dict[tuple[str, Labels], list[float]] = {}  # for each bucket how many, then more, then the sum
        self._folder, self._pulled, self._began = folder, pulled, time.time()

    def add(self, name: str, amount: float = 1, **labels: str) -> None:
        """Count."""
        self.counts[name, tuple(labels.items())] += amount

    def time(self, name: str, seconds: float, **labels: str) -> None:
        """Note how long something took."""
        key = name, tuple(labels.items())
        if key not in self.times:
            self.times[key] = [0.0] * (len(BUCKETS) + 2)
        spread = self.times[key]
        spread[bisect_left(BUCKETS, seconds)] += 1
        spread[-1] += seconds

    def share(self) -> None:
        """Write the counters where the other workers find them."""
        if self._folder is not None:
            path = self._folder / f"{os.getpid()}.json"
            fresh = path.with_suffix(".new")
            fresh.write_bytes(msgspec.json.encode([list(self.counts.items()), list(self.times.items())]))
            fresh.replace(path)

    def text(self) -> str:
        """All counters in Prometheus' text format."""
        everything = Metrics()
        everything._join(self, alive=True)
        for other, alive in self._others():
            everything._join(other, alive=alive)
        if self._pulled is not None:
            everything.counts["pulled_timestamp_seconds", ()] = self._pulled_at(self._pulled)
        return "".join(f"{line}\n" for line in everything._lines())

    def revisions(self) -> set[str]:
        """The revisions that the other workers run, each as it reported at most FORGOTTEN_SECONDS ago."""
        reported = (other.counts for other, alive in self._others() if alive)
        return {dict(labels)["revision"] for counts in reported for name, labels in counts if name == "revision_info"}

    def _pulled_at(self, file: Path) -> float:
        """The time of a pull; that of the start if there was none, since an alert sees only times."""
        try:
            return file.stat().st_mtime
        except OSError:
            return self._began

    def _others(self) -> Iterator[tuple[Metrics, bool]]:
        for path in sorted(self._folder.glob("*.json")) if self._folder is not None else ():
            if path.stem != str(os.getpid()):
                other = Metrics()
                counts, times = _SHARED.decode(path.read_bytes())
                other.counts.update(counts)
                other.times.update(times)
                yield other, _is_alive(path)

    def _join(self, other: Metrics, *, alive: bool) -> None:
        for key, amount in other.counts.items():
            if alive or FAMILIES[key[0]][0] != "gauge":  # a worker that is gone has nothing in flight
                self.counts[key] += amount
        for key, spread in other.times.items():
            mine = self.times.get(key, [0.0] * len(spread))
            self.times[key] = [one + more for one, more in zip(mine, spread, strict=True)]

    def _lines(self) -> Iterator[str]:
        for family, (kind, text) in FAMILIES.items():
            yield f"# HELP {_METRIC_PREFIX}{family} {text}"
            yield f"# TYPE {_METRIC_PREFIX}{family} {kind}"
            for (name, labels), amount in sorted(self.counts.items()):
                if name == family:
                    yield (
                        f"{_METRIC_PREFIX}{name}{_label_text(labels)} {amount:g}"
                        if amount < 1e6
                        else (f"{_METRIC_PREFIX}{name}{_label_text(labels)} {amount:.0f}")
                    )
            for (name, labels), spread in sorted(self.times.items()):
                if name == family:
                    yield from _histogram(name, labels, spread)


_SHARED = msgspec.json.Decoder(tuple[list[tuple[tuple[str, Labels], float]], list[tuple[tuple[str, Labels], list[float]]]])


def _histogram(name: str, labels: Labels, spread: list[float]) -> Iterator[str]:
    total = 0.0
    for edge, amount in zip((*map(str, BUCKETS), "+Inf"), spread, strict=False):
        total += amount
        yield f"{_METRIC_PREFIX}{name}_bucket{_label_text((*labels, ('le', edge)))} {total:.0f}"
    yield f"{_METRIC_PREFIX}{name}_sum{_label_text(labels)} {spread[-1]:.6f}"
    yield f"{_METRIC_PREFIX}{name}_count{_label_text(labels)} {total:.0f}"


def _label_text(labels: Iterable[tuple[str, str]]) -> str:
    texts = [f'{name}="{_escaped_label(value)}"' for name, value in labels]
    return f"{{{','.join(texts)}}}" if texts else ""


def _escaped_label(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _is_alive(path: Path) -> bool:
    """Whether the worker still runs that writes this file: its process, since another one may have got the number."""
    try:
        os.kill(int(path.stem), 0)
    except (ProcessLookupError, PermissionError):
        return False
    return time.time() - path.stat().st_mtime < FORGOTTEN_SECONDS
