"""One style: of what pull writes nothing changes; whatever changes elsewhere, a file means the same and keeps its comments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st

from policyctl.errors import InvalidInput
from policyctl.load.directory import read_contents
from policyctl.load.source import Source
from policyctl.load.style import styled
from policyctl.load.write import policy_text
from policyctl.load.yaml import read_yaml
from policyctl.policy.document import policy_from_file
from tests.strategies import documents, hostile

CASES = Path(__file__).parents[1] / "cases"
NAMES = st.from_regex(r"[a-z]{1,9}", fullmatch=True)
VALID = sorted((CASES / "valid").rglob("*.yaml"))


def style(text: str) -> str:
    return styled(text.encode(), "x.yaml")


# As it is written, and in one style.
TABLE = {
    "indent of mappings": ("a:\n      b:\n         c: 1\n", "a:\n  b:\n    c: 1\n"),
    "indent of lists": ("a:\n- b\n- c:  1\n  d: 2\n", "a:\n  - b\n  - c: 1\n    d: 2\n"),
    "a list in a list": ("-   - a\n    - b\n-\n  - c\n", "- - a\n  - b\n- - c\n"),
    "a whole text that is indented": ("  a: 1\n  b: 2\n", "a: 1\nb: 2\n"),
    "spaces at the end": ("a: 1  \n   \nb: 2 \n", "a: 1\n\nb: 2\n"),
    "empty lines": ("\n\na: 1\n\n\n\nb: 2\n\n\n", "a: 1\n\nb: 2\n"),
    "no line feed at the end": ("a: 1", "a: 1\n"),
    "line ends of Windows": ("a: 1\r\nb:\r\n  - c\r\n", "a: 1\nb:\n  - c\n"),
    "a mark of the byte order": ("\ufeffa: 1\n", "a: 1\n"),
    "quotes that mean nothing": ('a: \'b\'\n"c": "d e"\n', "a: b\nc: d e\n"),
    "quotes that mean something": ("a: '503'\n'no': \"x: y\"\nb: '{{ c }}'\n", 'a: "503"\n"no": "x: y"\nb: \'{{ c }}\'\n'),
    "the plainest quotes": ("a: \"say \\\"hi\\\": x\"\nb: 'it''s: fine'\n", 'a: \'say "hi": x\'\nb: "it\'s: fine"\n'),
    "null and booleans": ("a: ~\nb: True\nc: NULL\nd:\n", "a: null\nb: true\nc: null\nd:\n"),
    "a list on one line": ("a: [ 503,429 ,  'x' , \"a b\", '*' ]\nb: [ ]\n", 'a: [503, 429, x, "a b", "*"]\nb: []\n'),
    "a mapping on one line": ("a: { b: 1,'c':[2] , d: {} }\n", "a: {b: 1, c: [2], d: {}}\n"),
    "brackets over several lines": (
        "a:\n    b: [1,\n        2, # two\n        3]\n",
        "a:\n  b: [1,\n      2, # two\n      3]\n",
    ),
    "a value on the next line": ("a:\n    b\nc:\n  [1]\n", "a: b\nc: [1]\n"),
    "a value on the next line, after a comment": ("a: # why\n    b\n", "a: # why\n  b\n"),
    "a text over several lines": ("a: one\n     two\n\n     three\n", "a: one\n  two\n\n  three\n"),
    "a block of text": (
        "a:\n    b: |\n          one\n            two\n\n    c: 1\n",
        "a:\n  b: |\n    one\n      two\n\n  c: 1\n",
    ),
    "a block of text with its indent": ("a:\n    b: |2-\n         one\n        two\n", "a:\n  b: |2-\n       one\n      two\n"),
    "a block that keeps its end": ("a: |+\n   one\n\n\nb: 1\n", "a: |+\n  one\n\n\nb: 1\n"),
    "a block at the end of the file": ("a: |\n   one", "a: |-\n  one\n"),
    "a line feed in quotes": ('a: "one\\ntwo"\n', "a: |-\n  one\n  two\n"),
    "anchors": ("a:   &x\n    b: 1\nc: &y  2\nd:\n- *x\n-   <<: *x\n", "a: &x\n  b: 1\nc: &y  2\nd:\n  - *x\n  - <<: *x\n"),
    "a template in every kind of value": (
        "a:   \"{{ x }}\"\nb: [ '{{ y }}' ]\nc: >\n    {{ z }}\n    z\n",
        "a: \"{{ x }}\"\nb: ['{{ y }}']\nc: >\n  {{ z }}\n  z\n",
    ),
    "only a comment": ("   # c  \n", "# c\n"),
}

UNCHANGED = {
    "numbers as they are written": "a: 0.750\nb: 0x1F\nc: 1.0e-07\n",
    "a line feed in quotes, before a comment": 'a: "one\\ntwo" # c\n',
    "documents": "---\na: 1\n\n---  # two\nb: 2\n...\n",
    "keys that are numbers and dates, for files that may have them": "given: {200: 0.5}\nuntil: 2026-12-04\nno: 12:30\n",
    "spaces that are text to YAML": "a: one\xa0\n  \xa0\n  two\nb: \u3000\nc: [1,\n  x\xa0\n  , 2]\n",
    "nothing": "",
    "a directive": "%YAML 1.2\n---\na:   1\n",
    "a key with a question mark": "? a\n:   1\n",
}


@pytest.mark.parametrize("case", TABLE)
def test_one_style(case: str) -> None:
    text, expected = TABLE[case]
    assert style(text) == expected
    assert style(expected) == expected


@pytest.mark.parametrize("case", UNCHANGED)
def test_what_already_has_the_style_or_has_none_stays(case: str) -> None:
    assert style(UNCHANGED[case]) == UNCHANGED[case]


COMMENTED = """\
# above all
a:   1    # far right
# of b
b:   # of the list
    # of the first
    - x: 1
      # of x
      y: 2

      # after y
    # after the item
    -   # of the dash
        z: 3
  # between the levels
