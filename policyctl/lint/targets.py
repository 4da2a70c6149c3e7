"""P40x and P44x: targets that never serve a request, groups with the wrong number of targets, names that cannot work."""

from __future__ import annotations

from collections.abc import Iterator

from policyctl.lint.groups import Group, can_trigger
from policyctl.policy.findings import Finding
from policyctl.policy.names import MODEL_PREFIX, POLICY_PREFIX, canonical_model, provider_of
from policyctl.rules.catalogue import finding


def check_groups(place: Group) -> Iterator[Finding]:
    """What is dead or alone in one group."""
    targets = len(place.targets)
    if place.mode == "single":
        if targets > 1:
            message = f"only the first target is ever called under single; {_dead(targets - 1)} (remove, or use fallback)"
            yield finding((*place.path, "targets", 1), "P401", message)
    elif targets == 1:
        yield _lone_target(place)
    elif place.mode == "fallback" and not can_trigger(place.codes):
        codes = "an empty code list triggers on nothing" if not place.codes else "no target's result has one of these codes"
        message = f"this fallback never moves on: {codes}; {_dead(targets - 1)} (list codes, or remove on_status_codes)"
        yield finding((*place.path, "strategy", "on_status_codes"), "P402", message)
    else:
        yield from _duplicates(place)


def _dead(number: int) -> str:
    return "the other target is dead" if number == 1 else f"the other {number} targets are dead"


def _lone_target(place: Group) -> Finding:
    path = (*place.path, "strategy", "mode")
    if place.mode == "fallback":
        return finding(path, "P403", "this fallback has one target and nothing to fall back on (add a target, or use single)")
    return finding(path, "P404", "this load balance has one target and always draws it (add a target, or use single)")


def _duplicates(place: Group) -> Iterator[Finding]:
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


def check_names(place: Group) -> Iterator[Finding]:
    """Names in one group that lack a part."""
    for position, target in enumerate(place.targets):
        name = target.get("model_name")
        if name is None or name.startswith(POLICY_PREFIX):
            continue
        path = (*place.path, "targets", position, "model_name")
        if not name.startswith(MODEL_PREFIX):
            read = f", and is read as the model {canonical_model(name)}" if provider_of(name) else ""
            message = f"{name} begins with neither {MODEL_PREFIX} nor {POLICY_PREFIX}{read} (write the whole name)"
            yield finding(path, "P441", message)
            continue
        provider, _, model = name[len(MODEL_PREFIX) :].partition("/")
        if not provider or not model:
            message = f"{name} lacks its provider or its model (write {MODEL_PREFIX}<provider>/<model>)"
            yield finding(path, "P442", message)
