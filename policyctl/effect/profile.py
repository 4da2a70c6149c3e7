"""The rules of the gateway, in one place: what is asked again, what moves a fallback on, what ends the walk.

The profile is `portkey-1.15.2`, the open-source gateway that the platform is built on. How it behaves was observed call by
call; that the hosted platform does the same is an assumption, so every report names the profile.

**What happens to one answer.** A model answers a call with a status, or not properly at all. Two questions are asked of the
answer, one after the other:

1. *Is the same model asked again?* Yes while attempts are left and the status is on the retry list. A connection that is
   refused or hangs is asked again whatever the list says, even an empty one; so is 407, which the gateway's HTTP client
   takes for a broken connection. Without a list the codes are 429, 500, 502, 503 and 504. An attempt that draws a 421 is
   sent a second time at once by the HTTP client, and what comes then counts.
2. *What does the group above see?* The answer of the last attempt, as an **outcome**: its status (500 for a refused
   connection, 503 for a connect that hangs), or `ENDED`. The client of an `ENDED` request gets a 500, and no fallback,
   however far out, tries anything more: the gateway stumbled over the answer itself. That happens with a body that cannot
   be parsed, with statuses that may have no body (205, 304, and a 204 that was on the retry list), and above 599.

**What happens to a group.** Its outcome is the outcome of the last target that it asked. A fallback moves on from outcomes
on its list, and only from those, a success included; without a list from everything outside 200 to 299. A group that asks
nobody (no targets, or every weight 0) has the outcome `NO_ANSWER`: the client waits for an answer that never comes. A
fallback without a list moves on from it, one with a list does not.

**Outcomes are plain integers**: a status, `NO_ANSWER` (0) or `ENDED` (-500), so that a list of codes needs no special case
for the last two: no code is 0 or negative once a policy is read.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Literal, NamedTuple, get_args

PROFILE = "portkey-1.15.2"
ASSUMED = f"behaviour by profile {PROFILE}, the open-source gateway: an assumption about the platform"

Broken = Literal["refused", "hang", "broken-body"]
Answer = int | Broken
Answers = Answer | Mapping[Answer, float]  # one answer for every call, or the chance of each, drawn anew for every call

NO_ANSWER = 0
ENDED = -500

# The failures that an outage is made of, in the order in which reports show them.
FAILURES: tuple[Answer, ...] = (400, 401, 403, 404, 408, 429, 500, 502, 503, 504, 529, "refused", "hang", "broken-body")

RETRIED = frozenset({429, 500, 502, 503, 504})
MAX_REPEATS = 100  # the wait before the 100th repeat would be longer than the universe is old

_CONNECTION: dict[Answer, int] = {"refused": 500, "hang": 503, 407: 500}  # asked again whatever the list says
_BROKEN: dict[str, Broken] = {word: word for word in get_args(Broken)}
_NO_BODY = frozenset({205, 304})
NEVER_AN_OUTCOME = frozenset({407}) | _NO_BODY


class Retry(NamedTuple):
    """How often a target is asked again, and after which statuses; broken connections need not be among them."""

    repeats: int
    codes: frozenset[int]


NO_RETRY = Retry(0, frozenset())


def retry_of(attempts: float, codes: Sequence[float] | None) -> Retry:
    """What a `retry` means: a fraction is rounded up, a negative number is none, a given list replaces the usual one."""
    if attempts == 0:
        return NO_RETRY
    listed = RETRIED if codes is None else frozenset(int(code) for code in codes if code == int(code) and code >= 200)
    return Retry(min(max(math.ceil(attempts), 0), MAX_REPEATS), listed)


def asked_again(answer: Answer, retry: Retry) -> bool:
    """Whether the same model is asked again after this answer, as long as repeats are left."""
    return answer in _CONNECTION or (200 if answer == "broken-body" else answer) in retry.codes


def outcome_of(answer: Answer, retry: Retry) -> int:
    """What the group above sees of a target's last answer."""
    if answer in _CONNECTION:
        return _CONNECTION[answer]
    if isinstance(answer, str) or answer in _NO_BODY or answer > 599 or (answer == 204 and 204 in retry.codes):
        return ENDED
    return answer


def moves_on(outcome: int, codes: Collection[int] | None) -> bool:
    """Whether a fallback with this list of codes asks its next target after this outcome."""
    if codes is None:
        return outcome != ENDED and not is_served(outcome)
    return outcome in codes


def is_served(outcome: int) -> bool:
    """Whether the client got what it asked for."""
    return 200 <= outcome <= 299


def status_of(outcome: int) -> int | None:
    """The status that the client sees; None when it never gets an answer."""
    return abs(outcome) or None


def wait_before(repeat: int) -> int:
    """Seconds of waiting before the first, second, … repeat: 1, 2, 4, …"""
    return 1 << (repeat - 1)


def waits_of(repeats: int) -> int:
    """Seconds of waiting before all of these repeats together."""
    return (1 << repeats) - 1


def read_answer(text: str) -> Answer:
    """An answer as people write it: a status from 200 to 999, or one of refused, hang and broken-body.

    Raises ValueError, saying what it must be.
    """
    if text in _BROKEN:
        return _BROKEN[text]
    if text.isascii() and text.isdigit() and len(text) == 3 and text >= "200":
        return int(text)
    raise ValueError(f"{text!r} is no answer; write a status from 200 to 999, refused, hang or broken-body")


def with_rest(chances: Mapping[Answer, float]) -> Mapping[Answer, float]:
    """The chances of a call's answers, with what is left over for a 200."""
    left = 1.0 - sum(chances.values())
    return {**chances, 200: chances.get(200, 0.0) + left} if left > 1e-12 else chances


def distribution(answers: Answers) -> Mapping[Answer, float]:
    """The chance of each answer of one call."""
    return answers if isinstance(answers, Mapping) else {answers: 1.0}
