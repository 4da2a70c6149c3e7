"""Rules over valid policies: what a file may say but hardly means. One file a rule family, stable codes."""

from __future__ import annotations

from collections.abc import Iterator

from policyctl.lint import dead_targets
from policyctl.model.complaints import Complaint
from policyctl.model.normal import Document

FAMILIES = (dead_targets,)


def lint(document: Document) -> Iterator[Complaint]:
    """Every finding in one policy document, with paths into it."""
    for family in FAMILIES:
        yield from family.check(document)
