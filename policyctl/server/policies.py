"""Model policies, virtual models and the tenant's selection of models: their handlers and operations."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from policyctl.errors import Conflict, Moved, NotFound
from policyctl.policy.document import Document, model_names
from policyctl.policy.model_settings import provider_key, with_camel_case, with_snake_case
from policyctl.policy.names import canonical_model, canonical_name
from policyctl.remote import SECRETS_SHOWN
from policyctl.remote.store import QuotaReached
from policyctl.server.api import (
    ApiRequest,
    ApiResponse,
    HttpError,
    ModelEntries,
    ModelQuestion,
    ModelReport,
    ModelRow,
    ModelSelection,
    ModelUpdate,
    NewModel,
    NewPolicy,
    Operation,
    PathItem,
    PolicyRow,
    PolicyUpdate,
    SelectionPatch,
    SelectionSettings,
    Service,
    WarningText,
    decided,
    expected_version,
    read_json,
    with_etag,
)

FILTERS = ("name", "display_name", "id")


def list_policies(service: Service, call: ApiRequest) -> ApiResponse:
    rows = _policy_candidates(service, call.query)
    return ApiResponse(200, [row for row in rows if passes(row, call.query)])


def get_policy(service: Service, call: ApiRequest) -> ApiResponse:
    return with_etag(200, _policy(service, call.path["id"]))


def add_policy(service: Service, call: ApiRequest) -> ApiResponse:
    document = {"description": "", **read_json(NewPolicy, call.body)}
    try:
        return with_etag(201, service.policies.insert(document, service.quota))
    except QuotaReached as error:
        raise _over_quota(error.stored, service.quota) from None


def update_policy(service: Service, call: ApiRequest) -> ApiResponse:
    document = read_json(PolicyUpdate, call.body)
    identifier = call.path["id"]
    return with_etag(200, service.policies.replace(identifier, document, _policy_version(service, call)))


def remove_policy(service: Service, call: ApiRequest) -> ApiResponse:
    service.policies.remove(call.path["id"], _policy_version(service, call))
    return ApiResponse(204)


def passes(row: Document, query: Mapping[str, list[str]]) -> bool:
    """Whether a row passes every filter in the query. The values of one filter are alternatives, and match exactly."""
    return all(row.get(key) in query[key] for key in FILTERS if key in query)


def _policy_version(service: Service, call: ApiRequest) -> str | None:
    return None if call.if_match is None else expected_version(call.if_match, _policy(service, call.path["id"]))


def _policy_candidates(service: Service, query: Mapping[str, list[str]]) -> list[Any]:
    """Rows that may pass: looked up in an index when the query has names or ids."""
    if "name" in query:
        return service.policies.find({canonical_name(name) for name in query["name"]})
    if "id" in query:
        return service.policies.by_id(set(query["id"]))
    return list(service.policies.rows())


def _policy(service: Service, identifier: str) -> Document:
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


_POLICY_PATHS = (
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


# Tags with a meaning for the platform's clients.
DEFAULT, CUSTOM, DENIED = "default", "third party", "wxo-reserved-tag-admin-disallowed"
_SELECTION = "model_selection"
_UNSET: Document = {"default_llm": None, "llm_denylist": [], "premier_models_enabled": False}
_SHOWN_USERS = 10


def list_models(service: Service, call: ApiRequest) -> ApiResponse:
    wanted = call.query.get("name")
    rows = service.models.rows() if wanted is None else service.models.named(set(wanted))
    return ApiResponse(200, [_shown_model(service, row) for row in rows], dict([SECRETS_SHOWN]))


def get_model(service: Service, call: ApiRequest) -> ApiResponse:
    return with_etag(200, _shown_model(service, _model(service, call.path["id"])))


def add_model(service: Service, call: ApiRequest) -> ApiResponse:
    document = _taken_model(service, read_json(NewModel, call.body))
    return with_etag(201, _shown_model(service, service.models.insert(document)))


def update_model(service: Service, call: ApiRequest) -> ApiResponse:
    document = _taken_model(service, read_json(ModelUpdate, call.body))
    row = _model(service, call.path["id"])
    version = expected_version(call.if_match, row)
    if document.get("name", row["name"]) != row["name"]:
        _check_unused(service, row)
    written = service.models.replace(row["id"], document, version, merge=not service.variant.replace_models)
    return with_etag(200, _shown_model(service, written))


def remove_model(service: Service, call: ApiRequest) -> ApiResponse:
    row = _model(service, call.path["id"])
    version = expected_version(call.if_match, row)
    _check_unused(service, row)
    service.models.remove(row["id"], version)
    return ApiResponse(204)


def list_chat_models(service: Service, call: ApiRequest) -> ApiResponse:
    return _model_entries(service, call, embedding=False)


def list_embedding_models(service: Service, call: ApiRequest) -> ApiResponse:
    return _model_entries(service, call, embedding=True)


def validate_model(service: Service, call: ApiRequest) -> ApiResponse:
    """This server calls no model: it answers whether it knows the name, and that it tested nothing."""
    name = read_json(ModelQuestion, call.body)["model"]
    if not service.models.named([name]):
        raise NotFound(f"no model has the name {name}")
    summary = {"total_tests": 0, "passed": 0, "failed": 0, "success_rate": 0, "total_duration_ms": 0}
    return ApiResponse(200, {"overall_status": "skipped", "summary": summary, "tests": []})


def get_selection(service: Service, _: ApiRequest) -> ApiResponse:
    settings = _settings(_selection(service))
    return ApiResponse(200, {"model_selection_settings": settings, "warnings": _warnings(service, settings)})


def replace_selection(service: Service, call: ApiRequest) -> ApiResponse:
    settings = {**_UNSET, **read_json(SelectionSettings, call.body)}
    return decided(lambda: _write_selection(service, settings, _selection(service)))


def update_selection(service: Service, call: ApiRequest) -> ApiResponse:
    patch = read_json(SelectionPatch, call.body)
    added, removed = patch.get("add_to_llm_denylist", []), patch.get("remove_from_llm_denylist", [])
    if both := sorted(set(added) & set(removed)):
        raise HttpError(422, _mistake(f"added to the denylist and removed from it: {', '.join(both)}"))
    kept: Document = {key: value for key, value in patch.items() if key in ("default_llm", "premier_models_enabled")}
    if not (kept or added or removed):
        raise HttpError(422, _mistake(f"at least one of {', '.join(SelectionPatch.model_fields)} must be there"))

    def decide() -> ApiResponse:
        stored = _selection(service)
        settings = {**_settings(stored), **kept}
        denied = [name for name in settings["llm_denylist"] if name not in removed]
        settings["llm_denylist"] = [*denied, *(name for name in dict.fromkeys(added) if name not in denied)]
        return _write_selection(service, settings, stored)

    return decided(decide)


def reset_selection(service: Service, _: ApiRequest) -> ApiResponse:
    for row in _selection(service):
        with suppress(NotFound):  # another one was first
            service.documents("setting").remove(row["id"])
    return ApiResponse(204)


def _model(service: Service, identifier: str) -> Document:
    rows = service.models.by_id([identifier])
    if not rows:
        raise NotFound(f"no model has the id {identifier}")
    row: Document = rows[0]
    return row


def _taken_model(service: Service, document: Document) -> Document:
    """A model as it is stored: in snake_case, where the server answers in camelCase and a client may write that back."""
    if not service.variant.camel_case or "provider_config" not in document:
        return document
    return {**document, "provider_config": with_snake_case(document["provider_config"])}


def _shown_model(service: Service, row: Document) -> Document:
    """A model as it is returned."""
    if not service.variant.camel_case:
        return row
    config = with_camel_case(row.get("provider_config") or {})
    return {**row, "provider_config": {**config, "provider": provider_key(row["name"]) or ""}}


def _check_unused(service: Service, row: Document) -> None:
    """Raise Conflict if a policy targets this model and no other one has its name."""
    if service.variant.allow_dangling or len(service.models.named([row["name"]])) > 1:
        return
    name = canonical_model(row["name"])
    users = [policy["name"] for policy in service.policies.rows() if name in map(canonical_model, model_names(policy))]
    if not users:
        return
    more = f" and {len(users) - _SHOWN_USERS} more" if len(users) > _SHOWN_USERS else ""
    policies = "1 policy targets" if len(users) == 1 else f"{len(users)} policies target"
    shown = ", ".join(users[:_SHOWN_USERS])
    raise Conflict(f"{policies} the model {row['name']}: {shown}{more}; change or remove the policies first")


def _model_entries(service: Service, call: ApiRequest, *, embedding: bool) -> ApiResponse:
    rows = [row for row in service.models.rows() if (row.get("model_type") == "embedding") is embedding]
    wanted = call.query.get("id")
    settings = _settings(_selection(service))
    found = [_model_entry(row, settings) for row in rows if wanted is None or row["name"] in wanted or row["id"] in wanted]
    return ApiResponse(200, {"resources": found})


def _model_entry(row: Document, settings: Document) -> Document:
    """A virtual model's entry in the list of models, where `id` is its name."""
    name = row["name"]
    tags: list[Any] = list(row.get("tags") or [])
    marks = {CUSTOM: True, DEFAULT: name == settings["default_llm"], DENIED: name in settings["llm_denylist"]}
    return {
        "id": name,
        "label": row.get("display_name") or name,
        "type": "ai_gateway",
        "description": row.get("description") or "",
        "tags": [*tags, *(tag for tag, there in marks.items() if there and tag not in tags)],
    }


