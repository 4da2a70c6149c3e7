"""What the gateway runs: policies ready to be walked, and where their models are. A table never changes; a new one replaces it.

A request keeps the table that it began with, so that none runs a policy that is half old and half new.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import NamedTuple

from policyctl.effect.context import KnownPolicies
from policyctl.effect.tree import Tree, read_tree
from policyctl.errors import NotKnown
from policyctl.gateway.upstreams import Upstream, called
from policyctl.policy.document import Document, digest, model_names, version_of
from policyctl.policy.names import MODEL_PREFIX, POLICY_PREFIX, canonical_model, canonical_name, virtual_model


class Destination(NamedTuple):
    """What the `model` of a request leads to: the name of a policy or a model, its version, and the tree to walk."""

    name: str
    version: str
    tree: Tree


class PolicySnapshot(NamedTuple):
    """All that a table is made of: the policies' documents by canonical name, the models' upstreams, and of the other models
    and policies why they cannot be used."""

    policies: Mapping[str, Document]
    upstreams: Mapping[str, Upstream] = {}
    without: Mapping[str, str] = {}
    left_out: Mapping[str, str] = {}


class RouteTable:
    """The policies of one moment. Trees are made when they are first asked for, so that many policies cost nothing at start."""

    def __init__(self, snapshot: PolicySnapshot, *, pretend: bool = False) -> None:
        """With `pretend` every model has an upstream: nothing is ever sent to it."""
        self.snapshot = snapshot
        self.policies = snapshot.policies
        self.without = snapshot.without
        self.left_out = snapshot.left_out
        self.revision = digest(sorted(snapshot.policies.items()))[len("sha256:") :][:12]
        self._known = KnownPolicies(snapshot.policies, whole=True, unclear=snapshot.left_out)
        self._upstreams = snapshot.upstreams
        self._pretend = pretend
        self._routes: dict[str, Destination | None] = {}

    @cached_property
    def targets(self) -> frozenset[str]:
        """The models that policies target."""
        names = {name for document in self.policies.values() for name in model_names(document)}
        models = {canonical_model(name) for name in names if canonical_name(name) not in self.policies}
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
        name = model if model.startswith(MODEL_PREFIX) else canonical_name(model)
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
            return Upstream(model, called(model), "")
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
