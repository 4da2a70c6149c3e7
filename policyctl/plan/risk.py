"""The one measure of risk: what of a plan a reviewer has to know first.

Headline, tables and pages are ordered by it. A change is as risky as the worst that it does:

1. `NORMAL`: requests fail although nothing is broken; weighed by how many. A removed policy that another one targets comes
   here, and an effect that is not known. Where credentials may go to another host, that comes first.
2. What takes requests while nothing, or one thing, is broken; weighed by how many, and of equal weight in this order:
   `SHARE`: another model serves. `OUTAGE`: an outage that was survived no longer is; weighed also by how usual it is: 429, 500,
   502, 503, 504, 529 and broken connections count ten times as much as other statuses that providers are known to answer with,
   and those ten times as much as the rest; several models at once count a hundredth. `PARTIAL`: the same while only a share of
   the calls fails.
3. `REACH`: a model that no request came to before may be asked after some failure.
4. `REMOVED`: a policy goes that no other policy targets.
5. `COST`: a request may make more calls or wait longer; weighed by how many times over.
6. `MIXED`: requests are lost only while the answers of a model change from call to call, between failures.

What takes many requests is never hidden behind what takes few: see `Risk.also`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from enum import IntEnum
from math import inf
from typing import NamedTuple

from policyctl.effect.analysis import Cell, Delta, Effect, Reached
from policyctl.effect.gateway import Answer
from policyctl.effect.outages import KNOWN, Together
from policyctl.plan.plan import Action

_USUAL = frozenset[Answer]({429, 500, 502, 503, 504, 529, "refused", "hang"})
_RARER = 0.1  # what failures that are met less often weigh of those that are met more often
_NEARLY = 0.5  # of the weight of the worst is nearly as bad
_DIGITS = 9  # further ones of a part of the requests are rounding


class Tier(IntEnum):
    """What a risk is about; the greater, the worse, where the weight does not decide."""

    MIXED = 1
    COST = 2
    REMOVED = 3
    REACH = 4
    PARTIAL = 5
    OUTAGE = 6
    SHARE = 7
    NORMAL = 8


_BY_SIZE = frozenset({Tier.SHARE, Tier.OUTAGE, Tier.PARTIAL})  # whichever takes the most requests comes first


class Risk(NamedTuple):
    """One thing that a change does. `about` is what moves: None where it is the policy as a whole.

    `size` is the part of the requests that it moves or loses, however usual what it takes for that is; 0 where that is not
    known. `also` is what else there is to know of the same policy: what takes more requests than all that is graver, and who
    serves where an outage or a partial failure is graver than that. `all_read` is whether it is known of every live policy
    what it targets.
    """

    tier: Tier
    weight: float
    policy: str
    about: Delta | Cell | Together | Reached | Effect | None = None
    size: float = 0.0
    also: tuple[Risk, ...] = ()
    all_read: bool = True

    @property
    def rank(self) -> tuple[int, float, int]:
        """The greater, the worse."""
        return self._level, round(self.weight, _DIGITS), self.tier

    @property
    def _level(self) -> Tier:
        return Tier.SHARE if self.tier in _BY_SIZE else self.tier

    @property
    def takes(self) -> float:
        """The most requests that this, or what there is to know besides, moves or loses."""
        return max(round(one.size, _DIGITS) for one in (self, *self.also))

    def like(self, other: Risk) -> bool:
        """Whether another one is as bad as this one, or nearly."""
        return other.rank[0] == self.rank[0] and other.weight >= self.weight * _NEARLY


def worst_of(policy: str, action: Action, effect: Effect | None, *, used: bool = False, all_read: bool = True) -> Risk | None:
    """The worst that the change of one policy does, or None when nothing gets worse, slower, dearer or another's.

    `effect` is None where it is not known, and of removals and adds. `used` is whether a policy that stays targets this one,
    `all_read` whether it is known of all of them what they target.
    """
    if action == "remove":
        return Risk(Tier.NORMAL, 1.0, policy, size=1.0) if used else Risk(Tier.REMOVED, 1.0, policy, all_read=all_read)
    found = sorted(_risks(policy, action, effect), key=lambda risk: risk.rank, reverse=True)
    return found[0]._replace(also=_also(found)) if found else None


def _also(found: Sequence[Risk]) -> tuple[Risk, ...]:
    """What to know besides the first of the risks of a policy, which are sorted."""
    shown = [found[0]]
    for risk in found[1:]:
        takes_more = risk.takes > max(one.takes for one in shown)
        serves = risk.tier is Tier.SHARE and found[0].tier in _BY_SIZE
        if takes_more or serves:
            shown.append(risk)
    return tuple(shown[1:])


def loses(effect: Effect | None) -> bool:
    """Whether an update loses requests that were served before, apart from what is proven to be a shift of weights alone.

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
        yield Risk(Tier.NORMAL, 2.0 if effect.brief else 0.0, policy, effect)
    elif effect is not None:
        yield from _losses(policy, effect)
        yield from (Risk(Tier.REACH, 0.0, policy, one) for one in effect.added)
        yield from _costs(policy, effect)
    elif action == "update":
        yield Risk(Tier.NORMAL, 0.0, policy)


def _losses(policy: str, effect: Effect) -> Iterator[Risk]:
    """Requests that are lost, or served by another model."""
    if effect.usual is not None and (fall := _fall(effect.usual)) > 0:
        yield Risk(Tier.NORMAL, fall, policy, effect.usual, fall)
    if effect.traffic:
        yield Risk(Tier.SHARE, effect.traffic, policy, effect, effect.traffic)
    for cell in effect.worse:
        tier = Tier.PARTIAL if cell.share < 1 else Tier.OUTAGE
        yield Risk(tier, weight_of(cell), policy, cell, cell.size)
    if (together := effect.together) is not None:
        tier, lost = _tier_of(together), together.before - together.after
        yield Risk(tier, lost * _RARER**2, policy, together, 0.0 if tier is Tier.MIXED else lost)


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


def weight_of(cell: Cell) -> float:
    """How many more requests, or fewer, are lost, by how usual that is."""
    return cell.size * _usualness(cell.failures)


def _usualness(failures: Collection[Answer]) -> float:
    """How often one of these failures is met, from 0 to 1."""
    if not _USUAL.isdisjoint(failures):
        return 1.0
    return _RARER if any(code in failures for code in KNOWN) else _RARER**2


def _fall(moved: Delta) -> float:
    return (moved.before or 0.0) - (moved.after or 0.0)
