"""Outages and partial failures: the chance that a request is lost while one or more models fail.

In an outage every call of a request fails. In a partial failure only a share of the calls fails, drawn anew for each call.

A policy treats two statuses alike when they are on the same lists. So a handful of classes of answers is enough to speak of
every status from 200 to 599 and of broken connections: one for each combination of lists, one for the statuses that no list
has, and a few that the gateway itself treats differently (see `gateway`). A row has one value for each class of failures, and
classes that the policy treats alike are computed once.

The values are chances that a request is *lost*, not that it is served: 1 in 10^20 and 1 in 10^21 differ, but one minus either
is 1 as a float.

Reports show one model or one provider failing. A change may make nothing worse there and still lose requests when two models
fail at once, or when the answers of one model vary from call to call. `worse_together` looks for such a case: groups of models
with the same failure, the smallest groups first, then mixtures. Every run looks at the same cases.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import combinations, islice, product
from random import Random
from typing import Literal, NamedTuple

from policyctl.effect.evaluate import Outcomes, healthy, outcomes, outcomes_in, retry_outcomes, rounded, usual_outcome
from policyctl.effect.gateway import (
    NO_ANSWER,
    NO_RETRY,
    Answer,
    RetryRule,
    answer_value,
    is_served,
    moves_on,
    outcome_of,
    should_repeat,
    with_remainder,
)
from policyctl.effect.tree import Balance, Fallback, Leaf, Node, Tree
from policyctl.policy.names import provider_of

Row = tuple[float, ...]  # the chance of losing a request, for each class in order
Kind = Literal["model", "provider"]
Part = tuple[Kind, str]  # what fails: a model or a provider
Losses = Mapping[Part, float]  # the chance of losing a request while a part fails; 0 for a part that is missing


class Outages(NamedTuple):
    """The matrix: a row for each model and each provider, a column for each class of failures.

    `share` is the part of the calls that fail, 1 in an outage; `usual` the chance of losing a request when nothing fails.
    """

    share: float
    classes: tuple[FailureClass, ...]
    models: Mapping[str, Row]
    providers: Mapping[str, Row]
    usual: float

    def row(self, kind: str, name: str) -> Row:
        """The row of a model or provider (`kind`); the failure of one that the policy does not use changes nothing."""
        rows = self.models if kind == "model" else self.providers
        return rows.get(name, (self.usual,) * len(self.classes))


def outages(tree: Tree, classes: Sequence[FailureClass] | None = None, share: float = 1.0) -> Outages:
    """The matrix of a policy, with the given classes as its columns, or else those that this policy treats differently."""
    columns = told_apart([tree], share) if classes is None else tuple(classes)
    parts = parts_of([tree])
    lost = losses(tree, parts, columns, share)
    rows: dict[Kind, dict[str, Row]] = {"model": {}, "provider": {}}
    for kind, name in parts:
        rows[kind][name] = tuple([column.get((kind, name), 0.0) for column in lost])
    return Outages(share, columns, rows["model"], rows["provider"], _usual(tree))


def parts_of(trees: Sequence[Tree]) -> tuple[Part, ...]:
    """What can fail in these policies: the models and then the providers, in the order written."""
    models = dict.fromkeys([model for tree in trees for model in tree.models])
    providers = dict.fromkeys(map(provider_of, models))
    return (*(("model", model) for model in models), *(("provider", provider) for provider in providers if provider))


def losses(tree: Tree, parts: Sequence[Part], classes: Sequence[FailureClass], share: float) -> list[Losses]:
    """For each class, the chances of losing a request while that share of the calls to each of the `parts` fails in this way.

    Classes that the policy treats alike share one object.
    """
    found: dict[_Treatment, Losses] = {}
    plainly, columns = _Plainly(tree), list[Losses]()
    for answer, _ in classes:
        kind = _treatment(tree, answer, share)
        column = found.get(kind)
        if column is None:
            plain = tree.plain and answer != 204
            column = plainly.losses(answer, share) if plain else _losses(tree, parts, answer, share)
            found[kind] = column
        columns.append(column)
    return columns


def told_apart(trees: Sequence[Tree], share: float = 1.0, *, streamed: bool = False) -> tuple[FailureClass, ...]:
    """The classes of failures that at least one of these policies treats differently, when that share of the calls fails.

    `streamed` is whether requests ask for a stream.
    """
    together: dict[tuple[_Treatment, ...], list[FailureClass]] = {}
    for one in classes_of(trees, partial=share < 1, streamed=streamed):
        together.setdefault(tuple([_treatment(tree, one.sample, share) for tree in trees]), []).append(one)
    return tuple([merged(alike) for alike in together.values()])


def merged(classes: Sequence[FailureClass]) -> FailureClass:
    """Several classes as one."""
    return classes[0] if len(classes) == 1 else _merged(tuple(classes))


@lru_cache(maxsize=4096)
def _merged(classes: tuple[FailureClass, ...]) -> FailureClass:
    return FailureClass(classes[0].sample, frozenset[Answer]().union(*(one.answers for one in classes)))


def _usual(tree: Tree) -> float:
    return 0.0 if tree.plain else _lost(outcomes(tree.root, healthy(tree)))


@lru_cache(maxsize=4096)  # the same losses occur in many places
def served(lost: float) -> float:
    """The chance of being served, rounded for reports: differences below 10^-12 disappear."""
    return rounded(1.0 - lost)


class _Treatment(NamedTuple):
    """Everything that decides how a policy handles an answer: equal for answers that it treats alike."""

    ended: bool
    moves: tuple[bool, ...]
    again: tuple[bool, ...]
    own: Answer | None


def _treatment(tree: Tree, answer: Answer, share: float) -> _Treatment:
    return _treated(tree.lists, tree.retries if share < 1 or answer == 204 else (), answer)


@lru_cache(maxsize=65536)  # the policies of one directory mostly have the same lists
def _treated(lists: tuple[frozenset[int] | None, ...], retries: tuple[RetryRule, ...], answer: Answer) -> _Treatment:
    outcome = outcome_of(answer, NO_RETRY)
    moves = tuple([moves_on(outcome, codes) for codes in lists])
    again = tuple([should_repeat(answer, retry) for retry in retries])
    return _Treatment(outcome < NO_ANSWER, moves, again, answer if answer in (204, 421) else None)


def _losses(tree: Tree, parts: Sequence[Part], answer: Answer, share: float) -> Losses:
    """The chances of losing a request while that share of the calls to a part has this answer, and all other calls 200."""
    failing = {retry: _ends(retry, answer, share) for retry in tree.retries}
    return {
        part: _lost(
            outcomes(
                tree.root, [failing[leaf.retry] if part in _parts(leaf.model) else usual_outcome(leaf) for leaf in tree.leaves]
            )
        )
        for part in parts
    }


@lru_cache(maxsize=4096)
def _parts(model: str) -> tuple[Part, ...]:
    """The parts whose failure makes a model fail: itself and its provider."""
    provider = provider_of(model)
    return (("model", model), ("provider", provider)) if provider else (("model", model),)


def _ends(retry: RetryRule, answer: Answer, share: float) -> Outcomes:
    """The outcomes of a target while that share of its calls has this answer."""
    return outcomes_in(retry_outcomes(retry, answer if share == 1 else {answer: share, 200: 1 - share}))


class _Plainly:
    """The losses of a plain policy. Every failure has the same outcome there, so one chance for each leaf is enough."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree
        self.fails: dict[tuple[float, ...], list[Losses]] = {}  # by the chances that asking fails, one for each retry

    def losses(self, answer: Answer, share: float) -> Losses:
        """What is lost while that share of the calls to a part has this answer."""
        chances = tuple([_failing(retry, answer, share) for retry in self.tree.retries])
        if chances not in self.fails:
            of = dict(zip(self.tree.retries, chances, strict=True))
            self.fails[chances] = [dict.fromkeys(_parts(leaf.model), of[leaf.retry]) for leaf in self.tree.leaves]
        return _lost_plainly(self.tree.root, outcome_of(answer, NO_RETRY), self.fails[chances])


