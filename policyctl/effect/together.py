"""Failures that meet: a request that the old version of a policy serves more often than the new one.

One model failing, or one provider, is what a report shows; a change may make nothing worse there and lose requests all the
same, while two models fail at once, or one whose answers change from call to call. This looks for such a case: groups of
models with one failure, the smallest groups first, then mixtures. It draws nothing by chance that differs from run to run.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations, islice, product
from random import Random
from typing import NamedTuple

from policyctl.effect.asking import Outcomes, endings, outcomes_in, usual
from policyctl.effect.evaluate import outcomes
from policyctl.effect.outages import told_apart
from policyctl.effect.profile import Answer, Retry, is_served, with_rest
from policyctl.effect.tree import Tree

_NOTICED = 1e-6  # a smaller difference between two chances may be the rounding of floats
_GROUPS = 24  # of models that fail together
_MIXTURES = 48


class Together(NamedTuple):
    """Models that fail at once, each with the answers that its calls draw from evenly; the chance of being served.

    `share` is the part of their calls that fail: the others answer 200. One model is here only with several answers.
    """

    failing: tuple[tuple[str, tuple[Answer, ...]], ...]
    before: float
    after: float
    share: float = 1.0


def worse_together(old: Tree, new: Tree, partial: float) -> Together | None:
    """The first case found in which the new policy loses more requests, or None when none was found.

    `partial` is the share of calls that fail in a partial failure. What is looked at is bounded; None is not a proof.
    """
    models = list(dict.fromkeys([*old.models, *new.models]))
    answers = [one.stands for one in told_apart([old, new]) if one.stands != "broken-body"]
    parts = [one.stands for one in told_apart([old, new], partial) if one.stands != "broken-body"]
    cases = [
        *((1.0, failing) for failing in _groups(models, answers)),
        *((partial, failing) for failing in _groups(models, parts)),
        *((1.0, failing) for failing in (*_alternating(models, parts), *_mixtures(models, parts))),
    ]
    for share, failing in cases:
        before, after = _served(old, failing, share), _served(new, failing, share)
        if before - after > _NOTICED:
            return Together(tuple(failing.items()), before, after, share)
    return None


_Failing = Mapping[str, tuple[Answer, ...]]


def _groups(models: Sequence[str], answers: Sequence[Answer]) -> Iterator[_Failing]:
    """Two and more models with one failure: the smallest groups first, and all of them."""
    groups = (group for size in range(2, len(models)) for group in combinations(models, size))
    for group in (*islice(groups, _GROUPS), tuple(models)):
        if len(group) > 1:
            yield from (dict.fromkeys(group, (answer,)) for answer in answers)


def _alternating(models: Sequence[str], answers: Sequence[Answer]) -> Iterator[_Failing]:
    """One model that answers now this, now that: two failures, or a failure and a success."""
    for model in models[:_GROUPS]:
        yield from ({model: pair} for pair in combinations((200, *answers), 2))


def _mixtures(models: Sequence[str], answers: Sequence[Answer]) -> Iterator[_Failing]:
    """Some models with a failure of their own each, the others healthy."""
    if len(models) < 2 or not answers:
        return
    ways = [(200,), *((answer,) for answer in answers), *((200, answer) for answer in answers)]
    if len(ways) ** len(models) <= _MIXTURES * 5:
        for drawn in product(ways, repeat=len(models)):
            yield {model: own for model, own in zip(models, drawn, strict=True) if own != (200,)}
        return
    random = Random(1)  # noqa: S311 - the same cases in every run
    for _ in range(_MIXTURES):
        failing = random.sample(models, random.randint(2, min(len(models), 5)))
        yield {model: random.choice(ways[1:]) for model in failing}


def _served(tree: Tree, failing: _Failing, share: float) -> float:
    at = [_outcomes(leaf.retry, failing[leaf.model], share) if leaf.model in failing else usual(leaf) for leaf in tree.leaves]
    return sum([chance for outcome, chance in outcomes(tree.root, at).items() if is_served(outcome)])


@lru_cache(maxsize=4096)
def _outcomes(retry: Retry, answers: tuple[Answer, ...], share: float) -> Outcomes:
    """What asking a target ends with when that share of its calls draws from these answers evenly."""
    drawn: dict[Answer, float] = dict.fromkeys(answers, share / len(answers))
    return outcomes_in(endings(retry, with_rest(drawn)))
