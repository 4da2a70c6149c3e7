"""The settings of a virtual model's provider: every key, its type, which provider uses it, other spellings, and what is secret.

The table is that of IBM's ADK 2.19 (see the manual, virtual-models). Files may write a key in snake_case or by its camelCase
alias; a live tenant takes snake_case and answers in camelCase, with the derived `provider` added. Aliases are not always the
mechanical camelCase, and three of them stand for two keys each.

Files hold no secret at all, plans only whether one is set (see `SECRETS`); a row that a remote shows may hold any, wherever it
is in its document, also below keys that the format does not know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any, Literal, NamedTuple

from policyctl.policy.document import Document
from policyctl.policy.findings import HIDDEN, FieldPath
from policyctl.policy.memo import late_pattern
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

# Where a live tenant's camelCase stands for two keys, the one that a provider uses. What a file calls by the other one is sent,
# and so compared, as this one.
SENT_AS = {
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
    **{f"azure{key.title().replace('_', '')[5:]}": shared for key, shared in SENT_AS.items()},
}
_NEXT_WORD = late_pattern("_([a-z])")
_WORD_START = late_pattern(r"(?<=[a-z0-9])(?=[A-Z])")


def _camel_case(key: str) -> str:
    return _NEXT_WORD.sub(lambda found: found[1].upper(), key)


# An alias for each key of several words, as the ADK has them; the odd ones have no mechanical alias beside them.
ALIASES: dict[str, str] = _ODD_ALIASES | {
    _camel_case(key): key for key in SETTINGS if "_" in key and key != "api_key" and key not in _ODD_ALIASES.values()
    and key not in SENT_AS
}  # fmt: skip


def snake_case(key: str) -> str:
    """The key as it is sent: by the table of aliases, and mechanically where the table does not have it."""
    return ALIASES.get(key) or _WORD_START.sub("_", key).lower() if not key.islower() else key


def sent_key(key: str) -> str:
    """The key as which a file's setting is sent: in snake_case, and one of those that share an alias."""
    known = ALIASES.get(key, key)
    return SENT_AS.get(known, known)


def with_snake_case(config: Document) -> Document:
    """The settings with every key in snake_case; where a row has a key in both spellings, snake_case counts."""
    spelled = {snake_case(key): value for key, value in config.items() if snake_case(key) != key}
    return spelled | {key: value for key, value in config.items() if snake_case(key) == key}


def alias_of(key: str) -> str | None:
    """The camelCase spelling of a key, as a live tenant answers; None where it has only one spelling."""
    shared = SENT_AS.get(key, key)
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
    return {
        key: _compared(key, value)
        for key, value in with_snake_case(config).items()
        if key in SETTINGS and value is not None and not (key in SECRETS and _is_empty(value))
    }


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


