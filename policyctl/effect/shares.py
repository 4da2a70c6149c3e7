"""Who gets the traffic when nothing is broken: per model and per provider."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from functools import lru_cache

from policyctl.effect.evaluate import healthy, rounded, visit
from policyctl.effect.tree import Tree
from policyctl.model.names import POLICY_PREFIX, short_model


def model_shares(tree: Tree) -> dict[str, float]:
    """The share of requests that each model serves when every model answers 200; models that serve none have 0.

    Of a policy that cannot be followed it is the share of those that come to it.
    """
    return {model: rounded(share) for model, share in exact_shares(tree).items()}


def exact_shares(tree: Tree) -> dict[str, float]:
    """The same before rounding: to be summed, since what rounding takes from a thousand shares shows in their sum."""
    found: dict[str, float] = dict.fromkeys(tree.models, 0.0)
    visits = visit(tree, healthy(tree))
    for leaf, reached, served in zip(tree.leaves, visits.reached, visits.serves, strict=True):
        found[leaf.model] += served if leaf.known else reached
    return found


def provider_shares(shares: Mapping[str, float]) -> dict[str, float]:
    """The shares of models added up by provider; a model without one counts nowhere."""
    found: defaultdict[str, float] = defaultdict(float)
    for model, share in shares.items():
        if provider := provider_of(model):
            found[provider] += share
    return {provider: rounded(share) for provider, share in found.items()}


@lru_cache(maxsize=4096)
def provider_of(model: str) -> str | None:
    """The provider in a model's name, in either spelling: what stands before the first `/` after `virtual-model/`."""
    if model.startswith(POLICY_PREFIX):
        return None
    provider, slash, _ = short_model(model).partition("/")
    return provider if slash and provider else None
