"""P50x: what the effect engine finds out about a policy. These rules take longer than the others and are asked for."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any

from policyctl.effect.outages import one_failure, outages
from policyctl.effect.tree import NOTHING, DeclaredModels, Leaf, Tree, tree_if_known
from policyctl.effect.worst_case import Leg, Routes, max_calls
from policyctl.errors import NotKnown
from policyctl.lint.targets import groups
from policyctl.policy.document import Document
from policyctl.policy.findings import FieldPath, Finding
from policyctl.policy.names import provider_of, short_model
from policyctl.rules import finding

MAX_CALLS = 12  # of one request
_TIMEOUT = [one_failure(408)]
_DOWN = (500, 503)


def check(
    document: Document, policies: Mapping[str, Document], codes: Collection[str], declared: DeclaredModels = NOTHING
) -> Iterator[Finding]:
    """Every finding of the deep rules with these codes in one policy; targets may be `policies` (by canonical name)."""
    try:
        tree = tree_if_known(document, policies, declared)
    except NotKnown:  # by way of other policies
        return
    if "P502" in codes:
        yield from _calls(tree)
    if tree.unfollowed:  # it is not known what such a policy serves
        return
    if "P501" in codes:
        yield from _timeouts(document, policies, declared, tree)
    if "P503" in codes:
        yield from _single_points(tree)


def _timeouts(document: Document, policies: Mapping[str, Document], declared: DeclaredModels, tree: Tree) -> Iterator[Finding]:
    """Lists without 408 whose policy would serve more requests with it, while a model times out."""
    lacking = [place for place in groups(document) if place.moves_on and place.codes and 408 not in place.codes]
    now = outages(tree, _TIMEOUT) if lacking else None
    for place in lacking:
        with_it = outages(tree_if_known(_with_408(document, place.path), policies, declared), _TIMEOUT)
        for model, row in with_it.models.items():
            if now is not None and row < now.models[model]:
                message = f"without 408 a timeout of {short_model(model)} ends the request here; another target could serve it"
                yield finding((*place.path, "strategy", "on_status_codes"), "P501", f"{message} (add 408)", "key")
                break


def _with_408(node: Any, path: FieldPath) -> Any:
    """The document with 408 added to the list of the group at a path."""
    if not path:
        strategy = node["strategy"]
        return {**node, "strategy": {**strategy, "on_status_codes": [*strategy["on_status_codes"], 408]}}
    step, rest = path[0], path[1:]
    if isinstance(node, list):
        return [_with_408(item, rest) if position == step else item for position, item in enumerate(node)]
    return {**node, step: _with_408(node[step], rest)}


def _calls(tree: Tree) -> Iterator[Finding]:
    attempts = sum(leaf.times * (leaf.retry.repeats + 1) for leaf in tree.leaves)
    if 2 * attempts <= MAX_CALLS:  # an attempt takes two calls at most
        return
    routes = Routes(tree)
    if attempts * routes.attempt_calls <= MAX_CALLS:
        return
    bound = max_calls(routes)
    if bound.value > MAX_CALLS:
        message = f"one request may become {bound.value:g} calls, more than {MAX_CALLS}: {_describe(bound.legs)}"
        yield finding(("policy", "strategy"), "P502", f"{message} (lower attempts, or list fewer targets)", "key")


def _describe(legs: tuple[Leg, ...]) -> str:
    """`6 × openai/gpt-4o, 6 × google/gemini-2.5-pro`; of many targets the first three."""
    said = [f"{leg.calls} × {short_model(leg.model)}" for leg in legs]
    return ", ".join(said if len(said) <= 4 else [*said[:3], f"and {len(said) - 3} more targets"])


def _single_points(tree: Tree) -> Iterator[Finding]:
    """The models, and the providers of which no one model is enough, without which nothing is served."""
    matrix = outages(tree, list(map(one_failure, _DOWN)))
    alone = {model: failures for model, row in matrix.models.items() if (failures := _fatal(row))}
    for model, failures in alone.items():
        leaf = next(leaf for leaf in tree.leaves if leaf.model == model)
        message = f"no request is served while {short_model(model)} answers {failures}"
        yield finding(_where(leaf), "P503", f"{message} (have a fallback move on then)", "value" if leaf.path else "key")
    providers = {provider_of(model) for model in alone}
    for provider, row in matrix.providers.items():
        if provider not in providers and (failures := _fatal(row)):
            message = f"no request is served while all of {provider} answers {failures}"
            yield finding(
                ("policy", "strategy"), "P503", f"{message} (have a fallback move on to another provider then)", "key"
            )


def _fatal(row: tuple[float, ...]) -> str:
    """`500 or 503`: those of the two that leave nothing served."""
    return " or ".join(str(failure) for failure, lost in zip(_DOWN, row, strict=True) if lost == 1)


def _where(leaf: Leaf) -> FieldPath:
    """The path of a target in the document; for one of another policy, the strategy."""
    if not leaf.path:
        return "policy", "strategy"
    steps: FieldPath = ("policy",)
    for position in leaf.path:
        steps = (*steps, "targets", position)
    return *steps, "model_name"
