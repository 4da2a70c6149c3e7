"""P401: targets that no request can ever reach."""

from __future__ import annotations

from collections.abc import Iterator

from policyctl.lint.walk import groups
from policyctl.model.complaints import Complaint
from policyctl.model.normal import Document


def check(document: Document) -> Iterator[Complaint]:
    """Under `single` only the first target is ever called (gateway profile portkey-1.15.2)."""
    for path, group in groups(document):
        extra = len(group["targets"]) - 1
        if group["strategy"]["mode"] == "single" and extra:
            targets = "the other target is" if extra == 1 else f"the other {extra} targets are"
            message = f"only the first target is ever called under single; {targets} dead (remove, or use fallback)"
            yield Complaint((*path, "targets", 1), "P401", message, severity="warning")
