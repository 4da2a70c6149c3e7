"""The outage matrix: the chance that a request is served while one model, or one provider, fails for the whole request.

A policy cannot tell most failures apart: two statuses on the same lists lead to the same walk. So each row is evaluated once
for every class of failures that the policy's own lists make, not once for every failure.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from policyctl.effect.asking import Outcomes, usual
from policyctl.effect.evaluate import healthy, outcomes, rounded
from policyctl.effect.profile import FAILURES, NO_RETRY, is_served, moves_on, outcome_of
from policyctl.effect.shares import provider_of
from policyctl.effect.tree import Balance, Fallback, Leaf, Node, Tree

Row = tuple[float, ...]  # the chance of being served, for each of FAILURES in their order


@dataclass(frozen=True, slots=True)
class Outages:
    """The matrix: a row for each model and each provider, and `usual`, the chance of being served when nothing fails."""

    models: Mapping[str, Row]
    providers: Mapping[str, Row]
    usual: float

    def row(self, kind: str, name: str) -> Row:
        """The row of a model or provider (`kind`); one that the policy does not use can fail as it likes."""
        rows = self.models if kind == "model" else self.providers
        return rows.get(name, (self.usual,) * len(FAILURES))


def outages(tree: Tree) -> Outages:
    """The outage matrix of a policy."""
    by_model: defaultdict[str, list[int]] = defaultdict(list)
    by_provider: defaultdict[str, list[int]] = defaultdict(list)
    for leaf in tree.leaves:
        by_model[leaf.model].append(leaf.number)
        if provider := provider_of(leaf.model):
            by_provider[provider].append(leaf.number)
    downs = list(dict.fromkeys(map(tuple, [*by_model.values(), *by_provider.values()])))
    rows = dict(zip(downs, _rows(tree, downs), strict=True))
    return Outages(
        {model: rows[tuple(down)] for model, down in by_model.items()},
        {provider: rows[tuple(down)] for provider, down in by_provider.items()},
        _served(outcomes(tree.root, healthy(tree))),
    )


def _rows(tree: Tree, downs: Sequence[tuple[int, ...]]) -> list[Row]:
    """A row for each of these sets of leaves."""
    classes = _classes(tree)
    up = [[float(leaf.number not in down) for down in downs] for leaf in tree.leaves]
    if tree.plain:
        columns = {outcome: list(map(rounded, _served_plainly(tree.root, outcome, up))) for outcome in dict.fromkeys(classes)}
    else:
        columns = {outcome: [_served_with(tree, down, outcome) for down in downs] for outcome in dict.fromkeys(classes)}
    return list(zip(*[columns[outcome] for outcome in classes], strict=True))


def _served_with(tree: Tree, down: tuple[int, ...], outcome: int) -> float:
    """The chance of being served while these leaves have one outcome and the others 200."""
    failing: Outcomes = {outcome: 1.0}
    return _served(outcomes(tree.root, [failing if leaf.number in down else usual(leaf) for leaf in tree.leaves]))


def _served_plainly(node: Node, outcome: int, up: Sequence[Sequence[float]]) -> Sequence[float]:
    """What `_served_with` gives for a plain policy, for several sets of leaves in one go.

    `up` says for each leaf and each set whether the leaf answers: 1 or 0. What is not served has that one outcome.
    """
    if isinstance(node, Leaf):
        return up[node.number]
    if isinstance(node, Balance):
        served = [0.0] * len(up[0])
        for target, share in zip(node.targets, node.shares, strict=True):
            served = [old + share * own for old, own in zip(served, _served_plainly(target, outcome, up), strict=True)]
        return served
    assert isinstance(node, Fallback)  # noqa: S101 - a plain policy has no fixed outcomes
    if not moves_on(outcome, node.codes):
        return _served_plainly(node.targets[0], outcome, up)
    failing = [1.0] * len(up[0])
    for target in node.targets:
        failing = [old * (1.0 - own) for old, own in zip(failing, _served_plainly(target, outcome, up), strict=True)]
    return [1.0 - chance for chance in failing]


def _classes(tree: Tree) -> list[int]:
    """For each of FAILURES an outcome that stands for its class: the first that moves the same fallbacks on."""
    first: dict[tuple[bool, ...], int] = {}
    return [first.setdefault(tuple([moves_on(outcome, codes) for codes in tree.lists]), outcome) for outcome in _OUTCOMES]


def _served(found: Outcomes) -> float:
    return rounded(sum([chance for outcome, chance in found.items() if is_served(outcome)]))


# A target that answers every call with the same failure ends with it, however often it is asked again.
_OUTCOMES = tuple(outcome_of(answer, NO_RETRY) for answer in FAILURES)
