"""One request, step by step, for one script of answers and one sequence of draws."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from policyctl.effect.profile import (
    CUT,
    FIRST,
    NO_ANSWER,
    Answer,
    Attempts,
    is_served,
    moves_on,
    next_after,
    outcome_of,
    status_of,
)
from policyctl.effect.tree import Balance, Fallback, Fixed, Leaf, Node, Path, Tree

Script = Mapping[str, Sequence[Answer]]  # per model the answers that it gives, in order; the last one sticks


class Call(NamedTuple):
    """One call: to whom, after how many seconds of waiting, what came back, and from which target it was made."""

    model: str
    wait: int
    answer: Answer
    path: Path


@dataclass(frozen=True, slots=True)
class Walk:
    """One request: the status that the client gets (None: no answer at all), the calls in order, the seconds waited after the
    last of them, and whether the answer is a broken stream.
    """

    status: int | None
    calls: tuple[Call, ...]
    wait: int = 0
    cut: bool = False

    @property
    def served(self) -> bool:
        """Whether the client got what it asked for."""
        return self.status is not None and is_served(self.status) and not self.cut

    @property
    def models(self) -> list[str]:
        """Who was called, in order."""
        return [call.model for call in self.calls]

    @property
    def waited(self) -> int:
        """Seconds of waiting between calls and after the last, all together."""
        return sum(call.wait for call in self.calls) + self.wait


def walk(tree: Tree, script: Script, point: Callable[[], float]) -> Walk:
    """Walk one request. A model without a script answers 200; `point` gives a number from 0 to less than 1 for each load
    balance that is passed, such as `random.Random(seed).random`.
    """
    return _Walker(script, lambda node: node.draw.position(point())).walk(tree)


def every_walk(tree: Tree, script: Script) -> Iterator[tuple[float, Walk]]:
    """Every way in which one request may go, one for each sequence of draws, with its chance; the chances sum to 1.

    There may be many: the load balances that a request passes multiply.
    """
    pending: list[tuple[int, ...]] = [()]
    while pending:
        draws = _Draws(pending.pop())
        walked = _Walker(script, draws.position).walk(tree)
        yield draws.chance, walked
        pending += draws.others


class _Draws:
    """One sequence of draws: the positions given, then the first of each load balance. `others` are the ways not taken."""

    def __init__(self, given: tuple[int, ...]) -> None:
        self.given = given
        self.taken: tuple[int, ...] = ()
        self.others: list[tuple[int, ...]] = []
        self.chance = 1.0

    def position(self, node: Balance) -> int | None:
        chances = [*node.shares, node.nobody] if node.nobody else node.shares
        if len(self.taken) < len(self.given):
            position = self.given[len(self.taken)]
        else:
            position = 0
            self.others += [(*self.taken, other) for other in range(1, len(chances))]
        self.taken = (*self.taken, position)
        self.chance *= chances[position]
        return position if position < len(node.targets) else None


class _Walker:
    """What was called so far, and how far each model is in its script."""

    def __init__(self, script: Script, draw: Callable[[Balance], int | None]) -> None:
        self.script = script
        self.draw = draw
        self.given: dict[str, int] = {}
        self.calls: list[Call] = []
        self.wait = 0  # seconds since the last call

    def walk(self, tree: Tree) -> Walk:
        outcome = self.ask(tree.root)
        return Walk(status_of(outcome), tuple(self.calls), self.wait, outcome == CUT)

    def ask(self, node: Node) -> int:
        """The outcome of one place of the tree."""
        if isinstance(node, Leaf):
            return self._leaf(node)
        if isinstance(node, Fixed):
            return node.outcome
        if isinstance(node, Fallback):
            return self._fallback(node)
        position = self.draw(node)
        return NO_ANSWER if position is None else self.ask(node.targets[position])

    def _fallback(self, node: Fallback) -> int:
        outcome = NO_ANSWER
        for target in node.targets:
            outcome = self.ask(target)
            if not moves_on(outcome, node.codes):
                break
        return outcome

    def _leaf(self, leaf: Leaf) -> int:
        at: Attempts | None = FIRST
        while at is not None:
            answer = self._call(leaf)
            if answer == 421:
                answer = self._call(leaf)
            self.wait, at = next_after(answer, leaf.retry, at)
        return outcome_of(answer, leaf.retry)

    def _call(self, leaf: Leaf) -> Answer:
        answers = self.script.get(leaf.model) or ((200,) if leaf.known else ("broken-body",))
        given = self.given.get(leaf.model, 0)
        self.given[leaf.model] = given + 1
        answer = answers[min(given, len(answers) - 1)]
        self.calls.append(Call(leaf.model, self.wait, answer, leaf.path))
        self.wait = 0
        return answer
