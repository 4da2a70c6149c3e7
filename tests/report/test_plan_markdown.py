"""A plan as GitHub's markdown: what comes first, what is drawn, and what is left out when it does not all fit."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.ci.comments import comment_text
from policyctl.cli.plan import render_plan
from policyctl.effect.tree import DeclaredModels
from policyctl.errors import Mark, Problem
from policyctl.plan.consumers import Consumer, ConsumerUse, FoundConsumers
from policyctl.plan.diff import FieldChange
from policyctl.plan.fleet import EnvironmentResult, FleetResult
from policyctl.plan.safety import BranchChecks, Review
from policyctl.plan.settings import Settings
from policyctl.policy.document import policy_from_file
from policyctl.report.fleet import FleetView
from policyctl.report.plan_items import Room, shape
from policyctl.report.plan_markdown import COMMENT_BYTES, LEAST_BYTES, fleet_markdown, plan_markdown, settings_rows
from policyctl.report.plan_view import PlanView
from tests import strategies as some
from tests.builders import body, model, model_row, policy, row
from tests.examples import examples
from tests.report.github_html import TAGS, Page
from tests.report.plans import CASES, PLANS, balanced, reviewed


def page(review: Review, room: int = COMMENT_BYTES, **more: Any) -> str:
    return plan_markdown(PlanView(review, "local", **more), room)


@pytest.mark.parametrize("case", CASES)
def test_it_is_a_page_of_the_elements_that_were_meant(case: str) -> None:
    seen = Page(page(PLANS[case]))
    assert {element.tag for element in seen.elements} <= TAGS
    assert {key for element in seen.elements for key in element.attributes} <= {"lang"}
    assert (seen.magic, seen.wrong) == ([], [])


@pytest.mark.parametrize("case", CASES)
def test_two_lines_that_are_not_shown_come_first_and_are_the_only_comments(case: str) -> None:
    """Whose page it is; which plan it shows, and what a merge approves: nothing where the plan must not be applied."""
    review = PLANS[case]
    text = page(review, directory="teams/a b-->/policies")
    first, second = text.split("\n")[:2]
    assert first == "<!-- policyctl:plan environment=dev directory=teams/a%20b--%3E/policies -->"
    stopped = review.refusals or review.stale or review.branch.failed_tests or "not on this page as a whole" in text
    approved = "none" if stopped else review.plan.digest
    assert second == f"<!-- policyctl:shows {review.plan.digest} approves {approved} -->"
    assert Page(text).comments == [first[5:-4], second[5:-4]]


@pytest.mark.parametrize("case", [case for case in PLANS if case not in ("none", "empty", "settings", "thousand")])
def test_every_change_has_a_row_and_a_folded_part_from_the_riskiest_down(case: str) -> None:
    seen = Page(page(PLANS[case]))
    names = [re.split(" (?:in )?", text)[1:] for text in seen.texts("summary")]
    assert seen.texts("th") == ["change", "policy or model" if PLANS[case].models else "policy", "effect"]
    assert len(seen.texts("td")) == 3 * len(names) == 3 * (len(PLANS[case].plan.changes) + len(PLANS[case].affected))
    assert len(seen.texts("details")) == len(names)
    if risky := re.search(r"Riskiest: (.*?): ", seen.texts("p")[0]):
        assert seen.texts("td")[1] == risky[1].split(", ")[0]


def test_what_stops_a_plan_comes_before_its_changes() -> None:
    for case, said in (
        ("refused", "is protected"),
        ("stale", "`policy.targets[three]`: absent →"),
        ("mixed", "several policies of this name"),
    ):
        text = page(PLANS[case])
        assert text.index("> [!") < text.index(said) < text.index("| change |")


def test_no_setting_hides_behind_others() -> None:
    """Neither behind many rows, nor behind the entries of a list: those that were there before, and those that come with it."""
    reasons = [{"guard": "max_calls", "policy": f"p-{number}", "reason": "because " * 30} for number in range(40)]
    rows = [FieldChange(f"environments.a.limits.{number}", None, number) for number in range(60)]
    every = {"guard": "deny_new", "policy": "*", "reason": "r" * 300}
    review = PLANS["empty"]._replace(
        branch=BranchChecks(
            settings=(
                *rows,
                FieldChange("guard_exceptions", reasons[:20], [*reasons[1:], every]),
                FieldChange("environments.b.guard_exceptions", None, [*reasons, every]),
                FieldChange("z", "x" * 900, "y" * 900),
            )
        ),
    )
    text = page(review)
    items = Page(text).texts("li")
    assert sum("deny_new" in item and "*" in item and "r" * 300 in item for item in items) == 2
    assert sum("policy: p-0," in item for item in items) == 2, "one goes, and comes elsewhere"
    assert sum("policy: p-7," in item for item in items) == 1, "it stays in one list, and comes in the other"
    assert items[-1] == f"z: {'x' * 900} → {'y' * 900}"
    assert f"approves {review.plan.digest} -->" in text


EVERY = {"guard": "deny_new", "policy": "*", "reason": "r" * 2_000}
MANY = tuple(FieldChange(f"environments.a{number}.remote", None, f"https://{'x' * 90}.example") for number in range(900))


@pytest.mark.parametrize(
    ("changed", "rows"),
    [
        (MANY, 900),
        ((FieldChange("guard_exceptions", None, [EVERY]),), 2),
        ((FieldChange("scope", ["x" * 3_000], ["y"]), FieldChange("prune", None, True)), 3),
    ],
)
def test_a_page_that_leaves_out_a_change_of_the_settings_approves_nothing_and_says_so_first(
    changed: tuple[FieldChange, ...], rows: int
) -> None:
    review = PLANS["mixed"]._replace(branch=BranchChecks(settings=changed))
    text = page(review)
    assert len(text.encode()) <= COMMENT_BYTES
    assert "approves none -->" in text.split("\n")[1]
    missing = re.search(r"> \[!CAUTION\]\n> ([\d,]+) changes? of the safety settings (?:is|are) not on this page", text)
    assert missing is not None
    above = text[: text.index("### policyctl")]
    assert above.count("\n> - ") - 1 == rows - int(missing[1].replace(",", ""))
    assert f"> - and {missing[1]} more, not shown\n" in above
    assert above.index("[!CAUTION]") < above.index("[!IMPORTANT]")


def test_everything_that_an_added_policy_has_is_on_the_page() -> None:
    """Its texts, its cache, and what it serves, however deep that is."""
    deep: dict[str, Any] = {"strategy": {"mode": "fallback"}, "targets": [{"model_name": "virtual-model/evil/x"}]}
    for number in range(6):
        first = {"model_name": f"virtual-model/openai/gpt-4o-{number}", "weight": 0.01}
        deep = {"strategy": {"mode": "loadbalance"}, "targets": [first, {**deep, "weight": 0.99}]}
    document = {"name": "virtual-policy/new", "display_name": "Assistant", "description": "For all.", "policy": deep}
    deep["cache"] = {"mode": "semantic"}
    review = reviewed([policy_from_file(document, "new.yaml")], [])
    for text in (page(review), render_plan("text", PlanView(review, "local")), render_plan("json", PlanView(review, "local"))):
        for part in ("evil/x", "Assistant", "For all.", "semantic"):
            assert part in text


def test_warnings_and_notes_leave_the_room_to_the_changes() -> None:
    long = tuple("\U0001f600" * 600 for _ in range(40))
    review = reviewed([policy(f"new-{number}") for number in range(25)], [])
    text = page(
        review._replace(notes=long, refusals=long, branch=BranchChecks(settings=tuple(FieldChange(one, 1, 2) for one in long)))
    )
    rows = Page(text).texts("td")[1::3]
    assert sorted(rows) == sorted(f"new-{number}" for number in range(25))


def test_notes_about_changes_are_not_hidden_by_others() -> None:
    """Neither by rows of the tenant, which may be many, nor by what a branch adds to the settings."""
    unreadable = [{"id": f"id-{number}", "name": f"bad-{number}", "policy": number} for number in range(30)]
    own = row("kept", "virtual-model/x/a", override_params={"temperature": 1})
    desired = [policy("new"), policy("kept", "virtual-model/x/b")]
    review = reviewed(desired, [*unreadable, row("old"), own])
    idle = tuple(f"an exception {number} that nothing needs" for number in range(80))
    notes = Page(page(review._replace(notes=(*review.notes, *idle)))).texts("li")
    assert any("a rename?" in note for note in notes)
    assert any("policy.override_params" in note for note in notes)


@pytest.mark.slow
@pytest.mark.parametrize(("changes", "room"), [(400, 16_000), (400, COMMENT_BYTES), (100, COMMENT_BYTES)])
def test_a_page_approves_what_it_shows_as_a_whole_and_says_first_what_it_lacks(changes: int, room: int) -> None:
    """The fields of each change, which are in its section: its row is only a summary."""
    text = page(reviewed([policy(f"new-{number}") for number in range(changes)], []), room)
    shown = len(Page(text).texts("summary"))
    shown -= "further changes" in text  # those are folded once more
    assert ("approves none -->" in text.split("\n")[1]) == (shown < changes) == (changes == 400)
    if shown < changes:
        assert text.split("\n")[3] == (
            f"> Of {changes} changes {changes - shown} are not on this page as a whole, so merging it approves no plan. "
            "Read what `policyctl plan -v` prints; then propose fewer changes at once, or start apply by hand with the plan's "
            "digest."
        )


BEFORE = [f"virtual-model/x/m-{number:02}" for number in range(60)]
SWAPPED = [*BEFORE[1::-1], *BEFORE[2:40], "virtual-model/evil/m", *BEFORE[40:]]
CODES = [*range(400, 520)]


@pytest.mark.parametrize(
    ("live", "desired", "shown"),
    [
        ({}, {"targets": SWAPPED}, ["order: x/m-01, x/m-00, x/m-02", "x/m-39, evil/m, x/m-40", "[x/m-59]: {"]),
        ({"targets": BEFORE}, {"targets": SWAPPED}, ["x/m-01, x/m-00", "x/m-39, evil/m, x/m-40"]),
        ({"codes": CODES}, {"codes": [*CODES[:90:2], *CODES[90:115], *CODES[116:]]}, ["482, 484", "514, (… 4 entries)]"]),
        ({"weight": 0.5}, {"weight": 0.4}, ["[x/m-59].weight: 0.4"]),
        ({"description": "a " * 300}, {"description": "b " * 300 + "the end"}, ["the end"]),
        ({}, {"description": "b " * 11_000 + "the end"}, ["the end"]),
    ],
)
def test_a_change_is_shown_to_its_last_difference(live: dict[str, Any], desired: dict[str, Any], shown: list[str]) -> None:
    """However many fields it has, and however long their values are."""

    def document(
        targets: list[str] = BEFORE, codes: Sequence[int] = (429,), weight: float = 1, description: str = "d"
    ) -> dict[str, Any]:
        strategy = {"mode": "fallback", "on_status_codes": list(codes)}
        body = {"strategy": strategy, "targets": [{"model_name": name, "weight": weight} for name in targets]}
        return {"name": "p", "description": description, "policy": body}

    text = page(reviewed([policy_from_file(document(**desired), "p.yaml")], [{"id": "1", **document(**live)}] if live else []))
    section = text[text.index("```diff") :].split("\n```\n")[0]
    assert [part for part in shown if part not in section] == []
    assert "approves sha256:" in text.split("\n")[1]


def test_a_change_that_is_too_big_for_the_page_hides_no_other() -> None:
    """Its folded part is left out and counted; those of the changes behind it are there."""
    big = row("a-big", "b/old", "evil/" + "n" * 30_000)
    files = [policy("a-big", "evil/new"), *(policy(f"p-{number}", "b/new") for number in range(3))]
    text = page(reviewed(files, [big, *(row(f"p-{number}", "b/old") for number in range(3))]), 20_000)
    seen = Page(text)
    assert sorted(seen.texts("td")[1::3]) == ["a-big", "p-0", "p-1", "p-2"]
    assert sorted(summary.split()[1] for summary in seen.texts("summary")) == ["p-0", "p-1", "p-2"]
    assert "1 lack some detail here" in text
    assert "Of 4 changes 1 is not on this page as a whole" in text


def test_names_are_whole_where_an_approval_covers_them() -> None:
    """Two that differ only in their middle are never mistaken for each other."""
    long = "n" * 250 + "-middle-" + "n" * 250
    text = page(reviewed([policy(long, "evil/" + long)], []))
    section = text[text.index("<details>") :]
    assert Page(section).texts("summary")[0].startswith(f"add {long} in policies/n")
    assert f"+ policy.targets[evil/{long}]: " in section


def test_what_does_not_fit_is_skipped_and_what_follows_is_tried() -> None:
    room = Room(1000)
    assert list(room.take(["a" * 600, "b" * 600, None, "c" * 300, "", "d" * 200])) == [
        "a" * 600,
        None,
        None,
        "c" * 300,
        "",
        None,
    ]
    assert room.left == 100


def test_a_long_way_to_a_change_is_shown_by_its_ends() -> None:
    chain = [row(f"t{number:03}", f"virtual-policy/t{number + 1:03}") for number in range(18)]
    text = page(reviewed([policy("t018", "evil/new")], [*chain, row("t018", "b/old")], Settings(scope=("t018",))))
    assert "`t000` through `t001`, `t002`, `t003`, `t004`, …, `t018` |" in text
    assert "`t012` through `t013`, `t014`, `t015`, `t016`, `t017`, `t018` |" in text


def test_a_comment_that_does_not_show_the_plan_approves_nothing() -> None:
    """As when overrides with long reasons leave no room for the page."""
    review = PLANS["update"]
    whole, cut = (comment_text(page(review), review.plan, "https://x", longest) for longest in (60_000, 500))
    assert whole.endswith(f"<!-- policyctl {review.plan.digest} -->\n")
    assert "too long to show here" in cut
    assert cut.endswith("<!-- policyctl none -->\n")


def test_many_refusals_are_counted() -> None:
    many = PLANS["refused"]._replace(refusals=tuple(f"refusal {number}" for number in range(50)))
    items = Page(page(many)).texts("li")
    assert items[-1] == "and 30 more"
    assert items[:-1] == [f"refusal {number}" for number in range(20)]


@pytest.mark.parametrize(
    ("before", "after", "drawn"),
    [
        (body("a", "b"), body("a", "b", mode="single"), True),
        (body("a", "b"), body("b", "a"), True),
        (body("a"), body("b"), True),
        (balanced(0.5), balanced(0.7), False),
        (balanced(0.5), balanced(0.5, "virtual-model/x/a"), True),
        (balanced(0.5), balanced(0.5, retry={"attempts": 2}), False),
        (body("a"), {**body(), "targets": [{**body("a")}]}, True),
    ],
)
def test_a_policy_is_drawn_before_and_after_where_its_shape_changed(
    before: dict[str, Any], after: dict[str, Any], drawn: bool
) -> None:
    text = page(reviewed([policy("p", **after)], [{"id": "1", "name": "p", "policy": before}]))
    assert text.count("```mermaid") == (2 if drawn else 0)


def test_the_order_of_a_load_balance_is_not_part_of_the_shape() -> None:
    assert shape(body("a", "b", mode="loadbalance")) == shape(body("b", "a", mode="loadbalance"))
    assert shape(body("a", "b")) != shape(body("b", "a"))


def test_a_graph_that_is_too_large_to_read_is_not_drawn() -> None:
    text = page(reviewed([policy("p", *(f"model-{number}" for number in range(200)))], [row("p", "a")]))
    assert text.count("```mermaid") == 1
    assert "After:\n\ntoo large to draw here\n" in text


@pytest.mark.slow
@pytest.mark.parametrize("room", [LEAST_BYTES, 20_000, COMMENT_BYTES, 300_000, 1024 * 1024])
def test_a_thousand_changes_fit_by_whole_blocks(room: int) -> None:
    text = page(PLANS["thousand"], room)
    assert len(text.encode()) <= room
    seen = Page(text)
    assert (seen.wrong, len(seen.texts("h3"))) == ([], 1)
    listed = len(seen.texts("td")) // 3
    assert ("lack some detail here" in text) == (room != 1024 * 1024)
    assert ("> Of 1,000 changes " in text) == ("approves none -->" in text) == (room != 1024 * 1024)
    if room >= COMMENT_BYTES:
        # The riskiest are all there, with their graphs; the rest is folded.
        assert len(seen.texts("pre")) > 25
        assert listed > 400
        assert "```mermaid" in text


@pytest.mark.no_cover  # measuring takes longer than its work
@pytest.mark.slow
def test_more_room_shows_more() -> None:
    shown = [len(Page(page(PLANS["thousand"], room)).texts("tr")) for room in (16_000, 32_000, 64_000, 128_000)]
    assert shown == sorted(set(shown))


@pytest.mark.slow
def test_what_is_left_out_is_pointed_at() -> None:
    assert "all of it is in what `policyctl plan -v` prints." in page(PLANS["thousand"])
    run = "https://github.com/a/b/actions/runs/1"
    links = [one for one in Page(page(PLANS["thousand"], artifacts=run)).elements if one.tag == "a"]
    assert [(link.attributes, link.text) for link in links] == [({"href": run}, "this run's artifacts")] * 2


@pytest.mark.slow
def test_many_changes_alike_do_not_hide_the_others() -> None:
    first = page(PLANS["thousand"]).split("<details>")[0]
    assert first.count("| remove |") == 3
    assert first.count("| update |") == 22


def test_verbose_shows_all_that_a_change_does() -> None:
    names = [f"virtual-model/{provider}/{model}" for provider in "abcd" for model in "xyz"]
    review = reviewed([policy("p", *names, mode="loadbalance")], [row("p", "virtual-model/b/x")])
    assert re.search(r"^- and \d+ more$", page(review), re.MULTILINE)
    assert "more" not in page(review, verbose=True).split("<details>")[1]


@given(st.lists(st.tuples(some.names, some.loose_documents, some.documents()), max_size=5), st.integers(LEAST_BYTES, 30_000))
@settings(max_examples=examples(20))
def test_whatever_the_policies_are_it_fits_and_nothing_in_it_acts(
    pairs: list[tuple[str, dict[str, Any], dict[str, Any]]], room: int
) -> None:
    rows = [{**before, "id": str(place), "name": name} for place, (name, before, _) in enumerate(pairs)]
    desired = {name: policy(name, **after["policy"]) for name, _, after in pairs[:3]}
    text = page(reviewed(list(desired.values()), rows), room)
    seen = Page(text)
    assert len(text.encode()) <= room
    assert {element.tag for element in seen.elements} <= TAGS
    assert (seen.magic, seen.wrong) == ([], [])


@pytest.mark.slow
@given(st.lists(st.text(st.sampled_from("𝔘`|\\<@é\u202e :[1.)"), min_size=400), min_size=1, max_size=30))
@settings(max_examples=examples(20))
def test_the_verdict_fits_in_the_least_room(texts: list[str]) -> None:
    rows = [row(text, text) for text in texts]
    review = reviewed([policy("a")], rows)._replace(refusals=tuple(texts), notes=tuple(texts), stale=tuple(texts))
    text = page(review, LEAST_BYTES)
    assert len(text.encode()) <= LEAST_BYTES
    assert Page(text).wrong == []


def test_a_setting_of_a_model_that_is_called_as_an_order_of_targets_is_shown_as_a_setting() -> None:
    """An order that is absent is any; another setting that is absent is not there."""
    config = {"targets order": 5, "policy": {"targets": [1]}}
    added = page(reviewed([model("a/b", config=config)], [], Settings(models=True)))
    assert '+ config."targets order": 5\n' in added
    removed = page(reviewed([model("a/b")], [model_row("a/b", config={"targets order": "any"})], Settings(models=True)))
    assert '- config."targets order": any\n' in removed


WORDS = "was reviewed by the platform team (see there); it is safe"


def _told(review: Review) -> Review:
    """A review with plain words in everything that a branch has besides policies, other ones in each."""
    agent, file, address, name, kind, reason = (f"{place} {WORDS}" for place in ("one", "two", "three", "four", "five", "six"))
    use = ConsumerUse(Consumer("agent", agent, file=f"policies/{file}.yaml"), "llm")
    settings = (FieldChange(f"notify.{address}.url", None, address), FieldChange("protect", [reason], [name]))
    warning = Problem(Mark(f"policies/{file}.yaml", 3, 1), "P461", f"protect has {name}, which matches no policy")
    branch = BranchChecks(settings, None, (warning,), (f"policies/a.test.yaml: nine {WORDS}: status: expected 200, got 503",))
    notes = (*review.notes, f"the model_type is {kind} now", f"the exception takes effect after its merge: {reason}")
    found = FoundConsumers({change.name: (use,) for change in review.plan.changes})
    return review._replace(
        branch=branch, notes=notes, declared=DeclaredModels(types={"virtual-model/x/y": kind}), consumers=found
    )


def test_words_of_a_branch_are_never_a_sentence_of_the_page() -> None:
    """They could claim anything in policyctl's name."""
    review = _told(reviewed([policy("a", "x/y")], [row("a")]))
    apart = review._replace(branch=review.branch._replace(settings=()))  # as those of several environments are
    one = EnvironmentResult("dev", "planned", alike="1", counts={"update": 1}, review=apart)
    held = EnvironmentResult("eu", "suspended", reason=f"seven {WORDS}")
    several = FleetView(FleetResult("plan", (one, held), gone=(f"eight {WORDS}",), settings=review.branch.settings))
    for text in (page(review), fleet_markdown(several)):
        seen = Page(text)
        assert WORDS in text
        assert not [found for found in seen.prose if "platform team" in found or "safe" in found.split()]


