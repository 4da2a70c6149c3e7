"""One request's way through a policy, without input or output: what is tried next, given what came back so far.

`course` is a generator. It yields each attempt (which target is asked, after how many seconds), is sent the answer, and
returns how the request ended. The simulator, below, drives it with answers that are given, for one sequence of draws or for all
of them; the gateway drives the same one with requests over HTTP. So what a plan predicts and what the gateway does cannot
differ.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import NamedTuple

from policyctl.effect.evaluate import costs, evaluate, rounded
from policyctl.effect.gateway import (
    CUT,
    FIRST,
    NO_ANSWER,
    Answer,
    Answers,
    Attempts,
    answer_streamed,
    is_served,
    moves_on,
    next_after,
    outcome_of,
    status_of,
)
from policyctl.effect.tree import Balance, Fallback, Fixed, Leaf, Node, TargetPath, Tree
from policyctl.errors import PolicyctlError

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


Script = Mapping[str, Sequence[Answer]]  # for each model its answers in order; the last one repeats


class Call(NamedTuple):
    """One call: the model, after how many seconds of waiting, what came back, and from which target it was made."""

    model: str
    wait: int
    answer: Answer
    path: TargetPath


class Simulation(NamedTuple):
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
        """The models that were called, in order."""
        return [call.model for call in self.calls]

    @property
    def waited(self) -> int:
        """Seconds of waiting between calls and after the last, all together."""
        return sum(call.wait for call in self.calls) + self.wait


def simulate(tree: Tree, script: Script, point: Callable[[], float]) -> Simulation:
    """Simulate one request. A model without a script answers 200; `point` returns a number from 0 to less than 1 for each load
    balance on the way, such as `random.Random(seed).random`.
    """
    return _Simulator(script, lambda node: node.draw.position(point())).walk(tree)


def every_simulation(tree: Tree, script: Script) -> Iterator[tuple[float, Simulation]]:
    """Every way that one request may take, one for each sequence of draws, with its chance; the chances sum to 1.

    There may be many: the load balances that a request passes multiply.
    """
    pending: list[tuple[int, ...]] = [()]
    while pending:
        draws = _Choices(pending.pop())
        walked = _Simulator(script, draws.position).walk(tree)
        yield draws.chance, walked
        pending += draws.others


class _Choices:
    """One sequence of draws: the positions given, then the first of each load balance. `others` are the ways not taken."""

    def __init__(self, given: tuple[int, ...]) -> None:
        self.given = given
        self.taken: tuple[int, ...] = ()
        self.others: list[tuple[int, ...]] = []
        self.chance = 1.0

    def position(self, node: Balance) -> int | None:
        chances = [*node.shares, node.nothing] if node.nothing else node.shares
        if len(self.taken) < len(self.given):
            position = self.given[len(self.taken)]
        else:
            position = 0
            self.others += [(*self.taken, other) for other in range(1, len(chances))]
        self.taken = (*self.taken, position)
        self.chance *= chances[position]
        return position if position < len(node.targets) else None


class _Simulator:
    """Answers the attempts of a course from a script, and notes the calls."""

    def __init__(self, script: Script, draw: Draw) -> None:
        self.script = script
        self.draw = draw
        self.given: dict[str, int] = {}
        self.calls: list[Call] = []

    def walk(self, tree: Tree) -> Simulation:
        steps = course(tree, self.draw)
        try:
            attempt = next(steps)
            while True:
                attempt = steps.send(self._call(*attempt))
        except StopIteration as end:
            outcome, wait = end.value
        return Simulation(status_of(outcome), tuple(self.calls), wait, outcome == CUT)

    def _call(self, leaf: Leaf, wait: int) -> Answer:
        answers = self.script.get(leaf.model) or ((200,) if leaf.known else ("broken-body",))
        given = self.given.get(leaf.model, 0)
        self.given[leaf.model] = given + 1
        answer = answers[min(given, len(answers) - 1)]
        self.calls.append(Call(leaf.model, wait, answer, leaf.path))
        return answer


Given = Answers | tuple[Answer, ...]  # a tuple is the answers in order, the last one sticking

MAX_WALKS = 10_000


class Observation(NamedTuple):
    """What requests run into, in chances from 0 to 1.

    `statuses` is the distribution of the status that the client sees (None: no answer), `served` the chance that it gets what
    it asked for. Per model: `serves` the chance that
    the client gets its answer and that this is a success, `called` the chance that it is called at all. `max_calls` and
    `max_seconds` are the most calls and the most back-off that one request may need.
    """

    statuses: Mapping[int | None, float]
    serves: Mapping[str, float]
    called: Mapping[str, float]
    max_calls: int
    max_seconds: int
    served: float


def run_requests(tree: Tree, given: Mapping[str, Given]) -> Observation:
    """What requests run into. `given` are per model (of `tree.models`); the others answer 200.

    Nothing is sampled: with answers in order, every draw of every load balance is tried. Such answers may be combined with
    permanent answers, not with chances. Raises PolicyctlError when there are more than `MAX_WALKS` such ways.
    """
    answers: dict[str, Answers] = {}
    scripts: dict[str, tuple[Answer, ...]] = {}
    for model, own in given.items():
        if isinstance(own, tuple):
            scripts[model] = own
        else:
            answers[model] = own
    return _walked(tree, {**_for_good(answers), **scripts}) if scripts else _evaluated(tree, answers)


def streamed(given: Given) -> Given:
    """The same answers to requests that ask for a stream (see `answer_streamed`)."""
    if isinstance(given, tuple):
        return tuple(map(answer_streamed, given))
    if not isinstance(given, Mapping):
        return answer_streamed(given)
    found: defaultdict[Answer, float] = defaultdict(float)
    for answer, chance in given.items():
        found[answer_streamed(answer)] += chance
    return dict(found)


def _for_good(answers: Mapping[str, Answers]) -> dict[str, tuple[Answer, ...]]:
    found: dict[str, tuple[Answer, ...]] = {}
    for model, answer in answers.items():
        if isinstance(answer, Mapping):
            raise PolicyctlError("answers in order and chances cannot be followed together")
        found[model] = (answer,)
    return found


def _evaluated(tree: Tree, answers: Mapping[str, Answers]) -> Observation:
    found = evaluate(tree, answers)
    spent = [cost for spread in costs(tree, answers).values() for cost in spread]
    most_calls, most_seconds = max(cost.calls for cost in spent), max(cost.seconds for cost in spent)
    return Observation(found.statuses, found.serves, found.reached, most_calls, most_seconds, found.served)


def _walked(tree: Tree, scripts: Mapping[str, tuple[Answer, ...]]) -> Observation:
    statuses: defaultdict[int | None, float] = defaultdict(float)
    serves, called = dict.fromkeys(tree.models, 0.0), dict.fromkeys(tree.models, 0.0)
    most_calls = most_seconds = 0
    served = 0.0
    for number, (chance, walked) in enumerate(every_simulation(tree, scripts)):
        if number == MAX_WALKS:
            raise PolicyctlError(f"a request may go more than {MAX_WALKS:,} ways, too many to follow with answers in order")
        statuses[walked.status] += chance
        if walked.served:
            served += chance
            serves[walked.calls[-1].model] += chance
        for model in set(walked.models):
            called[model] += chance
        most_calls, most_seconds = max(most_calls, len(walked.calls)), max(most_seconds, walked.waited)
    return Observation(dict(statuses), serves, called, most_calls, most_seconds, rounded(served))
