"""Traces of a watch, sent by OTLP to where the usual variables point. Without them nothing is imported and nothing is done."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING, Protocol

import policyctl
from policyctl.errors import PolicyctlError

if TYPE_CHECKING:
    from opentelemetry.trace import Span as OtelSpan
    from opentelemetry.trace import Tracer

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
