"""Outages and partial failures: the chance that a request is lost while one model, or one provider, fails.

In an outage every call fails for the whole request; in a partial failure a share of the calls does, each drawn anew. A policy
cannot tell most failures apart, so each row has one value for every class of failures (see `failures`), and is worked out only
once for the classes that this policy treats alike.

What is kept is the chance that a request is *lost*, not that it is served: 1 in 10^20 and 1 in 10^21 differ, and one minus
either is 1.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from policyctl.effect.asking import Outcomes, endings, outcomes_in, usual
from policyctl.effect.evaluate import healthy, outcomes, rounded
from policyctl.effect.failures import Failures, classes_of
from policyctl.effect.profile import ENDED, NO_ANSWER, NO_RETRY, Answer, Retry, asked_again, is_served, moves_on, outcome_of
from policyctl.effect.shares import provider_of
from policyctl.effect.tree import Balance, Fallback, Leaf, Node, Tree

_Down = tuple[int, ...]  # leaves that fail, by their numbers
Row = tuple[float, ...]  # the chance of losing a request, for each class in order


@dataclass(frozen=True, slots=True)
class Outages:
    """The matrix: a row for each model and each provider, a column for each class of failures.

    `share` is the part of the calls that fail, 1 in an outage; `usual` the chance of losing a request when nothing fails.
    """

    share: float
    classes: tuple[Failures, ...]
    models: Mapping[str, Row]
    providers: Mapping[str, Row]
    usual: float

    def row(self, kind: str, name: str) -> Row:
        """The row of a model or provider (`kind`); one that the policy does not use can fail as it likes."""
        rows = self.models if kind == "model" else self.providers
        return rows.get(name, (self.usual,) * len(self.classes))


def outages(tree: Tree, classes: Sequence[Failures] | None = None, share: float = 1.0) -> Outages:
    """The matrix of a policy: by the classes that it can tell apart itself, or by those given."""
    by_model: defaultdict[str, list[int]] = defaultdict(list)
    by_provider: defaultdict[str, list[int]] = defaultdict(list)
    for leaf in tree.leaves:
        by_model[leaf.model].append(leaf.number)
        if provider := provider_of(leaf.model):
            by_provider[provider].append(leaf.number)
    columns = told_apart([tree], share) if classes is None else tuple(classes)
    downs = list(dict.fromkeys(map(tuple, [*by_model.values(), *by_provider.values()])))
    rows = dict(zip(downs, _rows(tree, downs, columns, share), strict=True))
    return Outages(
        share,
        columns,
        {model: rows[tuple(down)] for model, down in by_model.items()},
        {provider: rows[tuple(down)] for provider, down in by_provider.items()},
        _usual(tree),
    )


def told_apart(trees: Sequence[Tree], share: float = 1.0, *, streamed: bool = False) -> tuple[Failures, ...]:
    """The classes of failures for which one of these policies does something else, when a share of the calls fails so.

    `streamed` is whether requests ask for a stream.
    """
    together: dict[tuple[_Treatment, ...], list[Failures]] = {}
    for one in classes_of(trees, partial=share < 1, streamed=streamed):
        together.setdefault(tuple([_treatment(tree, one.stands, share) for tree in trees]), []).append(one)
    return tuple([merged(alike) for alike in together.values()])


def merged(classes: Sequence[Failures]) -> Failures:
    """Several classes as one."""
    return classes[0] if len(classes) == 1 else _merged(tuple(classes))


@lru_cache(maxsize=4096)
def _merged(classes: tuple[Failures, ...]) -> Failures:
    return Failures(classes[0].stands, frozenset[Answer]().union(*(one.answers for one in classes)))


def served(lost: float) -> float:
    """The chance of being served, for people and machines; differences below 10^-12 are gone."""
    return rounded(1.0 - lost)


def _usual(tree: Tree) -> float:
    return 0.0 if tree.plain else _lost(outcomes(tree.root, healthy(tree)))


def _rows(tree: Tree, downs: Sequence[_Down], columns: Sequence[Failures], share: float) -> list[Row]:
    """A row for each of these sets of leaves."""
    kinds = [_treatment(tree, column.stands, share) for column in columns]
    first = {kind: column.stands for kind, column in zip(reversed(kinds), reversed(columns), strict=True)}
    plain = {kind: answer for kind, answer in first.items() if tree.plain and answer != 204}
    known = _plain_columns(tree, downs, plain, share)
    known |= {kind: _column(tree, downs, answer, share) for kind, answer in first.items() if kind not in plain}
    return list(zip(*[known[kind] for kind in kinds], strict=True))


class _Treatment(NamedTuple):
    """All that decides what a policy makes of an answer: equal for answers that it cannot tell apart."""

    ended: bool
    moves: tuple[bool, ...]
    again: tuple[bool, ...]
    own: Answer | None


def _treatment(tree: Tree, answer: Answer, share: float) -> _Treatment:
    return _treated(tree.lists, tree.retries if share < 1 or answer == 204 else (), answer)


@lru_cache(maxsize=65536)  # the policies of one directory mostly have the same lists
def _treated(lists: tuple[frozenset[int] | None, ...], retries: tuple[Retry, ...], answer: Answer) -> _Treatment:
    outcome = outcome_of(answer, NO_RETRY)
    moves = tuple([moves_on(outcome, codes) for codes in lists])
    again = tuple([asked_again(answer, retry) for retry in retries])
    return _Treatment(outcome < NO_ANSWER, moves, again, answer if answer in (204, 421) else None)


def _column(tree: Tree, downs: Sequence[_Down], answer: Answer, share: float) -> Sequence[float]:
    """For each set of leaves the chance of losing a request while they fail so and the others answer 200."""
    answers = answer if share == 1 else {answer: share, 200: 1 - share}
    failing = {retry: outcomes_in(endings(retry, answers)) for retry in tree.retries}
    return [
        _lost(outcomes(tree.root, [failing[leaf.retry] if leaf.number in down else usual(leaf) for leaf in tree.leaves]))
        for down in downs
    ]


def _plain_columns(
    tree: Tree, downs: Sequence[_Down], answers: Mapping[_Treatment, Answer], share: float
) -> dict[_Treatment, Sequence[float]]:
    """The same for a plain policy and several answers: those that move its fallbacks on alike go through it in one go."""
    alike: defaultdict[tuple[bool, tuple[bool, ...]], list[_Treatment]] = defaultdict(list)
    for kind in answers:
        alike[kind.ended, kind.moves].append(kind)
    found: dict[_Treatment, Sequence[float]] = {}
    marks = [[leaf.number in some for some in downs] for leaf in tree.leaves]
    for (ended, _), kinds in alike.items():
        chances = [{retry: _failing(retry, answers[kind], share) for retry in tree.retries} for kind in kinds]
        fails = [
            [own[leaf.retry] if is_down else 0.0 for own in chances for is_down in down]
            for leaf, down in zip(tree.leaves, marks, strict=True)
        ]
        outcome = ENDED if ended else outcome_of(answers[kinds[0]], NO_RETRY)
        lost = _lost_plainly(tree.root, outcome, fails)
        found |= {kind: lost[at * len(downs) : (at + 1) * len(downs)] for at, kind in enumerate(kinds)}
    return found


def _failing(retry: Retry, answer: Answer, share: float) -> float:
    """The chance that asking a target ends with a failure."""
    if answer == 421 or 200 in retry.codes:
        return _lost(outcomes_in(endings(retry, answer if share == 1 else {answer: share, 200: 1 - share})))
    return share ** (retry.repeats + 1) if asked_again(answer, retry) else share


def _lost_plainly(node: Node, outcome: int, fails: Sequence[list[float]]) -> list[float]:
    """The chance of losing a request, for several cases in one go.

    `fails` has for each leaf the chance that it fails in each case; every failure has that one outcome.
    """
    if isinstance(node, Leaf):
        return fails[node.number]
    if isinstance(node, Balance):
        lost = [0.0] * len(fails[0])
        for target, share in zip(node.targets, node.shares, strict=True):
            lost = [old + share * own for old, own in zip(lost, _lost_plainly(target, outcome, fails), strict=True)]
        return lost
    assert isinstance(node, Fallback)  # noqa: S101 - a plain policy has no fixed outcomes
    if not moves_on(outcome, node.codes):
        return _lost_plainly(node.targets[0], outcome, fails)
    lost = [1.0] * len(fails[0])
    for target in node.targets:
        lost = [old * own for old, own in zip(lost, _lost_plainly(target, outcome, fails), strict=True)]
    return lost


def _lost(found: Outcomes) -> float:
    return sum([chance for outcome, chance in found.items() if not is_served(outcome)])
