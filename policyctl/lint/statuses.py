"""P41x and P42x: status codes and retries that do nothing, or not what they seem to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from policyctl.effect.gateway import NEVER_AN_OUTCOME
from policyctl.lint.groups import Group, live_targets
from policyctl.policy.findings import FieldPath, Finding
from policyctl.policy.names import POLICY_PREFIX
from policyctl.rules import finding

_USUAL = "[408, 429, 500, 502, 503, 504]"
_SUCCESS = frozenset(range(200, 300))
_UNWANTED = _SUCCESS | NEVER_AN_OUTCOME


def check_codes(place: Group) -> Iterator[Finding]:
    """Codes of one group's strategy and retry that are likely a mistake."""
    if place.mode != "fallback":
        if place.codes is not None:
            what = "only the first target is called" if place.mode == "single" else "the target that is drawn gives the answer"
            message = f"these codes do nothing under {place.mode}, where {what} (remove them, or use fallback)"
            yield finding((*place.path, "strategy", "on_status_codes"), "P416", message, "key")
    elif place.codes is not None:
        yield from _twice((*place.path, "strategy", "on_status_codes"), place.codes)
        if place.moves_on:
            yield from _fallback_codes(place, place.codes)
    elif place.moves_on:
        message = f"without codes every status outside 200 to 299 moves on, 400 and 401 too (list codes, such as {_USUAL})"
        yield finding((*place.path, "strategy"), "P415", message, "key")
    if place.retry is not None and (codes := place.retry.get("on_status_codes")):
        yield from _retry_codes(place, codes, place.retry["attempts"])


def _fallback_codes(place: Group, codes: list[int]) -> Iterator[Finding]:
    if _UNWANTED.isdisjoint(codes):
        return
    for position, code in enumerate(codes):
        path = (*place.path, "strategy", "on_status_codes", position)
        if code in NEVER_AN_OUTCOME:
            why = "reaches it as 500, a broken connection" if code == 407 else "makes the gateway end the request with a 500"
            yield finding(path, "P413", f"a fallback never moves on after {code}: it {why} (remove it)")
        elif code in _SUCCESS:
            message = f"{code} is a success: a good answer is thrown away and the next target is asked (remove it)"
            yield finding(path, "P411", message)


def _retry_codes(place: Group, codes: list[int], attempts: int) -> Iterator[Finding]:
    path: FieldPath = (*place.path, "retry", "on_status_codes")
    yield from _twice(path, codes)
    if not attempts or _SUCCESS.isdisjoint(codes):
        return
    for position, code in enumerate(codes):
        if code in _SUCCESS:
            message = f"{code} is a success: a good answer is thrown away and asked for again (remove it)"
            yield finding((*path, position), "P412", message)


def _twice(path: FieldPath, codes: list[int]) -> Iterator[Finding]:
    if len(set(codes)) == len(codes):
        return
    for position, code in enumerate(codes):
        if code in codes[:position]:
            yield finding((*path, position), "P414", f"{code} is in this list already (remove it, or write the code you mean)")


def check_retries(place: Group) -> Iterator[Finding]:
    """What in one group's own retry does nothing. A retry applies to each target below it without a nearer one."""
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
