"""Whatever a file holds, loading it gives policies, or problems that each name a place in it."""

from __future__ import annotations

import json

from hypothesis import example, given, settings
from hypothesis import strategies as st

from policyctl.errors import InvalidInput, Problem
from policyctl.load.config import config_of
from policyctl.load.directory import Files
from policyctl.load.environment import Environment
from policyctl.load.source import source_of
from policyctl.load.write import policy_text
from policyctl.load.yaml import read_yaml
from policyctl.policy.document import canonical_text, normal_form
from tests.examples import examples
from tests.fuzz.mutating import CONFIG, SEEDS, contents, texts, values
from tests.strategies import json_values

VARS = {"w": 0.5, "codes": [429, 503], "name": "x", "yes": True, "nested": {"a": 1}}
DOCUMENTS = [document.data for seed in SEEDS for document in read_yaml(seed, "x", number_keys=True) if document.data]


def assert_placed(problems: tuple[Problem, ...] | list[Problem], content: bytes, file: str) -> None:
    """Every problem is one line with a place that the file has."""
    text = content.decode("utf-8-sig", "replace")
    lines, longest = text.splitlines() or [""], max(map(len, text.split("\n")))
    for problem in problems:
        assert problem.mark.file == file
        if problem.code == "P019":  # the whole file is not what it is for
            assert (problem.mark.line, problem.mark.column) == (0, 0)
            continue
        assert 1 <= problem.mark.line <= len(lines) + 1, problem
        assert 1 <= problem.mark.column <= longest + 2, problem
        assert problem.message
        assert "\n" not in problem.message


def load(content: bytes, file: str) -> None:
    """Load a file as plan does, and use what comes of it."""
    loaded = Files([file], read=lambda _: content, whole=True).load(Environment("dev", vars=VARS))
    assert_placed([*loaded.problems, *loaded.test_problems], content, file)
    for policy in loaded.policies:
        canonical_text(normal_form(policy.document))
        policy_text(policy.document)


@given(contents(*SEEDS), st.sampled_from(["x.yaml", "x.test.yaml"]))
@settings(max_examples=examples(400))
def test_yaml_gone_wrong(content: bytes, file: str) -> None:
    load(content, file)


@given(values(DOCUMENTS, json_values), st.sampled_from(["x.json", "x.test.json", "x.yaml"]))
@settings(max_examples=examples(150))
def test_documents_gone_wrong(documents: object, file: str) -> None:
    for document in documents if isinstance(documents, list) else [documents]:
        load(json.dumps(document, default=str).encode(), file)


@given(texts(*(json.dumps(document) for document in DOCUMENTS[:6])))
@example('{"policy":' + "[" * 900 + '"{{"' + "]" * 900 + "}")
@example('{"a": NaN, "b": Infinity, "a": ' + "9" * 5000 + "}")
@settings(max_examples=examples(150))
def test_json_gone_wrong(text: str) -> None:
    load(text.encode("utf-8", "replace"), "x.json")


@given(st.binary(max_size=200), st.sampled_from(["x.yaml", "x.json", "x.test.yaml"]))
def test_bytes(content: bytes, file: str) -> None:
    load(content, file)


@given(contents(CONFIG))
@example(b'environments: {a: {remote: "sqlite:///a\\0b"}, b: {ca_file: "\\0"}}')
@settings(max_examples=examples(300))
def test_a_configuration_gone_wrong(content: bytes) -> None:
    try:
        config_of(source_of(content, "policyctl.yaml"))
    except InvalidInput as error:
        assert_placed(error.problems, content, "policyctl.yaml")
