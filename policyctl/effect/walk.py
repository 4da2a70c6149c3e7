"""One request, step by step, for one script of answers and one sequence of draws."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from policyctl.effect.profile import NO_ANSWER, Answer, asked_again, moves_on, outcome_of, status_of, wait_before
from policyctl.effect.tree import Fallback, Fixed, Leaf, Node, Path, Tree

Script = Mapping[str, Sequence[Answer]]  # per model the answers that it gives, in order; the last one sticks


class Call(NamedTuple):
    """One call: to whom, after how many seconds of waiting, what came back, and from which target it was made."""

    model: str
    wait: int
    answer: Answer
    path: Path


@dataclass(frozen=True, slots=True)
class Walk:
    """One request: the status that the client gets (None: no answer at all) and the calls in order."""

    status: int | None
    calls: tuple[Call, ...]

    @property
    def models(self) -> list[str]:
        """Who was called, in order."""
        return [call.model for call in self.calls]

    @property
    def waited(self) -> int:
        """Seconds of waiting between calls, all together."""
        return sum(call.wait for call in self.calls)


def walk(tree: Tree, script: Script, point: Callable[[], float]) -> Walk:
    """Walk one request. A model without a script answers 200; `point` gives a number from 0 to less than 1 for each load
    balance that is passed, such as `random.Random(seed).random`.
    """
    walker = _Walker(script, point)
    status = status_of(walker.ask(tree.root))
    return Walk(status, tuple(walker.calls))


class _Walker:
    """What was called so far, and how far each model is in its script."""

    def __init__(self, script: Script, point: Callable[[], float]) -> None:
        self.script = script
        self.point = point
        self.given: dict[str, int] = {}
        self.calls: list[Call] = []

    def ask(self, node: Node) -> int:
        """The outcome of one place of the tree."""
        if isinstance(node, Leaf):
            return self._leaf(node)
        if isinstance(node, Fixed):
            return node.outcome
        if isinstance(node, Fallback):
            return self._fallback(node)
        position = node.draw.position(self.point())
        return NO_ANSWER if position is None else self.ask(node.targets[position])

    def _fallback(self, node: Fallback) -> int:
        outcome = NO_ANSWER
        for target in node.targets:
            outcome = self.ask(target)
            if not moves_on(outcome, node.codes):
                break
        return outcome

    def _leaf(self, leaf: Leaf) -> int:
        answer = self._attempt(leaf, 0)
        for repeat in range(1, leaf.retry.repeats + 1):
            if not asked_again(answer, leaf.retry):
                break
            answer = self._attempt(leaf, wait_before(repeat))
        return outcome_of(answer, leaf.retry)

    def _attempt(self, leaf: Leaf, wait: int) -> Answer:
        answer = self._call(leaf, wait)
        return self._call(leaf, 0) if answer == 421 else answer

    def _call(self, leaf: Leaf, wait: int) -> Answer:
        answers = self.script.get(leaf.model) or (200,)
        given = self.given.get(leaf.model, 0)
        self.given[leaf.model] = given + 1
        answer = answers[min(given, len(answers) - 1)]
        self.calls.append(Call(leaf.model, wait, answer, leaf.path))
        return answer
