"""How bad one request can get, whatever the models answer, and the route that gets there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from operator import add
from typing import NamedTuple

from policyctl.effect.profile import most_waits
from policyctl.effect.routes import Bits, Route, Routes, Weights
from policyctl.effect.tree import Leaf, Path


class Leg(NamedTuple):
    """One target on the way: how often it is called, the seconds waited between and after these calls, what it ends with.

    `status` is the status of its last call; a code that stands for any that would do as well.
    """

    model: str
    path: Path
    calls: int
    seconds: int
    status: int


@dataclass(frozen=True, slots=True)
class Bound:
    """The greatest value that a request can reach, and the route on which it does."""

    route: Route
    routes: Routes = field(repr=False, compare=False)

    @property
    def value(self) -> float:
        """The value itself: calls, or seconds."""
        return self.route.weight

    @property
    def legs(self) -> tuple[Leg, ...]:
        """The targets that the request then asks, in order."""
        return tuple([_leg(self.routes, *step) for step in self.route.steps])


def max_calls(routes: Routes) -> Bound:
    """The most upstream calls. A 421, which the HTTP client sends twice, counts where the policy lists it (see `routes`)."""
    return Bound(routes.heaviest(Weights(tuple([_calls(routes, leaf) for leaf in routes.tree.leaves]))), routes)


def max_waits(routes: Routes) -> Bound:
    """The most seconds of back-off, all together."""
    return Bound(routes.heaviest(_waits(routes)), routes)


def max_failover(routes: Routes) -> Bound:
    """The most seconds of back-off before the last target of a request is asked; 0 where there is no failover.

    The legs are the targets before that one.
    """
    arrivals = [route for route in routes.arrivals(_waits(routes)) if route is not None]
    return Bound(max(arrivals, key=_weight, default=Route()), routes)


def max_latency(routes: Routes, timeouts: Mapping[str, float]) -> Bound | None:
    """The most seconds when every call takes its model's whole timeout; None where a model that may be asked has none.

    `timeouts` are the models' own, in seconds, as far as they are known.
    """
    if any(leaf.model not in timeouts for leaf in routes.reached):
        return None
    calls = [_calls(routes, leaf) * timeouts.get(leaf.model, 0) for leaf in routes.tree.leaves]
    waits = _waits(routes)
    usual, special = (tuple(map(add, calls, seconds)) for seconds in (waits.usual, waits.special))
    return Bound(routes.heaviest(Weights(usual, waits.outcomes, special)), routes)


def _calls(routes: Routes, leaf: Leaf) -> int:
    return leaf.times * (leaf.retry.repeats + 1) * routes.attempt_calls


def _waited(leaf: Leaf, ends_with_429: bool) -> int:
    return leaf.times * most_waits(leaf.retry, ends_with_429) + leaf.pause


def _waits(routes: Routes) -> Weights:
    """The seconds of back-off at each leaf; more where it may end with a 429, whose `Retry-After` it waits for."""
    usual = tuple([_waited(leaf, False) for leaf in routes.tree.leaves])
    if not any(retry.obeys for retry in routes.tree.retries):
        return Weights(usual)
    return Weights(usual, routes.outcomes.limited, tuple([_waited(leaf, True) for leaf in routes.tree.leaves]))


def _leg(routes: Routes, leaf: Leaf, outcomes: Bits) -> Leg:
    limited = bool(outcomes & routes.outcomes.limited)
    status = 429 if limited and leaf.retry.obeys else max(one.stands for one in routes.outcomes.members(outcomes))
    return Leg(leaf.model, leaf.path, _calls(routes, leaf), _waited(leaf, limited), status)


def _weight(route: Route) -> float:
    return route.weight
