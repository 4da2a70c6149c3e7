"""P40x, P43x and P44x: the targets of a group: how many it has, their weights and their names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from policyctl.lint.groups import Group, can_trigger
from policyctl.policy.findings import FieldPath, Finding, format_path
from policyctl.policy.names import MODEL_PREFIX, POLICY_PREFIX, canonical_model, provider_of
from policyctl.rules import finding


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


_PLACEHOLDER = re.compile(
    r"""
      [$#]\{[^{}]*\}                       # ${NAME} and #{NAME}
    | \$\([^()]*\) | \$[A-Za-z_]\w*        # $(NAME) and $NAME
    | <[^<>]+>                             # <NAME> and <%= NAME %>
    | %\w+% | %\(\w+\)s
    | \[\[[^\[\]]*\]\] | \(\([^()]*\)\)
    | @[A-Z_][A-Z0-9_]*@ | __[A-Z][A-Z0-9_]*__
    | (?<!\{)\{[A-Za-z_][\w.-]*\}(?!\})    # {NAME}
    | \b(?:env|file|secret|vault|ssm|op):\S+
    """,
    re.VERBOSE,
)
_NAME = re.compile(r"\b(?!(?:env|file|secret|vault|ssm|op|var|vars)\b)_*([A-Za-z]\w*?)_*\b")


def check_placeholders(place: Group) -> Iterator[Finding]:
    """Models in one group whose names contain a placeholder."""
    for position, target in enumerate(place.targets):
        if isinstance(name := target.get("model_name"), str):
            yield from in_name((*place.path, "targets", position, "model_name"), name)


@lru_cache(maxsize=8192)  # policies target the same models over and over
def _placeholder(text: str) -> re.Match[str] | None:
    return _PLACEHOLDER.search(text)


def in_name(path: FieldPath, text: str) -> Iterator[Finding]:
    """The placeholder in the name of a policy or of a model."""
    if found := _placeholder(text):
        name = _NAME.search(found[0])
        wanted = name[1] if name else "name"
        message = f'write "{{{{ {wanted} }}}}", and {wanted} under vars in policyctl.yaml'
        yield finding(
            path, "P443", f"{format_path(found[0])} is a placeholder of another tool, which nothing fills in here ({message})"
        )


def in_variables(path: FieldPath, value: Any) -> Iterator[Finding]:
    """The placeholders in a variable of an environment, at any depth."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from in_variables((*path, key), item)
    elif isinstance(value, list):
        for place, item in enumerate(value):
            yield from in_variables((*path, place), item)
    elif isinstance(value, str) and (found := _PLACEHOLDER.search(value)):
        fix = "write the value; policy files take it from vars with {{ NAME }}"
        yield finding(
            path, "P443", f"{format_path(found[0])} is a placeholder of another tool, which nothing fills in here ({fix})"
        )


_ROUNDING = 0.0005  # of one weight: thirds are written 0.333, and such a weight is the share that it looks like


def check_weights(place: Group) -> Iterator[Finding]:
    """Weights in one group that are not the shares they look like. A share is weight / sum; a missing weight is 1."""
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
