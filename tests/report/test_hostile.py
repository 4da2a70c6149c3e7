"""No text of a policy acts in any format of a plan: not on a terminal, in a runner's log, or in what parses it."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.cli.plan import FORMS, Form, render_plan
from policyctl.errors import Mark, Problem
from policyctl.policy.live import UnreadableRow
from policyctl.report.checks import problem_lines
from policyctl.report.effect_rows import effect_graph
from policyctl.report.format import Style, escape, json_text
from policyctl.report.markdown import prose
from policyctl.report.plan_json import plan_data
from policyctl.report.plan_view import PlanView
from tests.builders import policy, row
from tests.examples import examples
from tests.report.github_html import TAGS, Page
from tests.report.plans import reviewed
from tests.report.traps import COMMAND, TRAPS, acting, hostile

texts = st.text(st.characters() | st.sampled_from(":#[ \n\x1b\x9b\ud800ab"), max_size=12)


@pytest.mark.parametrize("form", FORMS)
def test_no_format_of_a_plan_holds_anything_that_acts(form: Form) -> None:
    for trap in TRAPS:
        text = render_plan(form, PlanView(hostile(trap), f"sqlite:///{trap}", verbose=True))
        assert acting(text) == [], repr(trap)
        text.encode()


def test_the_markdown_has_no_element_that_was_not_meant() -> None:
    for trap in TRAPS:
        page = Page(render_plan("markdown", PlanView(hostile(trap), f"sqlite:///{trap}", directory=trap)))
        assert {element.tag for element in page.elements} <= TAGS - {"a"}, repr(trap)
        assert {key for element in page.elements for key in element.attributes} <= {"lang"}, repr(trap)
        assert (page.magic, page.wrong, len(page.comments)) == ([], [], 2), repr(trap)


WORDS = [
    "zebra",
    "deadbeefdeadbeef'",
    "cafebabe-feed",
    "zebra walks zebra",
    "zebra 7 12345678",
    "x/zebra",
    "zebra's",
    "GHSA-zebra'",
]


@pytest.mark.parametrize("text", WORDS)
def test_no_word_of_a_policy_is_outside_code_in_the_markdown(text: str) -> None:
    page = Page(render_plan("markdown", PlanView(hostile(text), "local", verbose=True)))
    outside = " ".join(page.prose)
    assert [word for word in ("zebra", "walks", "deadbeef", "cafebabe", "feed", "12345678") if word in outside] == []
    assert (page.magic, page.wrong) == ([], [])


@pytest.mark.parametrize("length", [10, 3_000])
def test_no_word_of_a_name_in_quotes_is_outside_code_where_the_sentence_is_cut(length: int) -> None:
    row = UnreadableRow("it has no policy", "x", f"zebra walks {'-' * length}")
    assert "walks" not in " ".join(Page(f"{prose(f'left alone ({row.which})')}\n").prose)


def test_a_quotation_mark_within_a_name_pairs_with_none_of_ours() -> None:
    sentence = 'policies/m".yaml:5:1: "the zebra walks" is not a field'
    assert "walks" not in " ".join(Page(f"{prose(sentence)}\n").prose)


def test_a_live_number_of_any_length_is_shown() -> None:
    review = reviewed([policy("p", "x/a", retry={"attempts": 2})], [row("p", "x/a", retry={"attempts": int("9" * 400)})])
    for form in FORMS:
        assert "9" * 40 in render_plan(form, PlanView(review, "local", verbose=True)), form


def test_the_json_still_has_what_the_policies_have() -> None:
    for trap in TRAPS:
        review = hostile(trap)
        shown = json.loads(render_plan("json", PlanView(review, "local")))
        assert shown == json.loads(json.dumps(plan_data(review))), repr(trap)


def test_a_problem_in_a_file_acts_no_more() -> None:
    for trap in TRAPS:
        problem = Problem(Mark(f"{trap}/a.yaml", 1, 1), "P401", trap)
        assert acting("\n".join(problem_lines([problem], Style()))) == [], repr(trap)


def test_no_label_of_a_graph_is_more_than_a_label() -> None:
    for trap in TRAPS:
        text = effect_graph([policy(trap, f"virtual-model/{trap}").document])
        labels = re.findall(r'^  \w+(?:\["|\(\["|\{\{")(.*)(?:"\]|"\]\)|"\}\})$', text, re.MULTILINE)
        assert len(labels) == 2, repr(trap)
        for label in labels:
            assert not re.search(r'["`\\$%]|<(?!br>)|#(?!\w+;)', label), repr(trap)


@given(texts)
def test_plain_text_is_one_line_that_nothing_obeys(text: str) -> None:
    assert acting(escape(text)) == []
    assert "\n" not in escape(text)
    if text.isascii() and text.isprintable() and not COMMAND.search(text):
        assert escape(text) == text


READABLE = (
    "\u0447\u0430\u0442",
    "\u041c\u043e\u0441\u043a\u0432\u0430",
    "\u03bc\u03bf\u03bd\u03c4\u03ad\u03bb\u03bf",
    "\u0561\u0580",
    "caf\u00e9",
    "S\u00f8rensen",
    "\u6a21\u578bgpt",
    "1\u20132",
    "\u2192",
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("ch\u0430t", r"ch\u0430t"),  # a Cyrillic letter
        ("\u0410\u0412\u0421-1", r"\u0410\u0412\u0421-1"),  # Cyrillic letters alone, which read as ABC
        ("gpt4\u043e", r"gpt4\u043e"),
        ("\u039f\u03a1\u0395\u039d", r"\u039f\u03a1\u0395\u039d"),  # Greek ones, which read as OPEN
        ("\u0430\u03bf", r"\u0430\u03bf"),  # of two scripts
        ("\U0001d5ba\uff41", r"\U0001d5ba\uff41"),  # other fonts
        ("\u13aa\u13b3", r"\u13aa\u13b3"),
        ("\uff50rod-*", r"\uff50rod-*"),  # a wide p
        ("\u0131bm", r"\u0131bm"),  # an i without its dot
        ("openai\u2215gpt", r"openai\u2215gpt"),  # a slash of division
        ("cafe\u0301", r"cafe\u0301"),  # an accent of its own
        ("\u212bsgard/\ufa47", r"\u212bsgard/\ufa47"),  # copies of letters that look the same
        ("gpt-4o\ufe0f", r"gpt-4o\ufe0f"),
        ("gpt\u3164", r"gpt\u3164"),
        ("acme/x\u05d0 10%", r"acme/x\u05d0 10%"),  # a Hebrew letter would show what follows it before it
        ("x\u0321\u0321", r"x\u0321\u0321"),  # accents on accents
        *((text, text) for text in READABLE),
    ],
)
def test_what_can_be_taken_for_other_text_is_escaped_and_other_scripts_are_not(text: str, shown: str) -> None:
    assert escape(text) == shown


@given(
    st.recursive(
        st.text() | st.text(st.sampled_from(":#[\x9b\ud800a")), lambda some: st.lists(some) | st.dictionaries(st.text(), some)
    )
)
@settings(max_examples=examples(25))
def test_json_to_print_is_the_same_data(data: object) -> None:
    text = json_text({"x": data})
    assert json.loads(text) == {"x": data}
    assert acting(text) == []