def _failing(retry: RetryRule, answer: Answer, share: float) -> float:
    """The chance that asking a target ends with a failure."""
    if answer == 421 or 200 in retry.codes:
        return _lost(_ends(retry, answer, share))
    return share ** (retry.repeats + 1) if should_repeat(answer, retry) else share


def _lost_plainly(node: Node, outcome: int, fails: Sequence[Losses]) -> Losses:
    """The losses of one node of a plain policy. `fails` has those of each leaf; every failure has that one `outcome`."""
    if isinstance(node, Leaf):
        return fails[node.number]
    if isinstance(node, Balance):
        drawn: dict[Part, float] = {}
        for target, share in zip(node.targets, node.shares, strict=True):
            for part, chance in _lost_plainly(target, outcome, fails).items():
                drawn[part] = drawn.get(part, 0.0) + share * chance
        return drawn
    assert isinstance(node, Fallback)  # noqa: S101 - a plain policy has no fixed outcomes
    first, *others = node.targets
    lost = _lost_plainly(first, outcome, fails)
    for target in others if moves_on(outcome, node.codes) else ():
        if not lost:
            break
        also = _lost_plainly(target, outcome, fails)
        lost = {part: chance * also[part] for part, chance in lost.items() if part in also}
    return lost


def _lost(found: Outcomes) -> float:
    return sum([chance for outcome, chance in found.items() if not is_served(outcome)])


