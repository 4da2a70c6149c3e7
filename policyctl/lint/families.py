"""All rules that look at one policy."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from policyctl.lint import codes as status_codes
from policyctl.lint import dead_targets, names, placeholders, retries, weights
from policyctl.lint.catalogue import DEFAULT_CODES
from policyctl.lint.places import places
from policyctl.model.complaints import Complaint
from policyctl.model.normal import Document

FAMILIES = (dead_targets.check, status_codes.check, retries.check, weights.check, names.check, placeholders.check)


def lint(document: Document, codes: Collection[str] = DEFAULT_CODES) -> Iterator[Complaint]:
    """Every finding of the rules with these codes in one policy document, with paths into it."""
    if "P443" in codes:
        yield from placeholders.in_name(("name",), document["name"])
    for place in places(document):
        for check in FAMILIES:
            for complaint in check(place):
                if complaint.code in codes:
                    yield complaint
