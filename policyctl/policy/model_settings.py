"""The settings of a virtual model's provider: every key, its type, which provider uses it, and other spellings.

The table is that of IBM's ADK 2.19 (see the manual, virtual-models). Files may write a key in snake_case or by its camelCase
alias; a live tenant takes snake_case and answers in camelCase, with the derived `provider` added. Aliases are not always the
mechanical camelCase, and three of them stand for two keys each.
"""

from __future__ import annotations

import re
from typing import Any, Literal, NamedTuple

from policyctl.policy.document import Document
from policyctl.policy.memo import late_pattern
from policyctl.policy.model_secrets import SET, is_secret_key, without_secrets
from policyctl.policy.names import provider_of

Type = Literal["text", "number", "switch", "texts", "mapping", "mappings"]


class Setting(NamedTuple):
    """One key of `provider_config`: the type of its value, and the providers that use it (none: any, or no known one)."""

    type: Type = "text"
    providers: tuple[str, ...] = ()
    is_secret: bool = False


PROVIDERS = tuple(
    "openai openai-oauth2-client-creds a21 anthropic anyscale azure-openai azure-ai bedrock cerebras cohere google vertex-ai "
    "groq huggingface mistral-ai jina ollama openrouter stability-ai together-ai watsonx x-ai redhat-ai".split()
)
# Documented by the platform's server and refused by its own CLI.
SERVER_PROVIDERS = frozenset(
    "ai21 deepseek deepinfra fireworks-ai github ibm_bam lingyi mistralai monsterapi moonshot nomic novita-ai palm "
    "perplexity-ai predibase product_rag reka-ai segmind siliconflow specialized_routing_model vllm voyage workers-ai zhipu "
    "deepbricks".split()
)
PLACEHOLDERS = ("gateway", "ollama", "dummy")  # keys that open nothing; the platform's documentation asks for them

_AZURE = ("azure-openai", "azure-ai")
_AZURE_AI, _BEDROCK, _VERTEX, _WATSONX = ("azure-ai",), ("bedrock",), ("vertex-ai",), ("watsonx",)

ANY_PROVIDER: dict[str, Setting] = {
    "api_key": Setting(is_secret=True),
    "custom_host": Setting(),
    "url_to_fetch": Setting(),
    "forward_headers": Setting("texts"),
    "request_timeout": Setting("number"),
    "transform_to_form_data": Setting("switch"),
    "server_cert": Setting(),
}
OF_PROVIDERS: dict[str, Setting] = {
    **dict.fromkeys(("anthropic_beta", "anthropic_version"), Setting(providers=("anthropic",))),
    **dict.fromkeys(
        ("azure_resource_name", "azure_deployment_id", "azure_api_version", "azure_model_name"), Setting(providers=_AZURE)
    ),
    **dict.fromkeys(
        "azure_auth_mode azure_managed_client_id azure_entra_client_id azure_entra_tenant_id azure_inference_deployment_name "
        "azure_inference_api_version azure_inference_extra_params azure_inference_foundry_url".split(),
        Setting(providers=_AZURE_AI),
    ),
    **dict.fromkeys(("ad_auth", "azure_entra_client_secret", "azure_ad_token"), Setting("text", _AZURE_AI, is_secret=True)),
    **dict.fromkeys(
        "aws_region aws_auth_type aws_role_arn aws_external_id aws_s3_bucket aws_s3_object_key aws_bedrock_model "
        "aws_server_side_encryption aws_server_side_encryption_kms_key_id".split(),
        Setting(providers=_BEDROCK),
    ),
    **dict.fromkeys(
        ("aws_secret_access_key", "aws_access_key_id", "aws_session_token"), Setting("text", _BEDROCK, is_secret=True)
    ),
    **dict.fromkeys(
        ("vertex_region", "vertex_project_id", "vertex_storage_bucket_name", "vertex_model_name", "filename"),
        Setting(providers=_VERTEX),
    ),
    "vertex_service_account_json": Setting("mapping", _VERTEX, is_secret=True),
    "mistral_fim_completion": Setting(providers=("mistral-ai",)),
    **dict.fromkeys(
        (
            "watsonx_version",
            "watsonx_space_id",
            "watsonx_project_id",
            "watsonx_deployment_id",
            "watsonx_cpd_url",
            "watsonx_cpd_username",
        ),
        Setting(providers=_WATSONX),
    ),
    "watsonx_cpd_password": Setting("text", _WATSONX, is_secret=True),
}
OF_NO_PROVIDER: dict[str, Setting] = {
    "index": Setting("number"),
    "cache": Setting(),
    "metadata": Setting("mapping"),
    "strict_open_ai_compliance": Setting("switch"),
    **dict.fromkeys(
        ("after_request_hooks", "before_request_hooks", "default_input_guardrails", "default_output_guardrails"),
        Setting("mappings"),
    ),
    **dict.fromkeys(
        "workers_ai_account_id amzn_sagemaker_custom_attributes amzn_sagemaker_target_model amzn_sagemaker_target_variant "
        "amzn_sagemaker_target_container_hostname amzn_sagemaker_inference_id amzn_sagemaker_enable_explanations "
        "amzn_sagemaker_inference_component amzn_sagemaker_session_id amzn_sagemaker_model_name stability_client_id "
        "stability_client_user_id stability_client_version huggingface_base_url openai_project openai_organization openai_beta "
        "azure_deployment_name azure_extra_params azure_foundry_url fireworks_account_id snowflake_account".split(),
        Setting(),
    ),
}
SETTINGS: dict[str, Setting] = {**ANY_PROVIDER, **OF_PROVIDERS, **OF_NO_PROVIDER}
HALVES = frozenset({"aws_access_key_id"})  # secrets that open nothing without another one, which a remote may hide
SECRETS = frozenset(key for key, setting in SETTINGS.items() if setting.is_secret)
# The settings that decide the host to which requests go, and with them the credentials.
DESTINATIONS = frozenset(
    "custom_host url_to_fetch azure_resource_name azure_inference_deployment_name azure_deployment_name "
    "azure_inference_foundry_url azure_foundry_url azure_entra_tenant_id aws_region vertex_region watsonx_cpd_url "
    "huggingface_base_url amzn_sagemaker_target_container_hostname snowflake_account".split()
)

