"""Text in GitHub's markdown is only shown, and shown whole; held against GitHub's own parser."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from policyctl.report.format import cut, escape
from policyctl.report.markdown import block, code, html_code, naming, prose, row
from tests.report.github_html import Page

VISIBLE = r"""
` `` \ \| | a|b </details> </code> <script>alert(1)</script> <!-- --> &lt; &#64;x @team @org/team a@b.example #12 GH-12
org/repo#1 deadbeef abcdefa 0123456 0123456789abcdef CVE-2024-1 GHSA-aaaa :tada: $x$ $`x`$ https://x.example www.x.example
www. http: [a](b) ![a](b) [a]: [^1] [ ] [x] *a* _a_ ~~a~~ 1. 1) - + * # ## > --- === *** ``` ~~~ ::error::x ##[error]x
( ) (a) (@a) a, «é»
"""
TRAPS = [*VISIBLE.split(), " ` ", "\x1b[2J", "\u202e", "\n", "\r\n", "  ", "\t", "| - |"]
texts = st.lists(st.sampled_from(TRAPS) | st.text(max_size=4) | st.sampled_from(["word", "7", " "])).map("".join)
sentences = st.lists(st.sampled_from(TRAPS) | st.sampled_from(["served", "100%", "1,000", "→", "(allow"])).map(" ".join)


@given(texts)
@example("`")
@example(" a ")
@example("  ")
def test_a_text_as_code_is_one_code_span_that_shows_it(text: str) -> None:
    shown = escape(text)[:200]
    page = Page(f"a {code(shown)} b")
    assert [element[:2] for element in page.elements] == [("code", {}), ("p", {})]
    assert page.texts("code") == [shown or " "]
    assert (page.prose, page.wrong) == (["a ", " b", "\n"], [])


@given(texts)
def test_a_text_as_code_in_html_is_one_element_that_shows_it(text: str) -> None:
    page = Page(f"<details><summary>a {html_code(text)}</summary>\n\n</details>\n")
    assert [element.tag for element in page.elements] == ["code", "summary", "details"]
    whole = escape(text)
    assert page.texts("code") == [whole if len(whole) <= 200 else f"{whole[:199]}…"]
    assert (page.magic, page.wrong) == ([], [])


@given(sentences | texts)
@pytest.mark.parametrize("before", ["- ", "> - ", "a "])
def test_a_sentence_has_no_markup_but_code_and_reads_the_same(before: str, text: str) -> None:
    page = Page(f"{before}{prose(text)}\n")
    assert {element.tag for element in page.elements} <= {"code", "ul", "li", "p", "blockquote"}
    assert sum(element.tag in ("ul", "p") for element in page.elements) == 1
    assert (page.magic, page.wrong) == ([], [])
    (whole,) = (element.text for element in page.elements if element.tag in ("ul", "p"))
    assert whole.split() == [*before.strip("> -").split(), *escape(text).split()]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        (
            "google/g-2.0 down with 429, connect timeout: served 34.78% → 0%",
            "`google/g-2.0` down with 429, connect timeout: served 34.78% → 0%",
        ),
        ("more than max_removes 5 (see --max-removes 7)", "more than `max_removes` 5 (see `--max-removes` 7)"),
        ("1. one", "`1.` one"),
        ("the worst-case of 12. one", "the worst-case of 12. one"),
        ("deadbeefdeadbeef' is a word", "`deadbeefdeadbeef'` is a word"),
        ("not-a-feedface, cafebabe's", "`not-a-feedface`, `cafebabe's`"),
        ('it has "one two three" in it', 'it has `"one two three"` in it'),
        ("x: {a: one, b: [two, {c: 3}]} → absent", "x: `{a: one, b: [two, {c: 3}]}` → absent"),
        ("x: {a: one → [two three]", "x: `{a`: one → `[two three]`"),
        ("feed the cafe", "feed the cafe"),
        ("a @b #1 c", "a `@b #1` c"),
        ("", ""),
    ],
)  # fmt: skip
def test_what_is_a_plain_word_or_number_stays_so(text: str, shown: str) -> None:
    assert prose(text) == shown


def test_what_is_named_is_code_though_it_looks_like_words() -> None:
    with naming(["zebra", "two words", "", "`x", "nine"]):
        assert prose("zebra has two words, zebras have nine.") == "`zebra` has `two words`, zebras have `nine`."
    assert prose("zebra has two words") == "zebra has two words"


def test_spaces_in_what_is_named_join_no_other_words() -> None:
    with naming([" ", ": ", " x"]):
        assert prose("x: served 100% → 0%") == "`x`: served 100% → 0%"


@given(st.lists(texts, min_size=1, max_size=4), st.sampled_from(["diff", "text", "mermaid"]))
def test_no_line_ends_a_block(lines: list[str], language: str) -> None:
    shown = [f"- {escape(line)}" for line in lines]
    page = Page(f"{block(language, shown)}\nafter\n")
    assert [element.tag for element in page.elements] == ["code", "pre", "p"]
    assert page.texts("code") == ["".join(f"{line}\n" for line in shown)]
    assert page.texts("p") == ["after"]


@given(st.lists(st.tuples(texts, sentences), min_size=1, max_size=3))
def test_a_table_has_the_cells_that_were_given(cells: list[tuple[str, str]]) -> None:
    page = Page("| a | b |\n|---|---|\n" + "".join(row((code(name), prose(said))) for name, said in cells))
    assert {element.tag for element in page.elements} <= {"table", "thead", "tbody", "tr", "th", "td", "code"}
    assert (page.magic, page.wrong) == ([], [])
    found = page.texts("td")
    assert len(found) == 2 * len(cells)
    for (name, said), shown in zip(cells, zip(found[::2], found[1::2], strict=True), strict=True):
        # A bar behind a backslash cannot be written in a table; it is shown by its number.
        assert shown[0] == (cut(escape(name), 200) or " ").replace("\\|", "\\\\x7c")
        assert shown[1].split() == cut(escape(said), 600).replace("\\|", "\\\\x7c").split()


@pytest.mark.parametrize("shown", [code, prose, html_code])
def test_a_text_that_is_too_long_is_cut(shown: object) -> None:
    assert callable(shown)
    assert "…" in shown("x" * 1000)
    assert len(shown("x" * 10_000)) < 1000
