"""What a comparison claims of traffic, held against requests that are simulated apart from the engine.

Where a request is served less often than before, the effect shows something that gets worse, and so does the page of its plan;
and where it is proven that nothing is lost, no request is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import deepcopy
from random import Random
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from policyctl.effect.analysis import Effect, compare
from policyctl.report.effect_rows import cell_row, informative
from policyctl.report.headline import describe_risks, plan_summary
from policyctl.report.plan_markdown import plan_markdown
from policyctl.report.plan_view import PlanView
from tests.builders import policy
from tests.effect.policies import MODELS, document
from tests.effect.simulation import Request, every_request, every_scripted
from tests.examples import examples
from tests.report.plans import reviewed

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


WEIGHTS = (0.0001, 0.01, 0.1, 0.5, 0.9, 1)
weighed_leaves = st.fixed_dictionaries(
    {"model_name": st.sampled_from(MODELS), "weight": st.sampled_from(WEIGHTS)},
    optional={"retry": st.fixed_dictionaries({"attempts": st.sampled_from([0, 2])})},
)
weighed_groups = st.fixed_dictionaries(
    {
        "strategy": st.sampled_from(
            [{"mode": "fallback"}, {"mode": "fallback", "on_status_codes": [418, 503]}, {"mode": "loadbalance"}]
        ),
        "weight": st.sampled_from(WEIGHTS),
        "targets": st.lists(weighed_leaves, min_size=1, max_size=2),
    }
)


@st.composite
def reweighed(draw: st.DrawFn) -> tuple[dict[str, Any], dict[str, Any]]:
    """A load balance and the same with other weights; sometimes one more edit is hidden in it."""
    targets = draw(st.lists(st.one_of(weighed_leaves, weighed_groups), min_size=2, max_size=4))
    one: dict[str, Any] = {"strategy": {"mode": "loadbalance"}, "targets": targets}
    other = deepcopy(one)
    for target in other["targets"]:
        if draw(st.booleans()):
            target["weight"] = draw(st.sampled_from(WEIGHTS))
    spot = draw(st.sampled_from(other["targets"]))
    match draw(st.sampled_from(["nothing", "nothing", "codes", "drop", "retry"])):
        case "codes" if spot.get("strategy", {}).get("mode") == "fallback":
            spot["strategy"] = {"mode": "fallback", "on_status_codes": [503]}
        case "drop" if "targets" in spot:
            spot["targets"] = spot["targets"][:1]
        case "retry":
            spot["retry"] = {"attempts": 0}
    return one, other


def canary(weight: float, codes: list[int]) -> dict[str, Any]:
    """Most requests go to a fallback, the rest to a model of its own."""
    first = {"strategy": {"mode": "fallback", "on_status_codes": codes}, "targets": [{"model_name": one} for one in MODELS[:2]]}
    return {"strategy": {"mode": "loadbalance"}, "targets": [{**first, "weight": weight}, {"model_name": MODELS[3]}]}


@settings(max_examples=examples(80))
@given(pair=st.one_of(reweighed(), reweighed(), neighbours()))
@example(pair=(canary(0.9, [418, 503]), canary(0.7, [503])))
def test_a_page_shows_what_an_outage_takes_or_it_follows_from_the_shares(pair: tuple[dict[str, Any], dict[str, Any]]) -> None:
    """Whatever one model or provider takes more than before while it fails, wholly or in a tenth of its calls: the headline
    names something that takes as much. And the page shows what gets worse, unless it reports that only weights change; then the
    model or provider gained as much."""
    old, new = pair
    review = reviewed([policy("p", **new)], [{"id": "1", "name": "p", "policy": old}])
    losses = [(lost, gained) for lost, gained in losses_of(old, new) if lost > NOTICED]
    if not losses:
        return
    effect, said = review.effects["virtual-policy/p"], plan_summary(review)
    page = plan_markdown(PlanView(review, "local")).replace("`", "").replace("**", "")
    assert said.risks[0].takes >= max(lost for lost, _ in losses) - 1e-9
    assert all(words[:60] in page.partition("<details>")[0] for words in describe_risks(said.risks[0]))
    if "only weights change" in page:
        assert all(lost <= gained + 1e-9 for lost, gained in losses)
    else:
        rows = [f"worse: {cell_row(cell)}" for cell in informative(effect.worse, effect)]
        assert any(row in page for row in rows)


def losses_of(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[float, float]]:
    """For every model and provider, and some ways in which it can fail: what that costs more than before, and the most that a
    gain of shares explains. By simulation."""
    before, after = shares(old), shares(new)
    providers = {tuple(name for name in MODELS if name.split("/")[1] == model.split("/")[1]) for model in MODELS}
    for failing in [*((model,) for model in MODELS), *sorted(providers)]:
        gained = sum(after[model] - before[model] for model in failing)
        for failure, share in ((503, 1.0), (418, 1.0), (500, 0.1)):
            answers: Answers = {model: {failure: share, 200: 1 - share} if share < 1 else {failure: 1.0} for model in failing}
            yield served(old, answers) - served(new, answers), gained * share


def shares(body: dict[str, Any]) -> dict[str, float]:
    """The part of the requests that each model serves while nothing fails."""
    found = dict.fromkeys(MODELS, 0.0)
    for request, chance in every_request(body, {}).items():
        if request.served_by is not None:
            found[request.served_by] += chance
    return found
