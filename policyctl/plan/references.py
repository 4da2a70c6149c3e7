"""The targets of a policy compared with the models and policies that exist."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
from functools import lru_cache

from policyctl.policy.document import Document, Policy
from policyctl.policy.findings import FieldPath, Finding, did_you_mean, format_path
from policyctl.policy.names import MODEL_PREFIX, POLICY_PREFIX, canonical_model, canonical_name, model_spelling


def unknown_targets(
    document: Document,
    models: frozenset[str],
    policies: frozenset[str],
    elsewhere: Callable[[str], bool] = lambda _: False,
) -> Iterator[Finding]:
    """A complaint for every target of a policy document that is neither a known model, in either spelling, nor a policy (by
    canonical name).

    Without any `models` only policies are looked for. `elsewhere` says of a policy whether it may be where none were read.
    """
    known = _canonical(models)
    for path, name in named_targets(document):
        canonical = canonical_name(name)
        if canonical in policies or canonical_model(name) in known:
            continue
        if name.startswith(POLICY_PREFIX):
            if not elsewhere(canonical):
                yield Finding(
                    path, "P204", f"there is no policy {format_path(name)}{_suggestion(name, policies, POLICY_PREFIX)}"
                )
        elif models:
            yield Finding(
                path, "P204", f"the remote knows no model {format_path(name)}{_suggestion(name, models, MODEL_PREFIX)}"
            )


@lru_cache(maxsize=8)  # the same few sets are asked about for every policy
def _canonical(models: frozenset[str]) -> frozenset[str]:
    return frozenset(map(canonical_model, models))


@lru_cache(maxsize=1024)  # one wrong model is often in every policy, and guessing is slow
def _suggestion(name: str, known: frozenset[str], prefix: str) -> str:
    return did_you_mean(name, sorted(known), prefix) or " (add it there first, or correct the name)"


def only_declared(
    documents: Mapping[str, Document], listed: frozenset[str], declared: Collection[str], policies: Collection[str]
) -> Iterator[str]:
    """A sentence for every model that one of these policy documents (by name) targets, that files declare, and that is not
    among those which the remote lists.

    A target that names one of `policies` is not a model. Without a list nothing is known of the remote's models.
    """
    missing = _canonical(frozenset(declared)) - _canonical(listed) if listed else frozenset[str]()
    users: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for user, document in documents.items() if missing else ():
        for _, name in named_targets(document):
            if canonical_model(name) in missing and canonical_name(name) not in policies:
                users[canonical_model(name)][user] = None
    for model, names in sorted(users.items()):
        who = next(iter(names)) if len(names) == 1 else f"{len(names):,} policies"
        yield f"{model} is declared in files, not known to the remote; {who} would target it, and it counts as serving"


def named_targets(document: Document) -> Iterator[tuple[FieldPath, str]]:
    """Every target of a desired policy that is a model or a policy, at any depth, dead or not: its path and `model_name`."""
    pending: list[tuple[FieldPath, Document]] = [(("policy",), document["policy"])]
    for path, group in pending:
        for position, target in enumerate(group["targets"]):
            if "targets" in target:
                pending.append(((*path, "targets", position), target))
            else:
                yield (*path, "targets", position, "model_name"), target["model_name"]


def remote_spelling(policy: Policy, models: frozenset[str], policies: Collection[str], *, virtual: bool = False) -> Policy:
    """The policy with its models spelled as they are known (see `model_spelling`); the same one where they are already.

    A target that names one of `policies` (by canonical name) is not a model.
    """

    def with_models(group: Document) -> Document:
        return {**group, "targets": [with_model(target) for target in group["targets"]]}

    def with_model(target: Document) -> Document:
        if "targets" in target:
            return with_models(target)
        if canonical_name(target["model_name"]) in policies:
            return target
        return {**target, "model_name": model_spelling(target["model_name"], models, policies, virtual=virtual)}

    document = {**policy.document, "policy": with_models(policy.document["policy"])}
    return policy if document == policy.document else Policy(policy.name, document, policy.file, policy.index)
