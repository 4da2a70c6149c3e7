"""A change's fields: both values, what they have in common left out, and never the same text twice."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policyctl.plan.diff import FieldChange
from policyctl.report.effect_rows import percents
from policyctl.report.format import value
from policyctl.report.plan_text import elided, field_lines, sides
from tests.strategies import json_values

LOREM = "This policy serves the chat of the shop and is looked after by the people of the shop, who sleep at night. "

SIDES = {
    "short values are whole": (0.25, 0.4, "0.25 → 0.4"),
    "a key that was absent": (None, [429, 503], "absent → [429, 503]"),
    "a text is not what its letters read as": (None, "absent", 'absent → "absent"'),
    "nor as a number": ("3", 3, '"3" → 3'),
    "nor as a truth": (True, "true", 'true → "true"'),
    "one word of a long text": (
        f"{LOREM}{LOREM}Call Ann. {LOREM}",
        f"{LOREM}{LOREM}Call Bob. {LOREM}",
        "… at night. Call Ann. This policy … → … at night. Call Bob. This policy …",
    ),
    "two words far from each other": (
        f"Old {LOREM}{LOREM}old",
        f"New {LOREM}{LOREM}new",
        '"Old This policy serves … sleep at night. old" → "New This policy serves … sleep at night. new"',
    ),
    "a word at the end of a text": (LOREM, f"{LOREM}Really.", '… sleep at night. " → … sleep at night. Really."'),
    "a code in a long list": (
        [*range(400, 420), 503],
        [*range(400, 420), 500, 503],
        "… 417, 418, 419, 503] → … 417, 418, 419, 500, 503]",
    ),
    "a word without spaces": ("x" * 200 + "a", "x" * 200 + "b", f"…{'x' * 20}a → …{'x' * 20}b"),
}


@pytest.mark.parametrize("case", SIDES)
def test_both_sides(case: str) -> None:
    before, after, expected = SIDES[case]
    assert " → ".join(sides(FieldChange("description", before, after))) == expected


def test_nothing_is_left_out_when_all_is_wanted() -> None:
    before, after = sides(FieldChange("description", f"{LOREM * 9}one", f"{LOREM * 9}two"), whole=True)
    assert (before, after) == (f'"{LOREM * 9}one"', f'"{LOREM * 9}two"')


def test_an_order_that_made_no_difference_before_is_any() -> None:
    assert sides(FieldChange("policy.targets order", None, "a, b")) == ("any", "a, b")
    assert sides(FieldChange("policy.targets order", "a, b", None), whole=True) == ("a, b", "any")


def test_an_order_in_which_two_far_targets_changed_places_shows_both() -> None:
    names = [f"vendor/model-{number:02}" for number in range(20)]
    moved = [names[-1], *names[1:-1], names[0]]
    before, after = sides(FieldChange("policy.targets order", ", ".join(names), ", ".join(moved)))
    assert (before.split(", ")[0], after.split(", ")[0]) == (names[0], names[-1])
    assert "…" in before + after
    assert max(len(before), len(after)) <= 200


letters = st.text("ab ", max_size=200)
joined = st.builds(lambda parts, end: f"{LOREM * 2}".join(parts) + end, st.lists(letters, min_size=1, max_size=4), letters)


@given(joined, joined)
@example(LOREM * 3, LOREM * 4)
@example("a " * 300, "a " * 299 + "b ")
@example("a " * 900, "b" + "a " * 900)
def test_two_texts_that_differ_never_look_the_same(before: str, after: str) -> None:
    shown = elided(before, after)
    assert (shown[0] == shown[1]) == (before == after)
    assert max(map(len, shown)) <= 200


@given(json_values, json_values)
def test_two_values_that_differ_never_look_the_same(before: Any, after: Any) -> None:
    shown = [value(one, longest=None) for one in (before, after)]
    assert (shown[0] == shown[1]) == (repr(before) == repr(after))


@pytest.mark.parametrize(
    ("item", "shown"),
    [
        ("x/gpt-4o", "x/gpt-4o"),
        ("x/g\u0440t-4o", "x/g\\u0440t-4o"),
        ("x/\u2c9f3", "x/\\u2c9f3"),
        ("x/gpt-4\U0001042c", "x/gpt-4\\U0001042c"),
        ("x/\u6a21\u578b-3 \u0438 \u044f", '"x/\u6a21\u578b-3 \u0438 \u044f"'),
        ([{"x": "\u05d0\u05d1"}], "[{x: \\u05d0\\u05d1}]"),
        (r"x/g\u0440t-4o", '"x/g\\\\u0440t-4o"'),
    ],
)
def test_a_value_shows_letters_that_look_like_others(item: Any, shown: str) -> None:
    """In one word as in a text, and so that the letter and its escape are two things."""
    assert value(item) == shown


def test_a_field_is_one_line() -> None:
    fields = (FieldChange("a", 1, 2), FieldChange("policy.targets[b].weight", "absent", 3), FieldChange("c", "long " * 9, 4))
    assert list(field_lines(fields)) == [
        "    a: 1 → 2",
        '    policy.targets[b].weight: "absent" → 3',
        f'    c: "{"long " * 9}" → 4',
    ]


@pytest.mark.parametrize(
    ("before", "after", "shown"),
    [
        (0.5, 0.75, ("50%", "75%")),
        (0.5, 0.99996, ("50%", "99.996%")),
        (0.99996, 0.5, ("99.996%", "50%")),
        (0.5, 0.00004, ("50%", "0.004%")),
        (0.0, 1.0, ("0%", "100%")),
        (0.0, 1e-9, ("0%", "0.0000001%")),
        (0.5, 1 - 1e-16, ("50%", "100%")),
        (0.99999, 0.99998, ("99.999%", "99.998%")),
        (1.0, 1 - 1e-16, None),
    ],
)
def test_a_change_shows_no_certainty_that_is_not_there(before: float, after: float, shown: tuple[str, str] | None) -> None:
    """Neither `0%` for something nor `100%` for less than everything, as far as twelve digits go."""
    assert percents(before, after) == shown
