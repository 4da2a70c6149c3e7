"""A virtual model's settings: both spellings, the provider, and which values are secret."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.policy.model_schema import read_model
from policyctl.policy.model_settings import (
    SECRETS,
    hidden_in,
    holds_secret,
    is_secret_key,
    masked,
    provider_key,
    secret_texts,
    shown_free,
    with_camel_case,
    with_snake_case,
    without_secrets,
    without_unset_masks,
)

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


@pytest.mark.parametrize("item", [True, False, 1, 0, None, ""])
def test_what_opens_no_door_is_stored_as_it_is_compared(item: Any) -> None:
    """A key may only sound secret. What a page shows of it must be what is there after an apply."""
    config = {"use_auth": item, "parts": [{"token": item}]}
    assert masked({"config": config}) == {"config": config}
    assert without_secrets(config) == config


KEY = "-----BEGIN PRIVATE KEY-----\nQUJD\n-----END PRIVATE KEY-----"
HIDDEN_SHAPES: dict[str, tuple[Any, Any]] = {
    "header with a colon": ("Authorization: Bearer S3cret-1", "Authorization: ***"),
    "header with an equals sign": ("Authorization=Bearer S3cret-1", "Authorization=***"),
    "credentials within a sentence": ("send Bearer S3cret-1 with it", "send Bearer *** with it"),
    "key of a query": ("https://h.example/v1?x=1&api_key=S3cret-1#a", "https://h.example/v1?x=1&api_key=***#a"),
    "signature of a query": ("https://h.example/v1?sv=2&sig=S3cret-1", "https://h.example/v1?sv=2&sig=***"),
    "key that is one in queries only": ("https://h.example/v1?key=S3cret-1", "https://h.example/v1?key=***"),
    "two in one text": ("https://me:S3cret-1@h.example?token=S3cret-1", "https://***@h.example?token=***"),
    "connection string": ("AccountName=a;AccountKey=S3cret-1==;Suffix=b", "AccountName=a;AccountKey=***;Suffix=b"),
    "object in JSON": ('{"region": "x", "api_key": "S3cret-1"}', '{"region": "x", "api_key": "(set)"}'),
    "list in JSON": ('[{"credentials": {"key": "S3cret-1"}}]', '[{"credentials": "(set)"}]'),
    "private key": (f"a\n{KEY.replace('QUJD', 'S3cret-1')}\nb", "a\n***\nb"),
    "private key cut short": ("-----BEGIN RSA PRIVATE KEY-----\nS3cret-1", "***"),
    "credentials": ({"credentials": {"key": "S3cret-1"}}, {"credentials": "(set)"}),
    "name and value": ({"name": "Authorization", "value": "S3cret-1"}, {"name": "Authorization", "value": "(set)"}),
    "key and values": ([{"key": "x-api-key", "values": ["S3cret-1"]}], [{"key": "x-api-key", "values": "(set)"}]),
    "token of another service": ({"hf_token": "S3cret-1", "x-auth": "S3cret-1"}, {"hf_token": "(set)", "x-auth": "(set)"}),
    "key of a provider": ("call it with sk-proj-S3cret-1xyzxyz now", "call it with *** now"),
    "key of a code host": ("ghp_S3cret1xyzxyzxyzxyz", "***"),
    "key of a cloud": ("AKIAIOSFODNN7EXAMPLE", "***"),
    "web token": ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0NTY3ODkwIn0.abc_DEF", "***"),
    "several": ({"api_keys": ["S3cret-1"]}, {"api_keys": "(set)"}),
}


@pytest.mark.parametrize("shape", HIDDEN_SHAPES)
def test_a_secret_of_any_shape_is_hidden_found_and_kept_out_of_files(shape: str) -> None:
    value, shown = HIDDEN_SHAPES[shape]
    assert without_secrets(value) == shown
    assert without_secrets(shown) == shown, "what is hidden stays hidden"
    assert len(list(hidden_in({"a": [value]}, ("config",)))) == 1 or shape.startswith("token")
    data = {"spec_version": "v1", "kind": "model", "name": "openai/x", "config": {"part": value}}
    model, found = read_model(data, "m.yaml")
    assert (model, {one.code for one in found}) == (None, {"P110"})
    assert "S3cret-1" not in str(found)


@pytest.mark.parametrize(
    "mask",
    [
        "https://***@h.example",
        "https://h.example?api_key=***",
        "Authorization: ***",
        "***",
        "***key",
        "a***_west",
        "Bearer ***",
        "call it with *** now",
        '{"api_key": "(set)"}',
        '[{"name": "x", "text": "***"}]',
    ],
)
def test_a_mask_within_a_text_is_refused_in_a_file(mask: str) -> None:
    """An update would write it in place of the secret."""
    assert holds_secret(mask)


@pytest.mark.parametrize(
    "value",
    [
        "-----BEGIN CERTIFICATE-----\nQUJD\n-----END CERTIFICATE-----",
        "https://h.example/v1?api-version=2024-10-21&code_page=1",
        '{"max_tokens": 5, "stop_token": "x"}',
        "Never show the password: it is secret.",
        "a basic assistant of the bearer",
        "**bold** text, and * * *",
        "{not JSON",
        "\n" * 100_000,
        "a=" * 50_000,
        "a " * 50_000,
        "://" * 50_000,
        "Bearer " * 20_000,
        "sk-" * 50_000,
        "sk-learn-a-model-of-this-kind",
        "virtual-model/openai/gpt-4o-2024-08-06",
        "6ba7b810-9dad-11d1-80b4-00c04fd430c8",
        {"eos_token": "</s>", "stop_tokens": ["a"], "needs_auth": True, "name": "temperature", "value": "0.5"},
    ],
)
def test_what_is_not_a_secret_is_shown(value: Any) -> None:
    assert without_secrets(value) == value
    assert list(hidden_in(value, ())) == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("0123456789abcdef0123456789abcdef", "***"),
        ({"a": ["id Zm9vYmFyMTIzYmF6cXV4MTIz/x=="]}, {"a": ["id ***"]}),
        ({"my_key_of_it": "short"}, {"my_key_of_it": "***"}),
        ({"apiKey": "0123456789abcdef0123456789abcdef"}, {"apiKey": "(set)"}),
        ("6ba7b810-9dad-11d1-80b4-00c04fd430c8", None),
        ("https://cluster-7.eu-de.example.com/serving/gpt-4o-2024-08-06", None),
        ("2026-11-28T23:38:44.123456Z", None),
        ("a sentence of 20 words that says supercalifragilisticexpialidocious", None),
    ],
)
def test_of_an_unknown_field_what_looks_as_random_as_a_key_is_not_shown(value: Any, shown: Any) -> None:
    expected = value if shown is None else shown
    assert shown_free(value, unknown=True) == expected
    assert shown_free(expected, unknown=True) == expected
