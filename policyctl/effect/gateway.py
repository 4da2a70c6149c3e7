"""The rules of the gateway: what it refuses, what it repeats, what moves a fallback on, and what ends a request.

The profile is `portkey-1.15.2`, the open-source gateway that the platform is built on. How it behaves was observed call by
call; that the hosted platform does the same is an assumption, so every report names the profile.

**What happens to one answer.** A model answers a call with a status, or not properly at all. Two questions are asked of the
answer, one after the other:

1. *Is the same model asked again?* Yes while attempts are left and the status is on the retry list. A connection that is
   refused or hangs is asked again whatever the list contains, even an empty one; so is 407, which the gateway's HTTP client
   takes for a broken connection. Without a list the codes are 429, 500, 502, 503 and 504. An attempt that draws a 421 is
   sent a second time at once by the HTTP client, and what comes then counts.

   The repeats wait 1, 2, 4, … seconds. With `use_retry_after_header` the gateway looks at the `Retry-After` of a 429 that is
   on the retry list (at `retry-after-ms` and `x-ms-retry-after-ms` before it) and waits as long as that asks instead, even
   after the last attempt; the repeats after that wait no more by themselves. What asks for 60 s or more, or for more than is
   left of 60 s in sum, ends the attempts at once. 0 and a date count as no header.
2. *What does the group above see?* The answer of the last attempt, as an **outcome**: its status (500 for a refused
   connection, 503 for a connect that hangs), or `ENDED`. The client of an `ENDED` request gets a 500, and no fallback,
   however far out, tries anything more: the gateway stumbled over the answer itself. That happens with a body that cannot
   be parsed, with statuses that may have no body (205, 304, and a 204 that was on the retry list), and above 599.

   A streamed answer is passed on once its status is there: one that is cut later, and one that cannot be parsed, has the
   outcome `CUT`. The client gets its 200 and not what it asked for, and whatever the lists contain, nothing more is tried.

**What happens to a group.** Its outcome is the outcome of the last target that it asked. A fallback moves on from outcomes
on its list, and only from those, a success included; without a list from everything outside 200 to 299. A group that asks
none (no targets, or every weight 0) has the outcome `NO_ANSWER`: the client waits for an answer that never comes. A
fallback without a list moves on from it, one with a list does not.

**Outcomes are plain integers**: a status, `NO_ANSWER` (0) or `ENDED` (-500), so that a list of codes needs no special case
for the last two: no code is 0 or negative once a policy is read. `CUT` (-200) is another.

The gateway looks at the whole policy, also at targets that it would never ask. Its check knows no null, takes no text for a
number, and does not mind unknown keys. What passes may still fail at run time; that is the tree's business.

It takes one mode that is not modelled here, `conditional`. What a policy does with a mode that is not among `MODES` is not
known at all, even where this gateway refuses it: the platform that holds such a policy may run a newer one.
"""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

from policyctl.errors import NotKnown
from policyctl.policy.findings import format_path
from policyctl.policy.memo import late_pattern
from policyctl.policy.schema import MAX_TARGETS  # here of a policy and of all that it leads to

PROFILE = "portkey-1.15.2"
BASIS = f"by gateway profile {PROFILE}, which the platform is assumed to follow"
ASSUMED = f"{BASIS}; for answers that are not streamed"
ASSUMED_STREAMED = f"{BASIS}; for streamed answers"

Broken = Literal["refused", "hang", "broken-body", "cut-stream"]


@dataclass(frozen=True, slots=True)
class RetryAfter:
    """A 429 whose `Retry-After` asks to wait that many whole seconds."""

    seconds: int

    def __str__(self) -> str:
        return f"429 after {self.seconds}s"


Answer = int | Broken | RetryAfter
Answers = Answer | Mapping[Answer, float]  # one answer for every call, or the chance of each, drawn anew for every call

NO_ANSWER = 0
ENDED = -500
CUT = -200

