"""What the gateway runs: policies ready to be walked, and where the requests to their models go.

A table never changes; a new one replaces it. A request keeps the table that it began with, so it never runs a policy that is
half old and half new. Every provider with an interface like OpenAI's is served. For those with another interface the model's
file has to name an address that is compatible with OpenAI's; nothing is translated.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

from policyctl.effect.tree import KnownPolicies, Tree, read_tree
from policyctl.errors import NotKnown, PolicyctlError, RemoteError
from policyctl.load.environment import GatewayConnection
from policyctl.load.urls import http_url_error, is_safe_for_secrets, origin
from policyctl.policy.document import Document, model_names, revision_of, version_of
from policyctl.policy.model_settings import provider_key
from policyctl.policy.names import (
    POLICY_PREFIX,
    canonical,
    canonical_model,
    short_model,
    virtual_model,
)

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
# Those whose own interface is another one, with the base that is compatible, where all accounts share one.
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


class Destination(NamedTuple):
    """What the `model` of a request leads to: the name of a policy or a model, its version, and the tree to walk."""

    name: str
    version: str
    tree: Tree


class PolicySnapshot(NamedTuple):
    """All that a table is made of: the policies' documents by canonical name, the models' upstreams, and of the other models
    and policies why they cannot be used.

    `models` are the virtual models that are where the policies are. `own` are those of them that a file of the gateway's
    directory has called in another way.
    """

    policies: Mapping[str, Document]
    upstreams: Mapping[str, Upstream] = {}
    without: Mapping[str, str] = {}
    left_out: Mapping[str, str] = {}
    models: Mapping[str, Document] = {}
    own: frozenset[str] = frozenset()


class RouteTable:
    """The policies of one moment. Trees are made when they are first asked for, so that many policies cost nothing at start."""

    def __init__(self, snapshot: PolicySnapshot, *, pretend: bool = False) -> None:
        """With `pretend` every model has an upstream: nothing is ever sent to it."""
        self.snapshot = snapshot
        self.policies = snapshot.policies
        self.without = snapshot.without
        self.left_out = snapshot.left_out
        self.revision = revision_of(snapshot.policies, snapshot.models)
        self._known = KnownPolicies(snapshot.policies, whole=True, unclear=snapshot.left_out)
        self._upstreams = snapshot.upstreams
        self._pretend = pretend
        self._routes: dict[str, Destination | None] = {}

    @cached_property
    def targets(self) -> frozenset[str]:
        """The models that policies target."""
        names = {name for document in self.policies.values() for name in model_names(document)}
        models = {canonical_model(name) for name in names if canonical(name) not in self.policies}
        return frozenset(model for model in models if not model.startswith(POLICY_PREFIX))

    @cached_property
    def unreachable(self) -> dict[str, str]:
        """The models that policies target and that cannot be called, each with the reason."""
        return {model: self.why_not(model) for model in sorted(self.targets) if self.upstream(model) is None}

    @property
    def names(self) -> list[str]:
        """What a request may name as its model."""
        return [*sorted(self.policies), *sorted(self._upstreams)]

    def route(self, model: str) -> Destination | None:
        """What a name leads to: a policy in either spelling, or a model. None for an unknown name.

        Raises NotKnown for a policy that this gateway cannot run.
        """
        name = canonical(model)
        found = self._routes.get(name)
        if found is None and (found := self._find(name, model)) is not None:
            self._routes[name] = found
        return found

    def _find(self, name: str, model: str) -> Destination | None:
        if (why := self.left_out.get(name)) is not None:
            raise NotKnown(f"{name} cannot be run: {why}")
        if (document := self.policies.get(name)) is not None:
            return Destination(name, version_of(document), read_tree(document, self._known))
        single = canonical_model(model)
        if model.startswith(POLICY_PREFIX) or not (self._known_upstream(single) or (self._pretend and single in self.targets)):
            return None
        return Destination(
            single, "", read_tree({"policy": {"strategy": {"mode": "single"}, "targets": [{"model_name": single}]}})
        )

    def upstream(self, model: str) -> Upstream | None:
        """Where a model is; None for one without an upstream."""
        found = self._known_upstream(model)
        if found is None and self._pretend and model and not model.startswith(POLICY_PREFIX):
            return Upstream(model, _called(model), "")
        return found

    def _known_upstream(self, model: str) -> Upstream | None:
        return self._upstreams.get(model) or self._upstreams.get(virtual_model(model))

    def why_not(self, model: str) -> str:
        """Why a model has no upstream."""
        if not model:
            return "the target has no model_name"
        if model.startswith(POLICY_PREFIX):
            return "it is a policy that cannot be followed from here, such as one that leads back to itself"
        return self.without.get(virtual_model(model)) or "no virtual model of this name is beside the policies"


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
    return Upstream(name, _called(name), base, secret, _seconds(settings.get("request_timeout")))


def _called(name: str) -> str:
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
