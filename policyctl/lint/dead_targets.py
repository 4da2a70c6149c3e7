"""P40x: targets that no request can ever reach, and groups with a target too few or too many."""

from __future__ import annotations

from collections.abc import Iterator

from policyctl.lint.catalogue import finding
from policyctl.lint.places import Place, can_trigger
from policyctl.model.complaints import Complaint
from policyctl.model.names import canonical_model


def check(place: Place) -> Iterator[Complaint]:
    """What is dead or alone in one group."""
    targets = len(place.targets)
    if place.mode == "single":
        if targets > 1:
            message = f"only the first target is ever called under single; {_dead(targets - 1)} (remove, or use fallback)"
            yield finding((*place.path, "targets", 1), "P401", message)
    elif targets == 1:
        yield _alone(place)
    elif place.mode == "fallback" and not can_trigger(place.codes):
        codes = "an empty code list triggers on nothing" if not place.codes else "no target's result has one of these codes"
        message = f"this fallback never moves on: {codes}; {_dead(targets - 1)} (list codes, or remove on_status_codes)"
        yield finding((*place.path, "strategy", "on_status_codes"), "P402", message)
    else:
        yield from _duplicates(place)


def _dead(number: int) -> str:
    return "the other target is dead" if number == 1 else f"the other {number} targets are dead"


def _alone(place: Place) -> Complaint:
    path = (*place.path, "strategy", "mode")
    if place.mode == "fallback":
        return finding(path, "P403", "this fallback has one target and nothing to fall back on (add a target, or use single)")
    return finding(path, "P404", "this load balance has one target and always draws it (add a target, or use single)")


def _duplicates(place: Place) -> Iterator[Complaint]:
    """The same model twice in one group. The same group twice is another thing: a fallback draws in it anew."""
    names = [canonical_model(target["model_name"]) for target in place.targets if "model_name" in target]
    if len(set(names)) == len(names):
        return
    first: dict[str, int] = {}
    for position, target in enumerate(place.targets):
        if "model_name" not in target:
            continue
        name = canonical_model(target["model_name"])
        if first.setdefault(name, position) == position:
            continue
        if place.mode == "fallback":
            what = "is asked again without a wait (remove it; to ask a model again after a wait, use retry)"
        else:
            what = "draws for it a second time, and the shares add up (write it once)"
        message = f"{target['model_name']} is target {first[name] + 1} already and {what}"
        yield finding((*place.path, "targets", position), "P405", message)
