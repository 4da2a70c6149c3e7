"""policyctl test: what it prints, what it runs, what it exits with."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent
from xml.etree import ElementTree

import pytest

from tests.conftest import Policyctl, Project
from tests.problem_lines import shows
from tests.readme_blocks import MANUAL

EXAMPLES = Path(__file__).parents[2] / "policies"
PAIR = """\
spec_version: v1
kind: policy_test
policy: pair
tests:
  - name: a serves
    expect: {status: 200, served_by: a}
  - name: b takes over
    given: {a: 500}
    expect:
      served_by: {b: 1}
      max_calls: 1
"""
TOP = "environment local\n\n"
BASIS = (
    "by gateway profile portkey-1.15.2, which the platform is assumed to follow; "
    "for answers that are not streamed, unless a test sets streamed\n\n"
)


@pytest.fixture
def pair(project: Project) -> Project:
    """A directory of one policy with its tests, of which one fails."""
    project.policy("pair", "virtual-model/x/a", "virtual-model/y/b")
    project.write("pair.test.yaml", PAIR)
    return project


def test_a_failure_is_reported_at_its_place(pair: Project, policyctl: Policyctl) -> None:
    assert policyctl("test") == (
        1,
        f"""{TOP}policies/pair.test.yaml .F

FAILED b takes over  (virtual-policy/pair)
  policies/pair.test.yaml:11:18: max_calls: expected at most 1, got 2

{BASIS}1 passed, 1 failed
""",
        "",
    )


def test_when_all_pass_the_exit_code_is_0(pair: Project, policyctl: Policyctl) -> None:
    pair.write("pair.test.yaml", PAIR.replace("max_calls: 1", "max_calls: 2"))
    assert policyctl("test") == (0, f"{TOP}policies/pair.test.yaml ..\n\n{BASIS}2 passed\n", "")


ANSWERS = """spec_version: v1
kind: policy_test
policy: pair
tests:
  - {name: the stream is cut, given: {x: cut-stream}, expect: {served: 0, status: 200, never: [y/b]}}
  - {name: the stream cannot be read, streamed: true, given: {x: broken-body}, expect: {served: 0, status: 200, never: [y/b]}}
  - {name: without a stream, given: {x: broken-body}, expect: {served: 0, status: 500, never: [y/b]}}
  - {name: a failure before the stream, streamed: true, given: {x: 503}, expect: {served: 1, served_by: y/b}}
  - {name: no connection in time, given: {x: connect-timeout}, expect: {served: 1, served_by: y/b}}
  - {name: a Retry-After that no retry looks at, given: {x: 429 after 5s}, expect: {served: 1, max_wait_seconds: 0}}
