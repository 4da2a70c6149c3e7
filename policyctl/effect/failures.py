"""The answers of a failing model, in the classes that policies distinguish, and how a set of them is shown.

A policy treats two statuses alike when they are on the same lists. So a handful of classes is enough to speak of every status
from 200 to 599 and of broken connections: one for each combination of lists, one for the statuses that no list has, and a few
that the gateway itself treats differently (see `gateway`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from functools import lru_cache
from typing import NamedTuple

from policyctl.effect.gateway import Answer, answer_value
from policyctl.effect.tree import Tree

# Statuses that providers of models are known to answer with, the first to be named in reports.
KNOWN = (401, 402, 403, 404, 408, 413, 422, 429, 500, 502, 503, 504, *range(520, 525), 529)

_BROKEN: tuple[Answer, ...] = ("refused", "hang", "broken-body")
_CUT: Answer = "cut-stream"
_NO_BODY = frozenset({205, 304})  # the gateway stumbles over them as over a broken body
_PLAIN = frozenset(range(300, 600)) - {304, 407}
_KIN = frozenset({304, 407, 421})  # not missed where a whole hundred is named
_SAID: dict[Answer, str] = {"refused": "connection refused", "hang": "connect timeout"}
_RESENT = 421  # sent once more at once, so that a share of its calls fails less often

# Every answer that is a failure for a policy without lists.
FAILURES: frozenset[Answer] = frozenset[Answer](range(300, 600)) | {205, *_BROKEN}


class FailureClass(NamedTuple):
    """A class of answers: one that represents them, and all of them."""

    sample: Answer
    answers: frozenset[Answer]


def one_failure(answer: Answer) -> FailureClass:
    """The class of one answer alone."""
    return FailureClass(answer, frozenset((answer,)))


def classes_of(trees: Sequence[Tree], *, partial: bool = False, streamed: bool = False) -> tuple[FailureClass, ...]:
    """The classes of failures that these policies, taken together, distinguish, in a stable order.

    An outage is an answer that a model always gives, so that only the lists of fallbacks matter; with `partial` it gives it to
    a share of its calls, and what is repeated matters as well. A 421 is then a class only where a list names it: the HTTP
    client repeats such a call by itself. With `streamed` a stream that is cut is among the failures.
    """
    falls = frozenset([codes for tree in trees for codes in tree.lists if codes is not None])
    repeats = frozenset([retry.codes for tree in trees for retry in tree.retries if retry.repeats])
    if not partial:
        repeats = frozenset([codes & {204} for codes in repeats if 204 in codes])
    found = _classes(falls, repeats, partial)
    return (*found, one_failure(_CUT)) if streamed else found


@lru_cache(maxsize=512)  # the policies of one directory mostly have the same lists
def _classes(falls: frozenset[frozenset[int]], repeats: frozenset[frozenset[int]], partial: bool) -> tuple[FailureClass, ...]:
    named = frozenset[int]().union(*falls, *repeats)
    unlisted = _unlisted(named | {_RESENT} if partial else named)
    # One list of codes may belong to both a fallback and a retry, which look for different codes.
    lists = [*((codes, False) for codes in falls), *((codes, True) for codes in repeats)]
    together: dict[tuple[str, tuple[int, ...]], list[Answer]] = {}
    for answer, how, fallen, repeated in _seen(named, any(204 in codes for codes in repeats), partial):
        on = tuple([place for place, (codes, again) in enumerate(lists) if (repeated if again else fallen) in codes])
        together.setdefault((how, on), []).append(answer)
    return (*unlisted, *[FailureClass(answers[0], frozenset(answers)) for answers in together.values()])


@lru_cache(maxsize=512)  # one object for equal lists: comparing it is comparing hundreds of codes
def _unlisted(named: frozenset[int]) -> tuple[FailureClass, ...]:
    """The class of the statuses that are on no list, where there are such."""
    rest = frozenset[Answer](_PLAIN - named)
    # Any of them represents the class; 500, the best known, where it is unlisted.
    return (FailureClass(500 if 500 in rest else min(_PLAIN - named), rest),) if rest else ()


def _seen(named: frozenset[int], repeated: bool, partial: bool) -> Iterator[tuple[Answer, str, int, int]]:
    """Answers that lists or the gateway set apart: how it treats them, and the codes that it looks for on its lists."""
    for code in sorted(named & _PLAIN):
        yield code, "resent" if partial and code == _RESENT else "status", code, code
    yield "refused", "connection", 500, 0
    yield 407, "connection", 500, 0
    yield "hang", "connection", 503, 0
    yield "broken-body", "ended", 0, 200
    for code in sorted(_NO_BODY):
        yield code, "ended", 0, code
    if repeated:
        yield 204, "repeated 204", 204, 204


def describe_failures(answers: Collection[Answer]) -> str:
    """A set of answers as people read it: `402, 52x`, `any failure but 429, 503`, `4xx but 408, 429`.

    205 and 304 go with a broken body, and 407 with a refused connection: they are named only where they do not.
    """
    shown, hidden = _without_kin(frozenset(answers))
    every = FAILURES - hidden - ({_RESENT} if _RESENT not in shown else frozenset())
    missing = every - shown
    if not missing:
        return "any failure"
    if len(shown) > len(every) // 2:
        return f"any failure but {', '.join(_named(missing))}"
    return ", ".join(_named(shown))


def ranges_of(answers: Collection[Answer]) -> list[str]:
    """The same for machines, complete: `402`, `520-524`, `connect-timeout`, in the order of the numbers, words last."""
    codes = sorted(answer for answer in answers if isinstance(answer, int))
    return [
        *(f"{low}-{high}" if high > low else f"{low}" for low, high in _runs(codes)),
        *(str(answer_value(word)) for word in (*_BROKEN, _CUT) if word in answers),
    ]


def _without_kin(answers: frozenset[Answer]) -> tuple[frozenset[Answer], frozenset[Answer]]:
    """The answers without those that go with another as usual; and the answers that so are not looked at."""
    hidden: set[Answer] = set()
    for kin, of in ((_NO_BODY, "broken-body"), (frozenset({407}), "refused")):
        hidden |= {code for code in kin if (code in answers) == (of in answers)}
    return answers - hidden, frozenset(hidden)


def _named(answers: Collection[Answer]) -> Iterator[str]:
    """The parts of a set: statuses that are known first, then whole hundreds and tens, then the others, then words."""
    codes = {answer for answer in answers if isinstance(answer, int)}
    whole: list[str] = []
    for low, size in [*((hundred, 100) for hundred in range(200, 600, 100)), *((ten, 10) for ten in range(200, 600, 10))]:
        own = set(range(low, low + size))
        lacking = own - codes - (_KIN if size == 100 else set())
        if not lacking or (size == 100 and len(lacking) < size // 2):
            but = f" but {', '.join(_describe_runs(lacking))}" if lacking else ""
            whole.append(str(low)[: 1 if size == 100 else 2].ljust(3, "x") + but)
            codes -= own
    known = codes.intersection(KNOWN)
    yield from (*_describe_runs(known), *whole, *_describe_runs(codes - known))
    if "refused" in answers and "hang" in answers:
        yield "connection failures"
    else:
        yield from (said for word, said in _SAID.items() if word in answers)
    if "broken-body" in answers:
        yield "a broken body"
    if _CUT in answers:
        yield "a cut stream"


def _describe_runs(codes: Collection[int]) -> Iterator[str]:
    """`402, 500, 502 to 504`: two that follow one another stay two."""
    for low, high in _runs(sorted(codes)):
        yield from (map(str, range(low, high + 1)) if high < low + 2 else [f"{low} to {high}"])


def _runs(codes: list[int]) -> Iterator[tuple[int, int]]:
    """Runs of numbers that follow one another: the first and the last of each."""
    start = previous = None
    for code in codes:
        if start is None or previous is None:
            start = code
        elif code != previous + 1:
            yield start, previous
            start = code
        previous = code
    if start is not None and previous is not None:
        yield start, previous