# Where a live tenant's camelCase stands for two keys, the one that a provider uses.
_SHARED = {
    "azure_deployment_name": "azure_inference_deployment_name",
    "azure_extra_params": "azure_inference_extra_params",
    "azure_foundry_url": "azure_inference_foundry_url",
}
_ODD_ALIASES = {
    "resourceName": "azure_resource_name",
    "deploymentId": "azure_deployment_id",
    "apiVersion": "azure_api_version",
    "azureApiVersion": "azure_inference_api_version",
    "awsServerSideEncryptionKMSKeyId": "aws_server_side_encryption_kms_key_id",
    **{f"azure{key.title().replace('_', '')[5:]}": shared for key, shared in _SHARED.items()},
}
_NEXT_WORD = late_pattern("_([a-z])")
_WORD_START = late_pattern(r"(?<=[a-z0-9])(?=[A-Z])")


def _camel_case(key: str) -> str:
    return _NEXT_WORD.sub(lambda found: found[1].upper(), key)


# An alias for each key of several words, as the ADK has them; the odd ones have no mechanical alias beside them.
ALIASES: dict[str, str] = _ODD_ALIASES | {
    _camel_case(key): key for key in SETTINGS if "_" in key and key != "api_key" and key not in _ODD_ALIASES.values()
    and key not in _SHARED
}  # fmt: skip


def snake_case(key: str) -> str:
    """The key as it is sent: by the table of aliases, and mechanically where the table does not have it."""
    return ALIASES.get(key) or _WORD_START.sub("_", key).lower() if not key.islower() else key


def with_snake_case(config: Document) -> Document:
    """The settings with every key in snake_case; where a row has a key in both spellings, snake_case counts."""
    spelled = {snake_case(key): value for key, value in config.items() if snake_case(key) != key}
    return spelled | {key: value for key, value in config.items() if snake_case(key) == key}


def alias_of(key: str) -> str | None:
    """The camelCase spelling of a key, as a live tenant answers; None where it has only one spelling."""
    shared = _SHARED.get(key, key)
    return next((alias for alias, known in ALIASES.items() if known == shared), None)


def with_camel_case(config: Document) -> Document:
    """The settings as a live tenant answers: by the table of aliases, and mechanically where the table has no alias."""
    return {alias_of(key) or (key if key in SETTINGS else _camel_case(key)): value for key, value in config.items()}


HEADER = late_pattern(r"\s*([^:=]*?)\s*[:=]")  # the name of a header that is written with its value


def comparable(config: Any) -> Document:
    """The settings as they are compared: known keys in snake_case, no nulls, no derived provider, `SET` for each secret, also
    those in URLs, headers and mappings.

    Keys that the format does not know are left out: an update carries them over.
    """
    if not isinstance(config, dict):
        return {}
    spelled = with_snake_case(config)
    found: Document = {}
    for key, value in spelled.items():
        twin = _SHARED.get(key, key)
        known = twin if spelled.get(twin, value) == value else key
        if value is not None and key in SETTINGS:
            found[known] = _compared(key, value)
    return {key: value for key, value in found.items() if not (key in SECRETS and _is_empty(spelled.get(key)))}


def _compared(key: str, value: Any) -> Any:
    if key in SECRETS:
        return SET
    return _names_of(value) if key == "forward_headers" else without_secrets(value)


def _names_of(headers: Any) -> Any:
    """Headers to forward, which a row may have with their values: as texts, or as mappings."""
    if isinstance(headers, list):
        return [_names_of(one) for one in headers]
    if isinstance(headers, dict):
        return dict.fromkeys(headers, SET)
    name = HEADER.match(headers) if isinstance(headers, str) else None
    return f"{name[1]}: {SET}" if name else without_secrets(headers)


def _is_empty(value: Any) -> bool:
    return value in (None, "", {})


