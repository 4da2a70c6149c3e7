"""P453: targets that are declared to be of another type than the others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from policyctl.core.models import named_targets
from policyctl.effect.declared import Declared
from policyctl.effect.tree import read_tree
from policyctl.errors import PolicyctlError
from policyctl.lint.catalogue import finding
from policyctl.model.complaints import Complaint
from policyctl.model.names import bare_name, canonical_model, canonical_name, short_model
from policyctl.model.normal import Document


def check(document: Document, policies: Mapping[str, Document], declared: Declared) -> Iterator[Complaint]:
    """Every target of one policy that never serves because of its type: a model, or one of `policies`."""
    try:
        tree = read_tree(document, policies, declared)
        for path, name in named_targets(document) if tree.unfit else ():
            if inner := policies.get(canonical_name(name)):
                kind = read_tree(inner, policies, declared).takes
                said = f"{bare_name(name)} takes {kind} requests" if kind not in (None, tree.takes) else ""
            else:
                unfit = tree.unfit.get(canonical_model(name))
                said = f"{short_model(name)} is declared as {unfit}" if unfit else ""
            if said:
                fails = f"this policy takes {tree.takes} requests: all of them fail there"
                yield finding(path, "P453", f"{said}, and {fails} (use a target that takes {tree.takes} requests)")
    except PolicyctlError:  # by way of other policies, nested deeper than can be followed: nothing can be told
        return
