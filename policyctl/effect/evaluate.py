"""What a policy does, exactly, when models answer as given: one answer for good, or a chance for each answer.

Chances are floats, deliberately: they are products and sums of numbers from 0 to 1, so rounding stays near 1 in 10^15, and
they are a hundred times faster than fractions. What is compared for *equality* never goes through them: see `equivalence`.

Answers are drawn anew and independently for every call, and no outcome depends on how a target was reached, so the
distribution at a place of the tree is put together from the distributions below it. Nothing is sampled and no sequence of
answers is enumerated: the time is the size of the policy times its depth.

`calibrate` holds this against what the gateway recorded: shares, survival and waits of each policy, with confidence intervals.
What is predicted is what the policy makes of its models' answers; how often models fail is not. So the shares of the models'
answers are taken from the records, and what the rules make of them is compared with what became of the requests.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import sqrt
from typing import Any, NamedTuple

from policyctl.effect.gateway import (
    CUT,
    ENDED,
    FIRST,
    NO_ANSWER,
    Answer,
    Answers,
    Attempts,
    RetryRule,
    distribution,
    is_served,
    moves_on,
    next_after,
    outcome_of,
    read_answer,
    status_of,
)
from policyctl.effect.tree import Balance, Fallback, Fixed, Leaf, Node, Tree
from policyctl.policy.names import provider_of

Outcomes = Mapping[int, float]  # the chance of each outcome

HEALTHY: Outcomes = {200: 1.0}
_UNKNOWN: Outcomes = {ENDED: 1.0}


class Ending(NamedTuple):
    """One way in which asking a target may end."""

    outcome: int
    calls: int
    seconds: int


def retry_outcomes(retry: RetryRule, answers: Answers) -> dict[Ending, float]:
    """Every way in which asking a target may end, with its chance: the outcome, the calls made, the seconds waited."""
    attempts = list(_attempts(distribution(answers)))
    found: defaultdict[Ending, float] = defaultdict(float)
    going: dict[_Way, float] = {_Way(): 1.0}
    while going:
        after: defaultdict[_Way, float] = defaultdict(float)
        for way, chance in going.items():
            for answer, made, share in attempts:
                wait, then = next_after(answer, retry, way.at)
                calls, seconds = way.calls + made, way.seconds + wait
                if then is None:
                    found[Ending(outcome_of(answer, retry), calls, seconds)] += chance * share
                else:
                    after[_Way(then, calls, seconds)] += chance * share
        going = after
    return dict(found)


class _Way(NamedTuple):
    """A way through the attempts so far."""

    at: Attempts = FIRST
    calls: int = 0
    seconds: int = 0


def _attempts(answers: Mapping[Answer, float]) -> Iterator[tuple[Answer, int, float]]:
    """Each answer that an attempt may end with, the calls it takes, its chance. A 421 is sent once more by the client."""
    doubled = answers.get(421, 0.0)
    for answer, chance in answers.items():
        if chance and answer != 421:
            yield answer, 1, chance
        if chance and doubled:
            yield answer, 2, doubled * chance


def usual_outcome(leaf: Leaf) -> Outcomes:
    """The outcomes of a leaf whose answers are not given: a model answers 200. A policy that cannot be followed is counted
    as the worst that it may be, an end of the walk, so that nothing is called served that may not be."""
    return HEALTHY if leaf.known else _UNKNOWN


def leaf_outcomes(leaves: Sequence[Leaf], answers: Mapping[str, Answers]) -> list[dict[Ending, float]]:
    """The endings of every leaf. A model without answers answers 200; see `usual_outcome` for policies."""
    known: dict[tuple[str, RetryRule], dict[Ending, float]] = {}
    for leaf in leaves:
        key = (leaf.model, leaf.retry)
        if key in known:
            continue
        if leaf.model in answers or leaf.known:
            known[key] = retry_outcomes(leaf.retry, answers.get(leaf.model, 200))
        else:
            known[key] = {Ending(ENDED, 1, 0): 1.0}
    return [known[leaf.model, leaf.retry] for leaf in leaves]


def outcomes_in(endings: Mapping[Ending, float]) -> Outcomes:
    """The chance of each outcome, whatever it took."""
    found: defaultdict[int, float] = defaultdict(float)
    for ending, chance in endings.items():
        found[ending.outcome] += chance
    return found


class Evaluation(NamedTuple):
    """One request, in chances from 0 to 1.

    `statuses` is the distribution of the status that the client sees (None: it never gets an answer), `served` the chance that
    it gets what it asked for, `cut` that it gets a 200 and a broken stream. Per model: `calls` how many calls to expect,
    `reached` the chance that it is called at all, `serves` the chance that the client gets its answer and that this is a
    success.
    """

    statuses: dict[int | None, float]
    calls: dict[str, float]
    reached: dict[str, float]
    serves: dict[str, float]
    served: float
    cut: float


def rounded(chance: float) -> float:
    """A chance without the last digits, which rounding makes: 0.9999999999999999 is 1."""
    return round(chance, 12)


def evaluate(tree: Tree, answers: Mapping[str, Answers]) -> Evaluation:
    """What one request runs into. `answers` are per model (of `tree.models`); the others answer 200."""
    found = leaf_outcomes(tree.leaves, answers)
    at = [outcomes_in(endings) for endings in found]
    visits = visit(tree, at)
    calls: defaultdict[str, float] = defaultdict(float)
    serves: defaultdict[str, float] = defaultdict(float)
    for leaf, endings, visited, served in zip(tree.leaves, found, visits.reached, visits.serves, strict=True):
        calls[leaf.model] += visited * sum(ending.calls * chance for ending, chance in endings.items())
        serves[leaf.model] += served
    ends = outcomes(tree.root, at)
    statuses: defaultdict[int | None, float] = defaultdict(float)
    for outcome, chance in ends.items():
        statuses[status_of(outcome)] += chance
    served = rounded(sum(chance for outcome, chance in ends.items() if is_served(outcome)))
    reached = {model: _reached(tree, at, model, visits.reached) for model in tree.models}
    return Evaluation(dict(statuses), dict(calls), reached, dict(serves), served, rounded(ends.get(CUT, 0.0)))


def outcomes(node: Node, at: Sequence[Outcomes]) -> Outcomes:
    """The chance of each outcome of one place of the tree; `at` has those of the leaves, by their number."""
    if isinstance(node, Leaf):
        return at[node.number]
    if isinstance(node, Fixed):
        return {node.outcome: 1.0}
    return _drawn(node, at) if isinstance(node, Balance) else _fallen(node, at)


def _drawn(node: Balance, at: Sequence[Outcomes]) -> Outcomes:
    found = {NO_ANSWER: node.nothing} if node.nothing else {}
    for target, share in zip(node.targets, node.shares, strict=True):
        for outcome, chance in outcomes(target, at).items():
            found[outcome] = found.get(outcome, 0.0) + share * chance
    return found


def _fallen(node: Fallback, at: Sequence[Outcomes]) -> Outcomes:
    found: dict[int, float] = {}
    going, last = 1.0, len(node.targets) - 1
    for position, target in enumerate(node.targets):
        on = 0.0
        for outcome, chance in outcomes(target, at).items():
            if position < last and moves_on(outcome, node.codes):
                on += chance
            else:
                found[outcome] = found.get(outcome, 0.0) + going * chance
        going *= on
        if not going:
            break
    return found


class Visits(NamedTuple):
    """Per leaf, by its number: the chance that it is asked, and that the client gets its answer as a success."""

    reached: list[float]
    serves: list[float]


def visit(tree: Tree, at: Sequence[Outcomes]) -> Visits:
    """How often each leaf is asked and serves."""
    visits = Visits([0.0] * len(tree.leaves), [0.0] * len(tree.leaves))
    _visit(tree.root, 1.0, (), at, visits)
    return visits


def _visit(node: Node, chance: float, above: tuple[frozenset[int], ...], at: Sequence[Outcomes], visits: Visits) -> None:
    """`above` are the lists of the fallbacks that may throw this place's success away and go on."""
    if isinstance(node, Leaf):
        visits.reached[node.number] += chance
        for outcome, share in at[node.number].items():
            if is_served(outcome) and not any(outcome in codes for codes in above):
                visits.serves[node.number] += chance * share
    elif isinstance(node, Balance):
        for target, share in zip(node.targets, node.shares, strict=True):
            _visit(target, chance * share, above, at, visits)
    elif isinstance(node, Fallback):
        inside = above if node.codes is None else (*above, node.codes)
        for target in node.targets[:-1]:
            _visit(target, chance, inside, at, visits)
            chance *= sum(share for outcome, share in outcomes(target, at).items() if moves_on(outcome, node.codes))
            if not chance:
                return
        _visit(node.targets[-1], chance, above, at, visits)


