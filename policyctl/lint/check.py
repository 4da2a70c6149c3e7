"""All lint rules that look at one policy."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from policyctl.lint import codes as status_codes
from policyctl.lint import placeholders, retries, targets, weights
from policyctl.lint.groups import groups
from policyctl.policy.document import Document
from policyctl.policy.findings import Finding
from policyctl.rules.catalogue import DEFAULT_CODES

FAMILIES = (
    targets.check_groups,
    status_codes.check,
    retries.check,
    weights.check,
    targets.check_names,
    placeholders.check,
)


def lint(document: Document, codes: Collection[str] = DEFAULT_CODES) -> Iterator[Finding]:
    """Every finding of the rules with these codes in one policy document, with paths into it."""
    if "P443" in codes:
        yield from placeholders.in_name(("name",), document["name"])
    for place in groups(document):
        for check in FAMILIES:
            for complaint in check(place):
                if complaint.code in codes:
                    yield complaint
