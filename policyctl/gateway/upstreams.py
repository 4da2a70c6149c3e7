"""Where a virtual model's requests go: the address, the key and the time limit, from its file and policyctl.yaml.

Every provider with an interface like OpenAI's is served. For those with another interface of their own the model's file has
to name an address that is compatible with OpenAI's; nothing is translated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from policyctl.errors import PolicyctlError, RemoteError
from policyctl.load.environment import GatewayConnection
from policyctl.load.urls import http_url_error, is_safe_for_secrets, origin
from policyctl.policy.document import Document
from policyctl.policy.model_settings import provider_key
from policyctl.policy.names import short_model

# The bases of the interfaces that are compatible with OpenAI's, up to where /chat/completions follows.
_BASES = {
    "openai": "https://api.openai.com/v1",
    "anyscale": "https://api.endpoints.anyscale.com/v1",
    "cerebras": "https://api.cerebras.ai/v1",
    "deepinfra": "https://api.deepinfra.com/v1/openai",
    "deepseek": "https://api.deepseek.com/v1",
    "fireworks-ai": "https://api.fireworks.ai/inference/v1",
    "groq": "https://api.groq.com/openai/v1",
    "huggingface": "https://router.huggingface.co/v1",
    "jina": "https://api.jina.ai/v1",
    "mistral-ai": "https://api.mistral.ai/v1",
    "moonshot": "https://api.moonshot.ai/v1",
    "novita-ai": "https://api.novita.ai/v3/openai",
    "openrouter": "https://openrouter.ai/api/v1",
    "perplexity-ai": "https://api.perplexity.ai",
    "siliconflow": "https://api.siliconflow.com/v1",
    "together-ai": "https://api.together.xyz/v1",
    "x-ai": "https://api.x.ai/v1",
}
# Those whose own interface is another one, with the base that is compatible, where there is one for everybody.
_OTHER_WIRE = {
    "anthropic": "https://api.anthropic.com/v1",
    "google": "https://generativelanguage.googleapis.com/v1beta/openai",
    "cohere": "https://api.cohere.ai/compatibility/v1",
}

Resolve = Callable[[str, str], str]  # what a reference is for, and the reference → the secret


@dataclass(frozen=True, slots=True)
class Upstream:
    """Where requests to one model go. `model` is what the provider calls it; `key` is never shown."""

    name: str
    model: str
    base: str
    key: str | None = field(default=None, repr=False)
    timeout: float | None = None  # seconds until the head of the answer must be there


class NoUpstream(PolicyctlError):
    """Why a model cannot be called."""


def upstream_of(model: Document, key: str | None, connections: Mapping[str, GatewayConnection], resolve: Resolve) -> Upstream:
    """The upstream of a virtual model's document. `key` is the reference to its key in its own file.

    Raises NoUpstream with what is missing and where to write it.
    """
    name = model["name"]
    settings = model.get("provider_config") or {}
    connection = connections.get(str(model.get("app_id")), GatewayConnection())
    reference = key or connection.api_key
    base = _base(name, settings.get("custom_host") or connection.custom_host)
    if reference is None and (app_id := model.get("app_id")) and app_id not in connections:
        raise NoUpstream(f"its connection {app_id} is not known here; write gateway.connections.{app_id} in policyctl.yaml")
    if (
        key is None
        and reference is not None
        and connection.custom_host
        and origin(base) != origin(_base(name, connection.custom_host))
    ):
        raise NoUpstream(
            f"its custom_host is not on the host of its connection {model['app_id']}, whose key goes to that host alone; "
            "write the same host in both"
        )
    if reference is not None and not is_safe_for_secrets(base):
        raise NoUpstream(f"{base} is not https, so its key would be sent in the clear; write an https:// custom_host")
    try:
        secret = None if reference is None else resolve("api_key", reference)
    except RemoteError as error:
        raise NoUpstream(str(error)) from None
    if secret is not None and not secret.isascii():
        raise NoUpstream(f"api_key refers to {reference}, which has characters other than ASCII; copy it again")
    return Upstream(name, called(name), base, secret, _seconds(settings.get("request_timeout")))


def called(name: str) -> str:
    """What the provider calls a model: its name without virtual-model/ and the provider."""
    return short_model(name).partition("/")[2] or short_model(name)


def _base(name: str, custom: Any) -> str:
    provider = provider_key(name) or ""
    if isinstance(custom, str) and custom:
        if complaint := http_url_error(custom):
            raise NoUpstream(f"its custom_host {complaint}")
        return custom.rstrip("/")
    if provider in _BASES:
        return _BASES[provider]
    if provider in _OTHER_WIRE:
        raise NoUpstream(
            f"the interface of {provider} is not translated; use the one that is compatible with OpenAI's, "
            f"custom_host: {_OTHER_WIRE[provider]}"
        )
    raise NoUpstream(f"the address of {provider or 'its provider'} is not known; write custom_host, such as https://HOST/v1")


def _seconds(timeout: Any) -> float | None:
    """A time limit in seconds; as on the platform, 0 is none."""
    return timeout / 1000 if isinstance(timeout, int | float) and timeout > 0 else None
