"""How a set of failures reads, and that nothing is lost in its classes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.effect.gateway import Answer, answer_value
from policyctl.effect.outages import FAILURES, describe_failures, ranges_of

FIVES: frozenset[Answer] = frozenset(range(500, 600))
SAID: list[tuple[frozenset[Answer], str]] = [
    (frozenset({402}), "402"),
    (frozenset({402, *range(520, 530)}), "402, 52x"),
    (frozenset({*range(400, 500)} - {408, 429}), "4xx but 408, 429"),
    (FIVES, "5xx"),
    (frozenset({418, 429, 402}), "402, 429, 418"),
    (frozenset({502, 503, 504}), "502 to 504"),
    (frozenset({503, 504}), "503, 504"),
    (FAILURES, "any failure"),
    (FAILURES - {429, 503}, "any failure but 429, 503"),
    (FAILURES - {205, 304, "broken-body"}, "any failure but a broken body"),
    (FAILURES - FIVES, "any failure but 5xx"),
    (frozenset({"refused", 407}), "connection refused"),
    (frozenset({"refused", "hang"}), "connection failures"),
    (frozenset({"hang"}), "connect timeout"),
    (frozenset({205, 304, "broken-body"}), "a broken body"),
]


@pytest.mark.parametrize(("answers", "said"), SAID, ids=[said for _, said in SAID])
def test_a_set_of_failures_reads_as_people_write_it(answers: frozenset[Answer], said: str) -> None:
    assert describe_failures(answers) == said


@given(answers=st.frozensets(st.sampled_from(sorted(FAILURES, key=str))))
def test_the_ranges_for_machines_are_the_set(answers: frozenset[Answer]) -> None:
    found: set[Answer] = set()
    for text in ranges_of(answers):
        low, _, high = text.partition("-")
        if low.isdigit():
            found.update(range(int(low), int(high or low) + 1))
        else:
            found.update(one for one in FAILURES if answer_value(one) == text)
    assert found == answers