# Some of the failures that an outage may be made of; `outages` has all of them, in classes.
FAILURES: tuple[Answer, ...] = (400, 401, 403, 404, 408, 429, 500, 502, 503, 504, 529, "refused", "hang", "broken-body")

RETRIED = frozenset({429, 500, 502, 503, 504})
MAX_RETRY_AFTER = 60  # seconds that one target waits in sum because answers ask for it
MAX_REPEATS = 100  # the wait before the 100th repeat would be longer than the universe is old

_CONNECTION: dict[Answer, int] = {"refused": 500, "hang": 503, 407: 500}  # asked again whatever the list contains
_HANG = "connect-timeout"  # what "hang" is called where people read it: a slow model does not hang, it is 408 or waited for
_BROKEN: dict[str, Broken] = {**{word: word for word in get_args(Broken)}, _HANG: "hang"}
BROKEN_WORDS = ("refused", _HANG, "broken-body", "cut-stream", "hang")  # as people write them, the last one for the second
ANSWERS = "a status from 200 to 999, 429 after 5s, refused, connect-timeout, broken-body or cut-stream"
_RETRY_AFTER = late_pattern(r"429 after ([0-9]{1,6}) ?s", re.ASCII)
_NO_BODY = frozenset({205, 304})
NEVER_AN_OUTCOME = frozenset({407}) | _NO_BODY


class RetryRule(NamedTuple):
    """How often a target is asked again, and after which statuses; broken connections need not be among them.

    `obeys` is whether the `Retry-After` of a 429 decides how long it waits.
    """

    repeats: int
    codes: frozenset[int]
    obeys: bool = False


class Attempts(NamedTuple):
    """Where a target is in its attempts: the repeats made, and the seconds of `Retry-After` that it would still wait."""

    repeats: int = 0
    patience: int = MAX_RETRY_AFTER


class Next(NamedTuple):
    """What comes after an answer: the seconds waited, and the next attempt; None where the answer was the last."""

    wait: int
    then: Attempts | None


NO_RETRY = RetryRule(0, frozenset())
FIRST = Attempts()


def retry_of(attempts: float, codes: Sequence[float] | None, obeys: bool = False) -> RetryRule:
    """What a `retry` means: a fraction is rounded up, a negative number is none, a given list replaces the usual one."""
    if attempts == 0:
        return NO_RETRY
    listed = RETRIED if codes is None else frozenset(int(code) for code in codes if code == int(code) and code >= 200)
    return RetryRule(min(max(math.ceil(attempts), 0), MAX_REPEATS), listed, obeys and 429 in listed)


def should_repeat(answer: Answer, retry: RetryRule) -> bool:
    """Whether the same model is asked again after this answer, as long as repeats are left."""
    status = 429 if isinstance(answer, RetryAfter) else 200 if answer == "broken-body" else answer
    return answer in _CONNECTION or status in retry.codes


def next_after(answer: Answer, retry: RetryRule, at: Attempts) -> Next:
    """What a target does after the answer to one attempt."""
    if not should_repeat(answer, retry):
        return Next(0, None)
    repeats, patience = at
    asked = answer.seconds if isinstance(answer, RetryAfter) and retry.obeys else 0
    if asked >= MAX_RETRY_AFTER or asked > patience:
        return Next(0, None)
    wait = asked or (wait_before(repeats + 1) if patience == MAX_RETRY_AFTER else 0)
    if repeats == retry.repeats:
        return Next(asked, None)
    return Next(wait, Attempts(repeats + 1, patience - asked))


def outcome_of(answer: Answer, retry: RetryRule) -> int:
    """What the group above sees of a target's last answer."""
    if answer in _CONNECTION:
        return _CONNECTION[answer]
    if isinstance(answer, RetryAfter):
        return 429
    if answer == "cut-stream":
        return CUT
    if isinstance(answer, str) or answer in _NO_BODY or answer > 599 or (answer == 204 and 204 in retry.codes):
        return ENDED
    return answer


def moves_on(outcome: int, codes: Collection[int] | None) -> bool:
    """Whether a fallback with this list of codes asks its next target after this outcome."""
    if codes is None:
        return outcome >= NO_ANSWER and not is_served(outcome)
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