_NOTICED = 1e-6  # a smaller difference between two chances may be the rounding of floats
_GROUPS = 24  # of models that fail together
_MIXTURES = 48


class Together(NamedTuple):
    """Models that fail at once, each with the answers that are equally likely, and the chance of being served before and after.

    `share` is the part of their calls that fail; the others answer 200. A single model always has several answers here.
    """

    failing: tuple[tuple[str, tuple[Answer, ...]], ...]
    before: float
    after: float
    share: float = 1.0


def worse_together(old: Tree, new: Tree, partial: float) -> Together | None:
    """The first case found in which the new policy loses more requests, or None when none was found.

    `partial` is the share of calls that fail in a partial failure. The number of cases is bounded, so None proves nothing.
    """
    models = list(dict.fromkeys([*old.models, *new.models]))
    answers = [one.sample for one in told_apart([old, new]) if one.sample != "broken-body"]
    parts = [one.sample for one in told_apart([old, new], partial) if one.sample != "broken-body"]
    cases = [
        *((1.0, failing) for failing in _groups(models, answers)),
        *((partial, failing) for failing in _groups(models, parts)),
        *((1.0, failing) for failing in (*_alternating(models, parts), *_mixtures(models, parts))),
    ]
    for share, failing in cases:
        before, after = _served(old, failing, share), _served(new, failing, share)
        if before - after > _NOTICED:
            return Together(tuple(failing.items()), before, after, share)
    return None


_Failing = Mapping[str, tuple[Answer, ...]]


def _groups(models: Sequence[str], answers: Sequence[Answer]) -> Iterator[_Failing]:
    """Two or more models with the same failure: the smallest groups first, then all models together."""
    groups = (group for size in range(2, len(models)) for group in combinations(models, size))
    for group in (*islice(groups, _GROUPS), tuple(models)):
        if len(group) > 1:
            yield from (dict.fromkeys(group, (answer,)) for answer in answers)


def _alternating(models: Sequence[str], answers: Sequence[Answer]) -> Iterator[_Failing]:
    """One model whose answers vary: two failures, or a failure and a success."""
    for model in models[:_GROUPS]:
        yield from ({model: pair} for pair in combinations((200, *answers), 2))


def _mixtures(models: Sequence[str], answers: Sequence[Answer]) -> Iterator[_Failing]:
    """Some models, each with its own failure; the others are healthy."""
    if len(models) < 2 or not answers:
        return
    ways = [(200,), *((answer,) for answer in answers), *((200, answer) for answer in answers)]
    if len(ways) ** len(models) <= _MIXTURES * 5:
        for drawn in product(ways, repeat=len(models)):
            yield {model: own for model, own in zip(models, drawn, strict=True) if own != (200,)}
        return
    random = Random(1)  # noqa: S311 - the same cases in every run
    for _ in range(_MIXTURES):
        failing = random.sample(models, random.randint(2, min(len(models), 5)))
        yield {model: random.choice(ways[1:]) for model in failing}