def _selection(service: Service) -> list[Document]:
    """The row of the settings, as a list: none before they are first written."""
    return service.documents("setting").named([_SELECTION])


def _settings(found: list[Document]) -> Document:
    return {key: found[0].get(key, value) for key, value in _UNSET.items()} if found else dict(_UNSET)


def _write_selection(service: Service, settings: Document, stored: list[Document]) -> ApiResponse:
    """Write the settings over those that are `stored`. IBM's client reads the response as a list of warnings and shows each.

    Raises Conflict if others are stored by then.
    """
    document = {"name": _SELECTION, **{key: settings[key] for key in _UNSET if settings[key] is not None}}
    table = service.documents("setting")
    try:
        if stored:
            table.replace(stored[0]["id"], document, stored[0]["etag"], merge=False)
        else:
            table.insert(document)
    except NotFound:
        raise Moved("the settings were reset meanwhile") from None
    return ApiResponse(200, _warnings(service, settings))


def _warnings(service: Service, settings: Document) -> list[str]:
    default, denied = settings["default_llm"], settings["llm_denylist"]
    named = [*([] if default is None else [default]), *denied]
    known = {row["name"] for row in service.models.named(set(named))}
    unknown = [f"this server does not know the model {name}" for name in dict.fromkeys(named) if name not in known]
    return [*unknown, f"the default model {default} is on the denylist"] if default in denied else unknown


