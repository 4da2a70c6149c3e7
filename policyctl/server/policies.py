"""Model policies: their handlers and operations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policyctl.errors import NotFound
from policyctl.policy.document import Document
from policyctl.policy.names import canonical_name
from policyctl.remote.table import QuotaReached
from policyctl.server.service import (
    ApiRequest,
    ApiResponse,
    HttpError,
    Operation,
    PathItem,
    Service,
    expected_version,
    read_json,
    with_etag,
)
from policyctl.server.shapes import NewPolicy, PolicyRow, PolicyUpdate

FILTERS = ("name", "display_name", "id")


def list_policies(service: Service, call: ApiRequest) -> ApiResponse:
    rows = _candidates(service, call.query)
    return ApiResponse(200, [row for row in rows if passes(row, call.query)])


def get_policy(service: Service, call: ApiRequest) -> ApiResponse:
    return with_etag(200, _row(service, call.path["id"]))


def add_policy(service: Service, call: ApiRequest) -> ApiResponse:
    document = {"description": "", **read_json(NewPolicy, call.body)}
    try:
        return with_etag(201, service.policies.insert(document, service.quota))
    except QuotaReached as error:
        raise _over_quota(error.stored, service.quota) from None


def update_policy(service: Service, call: ApiRequest) -> ApiResponse:
    document = read_json(PolicyUpdate, call.body)
    identifier = call.path["id"]
    return with_etag(200, service.policies.replace(identifier, document, _version(service, call)))


def remove_policy(service: Service, call: ApiRequest) -> ApiResponse:
    service.policies.remove(call.path["id"], _version(service, call))
    return ApiResponse(204)


def passes(row: Document, query: Mapping[str, list[str]]) -> bool:
    """Whether a row passes every filter in the query. The values of one filter are alternatives, and match exactly."""
    return all(row.get(key) in query[key] for key in FILTERS if key in query)


def _version(service: Service, call: ApiRequest) -> str | None:
    return None if call.if_match is None else expected_version(call.if_match, _row(service, call.path["id"]))


def _candidates(service: Service, query: Mapping[str, list[str]]) -> list[Any]:
    """Rows that may pass: looked up in an index when the query has names or ids."""
    if "name" in query:
        return service.policies.find({canonical_name(name) for name in query["name"]})
    if "id" in query:
        return service.policies.by_id(set(query["id"]))
    return list(service.policies.rows())


def _row(service: Service, identifier: str) -> Document:
    rows = service.policies.by_id([identifier])
    if not rows:
        raise NotFound(f"no policy has the id {identifier}")
    row: Document = rows[0]
    return row


def _over_quota(stored: int, quota: int | None) -> HttpError:
    detail = {
        "code": "RESOURCE_QUOTA_EXCEEDED",
        "message": f"this server keeps at most {quota} policies; remove one, or raise the quota",
        "resource": "model_policy",
        "current": stored,
        "requested": 1,
        "limit": quota,
    }
    return HttpError(429, detail)


PATHS = (
    PathItem(
        "/model_policy",
        (
            Operation(
                "GET",
                list_policies,
                "List policies. The values of a filter are alternatives, and match exactly.",
                gives=PolicyRow,
                many=True,
                query=FILTERS,
            ),
            Operation(
                "POST",
                add_policy,
                "Add a policy.",
                takes=NewPolicy,
                gives=PolicyRow,
                status=201,
                versioned=True,
                faults=(409, 422, 429),
            ),
        ),
    ),
    PathItem(
        "/model_policy/{id}",
        (
            Operation("GET", get_policy, "Read one policy.", gives=PolicyRow, versioned=True, faults=(404,)),
            Operation(
                "PUT",
                update_policy,
                "Update a policy: `policy` is replaced as a whole, absent and null keys stay as they are.",
                takes=PolicyUpdate,
                gives=PolicyRow,
                versioned=True,
                faults=(404, 409, 412, 422),
            ),
            Operation("DELETE", remove_policy, "Remove a policy.", status=204, versioned=True, faults=(404, 412)),
        ),
    ),
)
