"""P43x: weights that are not the shares they look like, or mean nothing."""

from __future__ import annotations

from collections.abc import Iterator

from policyctl.lint.catalogue import finding
from policyctl.lint.places import Place
from policyctl.model.complaints import Complaint

_CLOSE = 1e-9  # 0.7 + 0.2 + 0.1 is not quite 1


def check(place: Place) -> Iterator[Complaint]:
    """What the weights in one group hardly mean. A share is weight / sum, and a missing weight is 1."""
    written = [target.get("weight") for target in place.targets]
    if not any(written):  # a weight is never 0
        return
    if place.mode != "loadbalance":
        yield from _ignored(place, written)
        return
    weights = [1 if weight is None else weight for weight in written]
    total = sum(weights)
    if len(weights) == 1 or abs(total - 1) < _CLOSE:
        return
    smallest = min(weights)
    if None in written and smallest < 1:
        position = written.index(None)
        message = f"no weight counts 1 here, beside {smallest:g}: this target gets {_percent(1 / total)} (write its weight)"
        yield finding((*place.path, "targets", position), "P431", message)
    else:
        message = f"the weights sum to {total:g}, not 1; a share is weight / sum: the first gets {_percent(weights[0] / total)}"
        yield finding((*place.path, "targets"), "P432", message, "key")


def _ignored(place: Place, written: list[float | None]) -> Iterator[Complaint]:
    for position, weight in enumerate(written):
        if weight is not None and weight != 1:
            message = f"a weight means nothing under {place.mode} (remove it, or use loadbalance)"
            yield finding((*place.path, "targets", position, "weight"), "P433", message, "key")


def _percent(share: float) -> str:
    return f"{share * 100:.4g}%"
