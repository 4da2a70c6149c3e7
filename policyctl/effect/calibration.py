"""Predictions held against what the gateway recorded: shares, survival and waits of each policy, with confidence intervals.

What is predicted is what the policy makes of its models' answers; how often models fail is not. So the shares of the models'
answers are taken from the records, and what the rules make of them is compared with what became of the requests.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import sqrt
from typing import Any, NamedTuple

from policyctl.effect.evaluate import costs, evaluate
from policyctl.effect.gateway import Answer, Answers, read_answer
from policyctl.effect.tree import Tree

_LONGEST = 1e9  # seconds of waiting that are more than any request's
_NORMAL = 1.959964  # standard deviations to either side of the mean that hold 95%


class RecordedRequest(NamedTuple):
    """One request: its policy and version, each attempt's model and answer, the seconds waited, and whether it was served.

    Of a request that is not `whole`, the client left before the end.
    """

    policy: str
    version: str
    attempts: tuple[tuple[str, Answer], ...]
    waited: float
    served: bool
    whole: bool


class Estimate(NamedTuple):
    """A figure as predicted and as observed, and the 95% confidence interval of what was observed."""

    predicted: float
    observed: float
    low: float
    high: float

    @property
    def agrees(self) -> bool:
        """Whether the prediction is inside the interval."""
        return self.low - 1e-9 <= self.predicted <= self.high + 1e-9


class Calibration(NamedTuple):
    """The requests of one policy: how many there were, the chance to be served, by which model, and the mean seconds of
    waiting. `left` are requests whose clients left, and `others` those of other versions; neither is compared."""

    policy: str
    version: str
    requests: int
    left: int
    others: int
    served: Estimate | None = None
    shares: Mapping[str, Estimate] = {}
    wait: Estimate | None = None


def read_record(value: Any) -> RecordedRequest:
    """A line of the gateway's records, as a plain value. Raises ValueError for anything else."""
    try:
        attempts = tuple((str(one["model"]), _answer(one["answer"])) for one in value["attempts"])
        waited = _seconds(value["wait"]) + sum(_seconds(one["wait"]) for one in value["attempts"])
        whole = value["status"] != 499
        return RecordedRequest(str(value["policy"]), str(value["version"]), attempts, waited, value["served"] is True, whole)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError("not a record of the gateway") from error


def _seconds(value: Any) -> float:
    if not 0 <= value < _LONGEST:
        raise ValueError("it is not a time")
    return float(value)


def _answer(value: Any) -> Answer:
    return read_answer(str(value) if type(value) is int else value)


def calibrate(policy: str, version: str, tree: Tree, records: Iterable[RecordedRequest]) -> Calibration:
    """What is predicted of a policy and what its records show."""
    own = [record for record in records if record.policy == policy]
    same = [record for record in own if record.version == version]
    whole = [record for record in same if record.whole]
    found = Calibration(policy, version, len(whole), len(same) - len(whole), len(own) - len(same))
    if not whole:
        return found
    answers = _answers_in(whole)
    predicted, number = evaluate(tree, answers), len(whole)
    serving = Counter(record.attempts[-1][0] for record in whole if record.served and record.attempts)
    models = [model for model in tree.models if predicted.serves.get(model) or serving[model]]
    seconds = sum(cost.seconds * chance for spread in costs(tree, answers).values() for cost, chance in spread.items())
    return found._replace(
        served=_share(predicted.served, sum(record.served for record in whole), number),
        shares={model: _share(predicted.serves.get(model, 0.0), serving[model], number) for model in models},
        wait=_mean(seconds, [record.waited for record in whole]),
    )


def _answers_in(records: Iterable[RecordedRequest]) -> dict[str, Answers]:
    """How often each model gave each answer."""
    seen: defaultdict[str, Counter[Answer]] = defaultdict(Counter)
    for record in records:
        for model, answer in record.attempts:
            seen[model][answer] += 1
    return {model: {answer: number / answers.total() for answer, number in answers.items()} for model, answers in seen.items()}


def _share(predicted: float, hits: int, number: int) -> Estimate:
    """A share, with Wilson's interval."""
    share, square = hits / number, _NORMAL**2
    middle = (share + square / (2 * number)) / (1 + square / number)
    spread = _NORMAL / (1 + square / number) * sqrt(share * (1 - share) / number + square / (4 * number**2))
    return Estimate(predicted, share, max(0.0, middle - spread), min(1.0, middle + spread))


def _mean(predicted: float, values: Sequence[float]) -> Estimate:
    mean = sum(values) / len(values)
    deviation = sqrt(sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1))
    spread = _NORMAL * deviation / sqrt(len(values))
    return Estimate(predicted, mean, max(0.0, mean - spread), mean + spread)