def test_an_order_of_waves_is_shown_whole() -> None:
    """Of another long list only what comes and goes is."""
    waves = [{"label": f"{name}={'x' * 60}"} for name in "abcdefg"]
    swapped = [waves[1], waves[0], *waves[2:]]
    text = settings_rows([FieldChange("waves", waves, swapped), FieldChange("protect", waves, swapped)], Room(9_000))[0]
    assert text.count("a=x") == text.count("b=x") == 2
    assert text.index("a=x") < text.index("b=x")
    assert text.rindex("a=x") > text.rindex("b=x")
    assert "> - `protect`: the same entries in another way\n" in text


def test_an_entry_that_a_long_list_still_has_is_not_removed() -> None:
    """It may have been in it twice."""
    entries = [f"{name * 60}" for name in "abcdefg"]
    (row,) = settings_rows([FieldChange("scope", [*entries, "evil", "evil"], [*entries, "evil", "new", "new"])], Room(9_000))[
        0
    ].splitlines()[3:-1]
    assert row == "> - `scope`: adds new"


def test_a_policy_without_targets_gets_some() -> None:
    live = {"id": "1", "name": "a", "policy": {"strategy": {"mode": "single"}}}
    assert "+ policy.targets" in page(reviewed([policy("a", "x/y")], [live]))


def test_a_policy_called_worse_does_not_take_the_weight_from_what_is_worse() -> None:
    fallback = {"strategy": {"mode": "fallback", "on_status_codes": [503]}}
    text = page(reviewed([policy("worse", "a", **fallback)], [row("worse", "a", "b", **fallback)]))
    assert "- **worse:** served 100% → 0% while `a` is down with" in text
