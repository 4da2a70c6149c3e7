"""Files of scenario tests: statuses as keys, templates, several documents, and who is stopped by what is wrong in them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from policyctl.load.scenarios import SuiteFile, read_suites
from policyctl.load.source import read_source
from policyctl.load.yaml import read_yaml
from policyctl.policy.schema import templated_schema
from tests.conftest import Policyctl, Project
from tests.problem_lines import shows

TEST = "spec_version: v1\nkind: policy_test\npolicy: anygem\ntests:\n  - {name: it answers, expect: {served: 1}}\n"
CASES = Path(__file__).parent.parent / "cases"


def test_a_status_is_a_key_in_tests_and_nowhere_else(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    given = "given: {google: {503: 0.1, 500: 0.1}}, "
    project.write("a.test.yaml", TEST.replace("expect:", f"{given}expect:"))
    assert policyctl("validate").code == 0
    project.write("b.yaml", "kind: agent\nname: x\n503: 0.1\n")
    project.write("c.yaml", "spec_version: v1\nkind: model\nname: c\n503: 1\npolicy: {}\n")
    assert "policies/c.yaml:4:1: a key must be text, got 503 (quote it) [P013]\n" in policyctl("validate").out


def test_a_status_written_twice_is_a_duplicate_key(project: Project) -> None:
    given = 'given: {google: {503: 0.1, "503": 0.1}}, '
    path = project.write("a.test.yaml", TEST.replace("expect:", f"{given}expect:"))
    suites, problems = read_suites(read_source(path), {})
    assert suites == []
    assert [problem.code for problem in problems] == ["P003"]


def test_json_means_the_same(project: Project) -> None:
    data = {
        "spec_version": "v1",
        "kind": "policy_test",
        "policy": "anygem",
        "tests": [{"name": "it answers", "given": {"google": {"503": 0.1}}, "expect": {"status": {"200": "> 0.5"}}}],
    }
    path = project.write("a.test.json", json.dumps(data))
    given = "given: {google: {503: 0.1}}, expect: {status: {200: '> 0.5'}}"
    text = project.write("b.test.yaml", TEST.replace("expect: {served: 1}", given))
    (from_json,), problems = read_suites(read_source(path), {})
    (from_yaml,), _ = read_suites(read_source(text), {})
    assert problems == []
    assert (from_json.policy, from_json.scenarios) == (from_yaml.policy, from_yaml.scenarios)


@pytest.mark.parametrize("name", ["a.test.yml", "a.test.json", "deep/er/a.test.yaml"])
def test_a_test_file_is_known_by_its_name(name: str, project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    project.write(name, '{"kind": "model"}')
    assert shows(f"policies/{name}:1:10: kind must be policy_test [P105]", policyctl("validate").out)


def test_a_document_beside_its_policy_is_one_too(project: Project, policyctl: Policyctl) -> None:
    path = project.write("anygem.yaml")
    path.write_text(f"{path.read_text()}---\n{TEST}---\n{TEST.replace('served: 1', 'served: 2')}")
    assert shows("policies/anygem.yaml:28:41: served must be a number from 0 to 1 [P109]", policyctl("validate").out)


def test_problems_of_tests_do_not_stop_a_plan(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    project.write("a.test.yaml", TEST.replace("anygem", "gone") + "  - nonsense\n")
    assert policyctl("validate").code == 1
    project.write("b.test.yaml", "tests: [")
    assert policyctl("plan").err == ""
    assert policyctl("apply", "--yes").code == 0
    assert policyctl("plan", "--test").code == 1


def test_a_test_of_a_policy_with_a_problem_is_not_called_a_test_without_policy(project: Project, policyctl: Policyctl) -> None:
    path = project.write("anygem.yaml")
    path.write_text(path.read_text().replace("0.75", "75"))
    project.write("a.test.yaml", TEST)
    ran = policyctl("validate")
    assert "P103" in ran.out
    assert "P205" not in ran.out


def test_one_file_alone_does_not_show_that_its_policy_is_missing(project: Project, policyctl: Policyctl) -> None:
    """As a commit hook is given it: the policy is in another file."""
    project.write("anygem.yaml")
    project.write("policyctl.yaml", "default: local\n")
    assert policyctl("validate", project.write("a.test.yaml", TEST)).code == 0
    assert policyctl("validate", project.write("a.test.yaml", TEST.replace("anygem", "gone"))).code == 0
    assert "P205" in policyctl("validate").out


def test_a_problem_of_one_environment_shows_which(project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", "default: a\nenvironments: {a: {vars: {part: 1}}, b: {vars: {part: 2}}, c: {}}\n")
    project.write("anygem.yaml")
    project.write("a.test.yaml", TEST.replace("1}", '"{{ part }}"}'))
    place = "policies/a.test.yaml:5:41"
    assert policyctl("validate").out.splitlines()[:-1] == [
        f"{place}: the variable part is not set in environment c (add it to environments.c.vars in policyctl.yaml) [P018]",
        f'{place}: served must be a number from 0 to 1, or a comparison such as ">= 0.99", got 2 (environment b) [P109]',
    ]


def test_valid_tests_are_valid_by_the_json_schema() -> None:
    """What validate accepts, no editor marks as wrong."""
    validator = Draft202012Validator(templated_schema(SuiteFile, "tests"))
    documents = read_yaml((CASES / "valid/scenarios.test.yaml").read_text("utf-8"), "", number_keys=True)
    assert len(documents) == 2
    for document in documents:
        validator.validate(document.data)


@pytest.mark.parametrize(
    "entry",
    [
        "given: {a: 42}, expect: {served: 1}",
        "given: {a: refusd}, expect: {served: 1}",
        "given: {a: {42: 0.1}}, expect: {served: 1}",
        "given: {a: []}, expect: {served: 1}",
        "given: {a: {503: 2}}, expect: {served: 1}",
        "expect: {served: 2}",
        'expect: {served: "=> 0.5"}',
        "expect: {status: {20: 1}}",
        "expect: {sevred: 1}",
        "expect: {max_calls: -1}",
        "expcet: {}",
    ],
)
def test_schema_and_validate_agree_on_what_is_wrong(entry: str, project: Project) -> None:
    text = TEST.replace("expect: {served: 1}", entry)
    (document,) = read_yaml(text, "", number_keys=True)
    assert not Draft202012Validator(templated_schema(SuiteFile, "tests")).is_valid(document.data)
    assert read_suites(read_source(project.write("a.test.yaml", text)), {})[0] == []
