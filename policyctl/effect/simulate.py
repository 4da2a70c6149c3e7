"""Requests simulated step by step, with given answers: for one sequence of draws, or for all of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from policyctl.effect.course import Draw, course
from policyctl.effect.evaluate import costs, evaluate, rounded
from policyctl.effect.gateway import CUT, Answer, Answers, answer_streamed, is_served, status_of
from policyctl.effect.tree import Balance, Leaf, TargetPath, Tree
from policyctl.errors import PolicyctlError

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
