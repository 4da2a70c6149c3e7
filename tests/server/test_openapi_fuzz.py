"""Nothing that is sent gets an answer that the OpenAPI description does not name.

Schemathesis makes its requests when this module is collected, which takes as long as collecting most of the others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck
from schemathesis.checks import load_all_checks, not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    ignored_auth,
    negative_data_rejection,
    positive_data_acceptance,
    response_headers_conformance,
    response_schema_conformance,
    status_code_conformance,
    unsupported_method,
)

from policyctl.server.app import description
from tests.server.serving import Served, serving

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
    response_headers_conformance,
    negative_data_rejection,
    positive_data_acceptance,
    unsupported_method,
]
SECRET = "the-secret-of-the-described-server"

# What agents have, the other stored documents have by the same code.
ALIKE = "^/v1(/agents/external-chat|/assistants/watsonx|/tools|/toolkits|/knowledge-bases|/workspaces/|/policies/bindings/)"
# Their rules hold between keys, or for numbers in a query, which the description has as text.
STRICTER = {
    "PATCH /v1/model-selection",
    "GET /v1/connections/applications",
    "GET /v1/connections/applications/runtime_credentials",
}

load_all_checks()
pytest_plugins = ["schemathesis.pytest.plugin"]

open_schema = schemathesis.openapi.from_dict(description(open_to_all=True)).exclude(path_regex=ALIKE)
guarded_schema = schemathesis.openapi.from_dict(description(open_to_all=False)).exclude(path_regex=ALIKE)


def fuzzed(examples: int) -> hypothesis.settings:
    """That many requests an operation, the same ones in every run."""
    checks = list(HealthCheck)
    return hypothesis.settings(
        max_examples=examples, deadline=None, derandomize=True, database=None, suppress_health_check=checks
    )


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A server that needs a token."""
    path = tmp_path_factory.mktemp("guarded") / "guarded.db"
    with serving(path, "--token-from", "env:SERVE_SECRET", environ={"SERVE_SECRET": SECRET}) as running:
        yield running


@open_schema.parametrize()
@fuzzed(6)
def test_an_open_server_gives_only_answers_that_are_described(case: schemathesis.Case[Any], served: Served) -> None:
    # In a form, and in a query, every value is text: a value of a wrong type cannot be recognized, nor need it be rejected.
    form = case.media_type == "application/x-www-form-urlencoded"
    left_out = [negative_data_rejection] * form + [positive_data_acceptance] * (case.operation.label in STRICTER)
    case.call_and_validate(base_url=served.url, checks=[check for check in CHECKS if check not in left_out])


@guarded_schema.parametrize()
@fuzzed(4)
def test_a_guarded_server_gives_only_answers_that_are_described(case: schemathesis.Case[Any], guarded: Served) -> None:
    """And only a 401 without a token. (What must be rejected is seen above: here the test adds the header itself.)"""
    left_out = [negative_data_rejection, *([positive_data_acceptance] * (case.operation.label in STRICTER))]
    checks = [check for check in CHECKS if check not in left_out]
    headers = {"Authorization": f"Bearer {SECRET}"}
    case.call_and_validate(base_url=guarded.url, headers=headers, checks=[*checks, ignored_auth])
