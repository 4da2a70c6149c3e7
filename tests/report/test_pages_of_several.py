"""The plans of several environments as one page: each change once, what differs side by side, and nothing approved unseen."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Any

import pytest

from policyctl.ci.comments import shown_in
from policyctl.plan.approval import NONE
from policyctl.plan.fleet import EnvironmentResult, FleetResult
from policyctl.plan.safety import Review
from policyctl.plan.settings import Limits, Override, Settings
from policyctl.report.fleet import FleetView, changes_of, differences, fleet_text, kinds_of, planned
from policyctl.report.format import Style
from policyctl.report.plan_html import fleet_html
from policyctl.report.plan_markdown import COMMENT_BYTES, LEAST_BYTES, fleet_markdown, plan_markdown
from policyctl.report.plan_view import PlanView, Provenance
from tests.builders import body, policy, row
from tests.report.github_html import TAGS, Page
from tests.report.plans import balanced, reviewed, used
from tests.report.traps import TRAPS, acting, hostile


def fleet_of(reviews: Mapping[str, Review], *others: EnvironmentResult) -> FleetResult:
    """A run over environments with these plans."""
    results = []
    for name, review in reviews.items():
        own = review._replace(plan=review.plan._replace(environment=name))
        results.append(replace(planned(own, name, f"sqlite:///{name}.db"), review=own))
    return FleetResult("plan", (*results, *others))


def page(fleet: FleetResult, room: int = COMMENT_BYTES) -> str:
    return fleet_markdown(FleetView(fleet), room)


@cache
def split(weight: float) -> Review:
    """A plan that gives the second of two models this weight, and changes another policy."""
    rows = [row("split", **balanced(0.5)), row("same")]
    return reviewed([policy("split", **balanced(weight)), policy("same", "b")], rows)


def approves(text: str) -> str:
    shown = shown_in(text)
    assert shown is not None
    return shown.approves


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(("notes", "approved"), [(100, True), (101, False)])
def test_a_page_without_a_note_about_its_changes_approves_nothing(notes: int, approved: bool, several: bool) -> None:
    unreadable = [{"id": f"id-{number}", "name": f"bad-{number}", "policy": number} for number in range(30)]
    review = reviewed([policy("new")], [*unreadable, row("kept")])
    review = review._replace(notes=tuple(f"note {number}" for number in range(notes)))
    text = page(fleet_of({"one": review})) if several else plan_markdown(PlanView(review, "local"))
    assert (approves(text) != NONE) is approved
    assert ("1 note about the changes is not on this page" in text) is not approved


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize(
    ("texts", "lacks"),
    [
        (["--max-removes 9"], ""),
        ([f"--max-removes {number}" for number in range(20)], ""),
        ([f"--allow-guard max_calls={'v' * 1_100}"], "1 override is not on this page as a whole"),
        ([f"--allow-guard max_calls={'字' * 90}{number}" for number in range(20)], ""),
        ([f"--max-removes {number}" for number in range(21)], "1 override is not on this page as a whole"),
    ],
)
def test_a_page_without_all_of_what_is_overridden_approves_nothing(texts: list[str], lacks: str, several: bool) -> None:
    review = reviewed([policy("new")], [])
    pairs = (text.partition(" ") for text in texts)
    overrides = tuple(Override(option, value, "it is needed", "ada") for option, _, value in pairs)
    review = review._replace(plan=review.plan._replace(overrides=overrides))
    text = page(fleet_of({"one": review})) if several else plan_markdown(PlanView(review, "local"))
    assert (approves(text) == NONE, lacks in text) == (lacks != "", True)


def test_a_page_that_cuts_a_note_about_its_changes_approves_nothing() -> None:
    review = reviewed([policy("new")], [])._replace(notes=("a " * 600,))
    assert approves(plan_markdown(PlanView(review, "local"))) == NONE


def test_a_change_is_shown_once_where_it_is_the_same_and_each_time_where_it_is_not() -> None:
    text = page(fleet_of({"dev": split(0.4), "prod": split(0.1)}))
    heads = re.findall("<summary>(.*)</summary>", text)
    assert sorted(heads) == [
        "<b>update</b> <code>same</code> in <code>policies/same.yaml</code> · <code>dev</code>, <code>prod</code>",
        "<b>update</b> <code>split</code> in <code>policies/split.yaml</code> · <code>dev</code>",
        "<b>update</b> <code>split</code> in <code>policies/split.yaml</code> · <code>prod</code>",
    ]
    sections = text.split("<details>")[1:]
    assert [sum(weight in one for one in sections) for weight in ("weight: 0.4", "weight: 0.1")] == [1, 1]
    assert text.count("| update | `split` | `dev` |") == text.count("| update | `split` | `prod` |") == 1


def test_a_field_that_moves_with_a_change_is_shown_for_each_environment_where_it_is_another_one() -> None:
    """The documents of the change are the same: the format does not know the field."""

    def groups(*names: str, **field: Any) -> list[dict[str, Any]]:
        return [{**body(f"x/{names[0]}", f"x/{names[1]}"), **field}, body(f"x/{names[2]}", f"x/{names[3]}")]

    def plan(text: str) -> Review:
        now, then = policy("chat", targets=groups(*"caeb")), groups(*"abcd", override_params={"system": "say yes " * 12 + text})
        return reviewed([now], [row("chat", targets=then)])

    text = page(fleet_of({"dev": plan("and wait"), "prod": plan("and refund")}))
    assert ("and wait" in text, "and refund" in text) == (True, True)


@pytest.mark.parametrize(
    ("dev", "prod", "shown"),
    [
        (["smoke"], ["smoke"], "used by 1 agent (smoke)"),
        (["smoke"], ["bank", "shop"], "used by 1 agent (smoke) in dev; who uses it may differ elsewhere"),
        ([], ["bank"], "not known to be used in dev; who uses it may differ elsewhere"),
    ],
)
def test_who_uses_a_policy_in_one_environment_is_not_claimed_for_others(dev: list[str], prod: list[str], shown: str) -> None:
    plan = reviewed([policy("chat", "x/a", "x/b")], [row("chat", "x/a")])
    fleet = fleet_of({"dev": used(plan, {"chat": dev}), "prod": used(plan, {"chat": prod})})
    (line,) = [line for line in page(fleet).splitlines() if line.startswith("| update")]
    assert line.replace("`", "").endswith(f"; {shown} |")
    assert shown in fleet_html(FleetView(fleet))


def test_what_differs_is_side_by_side_and_what_does_not_is_left_out() -> None:
    found = differences(fleet_of({"dev": split(0.4), "prod": split(0.1), "none": reviewed([], [])}))
    assert (found.heads, found.left_out()) == ([["dev"], ["prod"], ["none"]], "")
    (weight,) = (one.cells for one in found.rows if one.policy == "split" and "weight" in one.field)
    assert weight == ["0.5 → 0.4", "0.5 → 0.1", "–"]
    assert not differences(fleet_of({"dev": split(0.4), "prod": split(0.4)})).rows


@pytest.mark.parametrize(
    ("weights", "rows"),
    [
        ((0.2, 0.2), []),
        ((0.2, 0.1), [("targets[anthropic/claude-sonnet-4].weight", ["0.2", "0.1"])]),
        ((0.2, 0.1, None), [("targets[anthropic/claude-sonnet-4].weight", ["0.2", "0.1", "–"])]),
        ((0.2, None), [("", ["add: loadbalance of openai/gpt-4o (1), anthropic/claude-sonnet-4 (0.2)", "–"])]),
    ],
)
def test_an_added_policy_differs_field_by_field_where_it_is_added(
    weights: tuple[float | None, ...], rows: list[tuple[str, list[str]]]
) -> None:
    reviews = {
        f"e{place}": reviewed([] if weight is None else [policy("new", **balanced(weight))], [])
        for place, weight in enumerate(weights)
    }
    assert [(one.field, one.cells) for one in differences(fleet_of(reviews)).rows] == rows


def test_a_change_with_another_effect_is_another_change() -> None:
    """The same field of the same policy may do other things where other policies are live."""

    def mid(weight: float) -> Review:
        targets = [{"model_name": "virtual-policy/low", "weight": weight}, {"model_name": "c/d", "weight": 1}]
        rows = [row("mid", strategy={"mode": "loadbalance"}, targets=targets), row("low", "a")]
        return reviewed([policy("low", "b")], rows, Settings(scope=("virtual-policy/low",)))

    def where(*reviews: Review) -> set[tuple[str, tuple[str, ...]]]:
        found = changes_of(kinds_of(fleet_of(dict(zip("ab", reviews, strict=True)))))
        return {(item.name.removeprefix("virtual-policy/"), item.where) for item, _ in found}

    assert where(mid(1), mid(1)) == {("low", ("a", "b")), ("mid", ("a", "b"))}
    assert where(mid(1), mid(0.1)) == {("low", ("a", "b")), ("mid", ("a",)), ("mid", ("b",))}


def test_a_suspended_environment_is_not_counted_as_one_without_changes() -> None:
    """It was not looked at."""
    held = EnvironmentResult("b", "suspended", reason="it moves")
    same = reviewed([policy("low", "a")], [row("low", "a")])
    assert "### policyctl: no changes in 1 environment; 1 suspended\n" in page(fleet_of({"a": same}, held))
    assert "### policyctl: 1 suspended\n" in page(fleet_of({}, held))
    assert "### policyctl: 2 to update in `dev`; 1 suspended\n" in page(fleet_of({"dev": split(0.4)}, held))


def test_what_was_not_begun_is_not_counted_as_failed() -> None:
    failed = EnvironmentResult("b", "failed", 1, "the remote is down")
    held = [EnvironmentResult(name, "not begun", reason="the run was stopped before it") for name in "cd"]
    fleet = fleet_of({"dev": split(0.4)}, failed, *held)
    assert "### policyctl: 1 of 4 environments failed; 2 to update in `dev`; 2 not begun\n" in page(fleet)
    assert "### policyctl: 1 of 3 environments failed; 2 not begun\n" in page(fleet_of({}, failed, *held))
    text = fleet_html(FleetView(fleet))
    assert "Plans for 4 environments: 1 with changes, 1 failed" in text
    tiles = {name: int(number) for number, name in re.findall("</span>([0-9]+)</b> ([a-z ]+)</li>", text)}
    assert [tiles.get(name) for name in ("environments with changes", "failed", "not begun", "suspended")] == [1, 1, 2, None]


def test_a_reason_that_one_environment_has_is_whole_and_that_of_several_names_none() -> None:
    """The name of an environment may be a word of the reason."""
    why = "environment {} is new in this branch"
    alone = EnvironmentResult("new", "failed", 3, why.format("new"))
    others = [EnvironmentResult(name, "failed", 3, why.format(name)) for name in ("eu", "us")]
    found = fleet_of({}, alone, *others).by_reason
    assert [(reason, len(results)) for reason, results in found] == [(why.format("…"), 2), (why.format("new"), 1)]


def test_rules_that_let_some_plans_pass_and_not_others_are_not_shown_to_have_passed_for_all() -> None:
    refused = reviewed([policy("a")], [row("a"), row("b")], Settings(limits=Limits(max_removes=0)))
    fleet = fleet_of({"dev": split(0.4), "prod": refused})
    kept = [replace(one, status="failed", code=3, reason="refused") if one.name == "prod" else one for one in fleet.results]
    text = page(fleet._replace(results=tuple(kept)))
    assert "\n`dev`: safety rules passed, no guards configured.\n" in text
    assert "\nSafety rules passed, no guards configured.\n" in page(fleet_of({"dev": split(0.4)}))


def test_an_environment_of_which_not_all_was_compared_is_not_one_without_changes() -> None:
    unread = reviewed([policy("a")], [row("a"), {"id": "7", "name": "b"}])
    fleet = fleet_of({"dev": reviewed([policy("a")], [row("a")]), "prod": unread})
    assert "nothing to apply, but not everything could be compared</" in fleet_html(FleetView(fleet))
    for text in (page(fleet).replace("`", ""), fleet_text(fleet, Style())):
        assert "no changes in 1 environment: dev" in text
        assert "nothing to apply, but not everything could be compared in 1 environment: prod" in text


def test_what_is_left_alone_is_counted_only_where_it_is_the_same() -> None:
    """Plans are of one kind whatever else is live there."""
    settings = Settings(scope=("virtual-policy/a",))
    plans = {
        name: reviewed([policy("a", "b")], [row("a"), *map(row, more)], settings)
        for name, more in {"dev": "", "eu": "xy", "us": "zw"}.items()
    }
    assert "| `dev`, `eu`, `us` | 1 to update; what is left alone differs |" in page(fleet_of(plans))
    del plans["dev"]
    assert "| `eu`, `us` | 1 to update; 2 outside the scope |" in page(fleet_of(plans))
    assert "### policyctl: 1 to update in each of `eu`, `us`\n" in page(fleet_of(plans))


def test_a_table_of_what_differs_shows_how_much_it_does_not_have() -> None:
    fleet = fleet_of({f"e{place}": split(place / 20) for place in range(1, 10)})
    for text in (page(fleet), fleet_html(FleetView(fleet)), fleet_text(fleet, Style())):
        assert "not in this table: 3 environments with other plans" in text
    assert differences(fleet).left_out(2) == "not in this table: 2 more rows and 3 environments with other plans"


@pytest.mark.parametrize("trap", TRAPS)
@pytest.mark.alike
def test_no_text_of_a_policy_acts_on_either_page(trap: str) -> None:
    fleet = fleet_of({"dev": hostile(trap), "prod": split(0.1)})
    broken = EnvironmentResult("x", "failed", 1, trap, f"sqlite:///{trap}")
    held = EnvironmentResult("y", "suspended", reason=trap)
    fleet = fleet._replace(results=(*fleet.results, broken, held), gone=("gone",))
    view = FleetView(fleet, trap, provenance=Provenance(*[trap] * 6))
    for text in (fleet_markdown(view), fleet_html(view)):
        assert acting(text) == []
        text.encode()
    assert {element.tag for element in Page(fleet_markdown(view)).elements} <= TAGS - {"a"} | {"sub"}
    assert "<script>alert" not in fleet_html(view)


@pytest.mark.parametrize("room", [LEAST_BYTES, 12_000, 20_000, COMMENT_BYTES, 300_000])
@pytest.mark.alike
def test_a_page_that_is_cut_fits_and_approves_nothing(room: int) -> None:
    """What a merge approves is on the page: each change with what it writes, and the name of each environment."""
    reviews = {f"tenant-{number:03}": split(round(0.01 + number / 200, 4)) for number in range(60)}
    fleet = fleet_of(reviews)
    text = page(fleet, room)
    assert len(text.encode()) <= room
    whole = all(f"weight: {round(0.01 + number / 200, 4)}\n" in text for number in range(60))
    assert approves(text) == (fleet.digest if whole else NONE)
    assert whole == (room >= COMMENT_BYTES)
    assert ("so merging it approves no plan" in text) == (not whole)


def test_environments_that_are_not_named_are_not_approved() -> None:
    reviews = {f"tenant-{number:04}-{'x' * 60}": split(0.1) for number in range(100)}
    text = page(fleet_of(reviews), LEAST_BYTES)
    assert len(text.encode()) <= LEAST_BYTES
    assert approves(text) == NONE
    assert "The page has no room for the name of every environment that changes, so merging it approves no plan." in text
    assert approves(page(fleet_of(reviews), 60_000)) != NONE


@cache
def moved(*names: str) -> Review:
    """A plan that changes these policies, and more others than a list would name."""
    others = [f"p{number}" for number in range(30)]
    rows = [row(name, "a") for name in (*others, *"xy", *"123456")]
    return reviewed([policy(name, "b" if name in {*others, *names} else "a") for name in (*others, *"xy", *"123456")], rows)


def test_two_plans_that_change_the_same_in_other_environments_never_have_one_page() -> None:
    """However many environments a change is for, and however many plans there are."""
    many = {**dict.fromkeys("abc", moved("x", "y")), **{f"k{number}": moved(number) for number in "123456"}}
    swapped = [fleet_of({**many, "dev": moved(one), "prod": moved(other)}) for one, other in ("xy", "yx")]
    pages = [page(fleet, 200_000) for fleet in swapped]
    assert [approves(text) for text in pages] == [fleet.digest for fleet in swapped]
    one, other = (re.sub("sha256:[0-9a-f]+", "", text) for text in pages)
    assert one != other
    # By name as well, not only by number.
    heads = re.findall("<code>[xy]</code> in .* · (.*)</summary>", one)
    assert [re.sub("</?code>", "", head) for head in heads] == [
        "a, b, c and 1 more (plans 1, 8)",
        "a, b, c and 1 more (plans 1, 9)",
    ]
    assert "- plan 8, 31 to update: `dev`\n- plan 9, 31 to update: `prod`\n" in one


def test_an_override_for_many_environments_shows_for_which() -> None:
    allowed = (Override("--max-removes", "12"),)
    plans = {name: split(0.4 if name in "abc" else 0.1) for name in "abcde"}
    for name in "abcd":
        plans[name] = plans[name]._replace(plan=plans[name].plan._replace(overrides=allowed))
    assert "> - `a`, `b`, `c` and 1 more (plans 1 to 2): `--max-removes` 12\n" in page(fleet_of(plans))


def test_a_run_with_a_failure_or_against_a_revision_approves_nothing_on_either_page() -> None:
    good = fleet_of({"dev": split(0.1)})
    failed = EnvironmentResult("prod", "failed", 1, "the remote is down", "https://gateway.example")
    cases = {
        "not every environment has a plan that may be applied": good._replace(results=(*good.results, failed)),
        "a plan against a git revision cannot be applied": good._replace(
            results=tuple(replace(one, remote="git:main") for one in good.results)
        ),
        "nothing was planned": good._replace(results=()),
    }
    for why, fleet in cases.items():
        assert approves(page(fleet)) == NONE
        assert f"✕ none: {why}" in fleet_html(FleetView(fleet))
    assert approves(page(good)) == good.digest
    assert "✓ one digest approves all of these plans" in fleet_html(FleetView(good))


def test_pages_show_where_they_come_from_and_leave_out_what_is_not_known() -> None:
    fleet = fleet_of({"dev": split(0.1)})
    view = FleetView(fleet, provenance=Provenance("2026-01-01 00:00 UTC", "org/repo", "topic", "", "#5", "0.1"))
    shown = "<sub>made `2026-01-01 00:00 UTC`, repository `org/repo`, branch `topic`, pull request `#5`, policyctl `0.1`</sub>"
    assert shown in fleet_markdown(view)
    assert "<dt>Pull request</dt><dd>#5</dd>" in fleet_html(view)
    assert "<dt>Commit</dt>" not in fleet_html(view)
    assert "<sub>" not in page(fleet)


@pytest.mark.slow
def test_pages_of_two_thousand_environments_are_bounded() -> None:
    kinds = fleet_of({f"kind-{number}": split(round(0.01 + number / 100, 2)) for number in range(60)})
    results = (replace(kinds.results[number % 60], name=f"tenant-{number:04}") for number in range(2_000))
    fleet = kinds._replace(results=tuple(results))
    text = fleet_html(FleetView(fleet))
    assert text.count('<th scope="row">tenant-') == 2_000
    assert len(text.encode()) < 2_000_000
    assert len(page(fleet).encode()) <= COMMENT_BYTES


@pytest.mark.slow
def test_changes_that_the_page_has_no_room_for_are_counted() -> None:
    review = reviewed([policy(f"p{number:04}") for number in range(1_010)], [])
    text = fleet_html(FleetView(fleet_of({"dev": review})))
    assert "and 10 further changes, not on this page" in text
    assert len(text.encode()) < 4_000_000
