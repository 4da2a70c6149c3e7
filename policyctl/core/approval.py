"""What merged pull requests approved, held against the plan of now: which of it is not applied yet, and whether it is all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from policyctl.core.plan import Plan
from policyctl.core.settings import Override

NONE = "none"  # no digest that anybody approved
APPLIED = "applied"  # stands in a digest's place once it has done its work


@dataclass(frozen=True, slots=True)
class Approval:
    """What the merge of one pull request approved: the plan's digest (or `none`, or `applied`), and what it rests on.

    `source` is how people name the pull request. `prints` are the hashes of the plan's changes (see `Plan.prints`), none
    where the comment had no room for them.
    """

    digest: str
    source: str = ""
    overrides: tuple[Override, ...] = ()
    prints: tuple[str, ...] = ()


def waiting(approvals: Sequence[Approval], plan: Plan) -> list[tuple[Approval, int]]:
    """The approvals with changes that the plan still has, and how many of them."""
    left = set(plan.prints)
    counted = [(one, len(left & set(one.prints))) for one in approvals]
    return [(one, number) for one, number in counted if number]


def adds_up(approvals: Sequence[Approval], plan: Plan) -> bool:
    """Whether the plan is exactly the sum of approved ones: each change was shown in one, and each of those is there whole,
    or has nothing left to do."""
    left, covered = set(plan.prints), set[str]()
    for one in approvals:
        own = set(one.prints)
        if own & left:
            if one.digest in (NONE, APPLIED) or not own <= left:
                return False
            covered |= own
    return covered == left


def unapproved(approvals: Sequence[Approval], plan: Plan) -> Iterator[str]:
    """The names of the policies with changes that none of the approved plans had."""
    shown = {mark for one in approvals if one.digest != NONE for mark in one.prints}
    return (change.name for change, mark in zip(plan.changes, plan.prints, strict=True) if mark not in shown)


def overrides_of(approvals: Sequence[Approval]) -> tuple[Override, ...]:
    """All overrides of these approvals, each once."""
    return tuple({override.text: override for one in approvals for override in one.overrides}.values())
