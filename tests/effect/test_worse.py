"""What a comparison claims of traffic, held against requests that are simulated apart from the engine.

Where a request is served less often than before, the effect shows something that gets worse; and where it is proven that
nothing is lost, no request is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.effect.compare import Effect, compare
from tests.effect.policies import MODELS, document
from tests.effect.simulation import Request, every_request, every_scripted
from tests.examples import examples

NOTICED = 0.001
CODES = (402, 408, 429, 500, 503, 524)
SINGLE = [*CODES, 418, "refused", "hang"]

Answers = dict[str, dict[Any, float]]


def served(body: dict[str, Any], answers: Answers) -> float:
    return successes(every_request(body, answers))


def successes(requests: Mapping[Request, float]) -> float:
    return sum(chance for request, chance in requests.items() if request.status is not None and 200 <= request.status < 300)


def scenarios(random: Random, number: int) -> Iterator[Answers]:
    """Outages and partial failures of one to all models, each with a failure of its own or one for all."""
    for _ in range(number):
        failing = random.sample(MODELS, random.choice((1, 1, 2, len(MODELS))))
        one = random.choice(SINGLE)
        share = random.choice((1.0, 1.0, 0.1, 0.5))
        yield {
            model: {failure: share, 200: 1 - share} if share < 1 else {failure: 1.0}
            for model in failing
            for failure in [one if random.random() < 0.5 else random.choice(SINGLE)]
        }


def scripts(random: Random, number: int) -> Iterator[dict[str, list[Any]]]:
    """Up to three answers in order for some models, the last one sticking."""
    for _ in range(number):
        failing = random.sample(MODELS, random.choice((1, 2, 3)))
        yield {model: random.choices([200, *CODES, 418], k=random.choice((1, 2, 3))) for model in failing}


codes = st.lists(st.sampled_from(CODES), max_size=3, unique=True)
retries = st.fixed_dictionaries({"attempts": st.sampled_from([0, 1, 2])}, optional={"on_status_codes": codes})
leaves = st.fixed_dictionaries(
    {"model_name": st.sampled_from(MODELS)}, optional={"weight": st.sampled_from([0.25, 0.5]), "retry": retries}
)


def groups(targets: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    strategies = st.one_of(
        st.just({"mode": "loadbalance"}),
        st.just({"mode": "single"}),
        st.fixed_dictionaries({"mode": st.just("fallback")}, optional={"on_status_codes": codes}),
    )
    return st.fixed_dictionaries(
        {"strategy": strategies, "targets": st.lists(targets, min_size=1, max_size=3)}, optional={"retry": retries}
    )


bodies = groups(st.one_of(leaves, leaves, groups(leaves)))


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A policy, and the same after one edit of the kind that people make; or two of nothing in common."""
    one = draw(bodies)
    other = deepcopy(one)
    spot = draw(st.sampled_from([other, *(target for target in other["targets"] if "targets" in target)]))
    match draw(st.sampled_from(["retry", "codes", "order", "drop", "add", "weight", "another"])):
        case "retry":
            spot["retry"] = draw(retries)
        case "codes":
            spot["strategy"] = {"mode": "fallback", "on_status_codes": draw(codes)}
        case "order":
            spot["targets"].reverse()
        case "drop":
            spot["targets"] = spot["targets"][:-1] or spot["targets"]
        case "add":
            spot["targets"].append(draw(leaves))
        case "weight":
            spot["targets"][0]["weight"] = 0.9
        case _:
            other = draw(bodies)
    return one, other


def gets_worse(effect: Effect) -> bool:
    return bool(effect.worse or effect.together or effect.usual)


@settings(max_examples=examples(150))
@given(pair=neighbours(), seed=st.integers(0, 2**32))
def test_where_requests_are_lost_the_effect_gets_worse(pair: tuple[dict[str, Any], dict[str, Any]], seed: int) -> None:
    old, new = pair
    effect = compare(document(old), document(new))
    for answers in scenarios(Random(seed), 12):
        lost = served(old, answers) - served(new, answers)
        if lost > NOTICED:
            assert gets_worse(effect), (answers, lost)
            assert not effect.sure
    for script in scripts(Random(seed), 12):
        lost = successes(every_scripted(old, script)) - successes(every_scripted(new, script))
        if lost > NOTICED:
            assert gets_worse(effect), (script, lost)


@settings(max_examples=examples(150))
@given(pair=neighbours(), seed=st.integers(0, 2**32))
def test_where_nothing_is_lost_by_proof_no_scenario_loses_a_request(
    pair: tuple[dict[str, Any], dict[str, Any]], seed: int
) -> None:
    """Also for answers that change from call to call, and for every status."""
    old, new = pair
    if not compare(document(old), document(new)).sure:
        return
    random = Random(seed)
    for answers in scenarios(random, 8):
        assert served(old, answers) - served(new, answers) <= NOTICED, answers
    for _ in range(4):
        mixed = {model: dict.fromkeys(random.sample([200, *range(300, 600), "refused"], 2), 0.5) for model in MODELS[:2]}
        assert served(old, mixed) - served(new, mixed) <= NOTICED, mixed