def _served(tree: Tree, failing: _Failing, share: float) -> float:
    at = [
        _outcomes(leaf.retry, failing[leaf.model], share) if leaf.model in failing else usual_outcome(leaf)
        for leaf in tree.leaves
    ]
    return sum([chance for outcome, chance in outcomes(tree.root, at).items() if is_served(outcome)])


@lru_cache(maxsize=4096)
def _outcomes(retry: RetryRule, answers: tuple[Answer, ...], share: float) -> Outcomes:
    """The outcomes of a target when that share of its calls fails, with each of these answers equally often."""
    drawn: dict[Answer, float] = dict.fromkeys(answers, share / len(answers))
    return outcomes_in(retry_outcomes(retry, with_remainder(drawn)))


# Statuses that providers of models are known to answer with, the first to be named in reports.
KNOWN = (401, 402, 403, 404, 408, 413, 422, 429, 500, 502, 503, 504, *range(520, 525), 529)

_BROKEN: tuple[Answer, ...] = ("refused", "hang", "broken-body")
_CUT: Answer = "cut-stream"
_NO_BODY = frozenset({205, 304})  # the gateway stumbles over them as over a broken body
_PLAIN = frozenset(range(300, 600)) - {304, 407}
_KIN = frozenset({304, 407, 421})  # not missed where a whole hundred is named
_SAID: dict[Answer, str] = {"refused": "connection refused", "hang": "connect timeout"}
_RESENT = 421  # sent once more at once, so that a share of its calls fails less often

# Every answer that is a failure for a policy without lists.
FAILURES: frozenset[Answer] = frozenset[Answer](range(300, 600)) | {205, *_BROKEN}


class FailureClass(NamedTuple):
    """A class of answers: one that represents them, and all of them."""

    sample: Answer
    answers: frozenset[Answer]


def one_failure(answer: Answer) -> FailureClass:
    """The class of one answer alone."""
    return FailureClass(answer, frozenset((answer,)))


def classes_of(trees: Sequence[Tree], *, partial: bool = False, streamed: bool = False) -> tuple[FailureClass, ...]:
    """The classes of failures that these policies, taken together, distinguish, in a stable order.

    An outage is an answer that a model always gives, so that only the lists of fallbacks matter; with `partial` it gives it to
    a share of its calls, and what is repeated matters as well. A 421 is then a class only where a list names it: the HTTP
    client repeats such a call by itself. With `streamed` a stream that is cut is among the failures.
    """
    falls = frozenset([codes for tree in trees for codes in tree.lists if codes is not None])
    repeats = frozenset([retry.codes for tree in trees for retry in tree.retries if retry.repeats])
    if not partial:
        repeats = frozenset([codes & {204} for codes in repeats if 204 in codes])
    found = _classes(falls, repeats, partial)
    return (*found, one_failure(_CUT)) if streamed else found


@lru_cache(maxsize=512)  # the policies of one directory mostly have the same lists
def _classes(falls: frozenset[frozenset[int]], repeats: frozenset[frozenset[int]], partial: bool) -> tuple[FailureClass, ...]:
    named = frozenset[int]().union(*falls, *repeats)
    unlisted = _unlisted(named | {_RESENT} if partial else named)
    # One list of codes may belong to both a fallback and a retry, which look for different codes.
    lists = [*((codes, False) for codes in falls), *((codes, True) for codes in repeats)]
    together: dict[tuple[str, tuple[int, ...]], list[Answer]] = {}
    for answer, how, fallen, repeated in _seen(named, any(204 in codes for codes in repeats), partial):
        on = tuple([place for place, (codes, again) in enumerate(lists) if (repeated if again else fallen) in codes])
        together.setdefault((how, on), []).append(answer)
    return (*unlisted, *[FailureClass(answers[0], frozenset(answers)) for answers in together.values()])


@lru_cache(maxsize=512)  # one object for equal lists: comparing it is comparing hundreds of codes
def _unlisted(named: frozenset[int]) -> tuple[FailureClass, ...]:
    """The class of the statuses that are on no list, where there are such."""
    rest = frozenset[Answer](_PLAIN - named)
    # Any of them represents the class; 500, the best known, where it is unlisted.
    return (FailureClass(500 if 500 in rest else min(_PLAIN - named), rest),) if rest else ()


