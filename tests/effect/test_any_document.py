"""Whatever a remote holds can be asked about: the engine has an answer for every plain document."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
from hypothesis import given

from policyctl.effect.analysis import analyse, compare
from policyctl.effect.course import simulate
from policyctl.effect.equivalence import kind_of
from policyctl.effect.evaluate import costs, evaluate
from policyctl.effect.tree import DeclaredModels, read_tree
from policyctl.effect.usage import dead_configuration
from policyctl.errors import NotKnown
from tests import strategies


@given(document=strategies.loose_documents, other=strategies.loose_documents)
def test_nothing_crashes_and_chances_sum_to_one(document: dict[str, Any], other: dict[str, Any]) -> None:
    tree = read_tree(document)
    evaluation = evaluate(tree, {})
    assert sum(evaluation.statuses.values()) == pytest.approx(1)
    assert sum(sum(spread.values()) for spread in costs(tree, {}).values()) == pytest.approx(1)
    assert simulate(tree, {}, Random(1).random).status in evaluation.statuses
    if tree.unmodelled:
        with pytest.raises(NotKnown, match="which policyctl does not know"):
            analyse(document)
    else:
        assert analyse(document, declared=DeclaredModels({"a": 1.0})).usual == pytest.approx(evaluation.served)
    assert kind_of(document, other, tree, read_tree(other)) == compare(document, other).kind
    assert (tree.refused is not None) <= (dead_configuration(document) == ())


@pytest.mark.parametrize("document", [{}, {"policy": None}, {"name": 7, "policy": {}}, {"policy": {"targets": [None]}}])
def test_what_is_not_a_policy_is_refused(document: dict[str, Any]) -> None:
    assert evaluate(read_tree(document), {}).statuses == {400: 1.0}
