"""P41x: what the status codes of a fallback and of a retry do, and where they do nothing."""

from __future__ import annotations

from collections.abc import Iterator

from policyctl.effect.gateway import NEVER_AN_OUTCOME
from policyctl.lint.groups import Group
from policyctl.policy.findings import FieldPath, Finding
from policyctl.rules.catalogue import finding

_USUAL = "[408, 429, 500, 502, 503, 504]"
_SUCCESS = frozenset(range(200, 300))
_UNWANTED = _SUCCESS | NEVER_AN_OUTCOME


def check(place: Group) -> Iterator[Finding]:
    """What the code lists of one group's strategy and retry say that they hardly mean."""
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
