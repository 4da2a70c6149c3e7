"""What one target does when its answers are known only by their chances: attempts, repeats, the outcome.

Chances are floats, deliberately: they are products and sums of numbers from 0 to 1, so rounding stays near 1 in 10^15, and
they are a hundred times faster than fractions. What is compared for *equality* never goes through them: see `canonical`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from policyctl.effect.profile import ENDED, FIRST, Answer, Answers, Attempts, Retry, distribution, next_after, outcome_of
from policyctl.effect.tree import Leaf

Outcomes = Mapping[int, float]  # the chance of each outcome

HEALTHY: Outcomes = {200: 1.0}
_UNKNOWN: Outcomes = {ENDED: 1.0}


class Ending(NamedTuple):
    """One way in which asking a target may end."""

    outcome: int
    calls: int
    seconds: int


def endings(retry: Retry, answers: Answers) -> dict[Ending, float]:
    """Every way in which asking a target may end, with its chance: the outcome, the calls made, the seconds waited."""
    attempts = list(_attempts(distribution(answers)))
    found: defaultdict[Ending, float] = defaultdict(float)
    going: dict[_Way, float] = {_Way(): 1.0}
    while going:
        after: defaultdict[_Way, float] = defaultdict(float)
        for way, chance in going.items():
            for answer, made, share in attempts:
                wait, then = next_after(answer, retry, way.at)
                calls, seconds = way.calls + made, way.seconds + wait
                if then is None:
                    found[Ending(outcome_of(answer, retry), calls, seconds)] += chance * share
                else:
                    after[_Way(then, calls, seconds)] += chance * share
        going = after
    return dict(found)


class _Way(NamedTuple):
    """A way through the attempts so far."""

    at: Attempts = FIRST
    calls: int = 0
    seconds: int = 0


def _attempts(answers: Mapping[Answer, float]) -> Iterator[tuple[Answer, int, float]]:
    """Each answer that an attempt may end with, the calls it takes, its chance. A 421 is sent once more by the client."""
    doubled = answers.get(421, 0.0)
    for answer, chance in answers.items():
        if chance and answer != 421:
            yield answer, 1, chance
        if chance and doubled:
            yield answer, 2, doubled * chance


def usual(leaf: Leaf) -> Outcomes:
    """The outcomes of a leaf whose answers are not given: a model answers 200. A policy that cannot be followed is counted
    as the worst that it may be, an end of the walk, so that nothing is called served that may not be."""
    return HEALTHY if leaf.known else _UNKNOWN


def asked(leaves: Sequence[Leaf], answers: Mapping[str, Answers]) -> list[dict[Ending, float]]:
    """The endings of every leaf. A model without answers answers 200; see `usual` for policies."""
    known: dict[tuple[str, Retry], dict[Ending, float]] = {}
    for leaf in leaves:
        key = (leaf.model, leaf.retry)
        if key in known:
            continue
        if leaf.model in answers or leaf.known:
            known[key] = endings(leaf.retry, answers.get(leaf.model, 200))
        else:
            known[key] = {Ending(ENDED, 1, 0): 1.0}
    return [known[leaf.model, leaf.retry] for leaf in leaves]


def outcomes_in(endings: Mapping[Ending, float]) -> Outcomes:
    """The chance of each outcome, whatever it took."""
    found: defaultdict[int, float] = defaultdict(float)
    for ending, chance in endings.items():
        found[ending.outcome] += chance
    return found
