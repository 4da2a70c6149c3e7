"""The other documents of a tenant: agents, assistants, tools, toolkits, knowledge bases, workspaces and controls.

The server understands none of them. It stores their documents and gives them back, so that commands which read them can be
tried.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from policyctl.errors import NotFound
from policyctl.policy.document import Document
from policyctl.remote.table import DocumentTable
from policyctl.server.service import ApiRequest, ApiResponse, Operation, PathItem, Service, read_json
from policyctl.server.shapes import (
    AgentEnvironment,
    Bindings,
    DocumentRow,
    DocumentUpdate,
    NewDocument,
    NewWorkspace,
    WorkspaceRow,
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
