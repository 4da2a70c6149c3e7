"""P42x: retries that do nothing, or less than they seem to, or of which it is not known what they do."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from policyctl.lint.groups import Group, live_targets
from policyctl.policy.findings import Finding
from policyctl.policy.names import POLICY_PREFIX
from policyctl.rules.catalogue import finding


def check(place: Group) -> Iterator[Finding]:
    """What is idle about one group's own retry. A retry belongs to each target below it that has none nearer."""
    if place.retry is None:
        return
    path, codes = (*place.path, "retry"), place.retry.get("on_status_codes")
    if not any(map(_inherits, place.live)):
        message = "this retry is never used: the targets below have their own, and the nearest holds as a whole (remove one)"
        yield finding(path, "P424", message, "key")
        return
    if place.retry.get("use_retry_after_header") and (place.retry["attempts"] == 0 or (codes is not None and 429 not in codes)):
        message = "a Retry-After counts where a 429 is retried, and this retry does not do that (list 429, or remove this)"
        yield finding((*path, "use_retry_after_header"), "P425", message, "key")
    if place.retry["attempts"] == 0:
        if codes is not None:
            message = "attempts is 0, so these codes are never looked at (raise attempts, or remove the codes)"
            yield finding((*path, "on_status_codes"), "P421", message, "key")
        elif place.outer_retry is None or place.outer_retry["attempts"] == 0:
            yield finding((*path, "attempts"), "P422", "0 attempts is what holds without a retry too (remove it, or raise it)")
    elif codes == []:
        message = "an empty code list retries no status, only broken connections (remove it for 429, 500, 502, 503, 504)"
        yield finding((*path, "on_status_codes"), "P423", message)
    names = dict.fromkeys(name for target in place.live for name in _policies(target)) if place.retry["attempts"] else ()
    if names:
        message = (
            f"it is not known whether this retry repeats {', '.join(names)} as a whole; the worst case counts that it does"
        )
        yield finding(path, "P426", f"{message} (put the retry into that policy)", "key")


def _policies(target: dict[str, Any]) -> Iterator[str]:
    """The policies among the targets for which a retry around this one holds."""
    if not _inherits(target):
        return
    if "targets" in target:
        for one in live_targets(target):
            yield from _policies(one)
    elif target["model_name"].startswith(POLICY_PREFIX):
        yield target["model_name"]


def _inherits(target: dict[str, Any]) -> bool:
    """Whether a retry around this target holds for it, or for a target in it that can be called."""
    return "targets" not in target or ("retry" not in target and any(map(_inherits, live_targets(target))))
