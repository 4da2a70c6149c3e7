"""P45x: names that no file declares, and targets that are declared with another type than the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache

from policyctl.effect.context import DeclaredModels
from policyctl.effect.tree import read_tree
from policyctl.errors import PolicyctlError
from policyctl.plan.references import named_targets
from policyctl.plan.uses import path_of
from policyctl.policy.document import Document
from policyctl.policy.findings import Finding, did_you_mean
from policyctl.policy.names import (
    MODEL_PREFIX,
    POLICY_PREFIX,
    bare_name,
    canonical_model,
    canonical_name,
    provider_of,
    short_model,
)
from policyctl.rules import finding

_MAX_GUESSED = 500  # looking for a near miss among more names takes longer than it helps


def check(
    document: Document, policies: frozenset[str], models: frozenset[str], speaks_for: Callable[[str], bool]
) -> Iterator[Finding]:
    """Targets of one policy that are neither among the directory's `policies` nor among its `models` (canonical names).

    `speaks_for` is whether a policy of that name can exist only as a file. A model may well be declared elsewhere, so it
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


def check_uses(
    uses: Iterable[tuple[str, str]],
    policies: frozenset[str],
    models: frozenset[str],
    speaks_for: Callable[[str], bool],
    *,
    managed: bool,
) -> Iterator[Finding]:
    """The names that a file of another kind uses, as (field, name), and that nothing here declares. `managed` is whether the
    directory manages models, so that it may speak for one. Only names with a prefix count: others may be built-in models."""
    for field, name in uses:
        if name.startswith(POLICY_PREFIX) and name not in policies and speaks_for(name):
            message = f"no file here declares the policy {name}{_guess(name, POLICY_PREFIX, policies)}"
            yield finding(path_of(field), "P454", message)
        elif name.startswith(MODEL_PREFIX) and name not in models:
            guess = _guess(name, MODEL_PREFIX, models)
            if guess or (managed and speaks_for(name)) or provider_of(name) in _providers(models):
                yield finding(path_of(field), "P454", f"no file here declares the virtual model {name}{guess}")


@lru_cache(maxsize=8)
def _providers(models: frozenset[str]) -> frozenset[str | None]:
    return frozenset(map(provider_of, models))


@lru_cache(maxsize=4096)  # thousands of policies target the same few models
def _guess(name: str, prefix: str, known: frozenset[str]) -> str:
    """A near miss among the known names."""
    return "" if len(known) > _MAX_GUESSED else did_you_mean(name, sorted(known), prefix, cutoff=0.8)


def check_types(document: Document, policies: Mapping[str, Document], declared: DeclaredModels) -> Iterator[Finding]:
    """Every target of one policy that never serves because of its type: a model, or one of `policies`."""
    try:
        tree = read_tree(document, policies, declared)
        for path, name in named_targets(document) if tree.unfit else ():
            if inner := policies.get(canonical_name(name)):
                kind = read_tree(inner, policies, declared).takes
                what = f"{bare_name(name)} takes {kind} requests" if kind not in (None, tree.takes) else ""
            else:
                unfit = tree.unfit.get(canonical_model(name))
                what = f"{short_model(name)} is declared as {unfit}" if unfit else ""
            if what:
                fails = f"this policy takes {tree.takes} requests: all of them fail there"
                yield finding(path, "P453", f"{what}, and {fails} (use a target that takes {tree.takes} requests)")
    except PolicyctlError:  # by way of other policies, nested too deeply: nothing is known
        return