def most_waits(retry: RetryRule, ends_with_429: bool) -> int:
    """The most seconds that a target waits, at its repeats and after the last, when it ends with a 429 or with anything else.

    The longest is to wait by itself as long as it can, and then for what a `Retry-After` asks: 60 s, less a millisecond.
    """
    own = waits_of(retry.repeats)
    if not retry.obeys:
        return own
    if ends_with_429:
        return own + MAX_RETRY_AFTER
    return max(own, waits_of(retry.repeats - 1) + MAX_RETRY_AFTER) if retry.repeats else 0


def read_answer(text: str) -> Answer:
    """An answer as people write it: a status from 200 to 999, `429 after 5s`, or one of `BROKEN_WORDS`.

    Raises ValueError with what it must be.
    """
    if text in _BROKEN:
        return _BROKEN[text]
    if after := _RETRY_AFTER.fullmatch(text):
        return RetryAfter(int(after[1]))
    if text.isascii() and text.isdigit() and len(text) == 3 and text >= "200":
        return int(text)
    raise ValueError(f"{text!r} is not an answer; write {ANSWERS}")


def answer_text(answer: Answer) -> str:
    """An answer as reports show it to people."""
    return "connect timeout" if answer == "hang" else str(answer)


def answer_value(answer: Answer) -> int | str:
    """An answer as reports give it to machines, which can be read again."""
    return _HANG if answer == "hang" else answer if isinstance(answer, int) else str(answer)


def answer_streamed(answer: Answer) -> Answer:
    """An answer to a request that asks for a stream: a body that cannot be parsed is passed on, as one that is cut."""
    return "cut-stream" if answer == "broken-body" else answer


def with_remainder(chances: Mapping[Answer, float]) -> Mapping[Answer, float]:
    """The chances of a call's answers, with what is left over for a 200."""
    left = 1.0 - sum(chances.values())
    return {**chances, 200: chances.get(200, 0.0) + left} if left > 1e-12 else chances


def distribution(answers: Answers) -> Mapping[Answer, float]:
    """The chance of each answer of one call."""
    return answers if isinstance(answers, Mapping) else {answers: 1.0}


MAX_DEPTH = 200  # groups within groups, those of policies that are targets among them; the gateway was seen to take 21
TOO_DEEP = f"groups are nested more than {MAX_DEPTH} deep; that is too deep to evaluate"
TOO_MANY = f"it leads to more than {MAX_TARGETS:,} targets; those are too many to evaluate"

MODES = ("single", "fallback", "loadbalance")
_TAKEN = (*MODES, "conditional")


class CheckedDocument(NamedTuple):
    """What is wrong with a policy's body, with the place, or None: why the gateway refuses it, and which mode is not known.

    `targets` is how many targets it has, groups among them.
    """

    refusal: str | None
    unknown: str | None
    targets: int


def check_document(policy: Any, max_depth: int, max_targets: int) -> CheckedDocument:
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
            refusal = f"{_field_path(path)} {complaint}"
        if not isinstance(group, dict):
            continue
        if unknown is None and "strategy" in group and (mode := _unknown_mode(group["strategy"])):
            unknown = f"{_field_path(path)} has mode {format_path(mode)}, which policyctl does not know"
        if (targets := group.get("targets")) and isinstance(targets, list):
            if (count := count + len(targets)) > max_targets:
                raise NotKnown(TOO_MANY)
            pending += [(target, (*path, place)) for place, target in enumerate(targets)][::-1]
    if isinstance(policy, dict) and policy.get("targets") is None:
        refusal = "policy has no targets"
    return CheckedDocument(refusal, unknown, count)


def _unknown_mode(strategy: Any) -> str | None:
    mode = strategy.get("mode") if isinstance(strategy, dict) else None
    return mode if isinstance(mode, str) and mode not in MODES else None


def _field_path(path: tuple[int, ...]) -> str:
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
