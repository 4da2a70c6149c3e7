"""Fields of a live policy that the format does not know stay with their part, and a plan that moves one shows it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from copy import deepcopy
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.plan.diff import FieldChange, keep_unknown_fields, moved_fields, unknown_fields
from policyctl.plan.plan import Change, LiveState, drifted_fields, is_already, live_state, update
from policyctl.plan.safety import review
from policyctl.plan.saved_plan import BadPlan, read_plan, write_plan
from policyctl.plan.settings import Settings
from policyctl.policy.document import Policy, model_names, policy_from_file, target_text
from policyctl.policy.live import LivePolicy, observe_rows, read_row
from policyctl.policy.names import canonical_model
from tests.builders import plan
from tests.strategies import MODELS, bodies

Body = dict[str, Any]
MARK = "x_mark"
A, B, C = MODELS[:3]


def groups(body: Body) -> Iterator[Body]:
    """A body and every group in it."""
    yield body
    for target in body["targets"]:
        if "targets" in target:
            yield from groups(target)


def parts(body: Body) -> Iterator[Body]:
    """Every mapping of a body that may have a field of its own."""
    for group in groups(body):
        yield from (group, *(group[key] for key in ("strategy", "retry", "cache") if key in group))
        yield from (target for target in group["targets"] if "targets" not in target)


def permute(body: Body, random: Random) -> None:
    for group in groups(body):
        if group["strategy"]["mode"] == "loadbalance":
            random.shuffle(group["targets"])


def write_defaults_out(body: Body, random: Random) -> None:
    for group in groups(body):
        for target in group["targets"]:
            if random.random() < 0.5 and target.setdefault("weight", 1) == 1 and random.random() < 0.3:
                del target["weight"]
        if "retry" in group and random.random() < 0.5:
            group["retry"].setdefault("use_retry_after_header", False)


def reweigh(body: Body, random: Random) -> None:
    for target in random.choice([*groups(body)])["targets"]:
        target["weight"] = random.choice((0.1, 0.5, 1))


def swap_modes(body: Body, random: Random) -> None:
    one, other = (random.choice([*groups(body)]) for _ in range(2))
    one["strategy"], other["strategy"] = other["strategy"], one["strategy"]


def drop(body: Body, random: Random) -> None:
    group = random.choice([*groups(body)])
    if len(group["targets"]) > 1:
        group["targets"].pop(random.randrange(len(group["targets"])))


def put_in(body: Body, random: Random) -> None:
    leaf = {"model_name": random.choice(MODELS)}
    random.choice([*groups(body)])["targets"].insert(
        0, random.choice((leaf, {"strategy": {"mode": "single"}, "targets": [leaf]}))
    )


def double(body: Body, random: Random) -> None:
    group = random.choice([*groups(body)])
    group["targets"].append(deepcopy(random.choice(group["targets"])))


HARMLESS = (permute, write_defaults_out)
EDITS = (*HARMLESS, reweigh, swap_modes, drop, put_in, double)


def live_of(body: Body) -> LivePolicy:
    found = read_row({"id": "1", "name": "virtual-policy/x", "policy": body})
    assert isinstance(found, LivePolicy)
    return found


def wanted(body: Body, description: str = "new") -> Policy:
    return policy_from_file({"name": "x", "description": description, "policy": body}, "x.yaml")


def marked(body: Body, random: Random) -> Body:
    """The body as a live one: with a field of its own, each with another value, in about a third of its parts."""
    body = deepcopy(body)
    for number, part in enumerate(parts(body)):
        if random.random() < 0.4:
            part[MARK] = number
    return body


def edited(body: Body, random: Random, edits: tuple[Callable[[Body, Random], None], ...]) -> Body:
    body = deepcopy(body)
    for edit in random.choices(edits, k=random.randint(1, 4)):
        edit(body, random)
    return body


def places(body: Body) -> dict[int, tuple[str, ...]]:
    """The marks of a body, each with the normal forms of the targets around it, and which part of the last one has it."""

    def walk(part: Body, above: tuple[str, ...]) -> Iterator[tuple[int, tuple[str, ...]]]:
        for key in ("", "strategy", "retry", "cache"):
            if MARK in (mapping := part[key] if key and key in part else {} if key else part):
                yield mapping[MARK], (*above, key)
        for target in part.get("targets", ()):
            yield from walk(target, (*above, target_text(target)))

    return dict(walk(body, ()))


def has_twins(body: Body) -> bool:
    """Whether two targets of one group are equal: nothing tells them apart but their own fields and their order."""
    return any(max(Counter(map(target_text, group["targets"])).values()) > 1 for group in groups(body))


bodies_and_random = st.tuples(bodies, st.integers(0, 10**6).map(Random))


@given(bodies_and_random)
def test_an_edit_that_means_nothing_moves_no_field(drawn: tuple[Body, Random]) -> None:
    """Groups of a load balance in another order, and defaults written out, with a new description."""
    body, random = drawn
    row = marked(body, random)
    change = update(wanted(edited(body, random, HARMLESS)), live_of(row))
    assert change is not None
    assert (change.moved, [field.path for field in change.fields]) == ((), ["description"])
    assert change.after is not None
    written = keep_unknown_fields(live_of(row).document, change.after)["policy"]
    assert places(written).keys() == places(row).keys()
    if not has_twins(body):
        assert places(written) == places(row)


@given(bodies_and_random)
def test_each_field_is_written_where_the_page_shows_it_and_a_move_is_shown(drawn: tuple[Body, Random]) -> None:
    body, random = drawn
    row, file = marked(body, random), edited(body, random, EDITS)
    live, desired = live_of(row), wanted(file)
    written = keep_unknown_fields(live.document, desired.document)
    fields = unknown_fields(live.document, desired.document)
    kept = {field.path: field.value for field in fields if field.kept}
    assert kept == {field.path: field.value for field in unknown_fields(written)}
    own = {field.path: field.value for field in unknown_fields(live.document)}
    assert all(own[field.was or field.path] == field.value for field in fields if field.kept and not field.moved)

    change = update(desired, live)
    assert change is not None
    moved = [field for field in fields if field.moved or not field.kept]
    assert {field.path for field in change.moved} == {*(one.path for one in moved), *(one.was for one in moved if one.moved)}
    assert change.fields[len(change.fields) - len(change.moved) :] == change.moved
    _check_stays({field.value for field in moved}, row, written["policy"])


def _check_stays(moved: set[int], row: Body, written: Body) -> None:
    """What does not move is on the same model as before, or on a group over one of the same models, and not on what another
    target was."""
    old, new = places(row), places(written)
    for mark, (*above, key) in new.items():
        was = old[mark]
        if mark in moved or (*above, key) == was:
            continue
        assert len(was) == len(above) + 1
        assert key == was[-1]
        for before, after in zip(was[:-1], above, strict=True):
            assert before == after or _models(before) & _models(after)
            assert before not in _siblings(row, after)


def _siblings(body: Body, text: str) -> set[str]:
    """The normal forms of the targets beside one."""
    return {
        one for group in groups(body) if text in (some := [*map(target_text, group["targets"])]) for one in some if one != text
    }


def _models(text: str) -> set[str]:
    return {canonical_model(name) for name in model_names({"policy": {"targets": [json.loads(text)]}})}


@given(bodies_and_random)
def test_the_order_of_a_load_balance_decides_nothing(drawn: tuple[Body, Random]) -> None:
    """Neither what stays and what moves, nor so the digest, depends on the order in which the remote shows it."""
    body, random = drawn
    row, file = marked(body, random), edited(body, random, EDITS)
    if has_twins(row) or has_twins(file):
        return
    shuffled, other = deepcopy(row), deepcopy(file)
    permute(shuffled, random)
    permute(other, random)
    desired = wanted(file)
    first, second = (update(desired, live_of(one)) for one in (row, shuffled))
    assert first is not None
    assert second is not None
    assert first.content == second.content
    one, two = (keep_unknown_fields({"name": "x", "policy": row}, wanted(some).document)["policy"] for some in (file, other))
    assert places(one) == places(two)


@given(bodies_and_random)
def test_a_plan_that_moves_fields_is_never_harmless_and_comes_back_as_it_was_saved(drawn: tuple[Body, Random]) -> None:
    body, random = drawn
    row, desired = marked(body, random), wanted(edited(body, random, EDITS))
    bare, rows = ({"id": "1", "name": "virtual-policy/x", "policy": one} for one in (body, row))
    made = plan([desired], [rows])
    (change,) = made.changes
    assert read_plan(write_plan(made), "plan.json").changes == made.changes
    assert (made.digest == plan([desired], [bare]).digest) == (not change.moved)
    if change.moved:
        assert review(made, observe_rows([rows]), Settings()).effects[change.name].kind not in ("metadata", "equivalent")


def group(mode: str, *models: str, **more: Any) -> Body:
    return {"strategy": {"mode": mode}, "targets": [{"model_name": name} for name in models], **more}


def balanced(*targets: Body) -> Body:
    return {"strategy": {"mode": "loadbalance"}, "targets": list(targets)}


ROW = balanced(group("fallback", A, B, guard="g"), group("single", A, B))


def change_to(*targets: Body, row: Body = ROW) -> Change:
    change = update(wanted(balanced(*targets)), live_of(row))
    assert change is not None
    return change


@pytest.mark.parametrize("weight", [{}, {"weight": 1}])
def test_a_group_is_found_again_in_another_place(weight: Body) -> None:
    change = change_to(group("single", A, B, **weight), group("fallback", A, B, **weight))
    assert change.moved == ()
    assert change.after is not None
    (field,) = unknown_fields(live_of(ROW).document, change.after)
    assert (field.path, field.was, field.moved) == ("policy.targets[1].guard", "policy.targets[0].guard", False)


def test_a_group_is_found_again_with_another_weight() -> None:
    change = change_to(group("single", A, B, weight=0.9), group("fallback", A, B, weight=0.1))
    assert change.moved == ()
    assert [field.path for field in change.fields][1:] == ["policy.targets[0].weight", "policy.targets[1].weight"]


def test_of_several_groups_that_change_it_is_not_certain_which_is_which() -> None:
    change = change_to(group("single", A, C), group("fallback", A, C))
    was, becomes = change.moved
    assert was == FieldChange("policy.targets[0 before].guard", "g", None)
    assert becomes.path in ("policy.targets[0].guard", "policy.targets[1].guard")
    assert (becomes.before, becomes.after) == (None, "g")


def test_the_only_group_is_the_same_as_long_as_it_shares_a_model() -> None:
    row = balanced(group("fallback", A, B, guard="g"))
    assert change_to(group("single", A, C), row=row).moved == ()
    assert change_to(group("fallback", C), row=row).moved != ()


def test_of_a_model_that_is_there_twice_a_new_weight_does_not_show_which_it_was() -> None:
    row = balanced({"model_name": A, "weight": 0.1, "host": "h"}, {"model_name": A, "weight": 0.9})
    moved = change_to({"model_name": A, "weight": 0.95}, {"model_name": A, "weight": 0.05}, row=row).moved
    assert [field.path for field in moved] == ["policy.targets[google/a before].host", "policy.targets[google/a#2].host"]


def test_what_is_lost_is_a_change_and_a_secret_is_hidden() -> None:
    row = balanced(group("fallback", A, B, override={"api_key": "s3cret"}), {"model_name": C})
    change = change_to({"model_name": C}, row=row)
    assert change.moved == (FieldChange("policy.targets[1 before].override", {"api_key": "(set)"}, None),)
    assert change.moved[0].path.removesuffix(".override") in {field.path for field in change.fields}


def test_a_plan_is_stale_once_it_would_move_other_fields() -> None:
    """Also where what the format knows of the live policy is as it was."""
    change = change_to(group("single", A, C), group("fallback", A, C))
    assert live_state(change, live_of(ROW)) is LiveState.DO
    other = balanced(group("fallback", A, B), group("single", A, B, guard="g"))
    assert live_state(change, live_of(other)) is LiveState.STALE
    assert {field.path for field in drifted_fields(change, live_of(other))} >= {field.path for field in change.moved}
    assert change.after is not None
    written = keep_unknown_fields(live_of(ROW).document, change.after)["policy"]
    assert is_already(live_of(written), change.after | {"description": "virtual-policy/x"})


def test_a_saved_plan_that_moves_a_field_of_what_it_adds_is_refused() -> None:
    made = plan([wanted(ROW)], [])
    (change,) = made.changes
    edited_plan = made._replace(changes=(change._replace(moved=(FieldChange("policy.x", 1, None),)),))
    with pytest.raises(BadPlan, match="cannot move any field"):
        read_plan(write_plan(edited_plan), "plan.json")


def test_nothing_is_moved_within_a_policy_itself() -> None:
    row = {**balanced({"model_name": A}), "hook": 1}
    after = {"name": "x", "policy": {"strategy": {"mode": "single"}, "targets": [{"model_name": B}]}}
    assert moved_fields({"name": "x", "policy": row}, after) == ()
