"""The handlers of /models: virtual models, and the list that IBM's CLI checks targets against."""

from __future__ import annotations

from typing import Any

from policyctl.errors import NotFound
from policyctl.model.normal import Document
from policyctl.server.bodies import read_json
from policyctl.server.exchange import Answer, Call, Service
from policyctl.server.shapes import ModelQuestion, ModelUpdate, NewModel

CUSTOM = "third party"  # the tag of a virtual model, in IBM's words


def list_all_models(service: Service, call: Call) -> Answer:
    entries = [entry(row) for row in service.models.rows()]
    wanted = call.query.get("id")
    return Answer(200, {"resources": [found for found in entries if wanted is None or found["id"] in wanted]})


def list_models(service: Service, call: Call) -> Answer:
    wanted = call.query.get("name")
    return Answer(200, [row for row in service.models.rows() if wanted is None or row["name"] in wanted])


def get_model(service: Service, call: Call) -> Answer:
    return Answer(200, _row(service, call.path["id"]))


def add_model(service: Service, call: Call) -> Answer:
    return Answer(201, service.models.insert(read_json(NewModel, call.body)))


def update_model(service: Service, call: Call) -> Answer:
    return Answer(200, service.models.replace(call.path["id"], read_json(ModelUpdate, call.body)))


def remove_model(service: Service, call: Call) -> Answer:
    service.models.remove(call.path["id"])
    return Answer(204)


def validate_model(service: Service, call: Call) -> Answer:
    """This server has no models to call: it says whether it knows the name, and that nothing was tested."""
    name = read_json(ModelQuestion, call.body)["model"]
    if all(row["name"] != name for row in service.models.rows()):
        raise NotFound(f"there is no model {name}")
    summary = {"total_tests": 0, "passed": 0, "failed": 0, "total_duration_ms": 0}
    return Answer(200, {"model": name, "overall_status": "skipped", "summary": summary, "tests": []})


def list_nothing(service: Service, call: Call) -> Answer:  # noqa: ARG001 - every handler takes the same
    """The list of knowledge bases, which IBM's CLI asks for to see whether a login works."""
    return Answer(200, [])


def entry(row: Document) -> Document:
    """A virtual model's entry in the list of all models, where `id` is its name."""
    tags: list[Any] = row.get("tags") or []
    return {
        "id": row["name"],
        "description": row.get("description") or "",
        "tags": tags if CUSTOM in tags else [*tags, CUSTOM],
    }


def _row(service: Service, identifier: str) -> Document:
    for row in service.models.rows():
        if row["id"] == identifier:
            found: Document = row
            return found
    raise NotFound(f"there is no model with the id {identifier}")
