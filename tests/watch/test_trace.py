"""Traces, as a collector receives them: over HTTP, in protobuf."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from policyctl.watch import telemetry
from policyctl.watch.telemetry import no_span, spans
from tests.watch.receivers import dripping


class Collector(ThreadingHTTPServer):
    """A receiver of OTLP over HTTP that keeps the spans."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), CollectorHandler)
        self.requests: list[ExportTraceServiceRequest] = []

    @property
    def found(self) -> list[Any]:
        scopes = [scope for one in self.requests for resource in one.resource_spans for scope in resource.scope_spans]
        return [span for scope in scopes for span in scope.spans]


class CollectorHandler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        assert self.path == "/v1/traces"
        self.server.requests.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["Content-Length"]))))
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


@pytest.fixture
def collector(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with Collector() as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{server.server_port}")
        yield server
        server.shutdown()


def attributes(span: Any) -> dict[str, Any]:
    return {one.key: one.value.string_value or one.value.int_value for one in span.attributes}


def test_a_look_is_a_span_with_children(collector: Collector) -> None:

    with spans(os.environ) as span:
        with span("look", environment="eu") as look:
            with span("read"):
                pass
            with span("plan"):
                pass
            look.note(result="drifted", changes=2)
        with span("apply", environment="eu") as apply:
            apply.note(result="failed")
    by_name = {one.name: one for one in collector.found}
    assert {*by_name} == {"look", "read", "plan", "apply"}
    for child in ("read", "plan"):
        assert by_name[child].parent_span_id == by_name["look"].span_id
        assert by_name[child].trace_id == by_name["look"].trace_id
    assert by_name["apply"].parent_span_id == b""
    assert attributes(by_name["look"]) == {
        "policyctl.environment": "eu",
        "policyctl.result": "drifted",
        "policyctl.changes": 2,
    }
    assert [by_name[name].status.code for name in ("look", "apply")] == [0, 2]
    resource = {one.key: one.value.string_value for one in collector.requests[0].resource_spans[0].resource.attributes}
    assert resource["service.name"] == "policyctl-watch"


def test_an_error_that_goes_through_a_span_is_not_in_it(collector: Collector) -> None:

    with spans(os.environ) as span, pytest.raises(ValueError, match="hunter2"), span("look"):
        raise ValueError("hunter2")
    (found,) = collector.found
    assert b"hunter2" not in found.SerializeToString()
    assert found.status.code == 2


@pytest.mark.slow
def test_a_collector_that_answers_without_end_does_not_hold_up_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(telemetry, "LAST_SECONDS", 2.0)  # enough to ask it
    with dripping() as drip:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", drip.url)
        with spans(os.environ) as span, span("look"):
            pass
        assert drip.until(1)
        assert not drip.left, "it is still being answered"


@pytest.mark.parametrize("environ", [{}, {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://x", "OTEL_SDK_DISABLED": "true"}])
def test_without_an_endpoint_nothing_is_made(environ: dict[str, str]) -> None:
    with spans(environ) as span:
        assert span is no_span
        with span("look", environment="eu") as look:
            look.note(result="failed")


def test_without_an_endpoint_nothing_is_imported() -> None:
    used = "import sys; from policyctl.watch.telemetry import spans"
    code = f"{used}\nwith spans({{}}): print([name for name in sys.modules if 'opentelemetry' in name])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
