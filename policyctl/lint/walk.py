"""Going through the groups of a valid policy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from policyctl.model.complaints import Path
from policyctl.model.normal import Document


def groups(document: Document) -> Iterator[tuple[Path, dict[str, Any]]]:
    """Every group of a policy with its path, outermost first, in the order written."""
    pending: list[tuple[Path, dict[str, Any]]] = [(("policy",), document["policy"])]
    while pending:
        path, group = pending.pop(0)
        yield path, group
        pending.extend(
            ((*path, "targets", position), target) for position, target in enumerate(group["targets"]) if "targets" in target
        )