def _mistake(message: str) -> list[Document]:
    return [{"loc": ["body"], "msg": message, "type": "value_error"}]


_WARNED = "the response is a list of warnings."
_ITEM = PathItem(
    "/models/{id}",
    (
        Operation("GET", get_model, "Read one virtual model.", gives=ModelRow, versioned=True, faults=(404,)),
        Operation(
            "PUT",
            update_model,
            "Update a virtual model. Absent keys stay as they are, or are cleared, as the server was started.",
            takes=ModelUpdate,
            gives=ModelRow,
            versioned=True,
            faults=(404, 409, 412, 422),
        ),
        Operation("DELETE", remove_model, "Remove a virtual model.", status=204, versioned=True, faults=(404, 409, 412)),
    ),
)
_SELECTION_ITEM = PathItem(
    "/model-selection",
    (
        Operation("GET", get_selection, "Read the default model and the denylist.", gives=ModelSelection),
        Operation(
            "PUT",
            replace_selection,
            f"Replace them; {_WARNED}",
            takes=SelectionSettings,
            gives=WarningText,
            many=True,
            faults=(422,),
        ),
        Operation(
            "PATCH",
            update_selection,
            f"Change them; {_WARNED}",
            takes=SelectionPatch,
            gives=WarningText,
            many=True,
            faults=(422,),
        ),
        Operation("DELETE", reset_selection, "Reset them.", status=204),
    ),
)
PATHS = (
    *_POLICY_PATHS,
    PathItem(
        "/models/list",
        (
            Operation(
                "GET", list_chat_models, "List chat models; here `id` is the model's name.", gives=ModelEntries, query=("id",)
            ),
        ),
    ),
    PathItem(
        "/models/list/embeddings",
        (Operation("GET", list_embedding_models, "List embedding models.", gives=ModelEntries, query=("id",)),),
    ),
    PathItem(
        "/models/validate",
        (
            Operation(
                "POST",
                validate_model,
                "Try a model. This server calls none: it answers whether it knows the name.",
                takes=ModelQuestion,
                gives=ModelReport,
                faults=(404, 422),
            ),
        ),
    ),
    PathItem(
        "/models",
        (
            Operation("GET", list_models, "List virtual models.", gives=ModelRow, many=True, query=("name",)),
            Operation(
                "POST",
                add_model,
                "Add a virtual model.",
                takes=NewModel,
                gives=ModelRow,
                status=201,
                versioned=True,
                faults=(409, 422),
            ),
        ),
    ),
    _ITEM,
    _SELECTION_ITEM,
)
