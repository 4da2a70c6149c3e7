"""What a watch measures: its metrics, as Prometheus reads them, and its traces.

Traces are sent by OTLP to where the usual variables point. Without these nothing is imported for them, and nothing is done.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

import policyctl
from policyctl.errors import PolicyctlError, UsageError
from policyctl.watch import FAILING, Board

if TYPE_CHECKING:
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer

    from policyctl.remote.hosts import HostTally

BUCKETS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
_UNUSUAL = re.compile(r"[^a-zA-Z0-9_]")


class WatchMetrics:
    """What a watch counts. What the board knows is read from it when the metrics are.

    No histogram has an environment as a label: thousands of them would be too much for a Prometheus.
    """

    def __init__(self, board: Board, labels: Sequence[str] = (), tally: HostTally | None = None) -> None:
        """`labels` are the keys of the labels of environments that `policyctl_environment_info` has.

        Raises UsageError when two of them have one name in Prometheus.
        """
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a time for each counter would double them
        self._registry = CollectorRegistry(auto_describe=False)
        self.add(BoardCollector(board, labels))
        if tally is not None:
            self.add(TallyCollector(tally))
        self._reconciles = Counter(
            "policyctl_reconcile", "Looks and applies that ended, by result.", ["action", "result"], registry=self._registry
        )
        self._seconds = Histogram(
            "policyctl_reconcile_duration_seconds",
            "Seconds that a look or an apply took.",
            ["action"],
            registry=self._registry,
            buckets=BUCKETS,
        )
        self._lag = Gauge(
            "policyctl_schedule_lag_seconds", "How late the look that ended last had begun.", registry=self._registry
        )
        self._due = Gauge("policyctl_schedule_due", "Environments that wait for their look.", registry=self._registry)

    def add(self, collector: Collector) -> None:
        """Add what another part counts."""
        self._registry.register(collector)

    def reconciled(self, action: str, result: str, seconds: float) -> None:
        """Count a look or an apply of an environment: `look` or `apply`, its result in a word, and how long it took."""
        self._reconciles.labels(action, result).inc()
        self._seconds.labels(action).observe(seconds)

    def late(self, seconds: float) -> None:
        """Note how late a look began."""
        self._lag.set(seconds)

    def turned(self, due: int) -> None:
        """Note how many environments wait for their look."""
        self._due.set(due)

    def text(self) -> bytes:
        """All metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def names(self) -> frozenset[str]:
        """The names of all series that there can be."""
        families = [family for family in self._registry.collect() if family.type != "unknown"]
        return frozenset(name for family in families for name in _series(family))


def _series(family: Metric) -> Iterator[str]:
    suffixes: Mapping[str, Sequence[str]] = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
    return (f"{family.name}{suffix}" for suffix in suffixes.get(family.type, ("",)))


class BoardCollector(Collector):
    """The environments and the source, as they are when the metrics are read."""

    def __init__(self, board: Board, labels: Sequence[str]) -> None:
        self._board = board
        self._began = datetime.now(UTC)
        self._labels = {key: f"label_{_UNUSUAL.sub('_', key)}" for key in labels}
        if len({*self._labels.values()}) < len(self._labels):
            raise UsageError(f"these labels have the same name in Prometheus: {', '.join(sorted(self._labels))}")

    def collect(self) -> Iterator[Metric]:
        info = _gauge(
            "environment_info", "1 for each environment, with its state.", "environment", "state", *self._labels.values()
        )
        changes = _gauge("environment_changes", "Changes in the newest plan of an environment.", "environment")
        success = _gauge(
            "environment_last_success_timestamp_seconds",
            "When an environment was last looked at without a failure; if not known, when it began to fail, or the watch.",
            "environment",
        )
        interval = _gauge("environment_interval_seconds", "Seconds between two looks at an environment.", "environment")
        for one in self._board.environments():
            info.add_metric([one.name, one.state, *(one.labels.get(key, "") for key in self._labels)], 1)
            changes.add_metric([one.name], one.changes)
            # Never without a time: an alert could not see what fails from the start.
            known = one.succeeded_at or (one.since if one.state in FAILING else self._began)
            success.add_metric([one.name], known.timestamp())
            if one.interval:
                interval.add_metric([one.name], one.interval)
        leads = _gauge("leader", "1 for the watch that leads, 0 for one that follows.")
        leads.add_metric([], float(self._board.leads))
        yield from (info, changes, success, interval, leads)
        yield from self._source()

    def _source(self) -> Iterator[Metric]:
        source = self._board.source
        revision = _gauge("source_info", "1 for the revision that is in use.", "revision")
        if source.revision:
            revision.add_metric([source.revision], 1)
        read = _gauge(
            "source_last_success_timestamp_seconds",
            "When the files were last read; before the first time, when the watch began.",
        )
        if self._board.leads:
            read.add_metric([], (source.read_at or self._began).timestamp())
        yield from (revision, read)


