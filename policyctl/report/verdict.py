"""A plan's verdict, for who reads one line: how much changes, the riskiest thing it does to traffic, and what the rules say."""

from __future__ import annotations

from collections.abc import Iterator
from math import inf
from typing import NamedTuple

from policyctl.core.change import Action, Change
from policyctl.core.effects import Affected
from policyctl.core.guards import Review
from policyctl.effect.compare import Effect
from policyctl.report.effect_rows import before_after, cell_row, telling
from policyctl.report.effect_views import model, percent, seconds
from policyctl.report.plain import count, plain
from policyctl.report.subject import ALSO, CANNOT_BE_TOLD

_WORSE = 4  # the least first rank of what makes requests fail


class Risk(NamedTuple):
    """What one change does to traffic, in words; the greater `rank`, the worse. `alike` others of the plan do the same."""

    rank: tuple[int, float]
    policy: str
    said: str
    alike: int = 0

    @property
    def worse(self) -> bool:
        """Whether requests fail that were served before, or nobody can tell."""
        return self.rank[0] >= _WORSE

    @property
    def others(self) -> str:
        """How many other changes do the same, to stand behind what is said; nothing where there are none."""
        return f" ({count(self.alike, 'other change')} alike)" if self.alike else ""


class Verdict(NamedTuple):
    """Three answers. `risk` is None where nothing gets worse, `passed` False where the plan cannot wholly be applied."""

    counts: str
    risk: Risk | None
    rules: str
    passed: bool


def verdict(review: Review) -> Verdict:
    """What to know of a plan before anything else."""
    plan = review.plan
    numbers = [f"{number:,} to {action}" for action, number in plan.totals.items() if number]
    counts = ", ".join([*numbers, *([f"{len(review.affected):,} {ALSO}"] if review.affected else [])]) or "no changes"
    risks = [risk for change in plan.changes if (risk := risk_of(change, review.effects.get(change.name)))]
    risks += [risk for one in review.affected if (risk := risk_on(one))]
    # Of equal risks the first in the plan's order, so that the same plan gives the same line.
    worst = max(risks, key=lambda risk: risk.rank, default=None)
    if worst is not None:
        worst = worst._replace(alike=sum(risk.said == worst.said for risk in risks) - 1)
    return Verdict(counts, worst, _rules(review), not (review.stale or review.refusals or plan.blocked))


def risk_of(change: Change, effect: Effect | None) -> Risk | None:
    """The worst that a change does, or None when nothing gets worse, slower, dearer or another's."""
    return max(_risks(change.name, change.action, effect), key=lambda risk: risk.rank, default=None)


def risk_on(one: Affected) -> Risk | None:
    """The worst that a plan does to a policy that it leaves alone."""
    return max(_risks(one.name, "update", one.effect), key=lambda risk: risk.rank, default=None)


def _rules(review: Review) -> str:
    said = []
    if review.stale:
        said.append(f"stale, {count(len(review.stale), 'policy')} moved since the plan was made")
    if review.refusals:
        said.append(f"refused by {count(len(review.refusals), 'safety rule')}")
    if review.plan.blocked:
        said.append(f"{count(len(review.plan.blocked), 'policy')} blocked by rows on the remote")
    return ", ".join(said) or "safety rules and guards passed"


def _risks(name: str, action: Action, effect: Effect | None) -> Iterator[Risk]:
    """What a change may break, from what ends every request down to what only makes one slower or dearer."""
    if action == "remove":
        yield Risk((5, 1.0), name, "removed; requests that name it fail")
    if effect is None:
        if action == "update":
            yield Risk((_WORSE, 1.0), name, CANNOT_BE_TOLD)
        return
    if effect.refused:
        yield Risk((5, 0.5), name, f"the gateway refuses it, every request gets 400: {plain(effect.refused)}")
    # What a model does that nobody asked before is no outage that was survived until now.
    added = {one.model for one in effect.added}
    for cell in telling(effect.worse):
        if cell.name not in added:
            yield Risk((_WORSE, cell.before - cell.after), name, cell_row(cell))
    for one in effect.added:
        share = next((moved.after or 0.0 for moved in effect.models if moved.name == one.model), 0.0)
        when = plain(one.when) or f"by {percent(share)} of the requests"
        yield Risk((3, share), name, f"{model(one.model)} newly reachable {when}")
    if effect.traffic:
        yield Risk((2, effect.traffic), name, f"{percent(effect.traffic)} of its requests served by another model")
    yield from (Risk((1, grown), name, said) for grown, said in _costlier(effect))


def _costlier(effect: Effect) -> Iterator[tuple[float, str]]:
    """The bounds of one request that grow: how many times over, and in words."""
    for what, moved, said in (
        ("worst-case latency", effect.latency, seconds),
        ("most back-off before failover", effect.failover, seconds),
        ("most calls of a request", effect.calls, "{:,.0f}".format),
    ):
        if moved is not None and moved.before is not None and moved.after is not None and moved.after > moved.before:
            yield moved.after / moved.before if moved.before else inf, f"{what}: {before_after(moved, said)}"