c: "#no" #tight
# last
"""
COMMENTED_IN_STYLE = """\
# above all
a: 1    # far right
# of b
b:   # of the list
  # of the first
  - x: 1
    # of x
    y: 2

    # after y
  # after the item
  -   # of the dash
    z: 3
# between the levels
c: "#no" #tight
# last
"""


def test_comments_stay_with_what_they_are_about() -> None:
    assert style(COMMENTED) == COMMENTED_IN_STYLE
    assert style(COMMENTED_IN_STYLE) == COMMENTED_IN_STYLE


INVALID = {
    "not YAML": ("a: [1", "this [ is never closed"),
    "a merge conflict": ("<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> x\n", "the merge conflict"),
    "a key twice": ("a: 1\na: 2\n", 'duplicate key "a"'),
    "a template without quotes": ("a: {{ x }}\n", "a template must be quoted"),
    "a tag": ("a: !!python/name:x y\n", "has no meaning here"),
    "a key that is not text": ("[a]: 1\n", "a key must be text"),
}


@pytest.mark.parametrize("case", INVALID)
def test_what_has_no_clear_meaning_is_refused(case: str) -> None:
    text, message = INVALID[case]
    with pytest.raises(InvalidInput) as caught:
        style(text)
    assert message in caught.value.problems[0].message


@given(documents(NAMES))
def test_of_what_pull_writes_nothing_changes(data: dict[str, Any]) -> None:
    text = policy_text(policy_from_file(data, "x.yaml").document)
    assert isinstance(text, str)
    assert style(text) == text


@given(hostile, hostile)
def test_nor_with_any_text_in_it(display_name: str, description: str) -> None:
    policy = {"strategy": {"mode": "single"}, "targets": [{"model_name": "virtual-model/x/a"}]}
    text = policy_text({"name": "virtual-policy/a", "display_name": display_name, "description": description, "policy": policy})
    assert isinstance(text, str)
    assert style(text) == text


def loaded(text: str) -> tuple[Any, ...]:
    """What a policy file contains, rendered, and its problems without their places."""
    found = read_contents(Source("x.yaml", text, read_yaml(text, "x.yaml")), {"share": 0.5, "x": "y"})
    policies = [(one.name, one.text) for one in found.policies]
    return policies, sorted((one.code, one.message) for one in found.problems), found.skipped


@pytest.mark.parametrize("path", VALID, ids=lambda path: path.relative_to(CASES).as_posix())
def test_a_valid_file_holds_the_same_policies_afterwards(path: Path) -> None:
    text = path.read_text("utf-8-sig")
    once = styled(path.read_bytes(), str(path))
    assert loaded(once) == loaded(text)
    assert style(once) == once
    assert [line.strip() for line in once.split("\n") if line.strip().startswith("#")] == [
        line.strip() for line in text.split("\n") if line.strip().startswith("#")
    ]


STYLES = st.fixed_dictionaries(
    {
        "indent": st.integers(2, 9),
        "default_flow_style": st.sampled_from([None, False, True]),
        "width": st.sampled_from([20, 80, 1000]),
        "explicit_start": st.booleans(),
        "allow_unicode": st.booleans(),
    }
)


@given(documents(NAMES), STYLES, st.lists(st.tuples(st.integers(0, 40), st.integers(0, 9))))
def test_a_file_that_another_program_wrote_means_the_same_and_keeps_its_comments(
    data: dict[str, Any], dumped: dict[str, Any], places: list[tuple[int, int]]
) -> None:
    text = yaml.safe_dump({"spec_version": "v1", "kind": "model", **data}, sort_keys=False, **dumped)
    before = read_yaml(text, "x.yaml")[0].data
    lines = text.split("\n")
    for place, indent in places:
        lines.insert(place % (len(lines) + 1), f"{' ' * indent}# {place}-{indent}: '\"")
    text = "\n".join(lines)
    try:
        assume(read_yaml(text, "x.yaml")[0].data == before)  # or the comment is in the middle of a text
    except InvalidInput:
        assume(False)
    once = style(text)
    after = read_yaml(once, "x.yaml")
    assert repr(after[0].data) == repr(before)
    assert once.count("# ") == text.count("# ")
    assert style(once) == once
    assert not [line for line in once.split("\n") if line != line.rstrip(" \t") and "#" not in line]
