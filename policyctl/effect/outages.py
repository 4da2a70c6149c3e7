"""Outages and partial failures: the chance that a request is lost while one model, or one provider, fails.

In an outage every call fails for the whole request; in a partial failure a share of the calls does, each drawn anew. A policy
cannot tell most failures apart, so each row has one value for every class of failures (see `failures`), and is worked out only
once for the classes that this policy treats alike.

What is kept is the chance that a request is *lost*, not that it is served: 1 in 10^20 and 1 in 10^21 differ, and one minus
either is 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple

from policyctl.effect.asking import Outcomes, endings, outcomes_in, usual
from policyctl.effect.evaluate import healthy, outcomes, rounded
from policyctl.effect.failures import Failures, classes_of
from policyctl.effect.profile import NO_ANSWER, NO_RETRY, Answer, Retry, asked_again, is_served, moves_on, outcome_of
from policyctl.effect.shares import provider_of
from policyctl.effect.tree import Balance, Fallback, Leaf, Node, Tree

Row = tuple[float, ...]  # the chance of losing a request, for each class in order
Kind = Literal["model", "provider"]
Part = tuple[Kind, str]  # what fails: a model or a provider
Losses = Mapping[Part, float]  # the chance of losing a request while a part fails; of one that is not there it is 0


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
    columns = told_apart([tree], share) if classes is None else tuple(classes)
    parts = parts_of([tree])
    lost = losses(tree, parts, columns, share)
    rows: dict[Kind, dict[str, Row]] = {"model": {}, "provider": {}}
    for kind, name in parts:
        rows[kind][name] = tuple([column.get((kind, name), 0.0) for column in lost])
    return Outages(share, columns, rows["model"], rows["provider"], _usual(tree))


def parts_of(trees: Sequence[Tree]) -> tuple[Part, ...]:
    """What can fail in these policies: the models and then the providers, in the order written."""
    models = dict.fromkeys([model for tree in trees for model in tree.models])
    providers = dict.fromkeys(map(provider_of, models))
    return (*(("model", model) for model in models), *(("provider", provider) for provider in providers if provider))


def losses(tree: Tree, parts: Sequence[Part], classes: Sequence[Failures], share: float) -> list[Losses]:
    """For each class what a policy loses while that share of the calls to one of the `parts` fails so.

    The classes that the policy treats alike have one and the same object.
    """
    found: dict[_Treatment, Losses] = {}
    plainly, columns = _Plainly(tree), list[Losses]()
    for answer, _ in classes:
        kind = _treatment(tree, answer, share)
        column = found.get(kind)
        if column is None:
            plain = tree.plain and answer != 204
            column = plainly.losses(answer, share) if plain else _losses(tree, parts, answer, share)
            found[kind] = column
        columns.append(column)
    return columns


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


def _usual(tree: Tree) -> float:
    return 0.0 if tree.plain else _lost(outcomes(tree.root, healthy(tree)))


@lru_cache(maxsize=4096)  # most losses are met in many places
def served(lost: float) -> float:
    """The chance of being served, for people and machines; differences below 10^-12 are gone."""
    return rounded(1.0 - lost)


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


def _losses(tree: Tree, parts: Sequence[Part], answer: Answer, share: float) -> Losses:
    """What a policy loses while that share of the calls to a part has this answer, and all others 200."""
    failing = {retry: _ends(retry, answer, share) for retry in tree.retries}
    return {
        part: _lost(
            outcomes(tree.root, [failing[leaf.retry] if part in _parts(leaf.model) else usual(leaf) for leaf in tree.leaves])
        )
        for part in parts
    }


@lru_cache(maxsize=4096)
def _parts(model: str) -> tuple[Part, ...]:
    """What a model fails with: itself, and its provider."""
    provider = provider_of(model)
    return (("model", model), ("provider", provider)) if provider else (("model", model),)


def _ends(retry: Retry, answer: Answer, share: float) -> Outcomes:
    """The outcomes of a target while that share of its calls has this answer."""
    return outcomes_in(endings(retry, answer if share == 1 else {answer: share, 200: 1 - share}))


class _Plainly:
    """What a plain policy loses: as every failure there has one outcome, one chance for each leaf is all that is needed."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.fails: dict[tuple[float, ...], list[Losses]] = {}  # by the chances that asking fails, one for each retry

    def losses(self, answer: Answer, share: float) -> Losses:
        """What is lost while that share of the calls to a part has this answer."""
        chances = tuple([_failing(retry, answer, share) for retry in self.tree.retries])
        if chances not in self.fails:
            of = dict(zip(self.tree.retries, chances, strict=True))
            self.fails[chances] = [dict.fromkeys(_parts(leaf.model), of[leaf.retry]) for leaf in self.tree.leaves]
        return _lost_plainly(self.tree.root, outcome_of(answer, NO_RETRY), self.fails[chances])


def _failing(retry: Retry, answer: Answer, share: float) -> float:
    """The chance that asking a target ends with a failure."""
    if answer == 421 or 200 in retry.codes:
        return _lost(_ends(retry, answer, share))
    return share ** (retry.repeats + 1) if asked_again(answer, retry) else share


def _lost_plainly(node: Node, outcome: int, fails: Sequence[Losses]) -> Losses:
    """What a place of a plain policy loses. `fails` has it for each leaf; every failure has that one outcome."""
    if isinstance(node, Leaf):
        return fails[node.number]
    if isinstance(node, Balance):
        drawn: dict[Part, float] = {}
        for target, share in zip(node.targets, node.shares, strict=True):
            for part, chance in _lost_plainly(target, outcome, fails).items():
                drawn[part] = drawn.get(part, 0.0) + share * chance
        return drawn
    assert isinstance(node, Fallback)  # noqa: S101 - a plain policy has no fixed outcomes
    first, *others = node.targets
    lost = _lost_plainly(first, outcome, fails)
    for target in others if moves_on(outcome, node.codes) else ():
        if not lost:
            break
        also = _lost_plainly(target, outcome, fails)
        lost = {part: chance * also[part] for part, chance in lost.items() if part in also}
    return lost


def _lost(found: Outcomes) -> float:
    return sum([chance for outcome, chance in found.items() if not is_served(outcome)])
