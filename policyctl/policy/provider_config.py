"""The `provider_config` of a virtual model: its two spellings, its provider, and which of its values are secret.

The platform takes snake_case keys, answers in camelCase and adds `provider`, which it derives from the model's name. The
irregular camelCase names are those that the vendor's client uses.
"""

from __future__ import annotations

import re
from itertools import zip_longest
from typing import Any

from policyctl.policy.document import Document
from policyctl.policy.findings import HIDDEN
from policyctl.policy.names import MODEL_PREFIX, POLICY_PREFIX

# Where snake_case and camelCase differ by more than the way of joining words. `api_key` is snake_case everywhere.
_CAMEL = {
    "api_key": "api_key",
    "aws_server_side_encryption_kms_key_id": "awsServerSideEncryptionKMSKeyId",
    "azure_api_version": "apiVersion",
    "azure_deployment_id": "deploymentId",
    "azure_inference_api_version": "azureApiVersion",
    "azure_inference_deployment_name": "azureDeploymentName",
    "azure_inference_extra_params": "azureExtraParams",
    "azure_inference_foundry_url": "azureFoundryUrl",
    "azure_resource_name": "resourceName",
}
_SNAKE = {camel: snake for snake, camel in _CAMEL.items()}
_WORD = re.compile("_([a-z])")
_CAPITAL = re.compile("([A-Z])")

# In lower case and without underscores, so that both spellings match. An access key id alone opens nothing, but it is half
# of what does. `token` alone is not an ending: inference parameters have it too.
_SECRET_KEYS = frozenset({"adauth", "awsaccesskeyid", "token", "vertexserviceaccountjson"})
_SECRET_ENDINGS = (
    "accesskey",
    "accesstoken",
    "adtoken",
    "apikey",
    "authtoken",
    "bearertoken",
    "password",
    "privatekey",
    "secret",
    "sessiontoken",
)
_USERINFO = re.compile(r"(?<=://)[^/?#@\s]+(?=@)")  # a user and a password within a URL


def camel_case(config: Document) -> Document:
    """The same `provider_config` with the keys that the platform answers with."""
    return {_CAMEL.get(key) or _WORD.sub(lambda found: found[1].upper(), key): value for key, value in config.items()}


def snake_case(config: Document) -> Document:
    """The same `provider_config` with the keys that files have. Where one has both spellings, snake_case wins."""
    named = {_SNAKE.get(key) or _CAPITAL.sub(lambda found: f"_{found[1].lower()}", key): key for key in config}
    return {snake: config.get(snake, config[key]) for snake, key in named.items()}


def provider_of(name: str) -> str:
    """The provider that the platform derives from a model's name: its first part that is not a prefix."""
    prefixes = (MODEL_PREFIX.rstrip("/"), POLICY_PREFIX.rstrip("/"))
    return next((part for part in name.split("/") if part not in prefixes), "")


def is_secret_key(key: str) -> bool:
    """Whether the value of a key, in either spelling, is secret wherever it is in a model's document."""
    plain = key.replace("_", "").replace("-", "").lower()
    return plain in _SECRET_KEYS or plain.endswith(_SECRET_ENDINGS)


def masked(value: Any) -> Any:
    """The same plain value with every secret in it replaced by `***`, at any depth.

    A secret that is an object keeps its keys, since clients check that it is an object.
    """
    if isinstance(value, dict):
        return {key: _hidden(item) if is_secret_key(key) else masked(item) for key, item in value.items()}
    if isinstance(value, list):
        return [masked(item) for item in value]
    return _USERINFO.sub(HIDDEN, value) if isinstance(value, str) else value


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
        if not (is_secret_key(key) and _is_mask(item) and not _is_mask(old.get(key)))
    }


def _hidden(value: Any) -> Any:
    if isinstance(value, dict):
        return dict.fromkeys(value, HIDDEN)
    return value if value is None or value == "" else HIDDEN


def _is_mask(value: Any) -> bool:
    return value == HIDDEN or (isinstance(value, dict) and bool(value) and all(item == HIDDEN for item in value.values()))
