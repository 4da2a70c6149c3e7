"""Whether what a policy targets exists: each target is a model that is known, or a policy that will be there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache

from policyctl.model.complaints import Complaint, Path, did_you_mean, show
from policyctl.model.names import MODEL_PREFIX, POLICY_PREFIX, canonical_name
from policyctl.model.normal import Document


def unknown_targets(
    document: Document,
    models: frozenset[str],
    policies: frozenset[str],
    elsewhere: Callable[[str], bool] = lambda _: False,
) -> Iterator[Complaint]:
    """A complaint for every target of a policy document that is neither a known model nor a policy (by canonical name).

    Without any `models` only policies are looked for. `elsewhere` says of a policy whether it may be where none were read.
    """
    for path, name in named_targets(document):
        canonical = canonical_name(name)
        if canonical in policies or name in models:
            continue
        if name.startswith(POLICY_PREFIX):
            if not elsewhere(canonical):
                yield Complaint(path, "P204", f"there is no policy {show(name)}{_mend(name, policies, POLICY_PREFIX)}")
        elif models:
            yield Complaint(path, "P204", f"the remote knows no model {show(name)}{_mend(name, models, MODEL_PREFIX)}")


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
