"""What is written as a policy file reads back the same, whatever it is."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from policyctl.errors import errors_in
from policyctl.load.directory import read_contents
from policyctl.load.source import Source
from policyctl.load.write import policy_text
from policyctl.load.yaml import read_yaml
from policyctl.policy.document import Policy, canonical_text, normal_form, policy_from_file
from policyctl.policy.live import LivePolicy, read_row
from policyctl.policy.names import is_visible
from tests.strategies import documents, hostile, loose_documents, weights

INPUT = Path(__file__).parent / "written"

models = hostile.map(lambda text: " ".join("".join(filter(is_visible, text)).split())).filter(bool)


def read(text: str) -> Policy:
    """The one policy of a file's text; no problem, not even a warning about its text."""
    documents = read_yaml(text, "x.yaml")
    assert [document.problems for document in documents] == [[]]
    contents = read_contents(Source("x.yaml", text, documents), {})
    assert errors_in(contents.problems) == []
    (policy,) = contents.policies
    return policy


def written(document: dict[str, Any]) -> str:
    text = policy_text(document)
    assert isinstance(text, str), text
    return text


def one(**more: Any) -> dict[str, Any]:
    policy = {"strategy": {"mode": "single"}, "targets": [{"model_name": "virtual-model/x/a"}]}
    return {"name": "virtual-policy/a", "display_name": "A", "description": "B", "policy": policy, **more}


@given(documents(st.from_regex(r"[a-z]{1,9}", fullmatch=True)))
def test_file_policy_file_policy_is_the_identity(data: dict[str, Any]) -> None:
    """A desired policy is read back exactly, and the second file has the bytes of the first."""
    desired = policy_from_file(data, "x.yaml")
    before = copy.deepcopy(desired.document)
    text = written(desired.document)
    back = read(text)
    assert back.document == before == desired.document
    assert written(back.document) == text


@given(hostile, hostile, models, hostile.filter(bool))
def test_any_text_reads_back_the_same(display_name: str, description: str, model: str, cache: str) -> None:
    document = one(display_name=display_name, description=description)
    document["policy"] = {
        "strategy": {"mode": "single"},
        "cache": {"mode": cache},
        "targets": [{"model_name": model}],
    }
    text = written(document)
    assert read(text).document == document
    assert all(char.isprintable() or char == "\n" for char in text)


@given(hostile)
def test_a_plain_reader_of_either_yaml_sees_the_same_text(description: str) -> None:
    """A reader that knows no templates sees what policyctl's reader sees before rendering."""
    text = written(one(description=description))
    ours = read_yaml(text, "x.yaml")[0].data
    assert yaml.safe_load(text) == ours
    if not any(marker in description for marker in ("{{", "{%", "{#")):
        assert ours["description"] == description


@given(loose_documents)
def test_what_a_remote_may_hold_is_written_so_that_nothing_differs_or_refused_with_reasons(document: dict[str, Any]) -> None:
    row = read_row({**document, "id": "1", "tenant_id": "secret-tenant", "created_on": "now"})
    if not isinstance(row, LivePolicy):
        return
    text = policy_text(row.document)
    if isinstance(text, str):
        assert canonical_text(normal_form(read(text).document)) == row.text
        assert "secret-tenant" not in text
    else:
        assert text
        assert all(complaint.message and complaint.severity == "error" for complaint in text)


@given(weights | st.floats(5e-324, 1e-5))
def test_a_weight_reads_back_to_the_last_bit(weight: float) -> None:
    document = one()
    document["policy"]["targets"][0]["weight"] = weight
    text = written(document)
    assert read(text).document["policy"]["targets"][0]["weight"] == weight
    assert yaml.safe_load(text)["policy"]["targets"][0]["weight"] == weight


def test_a_file_has_the_formats_order_and_nothing_that_is_the_servers() -> None:
    row = json.loads((INPUT / "row.json").read_text("utf-8"))
    assert written(row) == (INPUT / "row.yaml").read_text("utf-8")


