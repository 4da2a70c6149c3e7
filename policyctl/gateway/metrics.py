"""Counters, as Prometheus reads them. Workers share theirs through files, so that each answers for all."""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

BUCKETS = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
FORGOTTEN_SECONDS = 10  # after a worker shared its counters last; it does so each second
_PREFIX = "policyctl_gateway_"
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
                counts, times = _DECODER.decode(path.read_bytes())
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
            yield f"# HELP {_PREFIX}{family} {text}"
            yield f"# TYPE {_PREFIX}{family} {kind}"
            for (name, labels), amount in sorted(self.counts.items()):
                if name == family:
                    yield (
                        f"{_PREFIX}{name}{_written(labels)} {amount:g}"
                        if amount < 1e6
                        else (f"{_PREFIX}{name}{_written(labels)} {amount:.0f}")
                    )
            for (name, labels), spread in sorted(self.times.items()):
                if name == family:
                    yield from _histogram(name, labels, spread)


_DECODER = msgspec.json.Decoder(tuple[list[tuple[tuple[str, Labels], float]], list[tuple[tuple[str, Labels], list[float]]]])


def _histogram(name: str, labels: Labels, spread: list[float]) -> Iterator[str]:
    total = 0.0
    for edge, amount in zip((*map(str, BUCKETS), "+Inf"), spread, strict=False):
        total += amount
        yield f"{_PREFIX}{name}_bucket{_written((*labels, ('le', edge)))} {total:.0f}"
    yield f"{_PREFIX}{name}_sum{_written(labels)} {spread[-1]:.6f}"
    yield f"{_PREFIX}{name}_count{_written(labels)} {total:.0f}"


def _written(labels: Iterable[tuple[str, str]]) -> str:
    texts = [f'{name}="{_escaped(value)}"' for name, value in labels]
    return f"{{{','.join(texts)}}}" if texts else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _is_alive(path: Path) -> bool:
    """Whether the worker still runs that writes this file: its process, since another one may have got the number."""
    try:
        os.kill(int(path.stem), 0)
    except (ProcessLookupError, PermissionError):
        return False
    return time.time() - path.stat().st_mtime < FORGOTTEN_SECONDS
