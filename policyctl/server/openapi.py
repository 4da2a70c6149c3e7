"""Every operation of the server, from which both its routes and its OpenAPI 3.1 description are made."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from policyctl import __version__
from policyctl.server import connections, documents, login, models, policies
from policyctl.server.service import ApiRequest, ApiResponse, Operation, PathItem, Service
from policyctl.server.shapes import Fault, Health, Invalid, QuotaFault, Shape

# Where resources are: the layout of the Developer Edition, of IBM's API reference, and of an instance elsewhere.
PREFIXES = ("/v1/orchestrate", "/{instance:path}/v1/orchestrate", "/api/v1", "/v1")
RESOURCES = (*policies.PATHS, *models.PATHS, *connections.PATHS, *documents.PATHS)
LOGINS = login.PATHS  # at the root, wherever the client logs in


def healthz(service: Service, _: ApiRequest) -> ApiResponse:
    """Healthy if the store can be read. Otherwise the error that this raises becomes a 503."""
    service.policies.count()
    return ApiResponse(200, {"status": "ok"})


def livez(*_: object) -> ApiResponse:
    """This process answers. It does not ask the store: a restart of the server would not bring that back."""
    return ApiResponse(200, {"status": "ok"})


def readyz(service: Service, _: ApiRequest) -> ApiResponse:
    """Whether the store answers at once, in a format that this server knows. Otherwise the error becomes a 503."""
    service.policies.database.check()
    return ApiResponse(200, {"status": "ok"})


HEALTH = (
    PathItem("/healthz", (Operation("GET", healthz, "Whether the server can read its store.", gives=Health, public=True),)),
    PathItem("/livez", (Operation("GET", livez, "Whether the server runs.", gives=Health, public=True, at_once=True),)),
    PathItem(
        "/readyz",
        (Operation("GET", readyz, "Whether requests may be sent here: the store answers at once.", gives=Health, public=True),),
    ),
)

_DESCRIPTION = """The policies, models, connections and other documents of IBM watsonx Orchestrate, as far as its clients use
them, in one database. Everything below /v1 is also below /api/v1 and below <anything>/v1/orchestrate."""

_FAULTS = {
    400: "The request is not valid HTTP.",
    401: "The token is missing, invalid or expired; or the key or password is wrong.",
    403: "A server without a token answers to loopback names only.",
    404: "It does not exist.",
    405: "This path does not have this method.",
    409: "The name is taken, or a policy targets the model.",
    412: "The row does not have a version that If-Match names.",
    413: "The body is too large.",
    415: "The body has another content type.",
    422: "The body or the query has the wrong shape.",
    429: "The server accepts no further policies.",
    431: "The URL and the headers are too large.",
    500: "It is not known whether the write was carried out; read before it is sent again.",
    503: "The store cannot be used now; try again later.",
}
_SHAPES: dict[int, type[Shape]] = {422: Invalid, 429: QuotaFault}
_ALWAYS = (400, 403, 431, 503)  # statuses that every operation may return
_BODIED = (413, 415)  # and those that every operation with a body may return


@cache
def description(*, open_to_all: bool) -> dict[str, Any]:
    """The whole description, as JSON, of a server that needs a token or of one that needs none. It is not to be changed."""
    places = [*(PathItem(f"/v1{place.path}", place.operations) for place in RESOURCES), *LOGINS, *HEALTH]
    return {
        "openapi": "3.1.0",
        "info": {"title": "policyctl serve", "version": __version__, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "security": [] if open_to_all else [{"token": []}],
        "paths": {place.path: {op.method.lower(): _operation(op, place.path) for op in place.operations} for place in places},
        "components": {
            "schemas": _schemas(operation for place in places for operation in place.operations),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def _operation(operation: Operation, path: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "operationId": f"{operation.method.lower()}{path.replace('/', '_')}".replace("{", "").replace("}", ""),
        "summary": operation.summary,
        "parameters": [*_path_parameters(path), *map(_query_parameter, operation.query), *_version_parameters(operation)],
        "responses": {str(status): _fault(status) for status in _statuses(operation)},
    }
    described["responses"][str(operation.status)] = _success(operation)
    if operation.takes is not None:
        kind = "application/x-www-form-urlencoded" if operation.form else "application/json"
        described["requestBody"] = {"required": True, "content": {kind: {"schema": _ref(operation.takes)}}}
    if operation.public:
        described["security"] = []
    return described


def _statuses(operation: Operation) -> list[int]:
    private = () if operation.public else (401,)
    writes = () if operation.method == "GET" or operation.public else (500,)
    bodied = () if operation.takes is None else _BODIED
    return sorted({*_ALWAYS, *private, *writes, *bodied, *operation.faults})


def _fault(status: int) -> dict[str, Any]:
    shape = _SHAPES.get(status, Fault)
    return {"description": _FAULTS[status], "content": {"application/json": {"schema": _ref(shape)}}}


def _success(operation: Operation) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "Done."}
    if operation.versioned and operation.gives is not None:
        answer["headers"] = {"ETag": {"description": "The row's version, for If-Match.", "schema": {"type": "string"}}}
    if operation.gives is not None:
        one = _ref(operation.gives)
        schema = {"type": "array", "items": one} if operation.many else one
        answer["content"] = {"application/json": {"schema": schema}}
    return answer


def _path_parameters(path: str) -> list[dict[str, Any]]:
    found = [part.strip("{}") for part in path.split("/") if part.startswith("{")]
    return [{"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in found]


def _query_parameter(name: str) -> dict[str, Any]:
    schema = {"type": "array", "items": {"type": "string"}}
    return {"name": name, "in": "query", "required": False, "style": "form", "explode": True, "schema": schema}


def _version_parameters(operation: Operation) -> list[dict[str, Any]]:
    if 412 not in operation.faults:
        return []
    text = "The versions that may be replaced: entity tags, or *."
    return [{"name": "If-Match", "in": "header", "required": False, "description": text, "schema": {"type": "string"}}]


def _schemas(operations: Iterable[Operation]) -> dict[str, Any]:
    used: set[type[BaseModel]] = {Fault, Invalid, QuotaFault}
    for operation in operations:
        used |= {shape for shape in (operation.takes, operation.gives) if shape is not None}
    ordered = sorted(used, key=lambda shape: shape.__name__)
    _, schema = models_json_schema([(shape, "validation") for shape in ordered], ref_template="#/components/schemas/{model}")
    found: dict[str, Any] = schema["$defs"]
    return found


def _ref(shape: type[BaseModel]) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{shape.__name__}"}
