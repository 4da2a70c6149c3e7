"""Whether a policy surely serves every request that another one serves, whatever its models answer.

The proof goes over canonical forms and is meant for the changes that people make to be safer: one more fallback at the end, a
code more on a list, more attempts where nothing comes after. It is sound, not complete: where it finds no proof, nothing is
claimed (see `together`, which then looks for a request that is lost).
"""

from __future__ import annotations

from policyctl.effect.canonical import Always, Ask, Drawn, First, Form
from policyctl.effect.profile import is_served


def covers(new: Form, old: Form) -> bool:
    """Whether `new` serves every request that `old` serves, for every answer of every call and every draw."""
    if new == old or (isinstance(old, Always) and not is_served(old.outcome)):
        return True
    if isinstance(new, Ask):
        return isinstance(old, Ask) and _asks_on(new, old)
    if isinstance(new, Drawn):
        return isinstance(old, Drawn) and _draws_alike(new, old)
    if not isinstance(new, First) or not _only_failures(new.codes):
        return False
    if isinstance(old, First):
        return _only_failures(old.codes) and _falls_on(new, old)
    return covers(new.forms[0], old)


def _asks_on(new: Ask, old: Ask) -> bool:
    """What served after some repeats still does: each answer before it is repeated as well.

    One that obeys a `Retry-After` may end its attempts at it.
    """
    if new.model != old.model or not _only_failures(new.codes) or new.obeys > old.obeys:
        return False
    return _repeats_on(new.repeats, new.codes, old.repeats, old.codes) and _repeats_around(new, old)


def _repeats_on(repeats: int, codes: tuple[int, ...], old_repeats: int, old_codes: tuple[int, ...]) -> bool:
    return repeats >= old_repeats and (not old_repeats or set(codes) >= set(old_codes))


def _repeats_around(new: Ask, old: Ask) -> bool:
    """Whether the policies that lead there are repeated at least as often, should retries around them do that."""
    if new.around == old.around or not old.around:
        return all(_only_failures(codes) for _, codes, _ in new.around)
    return len(new.around) == len(old.around) and all(
        _only_failures(codes) and obeys <= old_obeys and _repeats_on(repeats, codes, old_repeats, old_codes)
        for (repeats, codes, obeys), (old_repeats, old_codes, old_obeys) in zip(new.around, old.around, strict=True)
    )


def _draws_alike(new: Drawn, old: Drawn) -> bool:
    """The same shares, and each part covers its counterpart."""
    left = list(new.forms)
    for share, form in old.forms:
        place = next((at for at, (own, other) in enumerate(left) if own == share and covers(other, form)), None)
        if place is None:
            return False
        del left[place]
    return True


def _falls_on(new: First, old: First) -> bool:
    """The same targets up to the last of the old ones, moving on whenever the old one did; that one only has to cover.

    A target before the last may not be asked more often: what it ends with then may be on no list.
    """
    *before, last = old.forms
    if len(new.forms) < len(old.forms) or new.forms[: len(before)] != tuple(before) or not _falls_more(new.codes, old.codes):
        return False
    return covers(new.forms[len(before)], last)


def _falls_more(new: tuple[int, ...] | None, old: tuple[int, ...] | None) -> bool:
    if old is None or new is None:
        return new is None
    return set(new) >= set(old)


def _only_failures(codes: tuple[int, ...] | None) -> bool:
    return codes is None or not any(map(is_served, codes))
