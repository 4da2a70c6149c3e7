"""What requests run into, whichever way the answers of models are given: for good, by chance, or one after the other."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass

from policyctl.effect.costs import costs
from policyctl.effect.evaluate import evaluate, rounded
from policyctl.effect.profile import Answer, Answers, answer_streamed
from policyctl.effect.tree import Tree
from policyctl.effect.walk import every_walk
from policyctl.errors import PolicyctlError

Given = Answers | tuple[Answer, ...]  # a tuple is the answers in order, the last one sticking

MAX_WALKS = 10_000


@dataclass(frozen=True, slots=True)
class Observation:
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


def observe(tree: Tree, given: Mapping[str, Given]) -> Observation:
    """What requests run into. `given` are per model (of `tree.models`); the others answer 200.

    Nothing is sampled: with answers in order, every draw of every load balance is gone through. Such answers stand beside
    answers for good, not beside chances. Raises PolicyctlError when there are more than `MAX_WALKS` such ways.
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
    for number, (chance, walked) in enumerate(every_walk(tree, scripts)):
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
