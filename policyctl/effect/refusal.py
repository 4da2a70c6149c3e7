"""What the gateway refuses before it calls anybody: the client gets a 400 for every request.

The gateway looks at the whole policy, also at targets that it would never ask. Its check knows no null, takes no text for a
number, and does not mind unknown keys. What passes may still fail at run time; that is the tree's business.

It takes one mode that is not modelled here, `conditional`. What a policy does with a mode that is not among `MODES` is not
known at all, even where this gateway refuses it: the platform that holds such a policy may run a newer one.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from policyctl.errors import NotKnown
from policyctl.model.complaints import show
from policyctl.model.policy_file import MAX_TARGETS  # here of a policy and of all that it leads to

MAX_DEPTH = 200  # groups within groups, those of policies that are targets among them; the gateway was seen to take 21
TOO_DEEP = f"groups are nested more than {MAX_DEPTH} deep; that is too deep to evaluate"
TOO_MANY = f"it leads to more than {MAX_TARGETS:,} targets; those are too many to evaluate"

MODES = ("single", "fallback", "loadbalance")
_TAKEN = (*MODES, "conditional")


class Checked(NamedTuple):
    """What is wrong with a policy's body, with the place, or None: why the gateway refuses it, and which mode is not known.

    `targets` is how many targets it has, groups among them.
    """

    refusal: str | None
    unknown: str | None
    targets: int


def checked(policy: Any, max_depth: int, max_targets: int) -> Checked:
    """Look through a policy's body. Raises NotKnown when groups are nested deeper than `max_depth`, or when there are more
    than `max_targets` targets."""
    refusal = unknown = None
    count = 0
    pending: list[tuple[Any, tuple[int, ...]]] = [(policy, ())]
    while pending:
        group, path = pending.pop()
        if len(path) > max_depth:
            raise NotKnown(TOO_DEEP)
        if (complaint := _complaint(group)) and refusal is None:
            refusal = f"{_place(path)} {complaint}"
        if not isinstance(group, dict):
            continue
        if unknown is None and "strategy" in group and (mode := _unknown_mode(group["strategy"])):
            unknown = f"{_place(path)} has mode {show(mode)}, which policyctl does not know"
        if (targets := group.get("targets")) and isinstance(targets, list):
            if (count := count + len(targets)) > max_targets:
                raise NotKnown(TOO_MANY)
            pending += [(target, (*path, place)) for place, target in enumerate(targets)][::-1]
    if isinstance(policy, dict) and policy.get("targets") is None:
        refusal = "policy has no targets"
    return Checked(refusal, unknown, count)


def _unknown_mode(strategy: Any) -> str | None:
    mode = strategy.get("mode") if isinstance(strategy, dict) else None
    return mode if isinstance(mode, str) and mode not in MODES else None


def _place(path: tuple[int, ...]) -> str:
    return "".join(["policy", *(f".targets[{place}]" for place in path)])


def _complaint(group: Any) -> str | None:
    """What is wrong with a group or target itself, to be read after its place."""
    if not isinstance(group, dict):
        return "is not a mapping"
    if "targets" in group and not isinstance(group["targets"], list):
        return "has targets that are not a list"
    if "weight" in group and not _is_number(group["weight"]):
        return "has a weight that is not a number"
    if "strategy" in group and (complaint := _strategy_complaint(group["strategy"])):
        return complaint
    if "retry" in group:
        return _retry_complaint(group["retry"])
    if "cache" in group or "model_name" in group or ("strategy" in group and "targets" in group):
        return None
    if "strategy" in group:
        return "has no targets"
    return "has no strategy" if "targets" in group else None


def _strategy_complaint(strategy: Any) -> str | None:
    if not isinstance(strategy, dict):
        return "has a strategy that is not a mapping"
    if "mode" not in strategy:
        return "has a strategy without mode"
    if strategy["mode"] not in _TAKEN:
        return f"has a mode other than {', '.join(MODES)}"
    return _codes_complaint(strategy)


def _retry_complaint(retry: Any) -> str | None:
    if not isinstance(retry, dict):
        return "has a retry that is not a mapping"
    if "attempts" not in retry:
        return "has a retry without attempts"
    if not _is_number(retry["attempts"]):
        return "has attempts that are not a number"
    if not isinstance(retry.get("use_retry_after_header", False), bool):
        return "has a use_retry_after_header that is not true or false"
    return _codes_complaint(retry)


def _codes_complaint(part: dict[str, Any]) -> str | None:
    codes = part.get("on_status_codes", ())
    if not isinstance(codes, list | tuple) or not all(map(_is_number, codes)):
        return "has on_status_codes that are not a list of numbers"
    return None


def _is_number(value: Any) -> bool:
    return type(value) is int or (type(value) is float and math.isfinite(value))
