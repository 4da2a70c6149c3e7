"""Whether what a policy targets exists: each target is a model that is known, or a policy that will be there."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from policyctl.model.complaints import Complaint, Path, did_you_mean, show
from policyctl.model.names import POLICY_PREFIX, canonical_name
from policyctl.model.normal import Document


def unknown_targets(document: Document, models: frozenset[str], policies: frozenset[str]) -> Iterator[Complaint]:
    """A complaint for every target of a policy document that is no known model and no policy (by canonical name)."""
    for path, name in _targets(document):
        if name not in models and canonical_name(name) not in policies:
            kind, known = ("policy", policies) if name.startswith(POLICY_PREFIX) else ("model", models)
            message = f"the remote knows no {kind} {show(name)}{_mend(name, known)}"
            yield Complaint((*path, "model_name"), "P204", message)


@lru_cache(maxsize=1024)  # one wrong model is often in every policy, and guessing is slow
def _mend(name: str, known: frozenset[str]) -> str:
    return did_you_mean(name, sorted(known)) or " (add it there first, or correct the name)"


def _targets(document: Document) -> Iterator[tuple[Path, str]]:
    """The targets that name something, at any depth, each with its path into the document."""
    pending: list[tuple[Path, Any]] = [(("policy",), document["policy"])]
    while pending:
        path, group = pending.pop(0)
        if "model_name" in group:
            yield path, group["model_name"]
        pending += [((*path, "targets", position), target) for position, target in enumerate(group.get("targets", ()))]
