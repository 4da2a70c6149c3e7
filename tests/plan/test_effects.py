"""What a plan does to policies that it leaves alone, because of what they target."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import pytest

from policyctl.effect.analysis import Effect
from policyctl.effect.tree import MAX_CHAIN
from policyctl.plan.effects import AffectedPolicy, Comparison, policies_around
from policyctl.plan.plan import Selection
from policyctl.plan.safety import Review, review
from policyctl.plan.saved_plan import read_plan, write_plan
from policyctl.plan.settings import GuardException, Guards, Limits, Settings, Survive
from policyctl.policy.document import Policy, policy_from_file, references
from policyctl.policy.live import observe_rows
from policyctl.report.plan_markdown import plan_markdown
from policyctl.report.plan_view import PlanView
from tests.builders import body, plan, policy, row
from tests.call_counts import calls

A, B, C = "virtual-model/x/a", "virtual-model/y/b", "virtual-model/z/c"
CHAT, MID, FRONT = "virtual-policy/chat", "virtual-policy/mid", "virtual-policy/front"


def reviewed(desired: list[Policy], rows: list[Any], settings: Settings = Settings(), **more: Any) -> Review:
    return review(plan(desired, rows, settings, **more), observe_rows(rows), settings)


def listed(codes: list[int], *targets: str) -> dict[str, Any]:
    return {**body(*targets), "strategy": {"mode": "fallback", "on_status_codes": codes}}


WIDE, NARROW = listed([429, 503], A, B), listed([429], A, B)


class Case(NamedTuple):
    """Live policies by name, what becomes of some (None: removed), and the way from each affected policy to a change."""

    live: dict[str, dict[str, Any]]
    after: dict[str, dict[str, Any] | None]
    ways: dict[str, tuple[str, ...]]


CASES: dict[str, Case] = {
    "one that targets the changed one": Case({"chat": WIDE, "front": body(CHAT)}, {"chat": NARROW}, {"front": (CHAT,)}),
    "however deep": Case(
        {"chat": WIDE, "mid": body(CHAT), "front": body("mid")}, {"chat": NARROW}, {"mid": (CHAT,), "front": (MID, CHAT)}
    ),
    "by the shortest way": Case(
        {"chat": WIDE, "mid": body(CHAT), "front": body(MID, CHAT)}, {"chat": NARROW}, {"mid": (CHAT,), "front": (CHAT,)}
    ),
    "in a group, by its bare name": Case(
        {"chat": WIDE, "front": {"strategy": {"mode": "single"}, "targets": [body("chat", C)]}},
        {"chat": NARROW},
        {"front": (CHAT,)},
    ),
    "through one that changes nothing but its text": Case(
        {"chat": WIDE, "mid": body(CHAT), "front": body(MID)},
        {"chat": NARROW, "mid": {**body(CHAT), "retry": {"attempts": 0}}},
        {"front": (MID,)},
    ),
    "not one that never asks it": Case({"chat": WIDE, "front": body(A, CHAT, mode="single")}, {"chat": NARROW}, {}),
    "not by a change that does the same": Case(
        {"chat": WIDE, "front": body(CHAT)}, {"chat": {**WIDE, "retry": {"attempts": 0}}}, {}
    ),
    "not one whose models stay": Case({"chat": WIDE, "front": body(A, B)}, {"chat": NARROW}, {}),
    "one that targeted nothing until now": Case({"front": body(CHAT)}, {"chat": WIDE}, {"front": (CHAT,)}),
    "one that targets what goes": Case({"chat": WIDE, "front": body(CHAT), "x": body(A)}, {"chat": None}, {"front": (CHAT,)}),
    "policies that target each other": Case(
        {"chat": WIDE, "front": body(CHAT, MID), "mid": body(FRONT)}, {"chat": NARROW}, {"front": (CHAT,), "mid": (FRONT, CHAT)}
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_policies_that_lead_to_a_change_are_affected(name: str) -> None:
    live, after, ways = CASES[name]
    wanted = {**live, **after}
    desired = [policy(name, **one) for name, one in wanted.items() if one is not None]
    found = reviewed(desired, [row(name, **one) for name, one in live.items()])
    assert {one.name.removeprefix("virtual-policy/"): one.through for one in found.affected} == ways
    assert all(one.bound for one in found.affected)
    unchanged = sum(wanted[name] == one for name, one in live.items())
    assert found.unchanged == unchanged - len(ways)


def test_the_effect_on_an_affected_policy_is_what_its_clients_see() -> None:
    """Of the change in the policy below, what comes through."""
    rows = [row("chat", **WIDE), row("front", **listed([500], CHAT, C))]
    found = reviewed([policy("chat", **NARROW), policy("front", **listed([500], CHAT, C))], rows)
    (one,) = found.affected
    assert {(cell.name, cell.before, cell.after) for cell in one.effect.worse if cell.kind == "model" and cell.share == 1} == {
        (A, 1.0, 0.0)
    }
    assert found.policies_before[CHAT] != found.policies[CHAT]


def test_a_policy_that_changes_and_targets_a_changed_one_has_one_effect_of_both() -> None:
    rows = [row("chat", **WIDE), row("front", **body(CHAT))]
    found = reviewed([policy("chat", **NARROW), policy("front", **body(CHAT), retry={"attempts": 0})], rows)
    assert found.affected == ()
    assert found.effects[FRONT].worse == found.effects[CHAT].worse != ()


SURVIVE = Guards(survive=Survive("provider", (503,)))


def test_guards_and_their_exceptions_hold_for_affected_policies() -> None:
    rows = [row("chat", **WIDE), row("front", **body(CHAT))]
    desired = [policy("chat", **NARROW), policy("front", **body(CHAT))]
    chat = GuardException("survive", "chat", "a building block")
    settings = Settings(guards=SURVIVE, guard_exceptions=(chat,))
    (refusal,) = reviewed(desired, rows, settings).refusals
    assert refusal.startswith(f"{FRONT} (through {CHAT}) serves 0% while x is down with 503; ")
    assert refusal.endswith(f"(allow it with --allow-guard survive={FRONT}, or in guard_exceptions)")
    both = Settings(guards=SURVIVE, guard_exceptions=(chat, GuardException("survive", "front", "until June")))
    found = reviewed(desired, rows, both)
    assert found.refusals == ()
    assert [note.rpartition("; ")[2] for note in found.notes] == ["allowed: a building block", "allowed: until June"]


LIMITS = {
    "max_calls": (Guards(max_calls=2), "may make 3 calls for one request, more than max_calls 2"),
    "max_traffic_shift": (Guards(max_traffic_shift=10), "would have 100% of its requests served by another model"),
    "deny_new": (Guards(deny_new="provider"), "would reach z (c), a new provider"),
    "deny_providers": (Guards(deny_providers=("z",)), "may reach z (c), which is among deny_providers z"),
}


@pytest.mark.parametrize("guard", LIMITS)
def test_every_guard_judges_what_a_change_does_to_those_that_target_it(guard: str) -> None:
    """Though the guard lets the changed policy itself pass: it is excepted, or below the limit."""
    guards, said = LIMITS[guard]
    settings = Settings(guards=guards, guard_exceptions=(GuardException(guard, "chat", "r"),))  # type: ignore[arg-type] # a name of the table
    front = body(CHAT, B)
    rows = [row("chat", A), row("front", **front)]
    (refusal,) = reviewed([policy("chat", C, A), policy("front", **front)], rows, settings).refusals
    assert refusal.startswith(f"{FRONT} (through {CHAT}) {said}")


def test_a_change_cannot_be_split_to_pass_the_guards() -> None:
    """Whether the affected policy is left out of the selection, or changes by itself later."""
    rows = [row("chat", **WIDE), row("front", **body(CHAT))]
    desired = [policy("chat", **NARROW), policy("front", **body(CHAT), retry={"attempts": 0})]
    settings = Settings(guards=SURVIVE, guard_exceptions=(GuardException("survive", "chat", "r"),))
    found = reviewed(desired, rows, settings, selection=Selection(only=("chat",)))
    assert [one.name for one in found.affected] == [FRONT]
    assert len(found.refusals) == 1
    again = reviewed(desired, [row("chat", **NARROW), row("front", **body(CHAT))], settings)
    assert len(again.refusals) == 1


OUTSIDE = {
    "outside the scope": (Settings(scope=("chat",), guards=SURVIVE), True, 1),
    "unmanaged": (Settings(guards=SURVIVE), False, 1),
    "not pruned": (Settings(scope=("*",), prune=False, guards=SURVIVE), False, 1),
}


@pytest.mark.parametrize("name", OUTSIDE)
def test_live_policies_that_are_not_the_directorys_are_shown_and_not_bound(name: str) -> None:
    settings, removes, refusals = OUTSIDE[name]
    found = reviewed([policy("chat", **NARROW)], [row("chat", **WIDE), row("theirs", CHAT)], settings, removes=removes)
    (one,) = found.affected
    assert (one.name, one.through, one.bound) == ("virtual-policy/theirs", (CHAT,), False)
    assert one.effect.worse != ()
    assert len(found.refusals) == refusals  # that of chat itself


def test_a_saved_plan_binds_the_same_policies() -> None:
    rows = [row("chat", **WIDE), row("front", **body(CHAT)), row("theirs", CHAT)]
    saved = plan([policy("chat", **NARROW), policy("front", **body(CHAT))], rows, removes=False)
    found = review(read_plan(write_plan(saved), "p.json"), observe_rows(rows), Settings(guards=SURVIVE))
    assert [(one.name, one.bound) for one in found.affected] == [(FRONT, True), ("virtual-policy/theirs", False)]
    assert len(found.refusals) == 2


def test_a_saved_plan_that_forgets_a_policy_in_scope_frees_it_from_nothing() -> None:
    rows = [row("chat", **WIDE), row("front", **body(CHAT))]
    settings = Settings(scope=("*",), guards=SURVIVE)
    whole = plan([policy("chat", **NARROW), policy("front", **body(CHAT))], rows, settings)
    found = review(plan([policy("chat", **NARROW)], [row("chat", **WIDE)], settings), observe_rows(rows), settings)
    assert whole.changes == found.plan.changes
    assert [(one.name, one.bound) for one in found.affected] == [(FRONT, True)]


UNCLEAR = {
    "twice": (
        [row("q", A), {**row("virtual-policy/q", B), "id": "2"}],
        "the remote has several policies of this name; remove all but one by id (ids id-q, 2)",
    ),
    "unreadable": (
        [{"id": "1", "name": "q"}],
        "the remote has a row of this name that cannot be read: the row has no policy (id 1)",
    ),
}


@pytest.mark.parametrize("name", UNCLEAR)
def test_a_target_that_cannot_be_judged_is_refused_by_every_guard(name: str) -> None:
    rows, why = UNCLEAR[name]
    settings = Settings(scope=("p",), guards=Guards(max_calls=50, survive=Survive("model", (429,))))
    found = reviewed([policy("p", "virtual-policy/q", A)], rows, settings)
    said = f"it leads to virtual-policy/q, and what that one does is not known: {why} (allow it with --allow-guard"
    assert [refusal.split("=")[0] for refusal in found.refusals] == [
        f"virtual-policy/p cannot be judged by {guard}: {said} {guard}" for guard in ("max_calls", "survive")
    ]


TWICE = [row("mid", CHAT), {**row("virtual-policy/mid", A), "id": "2"}]
TWICE_WHY = "the remote has several policies of this name; remove all but one by id (ids id-mid, 2)"
THROUGH_MID = f"it leads to {MID}, and what that one does is not known: {TWICE_WHY}"


def test_what_a_change_does_by_way_of_a_policy_that_is_there_twice_is_not_known() -> None:
    """To the rows of that name, to a policy that stays, and to one of which only the text changes; guards of the directory
    refuse what they cannot judge."""
    rows = [row("chat", **WIDE), *TWICE, row("front", MID), row("theirs", MID)]
    front = policy_from_file({"name": "front", "description": "another text", "policy": body(MID)}, "front.yaml")
    desired = [policy("chat", **NARROW), front]
    settings = Settings(scope=("chat", "front"), guards=Guards(max_traffic_shift=100))
    found = reviewed(desired, rows, settings)
    assert found.affected == (
        AffectedPolicy(MID, (CHAT,), Effect("unknown", unknown=TWICE_WHY), bound=False),
        AffectedPolicy("virtual-policy/theirs", (MID, CHAT), Effect("unknown", unknown=THROUGH_MID), bound=False),
    )
    assert found.effects[FRONT] == Effect("unknown", unknown=THROUGH_MID)
    (refusal,) = found.refusals
    assert refusal.startswith(f"{FRONT} cannot be judged by max_traffic_shift: {THROUGH_MID} (allow it with")
    alone = reviewed([front], rows, Settings(scope=("front",)))
    assert (alone.effects[FRONT].kind, alone.affected) == ("metadata", ())


def test_a_live_policy_without_an_id_is_affected_by_a_change_of_what_it_targets() -> None:
    """Itself, and what leads to it: what the change does to them is not known, since no update could tell that row apart."""
    rows = [row("chat", **WIDE), {**row("mid", CHAT), "id": None}, row("front", MID)]
    found = reviewed([policy("chat", **NARROW)], rows, Settings(scope=("chat",)))
    assert [(one.name, one.effect.kind) for one in found.affected] == [(FRONT, "unknown"), (MID, "unknown")]


@pytest.mark.parametrize("name", UNCLEAR)
@pytest.mark.parametrize("turn", ["to it", "from it"])
def test_a_change_to_or_from_a_policy_that_is_not_known_is_neither_better_nor_worse(name: str, turn: str) -> None:
    rows, why = UNCLEAR[name]
    one, other = (B, "virtual-policy/q") if turn == "to it" else ("virtual-policy/q", B)
    found = reviewed([policy("p", other, A)], [*rows, row("p", one, A)], Settings(scope=("p",)))
    said = f"it leads to virtual-policy/q, and what that one does is not known: {why}"
    assert found.effects == {"virtual-policy/p": Effect("unknown", unknown=said)}


def test_a_restoration_below_a_policy_that_is_there_twice_is_not_taken_for_one() -> None:
    """Which of the rows counts is not known, so neither is whether all that changes below it was reviewed."""
    rows = [row("chat", **WIDE), *TWICE, row("front", MID)]
    desired = [policy("chat", **NARROW), policy("front", MID)]
    settings = Settings(scope=("chat", "front"), guards=Guards(max_traffic_shift=100))
    found = review(plan(desired, rows, settings), observe_rows(rows), settings, reviewed={CHAT: desired[0].document})
    assert found.restored == {CHAT}
    assert [refusal.split(" (allow")[0] for refusal in found.refusals] == [
        f"{FRONT} (through {MID}, {CHAT}) cannot be judged by max_traffic_shift: {THROUGH_MID}"
    ]


def test_a_retry_over_a_target_policy_counts_for_guards() -> None:
    settings = Settings(guards=Guards(max_calls=2))
    over = body("virtual-policy/b", mode="single") | {"retry": {"attempts": 9}}
    (refusal,) = reviewed([policy("a", **over), policy("b", A)], [], settings).refusals
    assert "virtual-policy/a may make 10 calls for one request, more than max_calls 2: 10 × x/a" in refusal


@pytest.mark.parametrize("name", UNCLEAR)
def test_a_plan_names_what_it_could_not_follow(name: str) -> None:
    rows, why = UNCLEAR[name]
    found = reviewed([policy("p", "virtual-policy/q", A), policy("other", A)], rows, Settings(scope=("p", "other")))
    assert [note for note in found.notes if "leads to" in note] == [
        f"virtual-policy/p leads to virtual-policy/q, and what that one does is not known: {why}"
    ]


@pytest.mark.parametrize("length", [MAX_CHAIN + 2, pytest.param(3_000, marks=pytest.mark.slow)])
def test_of_a_long_chain_what_is_near_the_change_is_compared_and_the_rest_is_not_known(length: int) -> None:
    """And the page shows the change first, then what is known. Thousands in a row take no more than their number."""
    names = [f"virtual-policy/t{number}" for number in range(length)]
    rows = [row("chat", A), *(row(name, target) for name, target in zip(names, [CHAT, *names], strict=False))]
    found = reviewed([policy("chat", B)], rows, Settings(scope=("chat",)))
    affected = {one.name: one for one in found.affected}
    assert affected.keys() == {*names}
    comparing = Comparison(*policies_around(found.plan, observe_rows(rows)))
    for number in (0, 1, MAX_CHAIN - 1, MAX_CHAIN, MAX_CHAIN + 1):
        name = names[number]
        effect = comparing.effect(comparing.before[name], comparing.after[name])
        assert affected[name].effect == effect
        assert (effect.kind == "unknown") == (number >= MAX_CHAIN)
    assert {len(one.through) for one in found.affected} == {*range(1, MAX_CHAIN + 2)}
    assert {one.through[-1] for one in found.affected} == {CHAT}
    text = plan_markdown(PlanView(found, "local"))
    for table in text.split("| change | policy |")[1:]:
        known = ["not known" not in line for line in table.split("\n") if line.startswith(("| update", "| affected"))]
        assert known == sorted(known, reverse=True)
    assert text.index("| update | `chat` |") < text.index("| affected |")
    assert all(found.plan.traffic[name] for name in names[1:]), "an approval covers that it is affected"


FREE = Settings(limits=Limits(1000, 100))


def chained(length: int, codes: list[int], last: str = A) -> list[Any]:
    """The arguments of policies, each of which falls back on some codes from the next one to a model."""
    names = [f"virtual-policy/t{number}" for number in range(1, length)]
    return [(f"t{place}", listed(codes, name, B)) for place, name in enumerate([*names, last])]


def of_chain(length: int, last: str = A) -> Review:
    """A chain whose every policy gets one more code; the tenth live one has a field that the format does not know."""
    rows = [row(name, **some, **({"owner": "ana"} if name == "t9" else {})) for name, some in chained(length, [500], last)]
    return reviewed([policy(name, **some) for name, some in chained(length, [500, 503], last)], rows, FREE)


@pytest.mark.slow
def test_a_chain_that_changes_as_a_whole_is_compared_in_time_that_grows_with_its_length() -> None:
    (few,), (many,) = (calls(partial(of_chain, length), references) for length in (100, 200))
    assert many < 2.2 * few


def test_an_approval_covers_all_that_a_policy_of_a_chain_leads_to() -> None:
    """And no more than that, also where the chain ends in a circle."""
    first, second, circle = of_chain(5), of_chain(5, B), of_chain(5, "virtual-policy/t2")
    assert [name[-2:] for name in sorted(first.plan.traffic)] == ["t0", "t1", "t2", "t3"]
    for other in (second, circle):
        assert all(other.plan.traffic[name] != mark for name, mark in first.plan.traffic.items())
    assert len(set(first.plan.traffic.values())) == 4


def test_of_every_policy_that_leads_to_one_with_unknown_fields_the_effect_is_uncounted() -> None:
    effects = of_chain(12).effects
    assert [effects[f"virtual-policy/t{number}"].uncounted for number in range(12)] == [True] * 10 + [False] * 2
