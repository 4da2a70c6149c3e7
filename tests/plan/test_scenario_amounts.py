"""Amounts: parts of all requests, exactly or as a bound."""

from __future__ import annotations

import pytest

from policyctl.plan.scenario import TOLERANCE, Amount, Relation, read_amount

# What holds of a number that is smaller, equal (up to the tolerance), larger.
HOLDS: dict[Relation, tuple[bool, bool, bool]] = {
    "=": (False, True, False),
    ">": (False, False, True),
    ">=": (False, True, True),
    "<": (True, False, False),
    "<=": (True, True, False),
}


@pytest.mark.parametrize("relation", HOLDS)
@pytest.mark.parametrize(
    ("got", "which"),
    [(0.2, 0), (0.5 - 2 * TOLERANCE, 0), (0.5 - TOLERANCE / 2, 1), (0.5, 1), (0.5 + TOLERANCE / 2, 1), (0.51, 2), (1.0, 2)],
)
def test_numbers_are_compared_up_to_the_tolerance(relation: Relation, got: float, which: int) -> None:
    assert Amount(0.5, relation).holds(got) is HOLDS[relation][which]


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        (">= 0.99", Amount(0.99, ">=")),
        (">=0.99", Amount(0.99, ">=")),
        (" <  .5 ", Amount(0.5, "<")),
        ("= 1", Amount(1)),
        ("0", Amount(0)),
        ("<=1.0", Amount(1, "<=")),
        ("> 0", Amount(0, ">")),
    ],
)
def test_an_amount_is_read_as_people_write_it(text: str, amount: Amount) -> None:
    assert read_amount(text) == amount


@pytest.mark.parametrize("text", ["", ">", "1.1", "-0.1", "=> 1", "50%", "1e-3", "nan", "> > 1", "0.5 0.6", "٠.٥", "0."])
def test_what_is_not_an_amount_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a number from 0 to 1"):
        read_amount(text)


@pytest.mark.parametrize("amount", [Amount(0.75), Amount(0.99, ">="), Amount(1, "<"), Amount(1 / 3, ">")])
def test_its_text_reads_back_as_the_same(amount: Amount) -> None:
    read = read_amount(str(amount))
    assert read.relation == amount.relation
    assert read.number == pytest.approx(amount.number, abs=TOLERANCE)
