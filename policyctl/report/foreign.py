"""What in a plan's sentences are not words of this program: what policies and the remote say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from policyctl.core.guards import Review
from policyctl.model.names import bare_name
from policyctl.model.normal import Document, references


def texts_of(review: Review) -> Iterator[str]:
    """Every text that a sentence about a plan may hold of a policy: names, models, providers, modes; as whole and in parts."""
    yield from review.live
    yield from map(bare_name, review.live)
    for block in review.plan.blocked:
        yield from (block.name, bare_name(block.name), *block.ids)
    for change in review.plan.changes:
        yield from (change.name, bare_name(change.name))
    yield from texts_in(_documents(review))


def texts_in(documents: Iterable[Document]) -> Iterator[str]:
    """Every text of policy documents, as whole and in parts."""
    for document in documents:
        for text in _strings(document):
            yield text
            yield from _endings(text)


def _documents(review: Review) -> Iterator[Document]:
    """Both versions of what changes, and the policies that these target, at any depth."""
    pending = [document for change in review.plan.changes for document in (change.before, change.after) if document is not None]
    pending += [review.policies[one.name] for one in review.affected if one.name in review.policies]
    seen: set[str] = set()
    while pending:
        document = pending.pop()
        yield document
        new = references(document) - seen
        seen |= new
        pending += [known[name] for known in (review.policies_before, review.policies) for name in new if name in known]


def _strings(value: Any) -> Iterator[str]:
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending += item.values()
        elif isinstance(item, list):
            pending += item
        elif isinstance(item, str):
            yield item


def _endings(text: str) -> Iterator[str]:
    """`b/c`, `c` and `a`, `b` of `a/b/c`: a model without what all share, and its provider."""
    parts = text.split("/")[:8]
    for place in range(1, len(parts)):
        yield "/".join(parts[place:])
        yield parts[place]