class TallyCollector(Collector):
    """What the hosts of the remotes were asked."""

    def __init__(self, tally: HostTally) -> None:
        self._tally = tally

    def collect(self) -> Iterator[Metric]:
        requests, waits = self._tally.counts()
        asked = CounterMetricFamily(
            "policyctl_host_requests", "Requests to remotes, by status; none is without an answer.", labels=["origin", "status"]
        )
        for (origin, status), number in sorted(requests.items()):
            asked.add_metric([origin, status], number)
        waited = CounterMetricFamily(
            "policyctl_host_wait_seconds", "Seconds that requests waited for their turn at a host.", labels=["origin"]
        )
        for origin, seconds in sorted(waits.items()):
            waited.add_metric([origin], seconds)
        yield from (asked, waited)


class QueueCollector(Collector):
    """The jobs of the queue, as they are when the metrics are read."""

    def __init__(self, counts: Callable[[], Mapping[str, int]] = dict) -> None:
        """`counts` returns how many there are, by status."""
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        jobs = _gauge("queue_jobs", "Jobs of the queue.", "status")
        for status, number in sorted(self._counts().items()):
            jobs.add_metric([status], number)
        yield jobs


class ReceiverCollector(Collector):
    """What became of notifications, by receiver."""

    def __init__(
        self, counts: Callable[[], tuple[Mapping[tuple[str, str], int], Mapping[str, int]]] = lambda: ({}, {})
    ) -> None:
        """`counts` returns how many there were, by receiver and result, and how many wait, by receiver."""
        self._counts = counts

    def collect(self) -> Iterator[Metric]:
        ended, waiting = self._counts()
        total = CounterMetricFamily(
            "policyctl_notifications", "Notifications, by what became of them.", labels=["receiver", "result"]
        )
        for (receiver, result), number in sorted(ended.items()):
            total.add_metric([receiver, result], number)
        left = _gauge("notifications_waiting", "Notifications that could not be delivered yet.", "receiver")
        for receiver, number in sorted(waiting.items()):
            left.add_metric([receiver], number)
        yield from (total, left)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"policyctl_{name}", text, labels=labels)


LAST_SECONDS = 5.0  # for what is sent at the end
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")


class Noted(Protocol):
    """A span that has begun."""

    def note(self, **attributes: str | int) -> None:
        """Add what became known meanwhile."""


class _Nothing:
    def note(self, **attributes: str | int) -> None:
        """Nothing."""


_NOTHING = nullcontext(_Nothing())
Span = Callable[..., AbstractContextManager[Noted]]


def no_span(_: str, **__: str | int) -> AbstractContextManager[Noted]:
    """A span that is not recorded."""
    return _NOTHING


@contextmanager
def spans(environ: Mapping[str, str]) -> Iterator[Span]:
    """What makes spans: called with a name and attributes, it is a context whose spans are children of the one around it.

    Those that are not sent yet are sent at the end, as far as a few seconds suffice. Raises PolicyctlError when traces are
    asked for and cannot be made.
    """
    if environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or not any(environ.get(name) for name in ENDPOINTS):
        yield no_span
        return
    if find_spec("opentelemetry.exporter") is None or find_spec("opentelemetry.sdk") is None:
        asked = next(name for name in ENDPOINTS if environ.get(name))
        raise PolicyctlError(f"{asked} asks for traces; install what sends them with: pip install 'policyctl[otel]'")
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    named = {} if environ.get("OTEL_SERVICE_NAME") else {"service.name": "policyctl-watch"}
    resource = Resource.create({**named, "service.version": policyctl.__version__})
    provider = TracerProvider(resource=resource, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(timeout=5)))
    try:
        yield partial(_recorded, provider.get_tracer("policyctl", policyctl.__version__))
    finally:
        # It waits for a collector that answers slowly, far longer than the end of a watch may take.
        ending = threading.Thread(target=provider.shutdown, name="traces", daemon=True)
        ending.start()
        ending.join(LAST_SECONDS)


@contextmanager
def _recorded(tracer: Tracer, name: str, **attributes: str | int) -> Iterator[Noted]:
    """A span. Of an exception only the type is noted: its message may be long, and is shown elsewhere."""
    with tracer.start_as_current_span(name, record_exception=False, set_status_on_exception=False) as found:
        recorded = _Recorded(found)
        recorded.note(**attributes)
        try:
            yield recorded
        except BaseException as error:
            recorded.fail(type(error).__name__)
            raise


class _Recorded:
    def __init__(self, span: OtelSpan) -> None:
        self._span = span

    def note(self, **attributes: str | int) -> None:
        for key, value in attributes.items():
            self._span.set_attribute(f"policyctl.{key}", value)
        if attributes.get("result") == "failed":
            self.fail()

    def fail(self, why: str | None = None) -> None:
        from opentelemetry.trace import Status, StatusCode

        self._span.set_status(Status(StatusCode.ERROR, why))
