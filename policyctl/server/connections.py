"""Connections: their metadata, and that credentials were entered. Credentials themselves are never stored.

IBM's client expects them below `/api/v1/orchestrate` on port 3001 of a Developer Edition, and on every other deployment
below the same prefix as everything else.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from typing import Any

from policyctl.errors import NotFound
from policyctl.policy.document import Document
from policyctl.policy.model_settings import masked
from policyctl.remote.table import DocumentTable
from policyctl.server.login import TENANT
from policyctl.server.service import (
    ApiRequest,
    ApiResponse,
    HttpError,
    Operation,
    PathItem,
    Service,
    decided,
    read_json,
)
from policyctl.server.shapes import (
    Configuration,
    ConfigurationRow,
    ConnectionRow,
    ConnectionsReply,
    CredentialsState,
    EnteredCredentials,
    NewConfiguration,
    NewConnection,
)

ENVIRONMENTS = ("draft", "live")
PAGE = 50
_DEFAULTS: Document = {
    "preference": "team",
    "security_scheme": None,
    "auth_type": None,
    "sso": False,
    "server_url": None,
}


def list_connections(service: Service, call: ApiRequest) -> ApiResponse:
    """One connection for `app_id` or `connection_id`; otherwise a page of rows, one for each environment of each connection."""
    table = _table(service)
    if "app_id" in call.query:
        return ApiResponse(200, _row(_named(table, call.query["app_id"][0])))
    if "connection_id" in call.query:
        found = table.by_id(call.query["connection_id"][:1])
        if not found:
            raise NotFound(f"no connection has the id {call.query['connection_id'][0]}")
        return ApiResponse(200, _row(found[0]))
    wanted = {identifier for value in call.query.get("connectionIds", ()) for identifier in value.split(",")}
    rows = [row for connection in table.rows() if not wanted or connection["id"] in wanted for row in _details(connection)]
    page, limit = _number(call, "page", 1), _number(call, "limit", PAGE)
    shown = rows[(page - 1) * limit : page * limit]
    envelope = {"tenant_id": TENANT["id"], "page": page, "limit": limit, "total": len(rows), "applications": shown}
    return ApiResponse(200, envelope)


def add_connection(service: Service, call: ApiRequest) -> ApiResponse:
    document = read_json(NewConnection, call.body)
    kept = {"name": document["app_id"], "id": document.get("connection_id"), "resource": document.get("resource", {})}
    return ApiResponse(201, _row(_table(service).insert(kept)))


def remove_connection(service: Service, call: ApiRequest) -> ApiResponse:
    table = _table(service)
    table.remove(_named(table, call.path["app_id"])["id"])
    return ApiResponse(204)


def get_configuration(service: Service, call: ApiRequest) -> ApiResponse:
    connection, environment = _named(_table(service), call.path["app_id"]), call.path["environment"]
    return ApiResponse(200, _configuration(connection, environment))


def add_configuration(service: Service, call: ApiRequest) -> ApiResponse:
    document = read_json(NewConfiguration, call.body)
    return _configure(service, call, document["environment"], document, status=201)


def replace_configuration(service: Service, call: ApiRequest) -> ApiResponse:
    return _configure(service, call, call.path["environment"], read_json(Configuration, call.body))


def update_configuration(service: Service, call: ApiRequest) -> ApiResponse:
    document, environment = read_json(Configuration, call.body), call.path["environment"]
    return _configure(service, call, environment, document, merge=True)


def get_credentials(service: Service, call: ApiRequest) -> ApiResponse:
    """Whether credentials of one kind were entered; 404 if not. No response of this server holds one."""
    app_id, environment = _subject(call)
    kind = "credentials" if "environment" in call.path else "runtime_credentials"
    connection = _named(_table(service), app_id)
    if kind not in connection.get("credentials", {}).get(environment, ()):
        raise NotFound(f"the connection {app_id} has no {kind.replace('_', ' ')} for {environment}")
    return ApiResponse(200, {"app_id": app_id, "environment": environment, "credentials_entered": True})


def enter_credentials(service: Service, call: ApiRequest, kind: str) -> ApiResponse:
    read_json(EnteredCredentials, call.body)
    return _note_credentials(service, call, kind, there=True)


def remove_credentials(service: Service, call: ApiRequest, kind: str) -> ApiResponse:
    return _note_credentials(service, call, kind, there=False)


def _table(service: Service) -> DocumentTable:
    return service.documents("connection")


def _named(table: DocumentTable, app_id: str) -> Document:
    found: list[Document] = table.named([app_id])
    if not found:
        raise NotFound(f"no connection has the app id {app_id}")
    return found[0]


def _row(connection: Document) -> Document:
    shown = {"connection_id": connection["id"], "app_id": connection["name"], "tenant_id": TENANT["id"]}
    return {**shown, "resource": connection.get("resource", {})}


def _details(connection: Document) -> Iterator[Document]:
    """A row for each environment that is configured, or one without an environment if none is."""
    configurations: Document = connection.get("configurations", {})
    environments: list[str | None] = [name for name in ENVIRONMENTS if name in configurations]
    for environment in environments or [None]:
        found = {**_DEFAULTS, **configurations.get(environment or "", {})}
        yield {
            "connection_id": connection["id"],
            "app_id": connection["name"],
            "name": connection["name"],
            "environment": environment,
            "security_scheme": found["security_scheme"],
            "auth_type": (found["auth_type"] or "") if environment else None,
            "preference": found["preference"] if environment else None,
            "is_configured": environment is not None,
            "credentials_entered": bool(connection.get("credentials", {}).get(environment)),
        }


def _configuration(connection: Document, environment: str) -> Document:
    found = connection.get("configurations", {}).get(environment)
    if found is None:
        raise NotFound(f"the connection {connection['name']} is not configured for {environment}")
    place = {"tenant_id": TENANT["id"], "app_id": connection["name"], "environment": environment}
    return {**_DEFAULTS, **found, **place}


def _configure(
    service: Service, call: ApiRequest, environment: str, document: Document, *, status: int = 200, merge: bool = False
) -> ApiResponse:
    if environment not in ENVIRONMENTS:
        raise NotFound(f"{environment} is not an environment; those are {' and '.join(ENVIRONMENTS)}")

    def decide() -> ApiResponse:
        table = _table(service)
        connection = _named(table, call.path["app_id"])
        configurations = connection.get("configurations", {})
        if status == 201 and environment in configurations:
            raise HttpError(409, f"the connection {connection['name']} is already configured for {environment}")
        whole = {**_configuration(connection, environment), **document} if merge else document
        identifier = configurations.get(environment, {}).get("config_id") or str(uuid.uuid4())
        kept = {key: value for key, value in whole.items() if key not in ("tenant_id", "app_id", "environment")}
        changed = {**configurations, environment: {**masked(kept), "config_id": identifier}}
        written = table.replace(connection["id"], {"configurations": changed}, connection["etag"])
        return ApiResponse(status, _configuration(written, environment))

    return decided(decide)


def _note_credentials(service: Service, call: ApiRequest, kind: str, *, there: bool) -> ApiResponse:
    app_id, environment = _subject(call)

    def decide() -> ApiResponse:
        table = _table(service)
        connection = _named(table, app_id)
        _configuration(connection, environment)
        entered: dict[str, Any] = connection.get("credentials", {})
        kinds = {*entered.get(environment, ())} - {kind} | ({kind} if there else set())
        table.replace(connection["id"], {"credentials": {**entered, environment: sorted(kinds)}}, connection["etag"])
        return ApiResponse(200, {"app_id": app_id, "environment": environment, "credentials_entered": bool(kinds)})

    return decided(decide)


def _subject(call: ApiRequest) -> tuple[str, str]:
    """The connection and the environment that a call about credentials names, in its path or in its query."""
    if "app_id" in call.path:
        return call.path["app_id"], call.path["environment"]
    try:
        return call.query["app_id"][0], call.query["env"][0]
    except KeyError as missing:
        raise HttpError(422, [{"loc": ["query", missing.args[0]], "msg": "Field required", "type": "missing"}]) from None


def _number(call: ApiRequest, key: str, default: int) -> int:
    text = call.query.get(key, [str(default)])[0]
    number = int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0
    if number < 1:
        raise HttpError(422, [{"loc": ["query", key], "msg": "must be a positive number", "type": "int_parsing"}])
    return number


_APPLICATIONS = "/connections/applications"
_CONFIGURATION = f"{_APPLICATIONS}/{{app_id}}/configurations/{{environment}}"
_CREDENTIALS = f"{_APPLICATIONS}/{{app_id}}/configs/{{environment}}"


def _credentials(kind: str) -> PathItem:
    """What is done with one kind of credentials; the kind is a part of the path that does not vary."""

    def enter(service: Service, call: ApiRequest) -> ApiResponse:
        return enter_credentials(service, call, kind)

    def remove(service: Service, call: ApiRequest) -> ApiResponse:
        return remove_credentials(service, call, kind)

    noted = "Note that credentials were entered; they are not stored."
    faults = (404, 422)
    return PathItem(
        f"{_CREDENTIALS}/{kind}",
        (
            Operation("POST", enter, noted, takes=EnteredCredentials, gives=CredentialsState, faults=faults),
            Operation("PATCH", enter, noted, takes=EnteredCredentials, gives=CredentialsState, faults=faults),
            Operation("DELETE", remove, "Note that they were removed.", gives=CredentialsState, faults=(404,)),
        ),
    )


PATHS = (
    PathItem(
        _APPLICATIONS,
        (
            Operation(
                "GET",
                list_connections,
                "List connections: a page with one row for each environment, or one connection by `app_id` or `connection_id`.",
                gives=ConnectionsReply,
                query=("app_id", "connection_id", "include_details", "connectionIds", "page", "limit"),
                faults=(404, 422),
            ),
            Operation(
                "POST",
                add_connection,
                "Add a connection.",
                takes=NewConnection,
                gives=ConnectionRow,
                status=201,
                faults=(409, 422),
            ),
        ),
    ),
    PathItem(
        f"{_APPLICATIONS}/runtime_credentials",
        (
            Operation(
                "GET",
                get_credentials,
                "Whether runtime credentials were entered.",
                gives=CredentialsState,
                query=("app_id", "env"),
                faults=(404, 422),
            ),
        ),
    ),
    PathItem(
        f"{_APPLICATIONS}/{{app_id}}",
        (Operation("DELETE", remove_connection, "Remove a connection.", status=204, faults=(404,)),),
    ),
    PathItem(
        f"{_APPLICATIONS}/{{app_id}}/configurations",
        (
            Operation(
                "POST",
                add_configuration,
                "Configure an environment of a connection.",
                takes=NewConfiguration,
                gives=ConfigurationRow,
                status=201,
                faults=(404, 409, 422),
            ),
        ),
    ),
    PathItem(
        _CONFIGURATION,
        (
            Operation(
                "GET",
                get_configuration,
                "Read how an environment is configured.",
                gives=ConfigurationRow,
                faults=(404,),
            ),
            Operation(
                "PUT",
                replace_configuration,
                "Replace it.",
                takes=Configuration,
                gives=ConfigurationRow,
                faults=(404, 422),
            ),
            Operation(
                "PATCH",
                update_configuration,
                "Change it.",
                takes=Configuration,
                gives=ConfigurationRow,
                faults=(404, 422),
            ),
        ),
    ),
    PathItem(
        f"{_APPLICATIONS}/{{app_id}}/credentials/{{environment}}",
        (Operation("GET", get_credentials, "Whether credentials were entered.", gives=CredentialsState, faults=(404,)),),
    ),
    _credentials("credentials"),
    _credentials("runtime_credentials"),
)
