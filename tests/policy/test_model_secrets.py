"""A virtual model's settings: both spellings, the provider, and which values are secret."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.policy.model_secrets import is_secret_key, masked, secret_texts, without_unset_masks
from policyctl.policy.model_settings import SECRETS, provider_key, with_camel_case, with_snake_case

SPELLINGS = {
    "api_key": "api_key",
    "api_base": "apiBase",
    "custom_host": "customHost",
    "url_to_fetch": "urlToFetch",
    "transform_to_form_data": "transformToFormData",
    "azure_resource_name": "resourceName",
    "azure_deployment_id": "deploymentId",
    "azure_api_version": "apiVersion",
    "azure_model_name": "azureModelName",
    "azure_inference_api_version": "azureApiVersion",
    "azure_inference_deployment_name": "azureDeploymentName",
    "azure_inference_extra_params": "azureExtraParams",
    "azure_inference_foundry_url": "azureFoundryUrl",
    "aws_s3_object_key": "awsS3ObjectKey",
    "aws_server_side_encryption": "awsServerSideEncryption",
    "aws_server_side_encryption_kms_key_id": "awsServerSideEncryptionKMSKeyId",
    "strict_open_ai_compliance": "strictOpenAiCompliance",
    "watsonx_cpd_url": "watsonxCpdUrl",
    "filename": "filename",
    "version_2": "version_2",
}
SECRET = (
    "api_key",
    "azure_entra_client_secret",
    "azure_ad_token",
    "ad_auth",
    "aws_secret_access_key",
    "aws_access_key_id",
    "aws_session_token",
    "vertex_service_account_json",
    "watsonx_cpd_password",
    "password",
    "client_secret",
    "token",
    "private_key",
    "secretKey",
    "x-api-token",
    "refresh_token",
    "id_token",
    "Ocp-Apim-Subscription-Key",
    "x-functions-key",
    "passphrase",
    "Set-Cookie",
)
NOT_SECRET = (
    "max_tokens",
    "stop_token",
    "custom_host",
    "server_cert",
    "aws_region",
    "aws_s3_object_key",
    "aws_server_side_encryption_kms_key_id",
    "azure_entra_client_id",
    "watsonx_cpd_username",
    "forward_headers",
    "model_name",
)

plain = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("***"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*SECRET, *NOT_SECRET]), inner, max_size=3),
    max_leaves=10,
)


@pytest.mark.parametrize("snake", SPELLINGS)
def test_a_key_has_two_spellings(snake: str) -> None:
    assert with_camel_case({snake: 1}) == {SPELLINGS[snake]: 1}
    assert with_snake_case({SPELLINGS[snake]: 1}) == {snake: 1}
    assert (
        with_snake_case({SPELLINGS[snake]: 1, snake: 2}) == with_snake_case({snake: 2, SPELLINGS[snake]: 1})
        or snake == SPELLINGS[snake]
    )


@pytest.mark.parametrize(
    ("name", "provider"),
    [
        ("virtual-model/openai/gpt-4o", "openai"),
        ("openai/gpt-4o", "openai"),
        ("virtual-model/virtual-policy/x-ai/y", "x-ai"),
        ("virtual-model", None),
        ("", None),
    ],
)
def test_the_provider_is_in_the_name(name: str, provider: str | None) -> None:
    assert provider_key(name) == provider


@pytest.mark.parametrize("key", SECRET)
def test_secret_keys_are_known_in_both_spellings(key: str) -> None:
    assert [is_secret_key(spelling) for spelling in (key, *with_camel_case({key: 1}), key.upper(), key.replace("_", "-"))] == [
        True
    ] * 4


@pytest.mark.parametrize("key", NOT_SECRET)
def test_other_keys_are_not_secret(key: str) -> None:
    assert [is_secret_key(spelling) for spelling in (key, *with_camel_case({key: 1}))] == [False] * 2


def test_every_secret_of_the_table_is_one_by_its_name() -> None:
    assert all(map(is_secret_key, SECRETS))


def test_every_text_that_is_hidden_is_found() -> None:
    document = {
        "config": {"token": "one"},
        "provider_config": {"apiKey": "two", "vertex_service_account_json": {"a": ["three"]}, "hooks": [{"secret": "***"}]},
        "custom_host": "https://four:five@example.invalid",
    }
    assert list(secret_texts(document)) == ["one", "two", "three", "four:five", "five"]


@given(plain)
def test_masking_twice_is_masking_once(value: Any) -> None:
    once = masked(value)
    assert masked(once) == once


@given(plain)
def test_what_is_read_and_written_back_is_the_same(value: Any) -> None:
    """Whatever is stored, a client that sends it back unchanged changes nothing."""
    stored = masked(without_unset_masks(value, {}))
    assert masked(without_unset_masks(stored, stored)) == stored


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://user:pw@example.invalid/v1", "https://***@example.invalid/v1"),
        ("https://token@example.invalid", "https://***@example.invalid"),
        ("https://example.invalid/a@b", "https://example.invalid/a@b"),
        ("https://example.invalid?q=a@b", "https://example.invalid?q=a@b"),
        ("mail to a@b", "mail to a@b"),
    ],
)
def test_a_user_and_password_in_a_url_are_masked(url: str, shown: str) -> None:
    assert masked({"custom_host": [url]}) == {"custom_host": [shown]}