SET = "(set)"  # in place of a secret: that there is one is all that is known, compared and shown of it
# In lower case and without underscores, so that both spellings match. An access key id alone opens nothing, but it is half
# of what does.
_SECRET_KEYS = frozenset("adauth auth awsaccesskeyid credential credentials sig token vertexserviceaccountjson".split())
_SECRET_ENDINGS = (
    "accesskey",
    "accesstoken",
    "accountkey",
    "adtoken",
    "apikey",
    "apitoken",
    "authorization",
    "authtoken",
    "bearertoken",
    "connectionstring",
    "cookie",
    "functionskey",
    "idtoken",
    "passphrase",
    "passwd",
    "password",
    "privatekey",
    "refreshtoken",
    "sastoken",
    "secret",
    "secretkey",
    "securitytoken",
    "sessiontoken",
    "signature",
    "signingkey",
    "subscriptionkey",
)
_OF_TEXT = frozenset(  # words before `token` in the names of inference parameters and prices
    "stop eos bos pad unk sep cls mask start end max min num new per input output image special prompt completion total first "
    "last".split()
)
_IN_QUERIES = frozenset({"code", "key"})  # secret as keys of a URL's query only
_NAMES, _VALUES = frozenset({"header", "headername", "key", "name"}), frozenset({"value", "values"})
_WORD = late_pattern(r"[_\-.\s]+|(?<=[a-z0-9])(?=[A-Z])")
# How keys that providers and code hosts give out begin; what else looks random is hidden in unknown fields alone.
_ISSUED = (
    r"(?:sk|csk|rk|xai|pplx|nvapi|glpat|xox[abeprs])-(?=[\w-]{0,99}\d)[\w-]{15,}"
    r"|(?:gsk|hf|r8|gh[opsur]|github_pat|tgp_v1|sk_live|rk_live|npm)_(?=\w{0,99}\d)\w{15,}"
    r"|AIza[\w-]{30,}|A[KS]IA[A-Z0-9]{16}|ABSK[\w+/=]{20,}|ya29\.[\w-]{10,}|dapi[0-9a-f]{32}|eyJ[\w-]{8,}\.[\w-]{8,}\.[\w-]*"
)
# Secrets within a text: a key as it was given out, a private key, a user of a URL, what a query or a connection string gives, a
# line that is a header, and what follows the name of a kind of credentials.
_WITHIN_TEXTS = tuple(
    late_pattern(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (
        rf"(?<![A-Za-z0-9])(?P<secret>(?-i:{_ISSUED}))",
        r"(?P<secret>-----BEGIN [A-Z0-9 ]*PRIVATE KEY(?s:.*?)(?:-----END [A-Z0-9 ]*-----|\Z))",
        r"://(?P<secret>[^/\s]+)@",
        r"[?&](?P<query>[\w.%-]+)=(?P<secret>[^&#\s\"';]+)",
        r"(?:^|;) *(?P<key>[\w-]+)=(?P<secret>[^&#\s\"';]+)",
        r"^[ \t]*(?P<key>[\w-]+)[ \t]*[:=][ \t]*(?P<secret>(?:(?:bearer|basic|token|apikey) +)?\S+)[ \t\r]*$",
        r"\b(?:bearer|basic)\s+(?P<secret>(?=[^\s\"',;]*[\d=])[^\s\"',;]{8,})",
    )
)
_RANDOM = late_pattern(r"(?<![A-Za-z0-9])(?=[A-Za-z]{0,99}[0-9])(?=[0-9]{0,99}[A-Za-z])[A-Za-z0-9]{20,}[\w+/=.~-]*")
_SUGGESTS = late_pattern(
    r"key|secret|token$|passw|credential|auth|header", re.IGNORECASE
)  # a field with such a name may be secret
_USERS = late_pattern(r"://([^/?#\s]+)@")  # a user, or a user and a password, within a URL: up to the last @


def is_secret_key(key: str) -> bool:
    """Whether the value of a key, in either spelling, is secret wherever it is in a model's document."""
    plain = _plain(key)
    if plain in _SECRET_KEYS or plain.removesuffix("s").endswith(_SECRET_ENDINGS):
        return True
    *before, last = _WORD.split(key.removesuffix("s").removesuffix("S"))
    return bool(before) and (last.lower() == "auth" or (last.lower() == "token" and before[-1].lower() not in _OF_TEXT))


def _plain(key: str) -> str:
    return key.replace("_", "").replace("-", "").lower()


def is_secret(key: Any, value: Any) -> bool:
    """Whether a key of a mapping, at any depth, holds something that opens a door. What is yes or no does not."""
    return isinstance(key, str) and is_secret_key(key) and value not in (None, "", {}, True, False)


def without_secrets(value: Any) -> Any:
    """A plain value to show: `SET` for each secret under a key of its own, and `***` for those within texts."""
    if isinstance(value, dict):
        named = _names_secret(value)
        return {
            key: SET if is_secret(key, item) or (named and _plain(str(key)) in _VALUES) else without_secrets(item)
            for key, item in value.items()
        }
    if isinstance(value, list):
        return [without_secrets(item) for item in value]
    return _text_without_secrets(value) if isinstance(value, str) else value


def shown_free(value: Any, key: str = "", *, unknown: bool = False) -> Any:
    """A field of free form to show: without secrets, and without texts whose key only suggests one. In one that the format
    does not know (`unknown`), anything as random as a key is left out too: no file has it, and nothing compares it."""
    return _without_likely(without_secrets(value), secret=bool(_SUGGESTS.search(key)), unknown=unknown)


def _without_likely(item: Any, *, secret: bool, unknown: bool) -> Any:
    if isinstance(item, dict):
        suggests = {key: secret or bool(_SUGGESTS.search(key)) for key in item}
        return {key: _without_likely(one, secret=suggests[key], unknown=unknown) for key, one in item.items()}
    if isinstance(item, list):
        return [_without_likely(one, secret=secret, unknown=unknown) for one in item]
    if not isinstance(item, str) or item == SET:
        return item
    if secret:
        return HIDDEN
    return _RANDOM.sub(HIDDEN, item) if unknown else item


def hidden_in(value: Any, path: FieldPath) -> Iterator[tuple[FieldPath, Any, Any]]:
    """Where `without_secrets` hides something of a plain value that is at a path: the path, what is there and what is shown."""
    yield from _differing(value, without_secrets(value), path)


def holds_secret(text: str) -> bool:
    """Whether a text of a file has a secret in it, or the mask of one, which must not be written as if it were one: a live
    secret is compared as its mask."""
    content = _json_in(text)
    has_mask = HIDDEN in text or (content is not None and SET in text)
    return has_mask or bool(_spans(text)) or any(hidden_in(content, ()))


def what_is_secret(text: str) -> str:
    """What of a text that holds a secret is secret, in words."""
    if _USERS.search(text):
        return "a user or password in its URL"
    return f"the mask of a secret ({HIDDEN}) in its text" if HIDDEN in text else "a secret in its text"


def _differing(value: Any, shown: Any, path: FieldPath) -> Iterator[tuple[FieldPath, Any, Any]]:
    if isinstance(value, dict) and isinstance(shown, dict):
        for key, item in value.items():
            yield from _differing(item, shown[key], (*path, key))
    elif isinstance(value, list) and isinstance(shown, list):
        for place, (item, other) in enumerate(zip(value, shown, strict=True)):
            yield from _differing(item, other, (*path, place))
    elif value != shown:
        yield path, value, shown


def _names_secret(mapping: dict[Any, Any]) -> bool:
    """Whether a mapping is one of a name and a value, and the name is that of a secret."""
    names = [item for key, item in mapping.items() if _plain(str(key)) in _NAMES]
    return any(isinstance(name, str) and is_secret_key(name) for name in names)


def _text_without_secrets(text: str) -> str:
    content = _json_in(text)
    if content is not None and (shown := without_secrets(content)) != content:
        return json.dumps(shown, ensure_ascii=False)
    for start, end in reversed(_spans(text)):
        text = text[:start] + HIDDEN + text[end:]
    return text


def _json_in(text: str) -> Any:
    """The object or list that a text is, as JSON; None for any other text."""
    if not text.lstrip().startswith(("{", "[")):
        return None
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _spans(text: str) -> list[tuple[int, int]]:
    """Where the secrets within a text begin and end, in order; those that overlap are one."""
    found = [one.span("secret") for pattern in _WITHIN_TEXTS for one in pattern.finditer(text) if _is_of_secret(one)]
    merged: list[tuple[int, int]] = []
    for start, end in sorted(found):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _is_of_secret(found: re.Match[str]) -> bool:
    groups = found.groupdict()
    if "query" in groups:
        return is_secret_key(groups["query"]) or _plain(groups["query"]) in _IN_QUERIES
    return "key" not in groups or is_secret_key(groups["key"])


def masked(value: Any) -> Any:
    """The same plain value with every secret in it replaced by `***`, at any depth.

    A secret that is an object keeps its keys, since clients check that it is an object. This is what is stored and answered:
    it must keep all else, so it hides no part of a URL but a certain user. `without_secrets` is for what is compared and
    shown: only whether a secret is set, and of a URL no part that may be a user or password.
    """
    if isinstance(value, dict):
        return {key: _hidden(item) if is_secret(key, item) else masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    return _USERS.sub(f"://{HIDDEN}@", value) if isinstance(value, str) else value


def secret_texts(value: Any, *, secret: bool = False) -> Iterator[str]:
    """Every text that `masked` hides in a plain value, except what is a mask already."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from secret_texts(item, secret=secret or is_secret_key(key))
    elif isinstance(value, list):
        for item in value:
            yield from secret_texts(item, secret=secret)
    elif isinstance(value, str) and secret and value != HIDDEN:
        yield value
    elif isinstance(value, str):
        users = _USERS.findall(value)
        yield from (text for user in users for text in (user, user.partition(":")[2]))
        yield from (value[start:end] for start, end in _spans(value) if value[start:end] not in users)


def without_unset_masks(new: Any, stored: Any) -> Any:
    """What a client sends, without the masks of secrets that are not set.

    A client that reads a row and writes it back sends `***` for every secret. Where one is set that means: keep it. Where
    none is, there is nothing to keep.
    """
    if isinstance(new, list):
        before = stored if isinstance(stored, list) else []
        return [without_unset_masks(item, old) for item, old in zip_longest(new, before[: len(new)])]
    if not isinstance(new, dict):
        return new
    old = stored if isinstance(stored, dict) else {}
    return {
        key: without_unset_masks(item, old.get(key))
        for key, item in new.items()
        if not (is_secret_key(key) and _is_hidden(item) and not _is_hidden(old.get(key)))
    }


def _hidden(value: Any) -> Any:
    if isinstance(value, dict):
        return dict.fromkeys(value, HIDDEN)
    return value if value is None or value == "" else HIDDEN


def _is_hidden(value: Any) -> bool:
    return value == HIDDEN or (isinstance(value, dict) and bool(value) and all(item == HIDDEN for item in value.values()))
