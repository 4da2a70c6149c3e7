"""The handlers of /model_policy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from policyctl.errors import Moved, NotFound
from policyctl.model.names import canonical_name
from policyctl.model.normal import Document
from policyctl.server.bodies import read_json
from policyctl.server.exchange import Answer, Call, Failure, Service
from policyctl.server.shapes import NewPolicy, PolicyUpdate

FILTERS = ("name", "display_name", "id")


def list_policies(service: Service, call: Call) -> Answer:
    rows = _candidates(service, call.query)
    return Answer(200, [row for row in rows if passes(row, call.query)])


def get_policy(service: Service, call: Call) -> Answer:
    return _with_etag(200, _row(service, call.path["id"]))


def add_policy(service: Service, call: Call) -> Answer:
    document = {"description": "", **read_json(NewPolicy, call.body)}
    with service.adding:
        _check_quota(service)
        return _with_etag(201, service.policies.insert(document))


def update_policy(service: Service, call: Call) -> Answer:
    document = read_json(PolicyUpdate, call.body)
    identifier = call.path["id"]
    return _with_etag(200, service.policies.replace(identifier, document, _version(service, call)))


def remove_policy(service: Service, call: Call) -> Answer:
    service.policies.remove(call.path["id"], _version(service, call))
    return Answer(204)


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


def _version(service: Service, call: Call) -> str | None:
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
    raise Failure(429, detail)


def _with_etag(status: int, row: Document) -> Answer:
    return Answer(status, row, {"ETag": f'"{row["etag"]}"'})
