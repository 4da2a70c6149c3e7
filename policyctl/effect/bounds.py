"""How bad one request can get, whatever the models answer, and the route that gets there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from policyctl.effect.profile import waits_of
from policyctl.effect.routes import Route, Routes
from policyctl.effect.tree import Leaf, Path


class Leg(NamedTuple):
    """One target on the way: how often it is called, the seconds waited between these calls, what it ends with.

    `status` is the status of its last call; a code that stands for any that would do as well.
    """

    model: str
    path: Path
    calls: int
    seconds: int
    status: int


class Bound(NamedTuple):
    """The greatest value that a request can reach, and the targets that it then asks, in order."""

    value: float
    legs: tuple[Leg, ...]


def max_calls(routes: Routes) -> Bound:
    """The most upstream calls. A 421, which the HTTP client below the gateway repeats by itself, is not among the answers."""
    return _worst(routes, [_calls(leaf) for leaf in routes.tree.leaves])


def max_waits(routes: Routes) -> Bound:
    """The most seconds of back-off, all together."""
    return _worst(routes, _waits(routes))


def max_failover(routes: Routes) -> Bound:
    """The most seconds of back-off before the last target of a request is asked; 0 where there is no failover.

    The legs are the targets before that one.
    """
    arrivals = [route for route in routes.arrivals(_waits(routes)) if route is not None]
    return _bound(routes, max(arrivals, key=_weight, default=Route()))


def max_latency(routes: Routes, timeouts: Mapping[str, float]) -> Bound | None:
    """The most seconds when every call takes its model's whole timeout; None where a model that may be asked has none.

    `timeouts` are the models' own, in seconds, as far as they are known.
    """
    leaves = routes.tree.leaves
    asked = [leaf for leaf, route in zip(leaves, routes.arrivals([0] * len(leaves)), strict=True) if route is not None]
    if any(leaf.model not in timeouts for leaf in asked):
        return None
    return _worst(routes, [_seconds(leaf, timeouts.get(leaf.model, 0)) for leaf in leaves])


def _seconds(leaf: Leaf, timeout: float) -> float:
    return _calls(leaf) * timeout + _waited(leaf)


def _calls(leaf: Leaf) -> int:
    return leaf.times * (leaf.retry.repeats + 1)


def _waited(leaf: Leaf) -> int:
    return leaf.times * waits_of(leaf.retry.repeats) + leaf.pause


def _waits(routes: Routes) -> list[int]:
    return [_waited(leaf) for leaf in routes.tree.leaves]


def _worst(routes: Routes, weights: Sequence[float]) -> Bound:
    return _bound(routes, routes.heaviest(weights))


def _bound(routes: Routes, route: Route) -> Bound:
    return Bound(route.weight, tuple([_leg(routes, *step) for step in route.steps]))


def _leg(routes: Routes, leaf: Leaf, outcomes: int) -> Leg:
    status = max(one.stands for one in routes.members(outcomes))
    return Leg(leaf.model, leaf.path, _calls(leaf), _waited(leaf), status)


def _weight(route: Route) -> float:
    return route.weight
