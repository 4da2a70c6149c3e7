"""The handler of /healthz."""

from __future__ import annotations

from policyctl.server.exchange import Answer, Call, Service


def healthz(service: Service, call: Call) -> Answer:  # noqa: ARG001 - every handler takes the same
    """Healthy is who can read its store; when it cannot, the error that this raises becomes a 503."""
    service.policies.count()
    return Answer(200, {"status": "ok"})