def unknown_settings(config: Any) -> Document:
    """The settings of a live row that the format does not know, in snake_case, as they are to be written back."""
    if not isinstance(config, dict):
        return {}
    known = (*SETTINGS, "provider")
    return {key: value for key, value in with_snake_case(config).items() if key not in known and value is not None}


def secrets_in(config: Any) -> Document:
    """The secrets that a live row's settings have, by key in snake_case: whatever the remote shows of them."""
    if not isinstance(config, dict):
        return {}
    return {key: value for key, value in with_snake_case(config).items() if key in SECRETS and not _is_empty(value)}


# A remote may show the ends of a secret (`sk-…1234`, or `1234` alone), a hash or a reference, or a word in its place. To take a
# secret for a mask only stops an update; to take a mask for the secret loses it. Five dashes around a word frame a PEM text.
_SURE_MASK = late_pattern(r"\*{3}|[•●]{2}|^\W*(redacted|masked|hidden)\W*$", re.IGNORECASE)
_MASK = late_pattern(
    r"^[\W_]*$|\*{2}|[•●∙…]|\.{2}|x{4}|#{3}|_{3}|^-{3,}(?!-*BEGIN )(?!-)|^[<(\[].*[>)\]]$|redacted|masked|hidden|encrypted"
    r"|^(set|unset|true|false|yes|no|none|null|secret|present|stored|configured|protected)$"
    r"|^(sha\d+|md5|hmac|hash|enc|kms|vault|ssm|secret|ref)[:(]|^arn:|^\{\w+\}|^\$(2[aby]|argon\w+)\$|^gAAAAA"
    r"|\b(last|ends|ending)\b",
    re.IGNORECASE,
)
_SHORTEST, _SHORTEST_PASSWORD = 12, 6  # characters of a whole secret; GitHub shows the last eight of one, most others four
_SCHEMES = frozenset("apikey api_key basic bearer digest iam jwt oauth oauth2".split())  # kinds of login, no secrets


def is_masked(value: Any, key: str = "") -> bool:
    """Whether what a remote shows of a secret is not the secret itself, so that it must not be sent back.

    Less than any provider's key has counts as a part of it, whatever it is, except for the words that open nothing.
    """
    if isinstance(value, dict):
        return any(is_masked(part, name) if name.startswith("private_key") else _is_mask(part) for name, part in value.items())
    return _is_mask(value) or _is_part(value, key)


def _is_mask(value: Any) -> bool:
    if isinstance(value, dict):
        return any(map(_is_mask, value.values()))
    return not isinstance(value, str) or bool(_MASK.search(value))


def _is_part(value: str, key: str) -> bool:
    least = _SHORTEST_PASSWORD if "passw" in key.lower() else _SHORTEST
    return len(value) < least and value.casefold() not in PLACEHOLDERS


def has_mask(value: Any, *, secret: bool = False, key: str = "") -> bool:
    """Whether a plain value of a field that the format does not know has the mask of a secret in it.

    Below a key of a secret any likely mask counts, elsewhere only what is hardly anything else.
    """
    if isinstance(value, dict):
        return any(has_mask(item, secret=secret or is_secret_key(name), key=name) for name, item in value.items())
    if isinstance(value, list):
        return any(has_mask(item, secret=secret, key=key) for item in value)
    if not isinstance(value, str) or value == "":
        return False
    if is_secret_key(key) and _is_part(value, key) and value.casefold() not in _SCHEMES:
        return True
    return bool((_MASK if secret else _SURE_MASK).search(value))


def is_placeholder(value: Any) -> bool:
    """Whether a key's value is one of those that open nothing, which a file may hold."""
    return isinstance(value, str) and value.casefold() in PLACEHOLDERS


def is_reference(value: Any) -> bool:
    """Whether a key's value gives the place of the key, for the gateway: `env:NAME` or `file:PATH`."""
    kind, colon, where = value.partition(":") if isinstance(value, str) else ("", "", "")
    return bool(colon and where) and kind in ("env", "file")


def provider_key(name: str) -> str | None:
    """The provider in a model's name as IBM's CLI finds it: the first part that is not one of the platform's prefixes."""
    parts = [part for part in name.split("/") if part not in ("virtual-model", "virtual-policy")]
    return provider_of(name) if len(parts) < 2 else parts[0]


def required(provider: str | None) -> tuple[tuple[str, ...], ...]:
    """What a provider needs, here or in the connection: of each group at least one key."""
    if provider == "watsonx":
        return ("api_key",), ("watsonx_space_id", "watsonx_project_id", "watsonx_deployment_id")
    if provider in ("ollama", "redhat-ai"):
        return ("api_key",), ("custom_host",)
    if provider == "bedrock":
        return (("api_key", "aws_access_key_id"),)
    if provider == "vertex-ai":
        return (("api_key", "vertex_service_account_json"),)
    if provider == "openai-oauth2-client-creds":
        return (("custom_host",),)
    return (("api_key",),)


def needs_key(provider: str | None) -> bool:
    """Whether a model of a provider cannot do without a secret, here or in the connection."""
    return any(key in SECRETS for keys in required(provider) for key in keys)
