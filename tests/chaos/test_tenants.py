"""Against remotes that contradict themselves: exit code 0 is earned, nothing is doubled, and failures are true."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import Any

import pytest

from tests.chaos.figures import Figures
from tests.chaos.tenant import Clock, Quirk, Tenant
from tests.chaos.tenants import Applied, apply_to, run_tenant
from tests.chaos.world import World
from tests.remote.http_helpers import document, row

RUNS, IN_ONE_TEST = 48, 8  # more by hand: `python -m tests.chaos.harness --inside 0 --outside 0 --tenants 2000`


@pytest.mark.parametrize("first", range(0, RUNS, IN_ONE_TEST))
def test_whatever_a_tenant_does_every_run_ends_well(first: int, chaos_figures: Figures) -> None:
    """A seed that fails can be run by itself: `… --tenants 1 --seed SEED`, with the command above."""
    for seed in range(first, first + IN_ONE_TEST):
        figures, found = run_tenant(seed)
        chaos_figures.add(figures)
        assert found == [], f"tenant, seed {seed}"


class Every(random.Random):
    """Chance that always strikes, and as hard as it can."""

    def random(self) -> float:
        return 0.0

    def uniform(self, a: float, b: float) -> float:
        return b


NEW = "virtual-model/x/new"


def named(name: str, *models: str, **more: Any) -> dict[str, Any]:
    return {**row(f"virtual-policy/in-{name}", *models), "id": name, **more}


def wanted(name: str, *models: str) -> dict[str, Any]:
    return document(f"virtual-policy/in-{name}", *models)


@dataclass(frozen=True)
class Case:
    """A tenant, what its directory wants, what is written, what must be said, and whether all is well in the end."""

    quirks: set[Quirk]
    rows: list[dict[str, Any]]
    desired: list[dict[str, Any]]
    written: list[str]
    told: str = ""
    more: dict[str, Any] = field(default_factory=dict)
    chance: type[random.Random] = Every


THREE = [named("a"), named("b"), named("c")]
CASES = {
    "a filter that takes the first name: removals are not done already": Case(
        {Quirk.LAST_NAME}, THREE, [wanted("a")], [], "its list has virtual-policy/in-b (id b), and a look"
    ),
    "a list that is cut short: adds are not done already": Case(
        {Quirk.CUT_LIST}, THREE, [wanted("a"), wanted("b"), wanted("c")], [], "and its list does not have it", {"page": 2}
    ),
    "a list that is cut short blocks what it does not show to be safe": Case(
        {Quirk.CUT_LIST},
        THREE,
        [wanted("a", NEW), wanted("c"), wanted("new")],
        ["PUT a"],
        "its list is cut short, virtual-policy/in-c is missing from it; nothing is added or removed",
        {"page": 2},
    ),
    "a removal in a list that is cut short lets another policy appear": Case(
        {Quirk.CUT_BOTH},
        THREE,
        [wanted("a")],
        ["DELETE b"],
        "the list has virtual-policy/in-c, which it did not have when the plan was made",
        {"page": 2},
    ),
    "an add that a list which is cut short does not show": Case(
        {Quirk.CUT_LIST},
        [named("a")],
        [wanted("a"), wanted("b")],
        ["POST model_policy"],
        "in its list virtual-policy/in-b",
        {"page": 1},
    ),
    "a row whose policy is not there yet is not written again": Case(
        {Quirk.LOST_ANSWERS, Quirk.HALF_ROWS, Quirk.TWINS},
        [],
        [wanted("a")],
        ["POST model_policy"],
        "a row of this name that cannot be read",
        {"half_seconds": 1000.0},
    ),
    "a row that becomes whole while it is looked for": Case(
        {Quirk.LOST_ANSWERS, Quirk.HALF_ROWS, Quirk.TWINS}, [], [wanted("a")], ["POST model_policy"], "", {"half_seconds": 4.0}
    ),
    "reads that lag, and a lost answer": Case(
        {Quirk.LOST_ANSWERS, Quirk.LATE_READS, Quirk.TWINS}, [], [wanted("a")], ["POST model_policy"], "", {"lag": 5.0}
    ),
    "reads that lag": Case(
        {Quirk.LATE_READS},
        THREE,
        [wanted("a", NEW), wanted("d")],
        ["POST model_policy", "PUT a"] + [f"DELETE {name}" for name in "bc"],
        "",
        {"lag": 5.0},
    ),
    "an add that takes longer than the client waits is not sent again": Case(
        {Quirk.SLOW_ADDS, Quirk.TWINS}, [], [wanted("a")], ["POST model_policy"], "it may still be carried out"
    ),
    "a removal that leaves the row without its policy": Case(
        {Quirk.SOFT_REMOVES}, THREE, [wanted("a"), wanted("b")], ["DELETE c"], "the row has no policy"
    ),
    "updates that merge": Case(
        {Quirk.MERGES},
        [{**named("a"), "policy": {**named("a")["policy"], "retry": {"attempts": 3}}}],
        [wanted("a", NEW)],
        ["PUT a"],
        "was not applied: policy.retry",
    ),
    "writes that are not done": Case(
        {Quirk.NO_WRITES},
        THREE,
        [wanted("a"), wanted("b")],
        ["DELETE c"],
        "was not applied: it is still there",
    ),
    "answers without ids": Case({Quirk.ODD_ANSWERS}, [], [wanted("a")], ["POST model_policy"], "", {}, random.Random),
    "two policies of one id, one of them to go": Case(
        {Quirk.SHARED_IDS},
        [named("keep", id="same"), named("drop", id="same"), named("z")],
        [wanted("keep", NEW), wanted("z")],
        [],
        "",
    ),
    "an add that gets the id of another policy": Case(
        {Quirk.SHARED_IDS},
        THREE[:1],
        [wanted("a"), wanted("b")],
        ["POST model_policy"],
        "virtual-policy/in-b has the id a, which another row of the remote has as well",
    ),
    "nothing out of the ordinary": Case(
        set(),
        THREE,
        [wanted("a", NEW), wanted("b"), wanted("d")],
        ["POST model_policy", "PUT a", "DELETE c"],
    ),
}


def applied_to(case: Case) -> tuple[Applied, Tenant]:
    tenant = Tenant(frozenset(case.quirks), Clock(), case.chance(1), [dict(row) for row in case.rows], **case.more)
    applied = apply_to(tenant, World((), tuple(case.desired), {}), 1)
    return applied, tenant


@pytest.mark.parametrize("name", CASES)
def test_a_remote_that_contradicts_itself(name: str) -> None:
    case = CASES[name]
    applied, tenant = applied_to(case)
    said = "\n".join([*(outcome.reason for outcome in applied.outcomes), *applied.unverified])
    assert sorted(tenant.log) == sorted(case.written)
    assert case.told in said
    assert applied.code_is_0 == (not case.told and "two policies of one id" not in name)
    assert "already" not in {outcome.status for outcome in applied.outcomes}
