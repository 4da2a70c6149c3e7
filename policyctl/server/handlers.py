"""The handlers of policies and models."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from pydantic import ValidationError
from pydantic_core import from_json

from policyctl.errors import Moved, NotFound
from policyctl.policy.document import Document, without_nulls
from policyctl.policy.names import canonical_name
from policyctl.server.service import ApiRequest, ApiResponse, HttpError, Service
from policyctl.server.shapes import ModelQuestion, ModelUpdate, NewModel, NewPolicy, PolicyUpdate, Shape


def read_json(shape: type[Shape], body: bytes) -> Document:
    """The document of a JSON body. Raises Failure (422, one entry a mistake) when it is not of that shape."""
    try:
        data = from_json(body, allow_inf_nan=False)
        json.dumps(data, allow_nan=False)  # 1e999 is read as infinity, which JSON cannot say
    except ValueError as error:
        raise _invalid([{"loc": ["body"], "msg": f"not JSON: {error}", "type": "json_invalid"}]) from None
    return _checked(shape, data)


def read_form(shape: type[Shape], body: bytes) -> Document:
    """The same of a form-encoded body. A key that is there twice is a list, which no shape takes for text."""
    try:
        text = body.decode("ascii")
        values = parse_qs(text, keep_blank_values=True, max_num_fields=100, errors="strict")
    except ValueError:
        raise _invalid([{"loc": ["body"], "msg": "not an encoded form", "type": "form_invalid"}]) from None
    return _checked(shape, {key: found[0] if len(found) == 1 else found for key, found in values.items()})


def _checked(shape: type[Shape], data: Any) -> Document:
    try:
        shape.model_validate(data)
    except ValidationError as error:
        mistakes = error.errors(include_url=False, include_context=False, include_input=False)
        raise _invalid([{**mistake, "loc": ["body", *mistake["loc"]]} for mistake in mistakes]) from None
    document: Document = without_nulls(data)
    return document


def _invalid(mistakes: list[dict[str, Any]]) -> HttpError:
    return HttpError(422, mistakes)


FILTERS = ("name", "display_name", "id")


def list_policies(service: Service, call: ApiRequest) -> ApiResponse:
    rows = _candidates(service, call.query)
    return ApiResponse(200, [row for row in rows if passes(row, call.query)])


def get_policy(service: Service, call: ApiRequest) -> ApiResponse:
    return _with_etag(200, _row(service, call.path["id"]))


def add_policy(service: Service, call: ApiRequest) -> ApiResponse:
    document = {"description": "", **read_json(NewPolicy, call.body)}
    with service.adding:
        _check_quota(service)
        return _with_etag(201, service.policies.insert(document))


def update_policy(service: Service, call: ApiRequest) -> ApiResponse:
    document = read_json(PolicyUpdate, call.body)
    identifier = call.path["id"]
    return _with_etag(200, service.policies.replace(identifier, document, _version(service, call)))


def remove_policy(service: Service, call: ApiRequest) -> ApiResponse:
    service.policies.remove(call.path["id"], _version(service, call))
    return ApiResponse(204)


def passes(row: Document, query: Mapping[str, list[str]]) -> bool:
    """Whether a row passes every filter that the query has; one filter's values are alternatives, and match exactly."""
    return all(row.get(key) in query[key] for key in FILTERS if key in query)


def expected_version(if_match: str | None, row: Document) -> str | None:
    """The version that a write may overwrite, or None for any: what If-Match (RFC 9110, 13.1.1) means for the row as it is.

    Raises Moved when the row is none of the versions named. Quotation marks may be left out; a weak tag never matches.
    """
    if if_match is None or if_match.strip() == "*":
        return None
    tags = {tag.strip().removeprefix('"').removesuffix('"') for tag in if_match.split(",")}
    if row["etag"] not in tags:
        raise Moved(f"the policy {row['name']} is not the version that If-Match names")
    return str(row["etag"])


def _version(service: Service, call: ApiRequest) -> str | None:
    return None if call.if_match is None else expected_version(call.if_match, _row(service, call.path["id"]))


