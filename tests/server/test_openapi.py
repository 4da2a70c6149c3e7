"""The OpenAPI description: it is valid and complete. What requests get is held against it in test_openapi_fuzz.py."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from jsonschema import Draft202012Validator

from policyctl.server.api import PathItem
from policyctl.server.app import HEALTH, LOGINS, RESOURCES, description
from tests.server.serving import Inside

GARBAGE = {
    "nothing": b"",
    "half of it": b'{"name":',
    "bytes": bytes(range(256)),
    "null": b"null",
    "a list": b"[]",
    "text": b'"name"',
    "infinity": b'{"name": 1e999, "apikey": 1e999, "model": 1e999, "username": 1e999}',
    "half a surrogate": b'{"name": "\\ud800"}',
    "too deep": b"[" * 100_000,
    "too many digits": b'{"name": %s}' % (b"9" * 5_000),
    "another encoding": '{"name": "x"}'.encode("utf-16"),
}


@pytest.mark.parametrize("case", GARBAGE)
@pytest.mark.alike
def test_what_is_not_a_body_at_all_is_a_422_everywhere(client: httpx.Client, case: str) -> None:
    """Schemathesis sends JSON of the wrong shape; this is not even that."""
    for place in (*(PathItem(f"/v1{place.path}", place.operations) for place in RESOURCES), *LOGINS):
        for operation in place.operations:
            if operation.takes is not None:
                kind = "application/x-www-form-urlencoded" if operation.form else "application/json"
                path, headers = place.path.replace("{id}", "x"), {"Content-Type": kind}
                status = client.request(operation.method, path, content=GARBAGE[case], headers=headers).status_code
                assert status == (413 if operation.public and len(GARBAGE[case]) > 16_384 else 422), (place.path, status)


def test_the_description_is_served_as_it_is(client: httpx.Client) -> None:
    assert client.get("/openapi.json").json() == description(open_to_all=True)


def test_the_description_names_every_operation() -> None:
    """A route that is not described, or a description without a route, would show here."""
    routed = {(f"/v1{place.path}", method.lower()) for place in RESOURCES for method in place.by_method}
    routed |= {(place.path, method.lower()) for place in (*LOGINS, *HEALTH) for method in place.by_method}
    described = {(path, method) for path, methods in description(open_to_all=True)["paths"].items() for method in methods}
    assert described == routed


def test_every_schema_is_a_valid_json_schema_and_every_reference_leads_somewhere() -> None:
    document = description(open_to_all=True)
    for shape in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(shape)
    for reference in _references(document):
        found: Any = document
        for part in reference.removeprefix("#/").split("/"):
            found = found[part]


def test_operation_ids_are_unique() -> None:
    ids = [
        operation["operationId"]
        for methods in description(open_to_all=True)["paths"].values()
        for operation in methods.values()
    ]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_answers_of_a_filled_store_are_of_the_described_shape(server: Inside, method: str) -> None:
    """Schemathesis checks what it happens to make; this is a policy and a model with everything in it."""
    policy = {
        "name": "a",
        "display_name": "A",
        "description": "",
        "policy": {
            "strategy": {"mode": "loadbalance", "on_status_codes": [503]},
            "retry": {"attempts": 1, "on_status_codes": [503]},
            "cache": {"mode": "simple"},
            "targets": [{"model_name": "m", "weight": 0.5}, {"strategy": {"mode": "single"}, "weight": 1, "targets": []}],
        },
    }
    added = {
        "/v1/model_policy": server.client.post("/v1/model_policy", json=policy),
        "/v1/models": server.client.post("/v1/models", json={"name": "m", "tags": ["x"]}),
    }
    for path, answer in added.items():
        answer = answer if method == "POST" else server.client.get(path)
        responses = description(open_to_all=True)["paths"][path][method.lower()]["responses"]
        shape = responses[str(answer.status_code)]["content"]["application/json"]["schema"]
        validator = Draft202012Validator({**shape, "components": description(open_to_all=True)["components"]})
        assert list(validator.iter_errors(answer.json())) == []


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [found for item in value.values() for found in _references(item)]
    return [found for item in value for found in _references(item)] if isinstance(value, list) else []
