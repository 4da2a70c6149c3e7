"""What a tenant has beside policies and models: connections; agents, assistants, tools, toolkits, knowledge bases, workspaces
and controls.

Of connections there are the metadata, and that credentials were entered. Credentials themselves are never stored. IBM's client
expects connections below `/api/v1/orchestrate` on port 3001 of a Developer Edition, and on every other deployment below the
same prefix as everything else.

The server understands none of the other documents. It stores them and gives them back, so that commands which read them can be
tried.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from policyctl.errors import NotFound
from policyctl.policy.document import Document
from policyctl.policy.model_settings import masked
from policyctl.remote.store import DocumentTable
from policyctl.server.api import (
    AgentEnvironment,
    ApiRequest,
    ApiResponse,
    Bindings,
    Configuration,
    ConfigurationRow,
    ConnectionRow,
    ConnectionsReply,
    CredentialsState,
    DocumentRow,
    DocumentUpdate,
    EnteredCredentials,
    HttpError,
    NewConfiguration,
    NewConnection,
    NewDocument,
    NewWorkspace,
    Operation,
    PathItem,
    Service,
    WorkspaceRow,
    decided,
    read_json,
)
from policyctl.server.login import TENANT

ENVIRONMENTS = ("draft", "live")
CONNECTIONS_ON_A_PAGE = 50
_DEFAULTS: Document = {
    "preference": "team",
    "security_scheme": None,
    "auth_type": None,
    "sso": False,
    "server_url": None,
}


def list_connections(service: Service, call: ApiRequest) -> ApiResponse:
    """One connection for `app_id` or `connection_id`; otherwise a page of rows, one for each environment of each connection."""
    table = _connections(service)
    if "app_id" in call.query:
        return ApiResponse(200, _connection_row(_connection(table, call.query["app_id"][0])))
    if "connection_id" in call.query:
        found = table.by_id(call.query["connection_id"][:1])
        if not found:
            raise NotFound(f"no connection has the id {call.query['connection_id'][0]}")
        return ApiResponse(200, _connection_row(found[0]))
    wanted = {identifier for value in call.query.get("connectionIds", ()) for identifier in value.split(",")}
    rows = [row for connection in table.rows() if not wanted or connection["id"] in wanted for row in _details(connection)]
    page, limit = _number(call, "page", 1), _number(call, "limit", CONNECTIONS_ON_A_PAGE)
    shown = rows[(page - 1) * limit : page * limit]
    envelope = {"tenant_id": TENANT["id"], "page": page, "limit": limit, "total": len(rows), "applications": shown}
    return ApiResponse(200, envelope)


def add_connection(service: Service, call: ApiRequest) -> ApiResponse:
    document = read_json(NewConnection, call.body)
    kept = {"name": document["app_id"], "id": document.get("connection_id"), "resource": document.get("resource", {})}
    return ApiResponse(201, _connection_row(_connections(service).insert(kept)))


def remove_connection(service: Service, call: ApiRequest) -> ApiResponse:
    table = _connections(service)
    table.remove(_connection(table, call.path["app_id"])["id"])
    return ApiResponse(204)


def get_configuration(service: Service, call: ApiRequest) -> ApiResponse:
    connection, environment = _connection(_connections(service), call.path["app_id"]), call.path["environment"]
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
    connection = _connection(_connections(service), app_id)
    if kind not in connection.get("credentials", {}).get(environment, ()):
        raise NotFound(f"the connection {app_id} has no {kind.replace('_', ' ')} for {environment}")
    return ApiResponse(200, {"app_id": app_id, "environment": environment, "credentials_entered": True})


def enter_credentials(service: Service, call: ApiRequest, kind: str) -> ApiResponse:
    read_json(EnteredCredentials, call.body)
    return _note_credentials(service, call, kind, there=True)


def remove_credentials(service: Service, call: ApiRequest, kind: str) -> ApiResponse:
    return _note_credentials(service, call, kind, there=False)


def _connections(service: Service) -> DocumentTable:
    return service.documents("connection")


def _connection(table: DocumentTable, app_id: str) -> Document:
    found: list[Document] = table.named([app_id])
    if not found:
        raise NotFound(f"no connection has the app id {app_id}")
    return found[0]


def _connection_row(connection: Document) -> Document:
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
        table = _connections(service)
        connection = _connection(table, call.path["app_id"])
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
        table = _connections(service)
        connection = _connection(table, app_id)
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


_CONNECTION_PATHS = (
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


GLOBAL_WORKSPACE = {
    "workspace_id": "00000000-0000-0000-0000-000000000001",
    "name": "Global workspace",
}
_FILTERS = ("names", "ids", "workspace_id", "include", "include_hidden")
_BINDING_FILTERS = ("ids", "artifact_ids", "agent_ids", "tool_ids", "model_ids")


@dataclass(frozen=True, slots=True)
class Collection:
    """One kind of document: its table, its path, and what a document is called in messages.

    IBM's client takes a 404 for an error unless its text has certain words, among them the label.
    """

    kind: str
    path: str
    label: str

    def list(self, service: Service, call: ApiRequest) -> ApiResponse:
        return ApiResponse(200, [row for row in self._table(service).rows() if _passes(row, call.query)])

    def add(self, service: Service, call: ApiRequest) -> ApiResponse:
        document = read_json(NewDocument, call.body, nulls=True)
        if self.kind != "agent":
            return ApiResponse(201, self._table(service).insert(document))
        # As a live tenant does: every agent has a draft environment, and IBM's client shows the warning of a response.
        document = {"environments": [{"id": str(uuid.uuid4()), "name": "draft"}], **document}
        return ApiResponse(201, {**self._table(service).insert(document), "warning": None})

    def get(self, service: Service, call: ApiRequest) -> ApiResponse:
        return ApiResponse(200, self._row(service, call))

    def update(self, service: Service, call: ApiRequest) -> ApiResponse:
        return self._write(service, call, merge=True)

    def replace(self, service: Service, call: ApiRequest) -> ApiResponse:
        return self._write(service, call, merge=False)

    def remove(self, service: Service, call: ApiRequest) -> ApiResponse:
        self._table(service).remove(self._row(service, call)["id"])
        return ApiResponse(204)

    def environments(self, service: Service, call: ApiRequest) -> ApiResponse:
        found = self._row(service, call).get("environments")
        return ApiResponse(200, found if isinstance(found, list) else [])

    def _table(self, service: Service) -> DocumentTable:
        return service.documents(self.kind)

    def _row(self, service: Service, call: ApiRequest) -> Document:
        found: list[Document] = self._table(service).by_id([call.path["id"]])
        if not found:
            raise NotFound(f"{self.label} not found with the given name or id {call.path['id']}")
        return found[0]

    def _write(self, service: Service, call: ApiRequest, *, merge: bool) -> ApiResponse:
        document = read_json(DocumentUpdate, call.body, nulls=True)
        row = self._row(service, call)
        if document.get("name") is None:
            document["name"] = row["name"]
        return ApiResponse(200, self._table(service).replace(row["id"], document, merge=merge))


AGENTS = Collection("agent", "/agents", "Agent")
WORKSPACES = Collection("workspace", "/workspaces", "Workspace")
BINDINGS = Collection("binding", "/policies/bindings", "Control")
# In this order: a path that is a part of another one's must not be read as an id of it.
COLLECTIONS = (
    Collection("external_agent", "/agents/external-chat", "Agent"),
    AGENTS,
    Collection("assistant", "/assistants/watsonx", "Assistant"),
    Collection("tool", "/tools", "Tool"),
    Collection("toolkit", "/toolkits", "Toolkit"),
    Collection("knowledge_base", "/knowledge-bases", "Knowledge base"),
)


def list_workspaces(service: Service, _: ApiRequest) -> ApiResponse:
    rows = [{**row, "workspace_id": row["id"]} for row in service.documents(WORKSPACES.kind).rows()]
    there = any(row["workspace_id"] == GLOBAL_WORKSPACE["workspace_id"] for row in rows)
    return ApiResponse(200, rows if there else [GLOBAL_WORKSPACE, *rows])


def add_workspace(service: Service, call: ApiRequest) -> ApiResponse:
    document = read_json(NewWorkspace, call.body, nulls=True)
    row = service.documents(WORKSPACES.kind).insert({**document, "id": document.get("workspace_id") or document.get("id")})
    return ApiResponse(201, {**row, "workspace_id": row["id"]})


def list_bindings(service: Service, call: ApiRequest) -> ApiResponse:
    """Controls, by the first filter that the query has; its values are separated by commas."""
    rows: list[Any] = service.documents(BINDINGS.kind).rows()
    by = next((key for key in _BINDING_FILTERS if key in call.query), None)
    if by is not None:
        wanted = {name for value in call.query[by] for name in value.split(",")}
        rows = [row for row in rows if wanted & _values(row, by)]
    return ApiResponse(200, {"bindings": rows, "total": len(rows)})


def _values(row: Document, by: str) -> set[str]:
    """The values of a control that a filter is compared with."""
    if by.removesuffix("s") in ("id", "artifact_id"):
        return {str(row.get(by.removesuffix("s")))}
    values = row.get(by)
    return set(map(str, values)) if isinstance(values, list) else set()


def _passes(row: Document, query: Mapping[str, list[str]]) -> bool:
    """Whether a list shows a row: one of the names or ids that it asks for, and of the workspace.

    Without `workspace_id` that is the global one; with `include=global` it is that one too. Hidden rows have to be asked for.
    """
    if any(row.get(key) not in query[f"{key}s"] for key in ("name", "id") if f"{key}s" in query):
        return False
    if row.get("hidden") is True and query.get("include_hidden") != ["true"]:
        return False
    everywhere = GLOBAL_WORKSPACE["workspace_id"]
    shown = {*query.get("workspace_id", [everywhere]), *([everywhere] if "global" in query.get("include", ()) else [])}
    return str(row.get("workspace_id") or everywhere) in shown


def _item(collection: Collection, what: str) -> PathItem:
    return PathItem(
        f"{collection.path}/{{id}}",
        (
            Operation("GET", collection.get, f"Read one of {what}.", gives=DocumentRow, faults=(404,)),
            Operation("PUT", collection.replace, "Replace it.", takes=DocumentUpdate, gives=DocumentRow, faults=(404, 422)),
            Operation("PATCH", collection.update, "Change it.", takes=DocumentUpdate, gives=DocumentRow, faults=(404, 422)),
            Operation("DELETE", collection.remove, "Remove it.", status=204, faults=(404,)),
        ),
    )


def _paths(collection: Collection) -> tuple[PathItem, ...]:
    what = f"the tenant's {collection.kind.replace('_', ' ')}s"
    listing = PathItem(
        collection.path,
        (
            Operation("GET", collection.list, f"List {what}.", gives=DocumentRow, many=True, query=_FILTERS),
            Operation("POST", collection.add, "Add one.", takes=NewDocument, gives=DocumentRow, status=201, faults=(409, 422)),
        ),
    )
    return listing, _item(collection, what)


PATHS = (
    *_CONNECTION_PATHS,
    PathItem(
        "/agents/{id}/environment",
        (Operation("GET", AGENTS.environments, "List its environments.", gives=AgentEnvironment, many=True, faults=(404,)),),
    ),
    *(item for collection in COLLECTIONS for item in _paths(collection)),
    PathItem(
        "/workspaces",
        (
            Operation("GET", list_workspaces, "List workspaces.", gives=WorkspaceRow, many=True, query=("show_all",)),
            Operation("POST", add_workspace, "Add one.", takes=NewWorkspace, gives=WorkspaceRow, status=201, faults=(409, 422)),
        ),
    ),
    _item(WORKSPACES, "the tenant's workspaces"),
    PathItem(
        "/policies/bindings",
        (
            Operation("GET", list_bindings, "List controls.", gives=Bindings, query=("sort", *_BINDING_FILTERS)),
            Operation("POST", BINDINGS.add, "Add one.", takes=NewDocument, gives=DocumentRow, status=201, faults=(409, 422)),
        ),
    ),
    _item(BINDINGS, "the tenant's controls"),
)