def _candidates(service: Service, query: Mapping[str, list[str]]) -> list[Any]:
    """Rows among which are all that pass: by the index where the query names names or ids."""
    if "name" in query:
        return service.policies.find({canonical_name(name) for name in query["name"]})
    if "id" in query:
        return service.policies.by_id(set(query["id"]))
    return service.policies.rows()


def _row(service: Service, identifier: str) -> Document:
    rows = service.policies.by_id([identifier])
    if not rows:
        raise NotFound(f"there is no policy with the id {identifier}")
    row: Document = rows[0]
    return row


def _check_quota(service: Service) -> None:
    if service.quota is None or (current := service.policies.count()) < service.quota:
        return
    detail = {
        "code": "RESOURCE_QUOTA_EXCEEDED",
        "message": f"this server keeps at most {service.quota} policies; remove one, or raise the quota",
        "resource": "model_policy",
        "current": current,
        "requested": 1,
        "limit": service.quota,
    }
    raise HttpError(429, detail)


def _with_etag(status: int, row: Document) -> ApiResponse:
    return ApiResponse(status, row, {"ETag": f'"{row["etag"]}"'})


CUSTOM = "third party"  # the tag of a virtual model, in IBM's words


def list_all_models(service: Service, call: ApiRequest) -> ApiResponse:
    entries = [entry(row) for row in service.models.rows()]
    wanted = call.query.get("id")
    return ApiResponse(200, {"resources": [found for found in entries if wanted is None or found["id"] in wanted]})


def list_models(service: Service, call: ApiRequest) -> ApiResponse:
    wanted = call.query.get("name")
    return ApiResponse(200, [row for row in service.models.rows() if wanted is None or row["name"] in wanted])


def get_model(service: Service, call: ApiRequest) -> ApiResponse:
    return ApiResponse(200, _model_row(service, call.path["id"]))


def add_model(service: Service, call: ApiRequest) -> ApiResponse:
    return ApiResponse(201, service.models.insert(read_json(NewModel, call.body)))


def update_model(service: Service, call: ApiRequest) -> ApiResponse:
    return ApiResponse(200, service.models.replace(call.path["id"], read_json(ModelUpdate, call.body)))


def remove_model(service: Service, call: ApiRequest) -> ApiResponse:
    service.models.remove(call.path["id"])
    return ApiResponse(204)


def validate_model(service: Service, call: ApiRequest) -> ApiResponse:
    """This server has no models to call: it says whether it knows the name, and that nothing was tested."""
    name = read_json(ModelQuestion, call.body)["model"]
    if all(row["name"] != name for row in service.models.rows()):
        raise NotFound(f"there is no model {name}")
    summary = {"total_tests": 0, "passed": 0, "failed": 0, "total_duration_ms": 0}
    return ApiResponse(200, {"model": name, "overall_status": "skipped", "summary": summary, "tests": []})


def list_nothing(service: Service, call: ApiRequest) -> ApiResponse:  # noqa: ARG001 - every handler takes the same
    """The list of knowledge bases, which IBM's CLI asks for to see whether a login works."""
    return ApiResponse(200, [])


def entry(row: Document) -> Document:
    """A virtual model's entry in the list of all models, where `id` is its name."""
    tags: list[Any] = row.get("tags") or []
    return {
        "id": row["name"],
        "description": row.get("description") or "",
        "tags": tags if CUSTOM in tags else [*tags, CUSTOM],
    }


def _model_row(service: Service, identifier: str) -> Document:
    for row in service.models.rows():
        if row["id"] == identifier:
            found: Document = row
            return found
    raise NotFound(f"there is no model with the id {identifier}")


def healthz(service: Service, call: ApiRequest) -> ApiResponse:  # noqa: ARG001 - every handler takes the same
    """Healthy is who can read its store; when it cannot, the error that this raises becomes a 503."""
    service.policies.count()
    return ApiResponse(200, {"status": "ok"})