def _seen(named: frozenset[int], repeated: bool, partial: bool) -> Iterator[tuple[Answer, str, int, int]]:
    """Answers that lists or the gateway set apart: how it treats them, and the codes that it looks for on its lists."""
    for code in sorted(named & _PLAIN):
        yield code, "resent" if partial and code == _RESENT else "status", code, code
    yield "refused", "connection", 500, 0
    yield 407, "connection", 500, 0
    yield "hang", "connection", 503, 0
    yield "broken-body", "ended", 0, 200
    for code in sorted(_NO_BODY):
        yield code, "ended", 0, code
    if repeated:
        yield 204, "repeated 204", 204, 204


def describe_failures(answers: Collection[Answer]) -> str:
    """A set of answers as people read it: `402, 52x`, `any failure but 429, 503`, `4xx but 408, 429`.

    205 and 304 go with a broken body, and 407 with a refused connection: they are named only where they do not.
    """
    shown, hidden = _without_kin(frozenset(answers))
    every = FAILURES - hidden - ({_RESENT} if _RESENT not in shown else frozenset())
    missing = every - shown
    if not missing:
        return "any failure"
    if len(shown) > len(every) // 2:
        return f"any failure but {', '.join(_named(missing))}"
    return ", ".join(_named(shown))


def ranges_of(answers: Collection[Answer]) -> list[str]:
    """The same for machines, complete: `402`, `520-524`, `connect-timeout`, in the order of the numbers, words last."""
    codes = sorted(answer for answer in answers if isinstance(answer, int))
    return [
        *(f"{low}-{high}" if high > low else f"{low}" for low, high in _runs(codes)),
        *(str(answer_value(word)) for word in (*_BROKEN, _CUT) if word in answers),
    ]


def _without_kin(answers: frozenset[Answer]) -> tuple[frozenset[Answer], frozenset[Answer]]:
    """The answers without those that go with another as usual; and the answers that so are not looked at."""
    hidden: set[Answer] = set()
    for kin, of in ((_NO_BODY, "broken-body"), (frozenset({407}), "refused")):
        hidden |= {code for code in kin if (code in answers) == (of in answers)}
    return answers - hidden, frozenset(hidden)


def _named(answers: Collection[Answer]) -> Iterator[str]:
    """The parts of a set: statuses that are known first, then whole hundreds and tens, then the others, then words."""
    codes = {answer for answer in answers if isinstance(answer, int)}
    whole: list[str] = []
    for low, size in [*((hundred, 100) for hundred in range(200, 600, 100)), *((ten, 10) for ten in range(200, 600, 10))]:
        own = set(range(low, low + size))
        lacking = own - codes - (_KIN if size == 100 else set())
        if not lacking or (size == 100 and len(lacking) < size // 2):
            but = f" but {', '.join(_describe_runs(lacking))}" if lacking else ""
            whole.append(str(low)[: 1 if size == 100 else 2].ljust(3, "x") + but)
            codes -= own
    known = codes.intersection(KNOWN)
    yield from (*_describe_runs(known), *whole, *_describe_runs(codes - known))
    if "refused" in answers and "hang" in answers:
        yield "connection failures"
    else:
        yield from (said for word, said in _SAID.items() if word in answers)
    if "broken-body" in answers:
        yield "a broken body"
    if _CUT in answers:
        yield "a cut stream"


def _describe_runs(codes: Collection[int]) -> Iterator[str]:
    """`402, 500, 502 to 504`: two that follow one another stay two."""
    for low, high in _runs(sorted(codes)):
        yield from (map(str, range(low, high + 1)) if high < low + 2 else [f"{low} to {high}"])


def _runs(codes: list[int]) -> Iterator[tuple[int, int]]:
    """Runs of numbers that follow one another: the first and the last of each."""
    start = previous = None
    for code in codes:
        if start is None or previous is None:
            start = code
        elif code != previous + 1:
            yield start, previous
            start = code
        previous = code
    if start is not None and previous is not None:
        yield start, previous
