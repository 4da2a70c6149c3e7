"""Lines at a terminal's width."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.report.style import Style
from policyctl.report.wrapping import Line, columns, laid_out

RED = "\x1b[31m"
OFF = "\x1b[0m"

BROKEN = {
    "what fits is left alone": (Line("", "one two"), 20, "one two"),
    "words stay whole": (Line("", "one two three four five"), 20, "one two three four\nfive"),
    "continuations stand under their text": (Line("note  ", "one two three four"), 20, "note  one two three\n      four"),
    "or deeper": (Line("  ", "one two three four five", 2), 20, "  one two three four\n    five"),
    "a lead that takes half of the width does not push all to the right": (
        Line("  a.very.long.lead: ", "one two"),
        20,
        "  a.very.long.lead:\n      one two",
    ),
    "a word longer than the line is broken": (Line("", f"{'x' * 25} y"), 20, f"{'x' * 20}\nxxxxx y"),
    "no width leaves one line": (Line("", "x " * 99), None, "x " * 99),
    "a terminal of three columns is taken for one of twenty": (
        Line("", "one two three four five"),
        3,
        "one two three four\nfive",
    ),
    "a wide character takes two columns": (Line("", "翻訳翻訳翻訳翻訳翻訳翻訳"), 21, "翻訳翻訳翻訳翻訳翻訳\n翻訳"),
    "a combining mark takes none and stays where it belongs": (
        Line("", "e\u0301" * 20 + "x"),
        20,
        "e\u0301" * 20 + "\nx",
    ),
    "a colour ends with its row and begins again": (
        Line("  ", f"{RED}one two three four five{OFF} six"),
        20,
        f"  {RED}one two three four{OFF}\n  {RED}five{OFF} six",
    ),
    "a long painted word is broken beside its escapes, never in them": (
        Line("", f"{RED}{'x' * 22}{OFF}"),
        20,
        f"{RED}{'x' * 20}{OFF}\n{RED}xx{OFF}",
    ),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_line_at_a_width(case: str) -> None:
    line, width, expected = BROKEN[case]
    assert laid_out([line], width) == expected


SIZES = {"abc": 3, "翻訳": 4, "😀": 2, "e\u0301": 1, "ｱ": 1, f"{RED}a{OFF}": 1, "": 0, "→ …": 3}


@pytest.mark.parametrize("text", SIZES)
def test_columns(text: str) -> None:
    assert columns(text) == SIZES[text]


words = st.text("ab翻😀e\u0301-", min_size=1, max_size=30)
painted = st.builds(
    lambda text, looks: Style(on=True).paint(text, *looks), words, st.sampled_from([(), ("red",), ("dim", "bold")])
)
texts = st.lists(painted, max_size=12).map(" ".join)


@given(st.sampled_from(["", "  ", "note  ", "    policy.targets[a]: "]), texts, st.integers(20, 60), st.integers(0, 2))
def test_nothing_is_too_wide_and_nothing_but_spaces_is_lost(lead: str, text: str, width: int, deeper: int) -> None:
    rows = laid_out([Line(lead, text, deeper)], width).split("\n")
    assert all(columns(row) <= width for row in rows)
    bare = [re.sub(r"\x1b\[[\d;]*m", "", each) for each in (lead + text, "".join(rows))]
    assert bare[0].replace(" ", "") == bare[1].replace(" ", "")
    for row in rows:
        escapes = re.findall(r"\x1b\[[\d;]*m", row)
        assert not escapes or escapes[-1] == OFF
        assert row.count("\x1b") == len(escapes)