"""


def test_streams_and_other_answers_that_are_not_plain_statuses(project: Project, policyctl: Policyctl) -> None:
    project.policy("pair", "virtual-model/x/a", "virtual-model/y/b")
    project.write("pair.test.yaml", ANSWERS)
    assert policyctl("test") == (0, f"{TOP}policies/pair.test.yaml ......\n\n{BASIS}6 passed\n", "")


def test_a_listed_421_costs_a_test_and_a_guard_the_same_calls(project: Project, policyctl: Policyctl) -> None:
    """The HTTP client below the gateway sends each of the two twice."""
    targets = "[{model_name: virtual-model/x/a}, {model_name: virtual-model/y/b}]"
    policy = f"policy: {{strategy: {{mode: fallback, on_status_codes: [421, 503]}}, targets: {targets}}}"
    project.write("twice.yaml", f"spec_version: v1\nkind: model\nname: twice\n{policy}\n")
    test = 'tests: [{name: both, given: {"*": 421}, expect: {max_calls: LIMIT}}]'
    for limit, code in ((4, 0), (3, 1)):
        text = f"spec_version: v1\nkind: policy_test\npolicy: twice\n{test.replace('LIMIT', str(limit))}\n"
        project.write("twice.test.yaml", text)
        project.write("policyctl.yaml", f"guards: {{max_calls: {limit}}}\n")
        assert policyctl("test").code == code
        assert policyctl("plan").code == 3 * code
    assert "4 calls: x/a × 2, y/b × 2" in policyctl("effect", "twice").out


def test_verbose_is_a_line_a_test(pair: Project, policyctl: Policyctl) -> None:
    lines = policyctl("test", "-v").out.splitlines()
    assert lines[2:4] == ["policies/pair.test.yaml PASSED a serves", "policies/pair.test.yaml FAILED b takes over"]


def test_colour_where_it_is_wanted(pair: Project, policyctl: Policyctl) -> None:
    assert "\x1b[31mF\x1b[0m" in policyctl("test", "--color", "always").out


def test_as_json(pair: Project, policyctl: Policyctl) -> None:
    ran = policyctl("test", "--format", "json")
    data = json.loads(ran.out)
    assert ran.code == 1
    assert (data["format"], data["version"], data["passed"], data["failed"]) == ("policyctl/test", 1, 1, 1)
    assert data["tests"][1] == {
        "file": "policies/pair.test.yaml",
        "line": 7,
        "column": 5,
        "policy": "virtual-policy/pair",
        "name": "b takes over",
        "passed": False,
        "failures": [
            {
                "about": "max_calls",
                "expected": "at most 1",
                "got": "2",
                "file": "policies/pair.test.yaml",
                "line": 11,
                "column": 18,
            }
        ],
    }


def test_as_junit(pair: Project, policyctl: Policyctl) -> None:
    ran = policyctl("test", "--format", "junit")
    root = ElementTree.fromstring(ran.out)
    assert (ran.code, root.tag, root.attrib["tests"], root.attrib["failures"]) == (1, "testsuites", "2", "1")
    (suite,) = root
    assert (suite.tag, suite.attrib["name"]) == ("testsuite", "policies/pair.test.yaml")
    passed, failed = suite
    assert (passed.attrib["name"], list(passed)) == ("a serves", [])
    assert failed.attrib == {
        "classname": "virtual-policy/pair",
        "name": "b takes over",
        "file": "policies/pair.test.yaml",
        "line": "7",
    }
    assert failed[0].attrib == {"message": "max_calls: expected at most 1, got 2"}
    assert failed[0].text == "policies/pair.test.yaml:11:18: max_calls: expected at most 1, got 2"


HOSTILE = '"\\e[2J\\u202e\\0<&>]]> \\uFFFE::error::"'


@pytest.mark.parametrize("form", ["text", "junit", "json"])
def test_names_that_would_act_on_a_terminal_or_break_xml_are_shown_escaped(
    form: str, pair: Project, policyctl: Policyctl
) -> None:
    pair.write("pair.test.yaml", PAIR.replace("b takes over", HOSTILE))
    ran = policyctl("test", "--format", form)
    assert ran.code == 1
    assert all(char.isprintable() or char == "\n" for char in ran.out) or form == "json"
    assert "\x1b" not in ran.out
    if form == "junit":
        assert "<&>]]>" in ElementTree.fromstring(ran.out)[0][1].attrib["name"]


def test_a_path_chooses(pair: Project, policyctl: Policyctl) -> None:
    pair.write("deep/other.test.yaml", PAIR.replace("max_calls: 1", "max_calls: 2"))
    assert policyctl("test").out.endswith("3 passed, 1 failed\n")
    assert policyctl("test", "policies/deep").out.endswith("\n2 passed\n")
    assert policyctl("test", "policies/deep", "policies/deep/other.test.yaml").out.endswith("\n2 passed\n")
    assert policyctl("test", pair.policies / "pair.test.yaml").out.endswith("1 passed, 1 failed\n")
    assert policyctl("test", "policies/deep", "policies/pair.test.yaml").out.endswith("3 passed, 1 failed\n")


def test_the_environment_decides(project: Project, policyctl: Policyctl) -> None:
    """A remote that needs a login is not asked for one: nothing is sent."""
    project.write(
        "policyctl.yaml",
        "default: dev\nenvironments:\n  dev: {vars: {down: 503}}\n"
        '  prod: {remote: "https://example.com/x", auth: {type: ibm_iam, api_key: "env:UNSET"}, vars: {down: 500}}\n',
    )
    project.policy("pair", "virtual-model/x/a", "virtual-model/y/b", retry="{attempts: 1, on_status_codes: [503]}")
    project.write("pair.test.yaml", PAIR.replace("a: 500", 'a: "{{ down }}"').replace("max_calls: 1", "max_calls: 2"))
    assert "got 3" in policyctl("test").out
    ran = policyctl("test", "--env", "prod")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.startswith("environment prod\n")


def test_that_there_are_no_tests_may_be_fine(project: Project, policyctl: Policyctl) -> None:
    project.policy("a")
    assert policyctl("test", "--if-any") == (0, "", "there are no scenario tests to run\n")
    assert json.loads(policyctl("test", "--if-any", "--format", "json").out)["tests"] == []
    assert "<testsuites" in policyctl("test", "--if-any", "--format", "junit").out


BAD = {
    "no tests": (lambda project: project.write("pair.test.yaml").unlink(), (), 1, "there are no scenario tests in policies"),
    "none in this file": (lambda _: None, ("policies/pair.yaml",), 1, "there are no scenario tests in policies/pair.yaml"),
    "elsewhere": (lambda project: project.folder.joinpath("a.test.yaml").write_text(PAIR), ("a.test.yaml",), 64, "is not in"),
    "a path that is not there": (lambda _: None, ("policies/nope.test.yaml",), 64, "is not in the policy directory policies"),
    "an unknown policy": (
        lambda project: project.write("pair.test.yaml", PAIR.replace("policy: pair", "policy: pear")),
        (),
        1,
        "policies/pair.test.yaml:3:9: there is no policy pear to test (did you mean pair?) [P205]",
    ),
    "a policy with a problem": (
        lambda project: project.policy("pair", "virtual-model/x/a", "virtual-model/y/b", mode="fallbak"),
        (),
        1,
        "mode must be [P105]",
    ),
    "no directory": (lambda project: project.policies.rename("elsewhere"), (), 1, "the directory does not exist"),
}


@pytest.mark.parametrize("case", BAD)
def test_what_cannot_be_run_is_one_clear_line(case: str, pair: Project, policyctl: Policyctl) -> None:
    spoil, args, code, message = BAD[case]
    spoil(pair)
    ran = policyctl("test", *args)
    assert (ran.code, ran.out) == (code, "")
    assert shows(message, ran.err)
    assert len(ran.err.splitlines()) == 1


def test_the_example_in_its_help_is_one(project: Project, policyctl: Policyctl) -> None:
    """What people copy must work."""
    text = policyctl("test", "--help").out
    start = text.rindex("\n", 0, text.index("spec_version: v1")) + 1
    project.write("assistant.yaml", (EXAMPLES / "assistant.yaml").read_text("utf-8"))
    project.write("a.test.yaml", dedent(text[start : text.index("\n\n", start)]))
    assert policyctl("test") == (0, f"{TOP}policies/a.test.yaml ..\n\n{BASIS}2 passed\n", "")


def test_the_example_in_the_manual_is_one(project: Project, policyctl: Policyctl) -> None:
    """So must this."""
    text = (MANUAL / "tests.md").read_text("utf-8")
    blocks = [block.partition("```")[0] for block in text.split("```yaml\n")[1:]]
    project.write("assistant.yaml", (EXAMPLES / "assistant.yaml").read_text("utf-8"))
    project.write("a.test.yaml", next(block for block in blocks if "kind: policy_test" in block))
    assert policyctl("test") == (0, f"{TOP}policies/a.test.yaml ..\n\n{BASIS}2 passed\n", "")


def test_nothing_is_written(pair: Project, policyctl: Policyctl) -> None:
    before = sorted(Path().rglob("*"))
    policyctl("test")
    assert sorted(Path().rglob("*")) == before
