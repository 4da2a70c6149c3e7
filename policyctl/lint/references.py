"""P45x: targets that no file of the directory declares."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

from policyctl.core.models import named_targets
from policyctl.effect.shares import provider_of
from policyctl.lint.catalogue import finding
from policyctl.model.complaints import Complaint, did_you_mean
from policyctl.model.names import MODEL_PREFIX, POLICY_PREFIX, canonical_model, canonical_name
from policyctl.model.normal import Document

_MAX_GUESSED = 500  # looking for a near miss among more names takes longer than it helps


def check(
    document: Document, policies: frozenset[str], models: frozenset[str], speaks_for: Callable[[str], bool]
) -> Iterator[Complaint]:
    """Targets of one policy that are neither among the directory's `policies` nor among its `models` (canonical names).

    `speaks_for` says whether a policy of that name can exist only as a file. A model may well be declared elsewhere, so it
    is one only when the directory declares models of its provider, or one of nearly that name.
    """
    for path, name in named_targets(document):
        if name.startswith(POLICY_PREFIX):
            if name not in policies and speaks_for(name):
                guess = _guess(name, POLICY_PREFIX, policies)
                yield finding(path, "P451", f"no file here declares the policy {name}{guess}")
        elif models and provider_of(name) and canonical_model(name) not in models and canonical_name(name) not in policies:
            guess = _guess(name, MODEL_PREFIX, models)
            if guess or provider_of(name) in _providers(models):
                yield finding(path, "P452", f"{name} is none of the virtual models that the files here declare{guess}")


@lru_cache(maxsize=8)
def _providers(models: frozenset[str]) -> frozenset[str | None]:
    return frozenset(map(provider_of, models))


@lru_cache(maxsize=4096)  # thousands of policies target the same few models
def _guess(name: str, prefix: str, known: frozenset[str]) -> str:
    """A near miss among the known names."""
    return "" if len(known) > _MAX_GUESSED else did_you_mean(name, sorted(known), prefix, cutoff=0.8)
