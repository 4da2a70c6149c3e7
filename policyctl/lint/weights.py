"""P43x: weights that are not the shares they look like, or mean nothing."""

from __future__ import annotations

from collections.abc import Iterator

from policyctl.lint.groups import Group
from policyctl.policy.findings import Finding
from policyctl.rules.catalogue import finding

_ROUNDING = 0.0005  # of one weight: thirds are written 0.333, and such a weight is the share that it looks like


def check(place: Group) -> Iterator[Finding]:
    """What the weights in one group hardly mean. A share is weight / sum, and a missing weight is 1."""
    written = [target.get("weight") for target in place.targets]
    if not any(written):  # a weight is never 0
        return
    if place.mode != "loadbalance":
        yield from _ignored(place, written)
        return
    weights = [1 if weight is None else weight for weight in written]
    total = sum(weights)
    if len(weights) == 1 or abs(total - 1) <= _ROUNDING * len(weights):
        return
    smallest = min(weights)
    if None in written and smallest < 1:
        position = written.index(None)
        message = f"no weight counts as 1, beside {smallest:g}, so this target gets {_percent(1 / total)} (write its weight)"
        yield finding((*place.path, "targets", position), "P431", message)
    else:
        share = _percent(weights[0] / total)
        message = f"the weights sum to {total:g}, not 1, so the first target gets {share} of the requests (make them sum to 1)"
        yield finding((*place.path, "targets"), "P432", message, "key")


def _ignored(place: Group, written: list[float | None]) -> Iterator[Finding]:
    """One finding for a group, at its first weight: they all go, or none does."""
    positions = [position for position, weight in enumerate(written) if weight is not None and weight != 1]
    if positions:
        which = "this weight does" if len(positions) == 1 else f"these {len(positions)} weights do"
        message = f"{which} nothing under {place.mode} (remove {'it' if len(positions) == 1 else 'them'}, or use loadbalance)"
        yield finding((*place.path, "targets", positions[0], "weight"), "P433", message, "key")


def _percent(share: float) -> str:
    return f"{share * 100:.4g}%"
