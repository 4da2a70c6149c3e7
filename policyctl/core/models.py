"""Whether what a policy targets exists: each target is a model that is known, or a policy that will be there."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from policyctl.model.complaints import Complaint, Path, did_you_mean, show
from policyctl.model.names import MODEL_PREFIX, POLICY_PREFIX, canonical_name
from policyctl.model.normal import Document


def unknown_targets(document: Document, models: frozenset[str], policies: frozenset[str]) -> Iterator[Complaint]:
    """A complaint for every target of a policy document that is no known model and no policy (by canonical name)."""
    for path, name in named_targets(document):
        if name not in models and canonical_name(name) not in policies:
            is_policy = name.startswith(POLICY_PREFIX)
            mend = _mend(name, policies, POLICY_PREFIX) if is_policy else _mend(name, models, MODEL_PREFIX)
            yield Complaint(path, "P204", f"the remote knows no {'policy' if is_policy else 'model'} {show(name)}{mend}")


@lru_cache(maxsize=1024)  # one wrong model is often in every policy, and guessing is slow
def _mend(name: str, known: frozenset[str], prefix: str) -> str:
    return did_you_mean(name, sorted(known), prefix) or " (add it there first, or correct the name)"


def named_targets(document: Document) -> Iterator[tuple[Path, str]]:
    """Every target of a desired policy that is a model or a policy, at any depth, dead or not: its path and `model_name`."""
    pending: list[tuple[Path, Document]] = [(("policy",), document["policy"])]
    for path, group in pending:
        for position, target in enumerate(group["targets"]):
            if "targets" in target:
                pending.append(((*path, "targets", position), target))
            else:
                yield (*path, "targets", position, "model_name"), target["model_name"]
