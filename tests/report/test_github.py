"""What GitHub Actions gets: annotations within its limits, and nothing from a file that it would obey."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyctl.errors import Mark, Problem, Severity
from policyctl.plan.safety import review
from policyctl.plan.settings import Settings
from policyctl.policy.live import observe_rows
from policyctl.report.checks import github_annotations
from policyctl.report.markdown import fenced
from policyctl.report.plan_json import step_outputs
from tests.builders import plan, policy, row

LINE = re.compile(r"::(error|warning|notice)(?: ([^:\r\n]*))?::([^\r\n]*)")
DECODED = (("%0A", "\n"), ("%0D", "\r"), ("%3A", ":"), ("%2C", ","), ("%25", "%"))


def same(file: str) -> str:
    return file


def problems(severity: Severity, number: int) -> list[Problem]:
    return [Problem(Mark("policies/a.yaml", line + 1, 3), "P103", f"{severity} {line}", severity) for line in range(number)]


def decoded(text: str) -> str:
    """Text as the runner reads it: each of the five escapes means one character."""
    for escape, char in DECODED:
        text = text.replace(escape, char)
    return text


def test_an_annotation_names_its_place_and_its_rule() -> None:
    problem = Problem(Mark("policies/a.yaml", 3, 7), "P103", "weight must be greater than 0, got 75")
    assert github_annotations([problem], lambda file: f"sub/{file}") == (
        "::error file=sub/policies/a.yaml,line=3,col=7,title=P103 out-of-range::weight must be greater than 0, got 75 [P103]\n"
    )


def test_what_github_would_read_otherwise_is_escaped() -> None:
    problem = Problem(Mark("policies/a,b:100%.yaml"), "P999", "50% of a::b\n::error::x\r\x1b[2J\u202e", "warning")
    assert github_annotations([problem], same) == (
        "::warning file=policies/a%2Cb%3A100%25.yaml,title=P999::50%25 of a::b\\n::error::x\\r\\x1b[2J\\u202e [P999]\n"
    )


@given(st.text(), st.text(), st.sampled_from(["error", "warning", "info"]))
def test_whatever_is_in_it_an_annotation_is_one_line_that_shows_it(file: str, message: str, severity: Severity) -> None:
    text = github_annotations([Problem(Mark(file, 2, 4), "P103", message, severity)], same)
    assert text.endswith("\n")
    assert len(text.splitlines()) == 1
    found = LINE.fullmatch(text[:-1])
    assert found is not None
    properties = dict(one.split("=", 1) for one in found[2].split(","))
    assert list(properties) == ["file", "line", "col", "title"]
    if all(text.isascii() and text.isprintable() for text in (file, message)):
        assert (decoded(properties["file"]), decoded(found[3])) == (file, f"{message} [P103]")


@pytest.mark.parametrize(
    ("errors", "warnings", "infos", "shown", "last"),
    [
        (10, 10, 10, (10, 10, 10), None),
        (11, 0, 0, (10, 0, 1), "1 further error"),
        (1, 0, 11, (1, 0, 10), "2 further notices"),
        (1200, 11, 10, (10, 10, 10), "1,190 further errors, 1 further warning, 1 further notice"),
    ],
)
def test_at_most_ten_of_a_type_errors_first_and_the_rest_counted(
    errors: int, warnings: int, infos: int, shown: tuple[int, int, int], last: str | None
) -> None:
    found = [*problems("info", infos), *problems("warning", warnings), *problems("error", errors)]
    lines = github_annotations(found, same).splitlines()
    annotations = [line for line in lines if line.startswith("::")]
    kinds = [line.removeprefix("::").split(" ")[0] for line in annotations]
    assert kinds == ["error"] * shown[0] + ["warning"] * shown[1] + ["notice"] * shown[2]
    said = f"::notice title=policyctl::{last} not shown here; the log of the step lists them"
    assert (said in lines) == (last is not None)
    assert last is None or annotations[-1] == said
    # What has no annotation follows as text, with its place.
    annotated = errors + warnings + infos - (len(lines) - len(annotations))
    assert annotated == sum(shown) - (last is not None)
    assert len([line for line in lines[len(annotations) :] if line.startswith("policies/a.yaml:")]) == len(lines) - len(
        annotations
    )


def test_without_problems_nothing_is_reported() -> None:
    assert github_annotations([], same) == ""


REVIEWED = review(plan([policy("a"), policy("b", "z")], [row("b"), row("c")]), observe_rows([row("b"), row("c")]), Settings())


@given(st.lists(st.sampled_from(["`", "```", "`````", "~~~", "\n", " ", "a", "</details>"])).map("".join))
def test_nothing_in_a_text_ends_its_block(text: str) -> None:
    first, *inside, last, after, rest = fenced(text).split("\n")
    assert (first, after, rest) == (f"{last}text", "", "")
    assert set(last) == {"`"}
    assert len(last) >= 3
    assert last not in "\n".join(inside)
    assert inside == text.splitlines()


@given(st.integers(0, 400), st.integers(0, 3000))
def test_a_long_text_is_cut_by_lines_to_what_fits(number: int, room: int) -> None:
    lines = [f"line {line} →" for line in range(number)]
    text = fenced("\n".join(lines), 200 + room)
    assert len(text.encode()) <= 200 + room
    _, *inside, _, _, _ = text.split("\n")
    if inside != lines:
        *kept, said = inside
        assert kept == lines[: len(kept)]
        left = number - len(kept)
        assert said == f"… and {left:,} further line{'s' if left > 1 else ''}; the log of the step has all"


def test_outputs_hold_what_later_steps_ask() -> None:
    assert step_outputs(REVIEWED, "out dir/plan.json").splitlines() == [
        "has_changes=true",
        "add=1",
        "update=1",
        "remove=1",
        "blocked=0",
        "refusals=0",
        "settings=0",
        "failed_tests=0",
        f"digest={REVIEWED.plan.digest}",
        "plan_path=out dir/plan.json",
    ]


def test_outputs_of_an_empty_plan() -> None:
    nothing = review(plan([policy("a")], [row("a")]), observe_rows([row("a")]), Settings())
    text = step_outputs(nothing, None)
    assert text.startswith("has_changes=false\nadd=0\nupdate=0\nremove=0\n")
    assert "plan_path" not in text


@pytest.mark.parametrize("path", ["a\nhas_changes=false", "a\nEND\nx=y", "a\rb"])
def test_a_path_of_several_lines_is_not_a_second_output(path: str) -> None:
    text = step_outputs(REVIEWED, path)
    start = text.index("plan_path<<") + len("plan_path<<")
    delimiter, _, rest = text[start:].partition("\n")
    assert rest == f"{path}\n{delimiter}\n"
    assert delimiter not in re.split("[\r\n]", path)
