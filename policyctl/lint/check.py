"""All lint rules that look at one policy."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from policyctl.lint import statuses, targets
from policyctl.lint.groups import groups
from policyctl.policy.document import Document
from policyctl.policy.findings import Finding
from policyctl.rules import DEFAULT_CODES

FAMILIES = (
    targets.check_groups,
    statuses.check_codes,
    statuses.check_retries,
    targets.check_weights,
    targets.check_names,
    targets.check_placeholders,
)


def lint(document: Document, codes: Collection[str] = DEFAULT_CODES) -> Iterator[Finding]:
    """Every finding of the rules with these codes in one policy document, with paths into it."""
    if "P443" in codes:
        yield from targets.in_name(("name",), document["name"])
    for place in groups(document):
        for check in FAMILIES:
            for complaint in check(place):
                if complaint.code in codes:
                    yield complaint