@pytest.mark.parametrize(
    ("description", "line"),
    [
        ("Balances 2 models", "description: Balances 2 models"),
        ("", 'description: ""'),
        ("503", 'description: "503"'),
        ("no", 'description: "no"'),
        ("n", 'description: "n"'),
        ("1e3", 'description: "1e3"'),
        ("12:30", 'description: "12:30"'),
        ("a: b", 'description: "a: b"'),
        ("a:b", "description: a:b"),
        ("a #b", 'description: "a #b"'),
        ("a#b", "description: a#b"),
        ("- a", 'description: "- a"'),
        ("ends with:", 'description: "ends with:"'),
        (" padded", 'description: " padded"'),
        ("Grüße 日本 🙂", "description: Grüße 日本 🙂"),
        ('say "hi"', 'description: say "hi"'),
        ('"hi"', "description: '\"hi\"'"),
        ("it's: fine", 'description: "it\'s: fine"'),
        ("C:\\x: it's", "description: 'C:\\x: it''s'"),
        ("\x1b[31m", 'description: "\\x1b[31m"'),
        ("a\u200bb", 'description: "a\\u200bb"'),
        ("one\ntwo", "description: |-\n  one\n  two"),
        ("one\n\n  two\n", "description: |\n  one\n\n    two"),
        ("one \ntwo", 'description: "one \\ntwo"'),
        ("\none", 'description: "\\none"'),
        ("one\n\n", 'description: "one\\n\\n"'),
        ("use {{ x }}", "description: '{{ \"use {{ x }}\" }}'"),
        ("it's {%", "description: '{{ \"it''s {%\" }}'"),
    ],
)
def test_a_text_is_written_as_plainly_as_it_can_be(description: str, line: str) -> None:
    text = written(one(description=description))
    assert f"\n{line}\npolicy:" in text
    assert read(text).document["description"] == description


def _leaf(**more: Any) -> dict[str, Any]:
    document = one()
    document["policy"]["targets"][0].update(more)
    return document


def _nested(depth: int) -> dict[str, Any]:
    document = one()
    for _ in range(depth):
        document["policy"] = {"strategy": {"mode": "single"}, "targets": [document["policy"]]}
    return document


@pytest.mark.parametrize(
    ("document", "path", "message"),
    [
        (_leaf(weight=250), ("policy", "targets", 0, "weight"), "weight must be greater than 0 and at most 1, got 250"),
        (_leaf(weight=float("nan")), ("policy", "targets", 0, "weight"), "weight must be greater than 0 and at most 1"),
        (_leaf(weight=True), ("policy", "targets", 0, "weight"), "weight must be a number, got true"),
        (_leaf(targets=[]), ("policy", "targets", 0, "targets"), "a target with model_name takes no targets"),
        (one(policy={"targets": [{"model_name": "x"}]}), ("policy",), "missing key strategy"),
        (one(policy={"strategy": {"mode": "single"}, "targets": []}), ("policy", "targets"), "targets must not be empty"),
        (one(policy={}), ("policy",), "missing key strategy"),
        (one(name=" x"), ("name",), "name must not start or end with white space"),
        (one(name="x\n"), ("name",), "name must not start or end with white space"),
        (one(description="\ud800"), ("description",), "must be valid Unicode text"),
        (one(display_name=5), ("display_name",), "display_name must be a string, got 5"),
        (one(description="{{" + "x" * 70_000), ("description",), "holds template syntax and is longer"),
        pytest.param(
            one(description="x" * (9 * 1024 * 1024)), (), "its file would have more than 8 MiB", marks=pytest.mark.slow
        ),
        (_nested(70), ("policy", *["targets", 0] * 65), "groups are nested more than 64 deep"),
    ],
)
def test_what_no_file_may_contain_is_refused_with_the_place_and_the_reason(
    document: dict[str, Any], path: tuple[str | int, ...], message: str
) -> None:
    found = policy_text(document)
    assert not isinstance(found, str)
    assert path in [complaint.path for complaint in found]
    assert message in "\n".join(complaint.message for complaint in found)


def test_the_deepest_policy_that_a_file_may_contain_is_written() -> None:
    document = _nested(64)
    assert read(written(document)).document == document
