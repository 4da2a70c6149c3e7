"""Every operation of the server: both its routes and its description are made from this list."""

from __future__ import annotations

from policyctl.server import connections, documents, login, models, policies
from policyctl.server.service import ApiRequest, ApiResponse, Operation, PathItem, Service
from policyctl.server.shapes import Health

# Where resources are: the layout of the Developer Edition, of IBM's API reference, and of an instance elsewhere.
PREFIXES = ("/v1/orchestrate", "/{instance:path}/v1/orchestrate", "/api/v1", "/v1")
RESOURCES = (*policies.PATHS, *models.PATHS, *connections.PATHS, *documents.PATHS)
LOGINS = login.PATHS  # at the root, wherever the client logs in


def healthz(service: Service, call: ApiRequest) -> ApiResponse:  # noqa: ARG001 - every handler takes the same
    """Healthy if the store can be read. Otherwise the error that this raises becomes a 503."""
    service.policies.count()
    return ApiResponse(200, {"status": "ok"})


HEALTH = PathItem("/healthz", (Operation("GET", healthz, "Whether the server can read its store.", gives=Health, public=True),))
