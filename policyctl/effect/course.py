"""One request's way through a policy, without input or output: what is tried next, given what came back so far.

`course` is a generator. It yields each attempt (which target is asked, after how many seconds), is sent the answer, and
returns how the request ended. The simulator drives it with answers that are given; the gateway drives the same one with
requests over HTTP. So what a plan predicts and what the gateway does cannot differ.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import NamedTuple

from policyctl.effect.gateway import FIRST, NO_ANSWER, Answer, Attempts, moves_on, next_after, outcome_of
from policyctl.effect.tree import Balance, Fallback, Fixed, Leaf, Node, Tree

Draw = Callable[[Balance], int | None]  # the position of the target drawn at a load balance; None draws none


class Attempt(NamedTuple):
    """A target to ask, once `wait` seconds have passed."""

    leaf: Leaf
    wait: int


class CourseEnd(NamedTuple):
    """How a request ended: its outcome (see `gateway`), and the seconds that are waited after the last attempt."""

    outcome: int
    wait: int


Steps = Generator[Attempt, Answer, int]


def course(tree: Tree, draw: Draw) -> Generator[Attempt, Answer, CourseEnd]:
    """The attempts of one request. Each is answered with `send`; `draw` is called once at each load balance on the way."""
    steps = _Steps(draw)
    outcome = yield from steps.ask(tree.root)
    return CourseEnd(outcome, steps.wait)


class _Steps:
    """What is asked at each place of a tree; `wait` are the seconds until the next attempt."""

    def __init__(self, draw: Draw) -> None:
        self.draw = draw
        self.wait = 0

    def ask(self, node: Node) -> Steps:
        """The attempts at one place, and its outcome."""
        if isinstance(node, Leaf):
            return (yield from self._leaf(node))
        if isinstance(node, Fixed):
            return node.outcome
        if isinstance(node, Fallback):
            return (yield from self._fallback(node))
        position = self.draw(node)
        return NO_ANSWER if position is None else (yield from self.ask(node.targets[position]))

    def _fallback(self, node: Fallback) -> Steps:
        outcome = NO_ANSWER
        for target in node.targets:
            outcome = yield from self.ask(target)
            if not moves_on(outcome, node.codes):
                break
        return outcome

    def _leaf(self, leaf: Leaf) -> Steps:
        at: Attempts | None = FIRST
        while at is not None:
            answer = yield Attempt(leaf, self.wait)
            if answer == 421:
                answer = yield Attempt(leaf, 0)
            self.wait, at = next_after(answer, leaf.retry, at)
        return outcome_of(answer, leaf.retry)
