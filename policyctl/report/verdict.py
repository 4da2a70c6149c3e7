"""A plan's verdict, for who reads one line: how much changes, the riskiest thing it does to traffic, and what the rules say."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from policyctl.core.change import Change
from policyctl.core.guards import Review
from policyctl.effect.compare import Effect, Moved
from policyctl.report.effect_rows import cell_row
from policyctl.report.effect_views import model, percent
from policyctl.report.plain import count, plain

_WORSE = 4  # the least first rank of what makes requests fail


class Risk(NamedTuple):
    """What one change does to traffic, in words; the greater `rank`, the worse."""

    rank: tuple[int, float]
    policy: str
    said: str

    @property
    def worse(self) -> bool:
        """Whether requests fail that were served before."""
        return self.rank[0] >= _WORSE


class Verdict(NamedTuple):
    """Three answers. `risk` is None where traffic stays as it is, `passed` False where the plan cannot wholly be applied."""

    counts: str
    risk: Risk | None
    rules: str
    passed: bool


def verdict(review: Review) -> Verdict:
    """What to know of a plan before anything else."""
    plan = review.plan
    counts = ", ".join(f"{number:,} to {action}" for action, number in plan.totals.items()) if plan.changes else "no changes"
    risks = [risk for change in plan.changes if (risk := risk_of(change, review.effects.get(change.name)))]
    return Verdict(counts, _worst(risks), _rules(review), not (review.refusals or plan.blocked))


def risk_of(change: Change, effect: Effect | None) -> Risk | None:
    """The worst that one change does to traffic."""
    return _worst(_risks(change.name, change.action, effect))


def _worst(risks: Iterable[Risk]) -> Risk | None:
    """Of equal risks the first in the plan's order, so that the same plan gives the same line."""
    return max(risks, key=lambda risk: risk.rank, default=None)


def _rules(review: Review) -> str:
    said = []
    if review.refusals:
        said.append(f"refused by {count(len(review.refusals), 'safety rule')}")
    if review.plan.blocked:
        said.append(f"{count(len(review.plan.blocked), 'policy')} blocked by rows on the remote")
    return ", ".join(said) or "safety rules and guards passed"


def _risks(name: str, action: str, effect: Effect | None) -> Iterator[Risk]:
    """What a change may break, from what ends every request down to what only makes one slower or dearer."""
    if action == "remove":
        yield Risk((5, 1.0), name, "removed: requests that name it fail")
    if effect is None:
        return
    if effect.refused:
        yield Risk((5, 0.5), name, f"the gateway refuses it, every request gets 400: {plain(effect.refused)}")
    for cell in effect.worse:
        yield Risk((_WORSE, cell.before - cell.after), name, cell_row(cell))
    for one in effect.added:
        yield Risk((3, 0.0), name, " ".join([model(one.model), "newly reachable", plain(one.when)]).rstrip())
    if effect.traffic:
        yield Risk((2, effect.traffic), name, f"{percent(effect.traffic)} of its requests served by another model")
    for what, moved in (("most calls of a request", effect.calls), ("most back-off in seconds", effect.failover)):
        if moved and (grown := _growth(moved)) > 0:
            yield Risk((1, grown), name, f"{what} {moved.before or 0:,.10g} → {moved.after or 0:,.10g}")


def _growth(moved: Moved) -> float:
    return (moved.after or 0) - (moved.before or 0)
