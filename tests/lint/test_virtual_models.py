"""The lint rules about virtual models: each finds its case, and nothing in a model that is as it should be."""

from __future__ import annotations

from typing import Any

import pytest

from policyctl.lint.directory import check_model
from policyctl.policy.model_schema import read_model
from policyctl.rules.lint import MODEL_RULES

HEAD: dict[str, Any] = {"spec_version": "v1", "kind": "model", "app_id": "creds"}
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "a provider that nothing knows": ({"name": "opnai/x"}, "P481"),
    "a provider that only the server knows": ({"name": "vllm/x"}, "P481"),
    "a setting of another provider": ({"name": "openai/x", "provider_config": {"aws_region": "eu"}}, "P482"),
    "no credentials": ({"name": "openai/x", "app_id": None}, "P483"),
    "one of two that are needed": (
        {"name": "ollama/x", "app_id": None, "provider_config": {"api_key": "ollama"}},
        "P483",
    ),
    "a key that is not sent": ({"name": "openai/x", "owner": "me"}, "P484"),
    "no max_tokens": ({"name": "bedrock/us.anthropic.claude"}, "P485"),
}
RIGHT: list[dict[str, Any]] = [
    {"name": "openai/x"},
    {"name": "azure-ai/x", "provider_config": {"ad_auth": None, "azure_api_version": "1"}},
    {"name": "ollama/x", "app_id": None, "provider_config": {"api_key": "ollama", "custom_host": "http://host:1"}},
    {"name": "watsonx/x", "app_id": None, "provider_config": {"api_key": "gateway", "watsonx_space_id": "1"}},
    {"name": "anthropic/x", "config": {"max_tokens": 10}},
]


def found_in(data: dict[str, Any]) -> list[str]:
    model, findings = read_model({**HEAD, **data}, "x.yaml")
    assert model is not None
    return [one.code for one in (*findings, *check_model(model.document))]


@pytest.mark.parametrize("case", CASES)
def test_each_rule_finds_its_case(case: str) -> None:
    data, code = CASES[case]
    assert found_in(data) == [code]


def test_every_rule_has_a_case() -> None:
    assert {code for _, code in CASES.values()} == {rule.code for rule in MODEL_RULES}


@pytest.mark.parametrize("data", RIGHT)
def test_nothing_is_found_in_a_model_that_is_as_it_should_be(data: dict[str, Any]) -> None:
    assert found_in(data) == []
