"""The course of a request, driven by hand: its attempts, what they wait for, and that it ends where the recordings end."""

from __future__ import annotations

from typing import Any

import pytest

from policyctl.effect.course import Attempt, CourseEnd, Draw, course
from policyctl.effect.gateway import CUT, ENDED, NO_ANSWER, Answer, RetryAfter
from policyctl.effect.tree import Tree, read_tree

A, B = {"model_name": "virtual-model/a/one"}, {"model_name": "virtual-model/b/two"}


def first_drawn(_: object) -> int:
    return 0


def tree_of(mode: str, *targets: dict[str, Any], **more: Any) -> Tree:
    return read_tree({"policy": {"strategy": {"mode": mode}, "targets": list(targets), **more}})


def driven(tree: Tree, *answers: Answer, draw: Draw = first_drawn) -> tuple[list[tuple[str, int]], CourseEnd]:
    """The attempts that these answers lead to, in order, and how the request ends; all answers must be used."""
    steps, left, seen = course(tree, draw), list(answers), list[tuple[str, int]]()
    try:
        attempt: Attempt = next(steps)
        while True:
            seen.append((attempt.leaf.model.rpartition("/")[2], attempt.wait))
            attempt = steps.send(left.pop(0))
    except StopIteration as end:
        assert not left
        ending: CourseEnd = end.value
        return seen, ending


CASES: dict[str, tuple[Tree, tuple[Answer, ...], list[tuple[str, int]], CourseEnd]] = {
    "the second target follows at once": (tree_of("fallback", A, B), (503, 200), [("one", 0), ("two", 0)], CourseEnd(200, 0)),
    "repeats wait longer and longer": (
        tree_of("single", A, retry={"attempts": 2}),
        (500, "refused", 200),
        [("one", 0), ("one", 1), ("one", 2)],
        CourseEnd(200, 0),
    ),
    "a 421 is asked again at once": (tree_of("single", A), (421, 200), [("one", 0), ("one", 0)], CourseEnd(200, 0)),
    "a wait that is asked for follows even the last attempt": (
        tree_of("single", A, retry={"attempts": 1, "use_retry_after_header": True}),
        (RetryAfter(5), RetryAfter(7)),
        [("one", 0), ("one", 5)],
        CourseEnd(429, 7),
    ),
    "that wait comes before the next target": (
        tree_of("fallback", {**A, "retry": {"attempts": 1, "use_retry_after_header": True}}, B),
        (RetryAfter(5), RetryAfter(7), 200),
        [("one", 0), ("one", 5), ("two", 7)],
        CourseEnd(200, 0),
    ),
    "a broken body ends it": (tree_of("fallback", A, B), ("broken-body",), [("one", 0)], CourseEnd(ENDED, 0)),
    "a cut stream ends it": (tree_of("fallback", A, B), ("cut-stream",), [("one", 0)], CourseEnd(CUT, 0)),
    "nothing to draw": (tree_of("loadbalance", {**A, "weight": 0}), (), [], CourseEnd(NO_ANSWER, 0)),
}


@pytest.mark.parametrize("case", CASES)
def test_attempts_and_ending(case: str) -> None:
    tree, answers, attempts, ending = CASES[case]
    assert driven(tree, *answers) == (attempts, ending)


def test_each_load_balance_on_the_way_is_drawn_once_and_again_when_it_is_come_to_again() -> None:
    group = {"strategy": {"mode": "loadbalance"}, "targets": [A, B]}
    draws = iter((1, 0))
    attempts, _ = driven(tree_of("fallback", group, group), 500, 200, draw=lambda _: next(draws))
    assert attempts == [("two", 0), ("one", 0)]


def test_a_draw_of_nothing_calls_no_target() -> None:
    assert driven(tree_of("loadbalance", A, B), draw=lambda _: None) == ([], CourseEnd(NO_ANSWER, 0))