def _reached(tree: Tree, at: Sequence[Outcomes], model: str, reached: list[float]) -> float:
    """The chance that a model is called at all."""
    own = [leaf.number for leaf in tree.leaves if leaf.model == model]
    if len(own) == 1:
        return reached[own[0]]
    # Requests that come to one of the model's leaves get lost there; what still has an outcome never came to any.
    without = [{} if leaf.model == model else found for leaf, found in zip(tree.leaves, at, strict=True)]
    return 1.0 - sum(outcomes(tree.root, without).values())


def healthy(tree: Tree) -> list[Outcomes]:
    """The outcomes of the leaves when every model answers 200."""
    return [usual_outcome(leaf) for leaf in tree.leaves]


def model_shares(tree: Tree) -> dict[str, float]:
    """The share of requests that each model serves when every model answers 200; models that serve none have 0.

    Of a policy that cannot be followed it is the share of those that come to it.
    """
    return {model: rounded(share) for model, share in exact_shares(tree).items()}


def exact_shares(tree: Tree) -> dict[str, float]:
    """The same before rounding: to be summed, since what rounding takes from a thousand shares shows in their sum."""
    found: dict[str, float] = dict.fromkeys(tree.models, 0.0)
    visits = visit(tree, healthy(tree))
    for leaf, reached, served in zip(tree.leaves, visits.reached, visits.serves, strict=True):
        found[leaf.model] += served if leaf.known else reached
    return found


