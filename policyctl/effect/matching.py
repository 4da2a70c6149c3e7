"""Which models somebody means who writes a name, a provider or a glob."""

from __future__ import annotations

from collections.abc import Iterable
from fnmatch import fnmatchcase

from policyctl.effect.shares import provider_of
from policyctl.model.names import MODEL_PREFIX, POLICY_PREFIX, short_model


def names_of(model: str) -> tuple[str, ...]:
    """What a model may be called: in full, without the prefix, by its provider, by its last part."""
    short = short_model(model)
    whole = model if short.startswith(POLICY_PREFIX) else MODEL_PREFIX + short
    return whole, short, provider_of(model) or short, model.rpartition("/")[2]


def fitting(pattern: str, models: Iterable[str]) -> tuple[str, ...]:
    """The models of which one of these names fits the glob (case counts, `*` crosses `/`)."""
    return tuple(model for model in models if any(fnmatchcase(name, pattern) for name in names_of(model)))
