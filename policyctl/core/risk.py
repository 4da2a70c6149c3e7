"""The one measure of risk: what of a plan a reviewer has to know first.

Headline, tables and pages are ordered by it. A change is as risky as the worst that it does; what it does falls into tiers,
and within a tier the heavier comes first:

1. `NORMAL`: requests fail although nothing is broken; weighed by how many. A removed policy that another one targets comes
   here, and an effect that is not known.
2. `SHARE`: another model serves; weighed by the part of the requests that move.
3. `OUTAGE`: an outage that was survived no longer is; weighed by the requests that it loses and by how usual it is: 429, 500,
   502, 503, 504, 529 and broken connections before other statuses that providers are known to answer with, those before the
   rest, one model or provider before several at once.
4. `PARTIAL`: the same while only a share of the calls fails.
5. `REACH`: a model that no request came to before may be asked after some failure.
6. `REMOVED`: a policy goes that no other policy targets.
7. `COST`: a request may make more calls or wait longer; weighed by how many times over.
8. `MIXED`: requests are lost only while the answers of a model change from call to call, between failures.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from enum import IntEnum
from math import inf
from typing import NamedTuple

from policyctl.core.change import Action
from policyctl.effect.compare import Cell, Effect, Moved, Reached
from policyctl.effect.failures import KNOWN
from policyctl.effect.profile import Answer
from policyctl.effect.together import Together

_USUAL = frozenset[Answer]({429, 500, 502, 503, 504, 529, "refused", "hang"})
_RARER = 0.1  # what failures that are met less often weigh of those that are met more often
_NEARLY = 0.5  # of the weight of the worst is nearly as bad


class Tier(IntEnum):
    """What a risk is about; the greater, the worse."""

    MIXED = 1
    COST = 2
    REMOVED = 3
    REACH = 4
    PARTIAL = 5
    OUTAGE = 6
    SHARE = 7
    NORMAL = 8


class Risk(NamedTuple):
    """One thing that a change does. `about` is what moves: None where it is the policy as a whole."""

    tier: Tier
    weight: float
    policy: str
    about: Moved | Cell | Together | Reached | Effect | None = None

    @property
    def rank(self) -> tuple[int, float]:
        """The greater, the worse."""
        return self.tier, self.weight

    def like(self, other: Risk) -> bool:
        """Whether another one is as bad as this one, or nearly."""
        return other.tier == self.tier and other.weight >= self.weight * _NEARLY


def worst_of(policy: str, action: Action, effect: Effect | None, *, used: bool = False) -> Risk | None:
    """The worst that the change of one policy does, or None when nothing gets worse, slower, dearer or another's.

    `effect` is None where it is not known, and of removals and adds. `used` is whether a policy that stays targets this one.
    """
    if action == "remove":
        return Risk(Tier.NORMAL, 1.0, policy) if used else Risk(Tier.REMOVED, 1.0, policy)
    return max(_risks(policy, action, effect), key=lambda risk: risk.rank, default=None)


def loses(effect: Effect | None) -> bool:
    """Whether an update loses requests that were served before, apart from what a shift of weights moves.

    Of one that is not known that is not claimed.
    """
    if effect is None:
        return True
    if effect.unknown:
        return False
    fell = effect.usual is not None and _fall(effect.usual) > 0
    return fell or effect.together is not None or bool(effect.worse and not effect.shift)


def _risks(policy: str, action: Action, effect: Effect | None) -> Iterator[Risk]:
    if effect is not None and effect.unknown:
        yield Risk(Tier.NORMAL, 0.0, policy, effect)
    elif effect is not None:
        yield from _losses(policy, effect)
        yield from (Risk(Tier.REACH, 0.0, policy, one) for one in effect.added)
        yield from _costs(policy, effect)
    elif action == "update":
        yield Risk(Tier.NORMAL, 0.0, policy)


def _losses(policy: str, effect: Effect) -> Iterator[Risk]:
    """Requests that are lost, or served by another model."""
    if effect.usual is not None and _fall(effect.usual) > 0:
        yield Risk(Tier.NORMAL, _fall(effect.usual), policy, effect.usual)
    if effect.traffic:
        yield Risk(Tier.SHARE, effect.traffic, policy, effect)
    # What a model does that no request came to before is not an outage that was survived until now.
    added = {one.model for one in effect.added}
    for cell in effect.worse:
        if cell.name not in added:
            yield Risk(Tier.PARTIAL if cell.share < 1 else Tier.OUTAGE, _weight(cell), policy, cell)
    if effect.together is not None:
        lost = (effect.together.before - effect.together.after) * _RARER**2
        yield Risk(_tier_of(effect.together), lost, policy, effect.together)


def _tier_of(together: Together) -> Tier:
    if any(len(answers) > 1 for _, answers in together.failing):
        return Tier.MIXED
    return Tier.OUTAGE if together.share == 1 else Tier.PARTIAL


def _costs(policy: str, effect: Effect) -> Iterator[Risk]:
    # More calls wait longer as well; what only waits longer obeys a Retry-After.
    waits = effect.waits if effect.calls is None and effect.failover is None else None
    for moved in (effect.latency, effect.failover, effect.calls, waits):
        if moved is not None and moved.before is not None and moved.after is not None and moved.after > moved.before:
            yield Risk(Tier.COST, moved.after / moved.before if moved.before else inf, policy, moved)


def _weight(cell: Cell) -> float:
    return (cell.before - cell.after) * usualness(cell.failures)


def usualness(failures: Collection[Answer]) -> float:
    """How often one of these failures is met, from 0 to 1."""
    if not _USUAL.isdisjoint(failures):
        return 1.0
    return _RARER if any(code in failures for code in KNOWN) else _RARER**2


def _fall(moved: Moved) -> float:
    return (moved.before or 0.0) - (moved.after or 0.0)