def provider_shares(shares: Mapping[str, float]) -> dict[str, float]:
    """The shares of models added up by provider; a model without one counts nowhere."""
    found: defaultdict[str, float] = defaultdict(float)
    for model, share in shares.items():
        if provider := provider_of(model):
            found[provider] += share
    return {provider: rounded(share) for provider, share in found.items()}


_BITS = 32  # for the calls; the seconds are above them


class Cost(NamedTuple):
    """The calls of one request, and the seconds that it waited between them."""

    calls: int
    seconds: int


def costs(tree: Tree, answers: Mapping[str, Answers]) -> dict[int | None, dict[Cost, float]]:
    """Per final status (None: no answer) the chance of each cost. All chances together sum to 1."""
    at = [_packed(endings) for endings in leaf_outcomes(tree.leaves, answers)]
    found: dict[int | None, dict[Cost, float]] = {}
    for outcome, spread in _spread(tree.root, at).items():
        of_status = found.setdefault(status_of(outcome), {})
        for packed, chance in spread.items():
            cost = Cost(packed & ((1 << _BITS) - 1), packed >> _BITS)
            of_status[cost] = of_status.get(cost, 0.0) + chance
    return found


_Costs = Mapping[int, float]  # packed cost → chance
_Spread = Mapping[int, _Costs]  # outcome → its costs


def _packed(endings: Mapping[Ending, float]) -> _Spread:
    found: dict[int, dict[int, float]] = {}
    for ending, chance in endings.items():
        found.setdefault(ending.outcome, {})[ending.calls | ending.seconds << _BITS] = chance
    return found


def _spread(node: Node, at: Sequence[_Spread]) -> _Spread:
    if isinstance(node, Leaf):
        return at[node.number]
    if isinstance(node, Fixed):
        return {node.outcome: {0: 1.0}}
    found: defaultdict[int, defaultdict[int, float]] = defaultdict(lambda: defaultdict(float))
    if isinstance(node, Balance):
        if node.nothing:
            found[NO_ANSWER][0] = node.nothing
        for target, share in zip(node.targets, node.shares, strict=True):
            for outcome, own in _spread(target, at).items():
                _add(found[outcome], {0: share}, own)
        return found
    going: _Costs = {0: 1.0}
    last = len(node.targets) - 1
    for position, target in enumerate(node.targets):
        on: defaultdict[int, float] = defaultdict(float)
        for outcome, own in _spread(target, at).items():
            if position < last and moves_on(outcome, node.codes):
                _add(on, {0: 1.0}, own)
            else:
                _add(found[outcome], going, own)
        after: defaultdict[int, float] = defaultdict(float)
        _add(after, going, on)
        going = after
    return found


def _add(into: defaultdict[int, float], one: _Costs, other: _Costs) -> None:
    """Add what it costs to do one thing and then the other."""
    for cost, chance in one.items():
        for more, share in other.items():
            into[cost + more] += chance * share


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
