"""A change: a difference on one policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from policyctl.core.diff import Field, fields_between
from policyctl.model.live import Live
from policyctl.model.normal import KNOWN_KEYS, Document, canonical_text, digest, normal_form, references
from policyctl.model.policy import Policy

Action = Literal["add", "update", "remove"]
ACTIONS: tuple[Action, ...] = ("add", "update", "remove")


@dataclass(frozen=True, slots=True)
class Change:
    """What is to happen to one policy.

    `before` is the live policy's normal form (None for an add), `after` the document to write (None for a remove), `id`
    the live policy's id. `file` says which file wants it; it is for people, and no part of the plan's digest.
    """

    action: Action
    name: str
    id: str | None
    before: Document | None
    after: Document | None
    fields: tuple[Field, ...] = ()
    file: str | None = None

    @property
    def needs(self) -> frozenset[str]:
        """The policies that must be there for this change's result to work."""
        return references(self.after) if self.after is not None else frozenset()

    @property
    def frees(self) -> frozenset[str]:
        """The policies that were needed before this change."""
        return references(self.before) if self.before is not None else frozenset()

    def before_digest(self) -> str | None:
        return None if self.before is None else digest(self.before)


def add(policy: Policy) -> Change:
    """A policy that the directory names and the remote does not have."""
    return Change("add", policy.name, None, None, policy.document, file=policy.file)


def update(policy: Policy, live: Live) -> Change | None:
    """What differs between the desired and the live policy, or None when they say the same."""
    if equal(policy, live):
        return None
    # From the normal form, as all that a saved plan holds: from it the same fields can be found again.
    fields = fields_between(live.normal, policy.document)
    return Change("update", policy.name, live.id, live.normal, policy.document, fields, policy.file)


def equal(policy: Policy, live: Live) -> bool:
    """Whether the desired and the live policy say the same."""
    # Most rows say just what is desired: that shows without the normal form of either.
    row = canonical_text({key: live.document.get(key) for key in KNOWN_KEYS})
    return row == policy.text or canonical_text(normal_form(policy.document)) == live.text


def remove(live: Live) -> Change:
    """A live policy that the directory no longer names."""
    return Change("remove", live.name, live.id, live.normal, None)
