"""Command lines that cannot be: each with the one line that it is answered with, and the exit code.

Words of other tools (terraform, kubectl, git) are answered with ours, and nothing is ever answered with an option that lifts a
limit.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import jsonschema
import pytest

from policyctl.report import schema_text
from tests.conftest import Policyctl, Project
from tests.problem_lines import shows
from tests.terminal import on_terminal

PLAN = "policyctl plan shows what would change and writes nothing"
SETTLED = "leave it out: safety rules are set in policyctl.yaml, in a reviewed change"
REMOVE = "to remove a policy, delete its file, then plan and apply; in an emergency, policyctl policy remove NAME"
DELETE = "delete the files of the policies that should go, then plan and apply"
VARIABLES = "variables are set in policyctl.yaml, under environments.NAME.vars"
FILES = "policies are files in a directory: name it with --dir"
APPLY = "policyctl apply makes the remote match the files"

USAGE = {
    # options of other tools
    "apply --auto-approve": "unknown option --auto-approve; use --yes",
    "apply -auto-approve": "unknown option -auto-approve; use --yes",
    "apply --auto-aprove": "unknown option --auto-aprove; use --yes",
    "apply -y": "unknown option -y; use --yes",
    "plan --auto-approve": "unknown option --auto-approve; leave it out: this command does not ask",
    "plan --target chat": "unknown option --target; use --only",
    "plan -target=chat": "unknown option -target; use --only",
    "plan --traget chat": "unknown option --traget; use --only",
    "apply --selector chat": "unknown option --selector; use --only",
    "plan -out plan.json": "unknown option -out; use --out",
    "plan -o json": "unknown option -o; use --format",
    "plan --json": "unknown option --json; use --format json",
    "plan --no-color": "unknown option --no-color; use --color never",
    "plan --debug": "unknown option --debug; use -vv",
    "plan --environment prod": "unknown option --environment; use --env",
    "plan --context prod": "unknown option --context; use --env",
    "plan --chdir policies": "unknown option --chdir; use --dir",
    "apply -j 8": "unknown option -j; use --parallelism",
    "apply --dry-run": f"unknown option --dry-run; {PLAN}",
    "apply --force": f"unknown option --force; {SETTLED}",
    "apply --destroy": f"unknown option --destroy; {DELETE}",
    "apply --prune": f"unknown option --prune; {DELETE}",
    "apply -f anygem.yaml": f"unknown option -f; {FILES}",
    "plan -var weight=1": f"unknown option -var; {VARIABLES}",
    "plan --set weight=1": f"unknown option --set; {VARIABLES}",
    "plan --refresh-only": "unknown option --refresh-only; leave it out: the remote is read afresh each time",
    "apply --wait": "unknown option --wait; leave it out: apply reads back and verifies what it wrote",
    # misspelled options: the nearest one, unless it lifts a limit or writes over something
    "plan --remot local": "unknown option --remot (did you mean --remote?)",
    "plan --frmat json": "unknown option --frmat (did you mean --format?)",
    "plan --allow-remov chat": "unknown option --allow-remov",
    "plan --alow-guard max_calls": "unknown option --alow-guard",
    "plan --max-remove 3": "unknown option --max-remove",
    "plan --max-changes 3": "unknown option --max-changes",
    "pull --overwrit": "unknown option --overwrit",
    "validate --nonsense": "unknown option --nonsense",
    # commands of other tools, and misspelled ones
    "destroy": f"unknown command destroy; {DELETE}",
    "delete anygem": f"unknown command delete; {REMOVE}",
    "sync": f"unknown command sync; {APPLY}; policyctl pull writes files",
    "deploy": f"unknown command deploy; {APPLY}",
    "get policies": (
        "unknown command get; policyctl policy list shows the live policies, policyctl policy show NAME one of them"
    ),
    "rollback": "unknown command rollback; git revert the change, then plan and apply; until that is merged, "
    "policyctl apply --to REVISION",
    "lint": "unknown command lint; policyctl validate checks the files",
    "aply": "unknown command aply (did you mean apply?)",
    "policy delete anygem": "unknown command delete (did you mean remove?)",
    "policy get anygem": "unknown command get (did you mean show?)",
    "policy lst": "unknown command lst (did you mean list?)",
    "ci comments": "unknown command comments (did you mean comment?)",
    # values and arguments
    "plan --format jsn": (
        "invalid value for '--format': 'jsn' is not one of 'text', 'json', 'markdown', 'html', 'csv', 'junit' "
        "(did you mean json?)"
    ),
    "plan anygem": "got unexpected extra argument (anygem); to choose policies, use --only NAME",
    "policy show anygem other": "got unexpected extra argument (other); remove it",
    "apply --parallelism 0": "invalid value for '--parallelism': 0 is not in the range 1<=x<=64",
}

# What has no command to see the help of, or is found later.
OTHERS = {
    "policy show": (64, "error: which policy? name it: policyctl policy show NAME"),
    "policy remove": (64, "error: which policy? name it: policyctl policy remove NAME"),
    "policy show a --name b": (64, "error: which policy, a or b? name one"),
    "plan --env prd": (64, "error: unknown environment prd (did you mean prod?); known: dev, prod (policies/policyctl.yaml)"),
    "effect anygen": (
        64,
        "error: policies has no policy anygen (did you mean virtual-policy/anygem?); name one of its policies, or a file",
    ),
    "plan --dir nowhere": (
        1,
        "nowhere: the directory does not exist; create it with policyctl init, or name another with --dir [P016]",
    ),
    "policy import --file nope.yaml": (1, "nope.yaml: the file does not exist; correct the path [P001]"),
    "rules P4O5": (64, "error: unknown rule P4O5 (did you mean P405?); policyctl rules lists all"),
}


@pytest.fixture(autouse=True)
def _anygem(project: Project) -> None:
    project.write("anygem.yaml")
    project.write("policyctl.yaml", "default: dev\nenvironments: {dev: {}, prod: {}}\n")


@pytest.mark.parametrize("line", USAGE)
def test_a_wrong_command_line_is_answered_in_one_line(line: str, policyctl: Policyctl) -> None:
    ran = policyctl(*line.split())
    assert (ran.code, ran.out) == (64, "")
    assert re.sub(r" \(see policyctl[\w ]* --help\)\n$", "", ran.err) == f"error: {USAGE[line]}"


@pytest.mark.parametrize("line", OTHERS)
def test_what_is_found_later_is_one_line_too(line: str, policyctl: Policyctl) -> None:
    ran = policyctl(*line.split())
    assert (ran.code, ran.out, ran.err) == (OTHERS[line][0], "", f"{OTHERS[line][1]}\n")


def test_no_answer_names_an_option_that_lifts_a_limit() -> None:
    answers = [answer.partition(typed)[2] for line, answer in USAGE.items() for typed in [line.split()[-1].partition("=")[0]]]
    offered = [word for answer in answers for word in re.findall(r"(?:use|mean) (--[\w-]+)", answer)]
    assert len(offered) > 5
    assert not [word for word in offered if word.startswith(("--allow-", "--max-", "--overwrite"))]


BARE = (("show", "anygem"), ("show", "virtual-policy/anygem"), ("show", "--name", "anygem"), ("show", "anygem", "-n", "anygem"))


@pytest.mark.parametrize("args", BARE)
def test_a_policy_is_named_with_or_without_the_option(args: tuple[str, ...], policyctl: Policyctl) -> None:
    assert policyctl("apply", "--yes").code == 0
    ran = policyctl("policy", *args)
    assert (ran.code, ran.err) == (0, "")
    assert "name: virtual-policy/anygem\n" in ran.out


def test_a_bare_name_is_enough_to_remove_a_policy(policyctl: Policyctl) -> None:
    assert policyctl("apply", "--yes").code == 0
    assert policyctl("policy", "remove", "anygem", "--yes").out.endswith("Applied: 1 removed; read back and verified.\n")


TARGETS = "targets: [{model_name: virtual-model/x/a}]"
WRONG = f"spec_version: v1\nkind: model\nname: x\npolicy:\n  strategy: {{mode: singel}}\n  {TARGETS}\n"
PROBLEM = "policies/x.yaml:5:20: mode must be loadbalance, fallback or single [P105]"
EXCERPT = ["    5 |   strategy: {mode: singel}", "      |                    ^"]
SHOWN = {
    "validate on a terminal": ((), {}, True),
    "validate, asked for lines": (("--format", "full"), {}, True),
    "validate, asked for none": (("--format", "concise"), {}, False),
    "validate in the log of a CI job": ((), {"CI": "true"}, False),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", SHOWN)
def test_on_a_terminal_a_problem_shows_its_line(case: str, project: Project) -> None:
    project.write("x.yaml", WRONG)
    options, environ, shown = SHOWN[case]
    with on_terminal(
        "-m", "policyctl", "validate", *options, width=120, environ={"NO_COLOR": "1", "CI": "", **environ}
    ) as terminal:
        assert terminal.end() == 1
        lines = [line.rstrip() for line in terminal.screen()]
    place = next(number for number, line in enumerate(lines) if shows(PROBLEM, line))
    assert (lines[place + 1 : place + 3] == EXCERPT) == shown


@pytest.mark.slow
def test_plan_shows_the_line_too(project: Project) -> None:
    project.write("x.yaml", WRONG)
    with on_terminal("-m", "policyctl", "plan", width=120, environ={"NO_COLOR": "1", "CI": ""}) as terminal:
        assert terminal.end() == 1
        assert [line.rstrip() for line in terminal.screen()][1:3] == EXCERPT


def test_a_pipe_gets_one_line_a_problem_and_may_ask_for_more(project: Project, policyctl: Policyctl) -> None:
    project.write("x.yaml", WRONG)
    assert len(policyctl("validate").out.splitlines()) == 2
    assert policyctl("validate").out == policyctl("validate", "--format", "concise").out
    assert policyctl("validate", "--format", "full").out.splitlines()[1:3] == EXCERPT


def test_no_line_of_the_configuration_is_shown_since_it_may_hold_a_secret(project: Project, policyctl: Policyctl) -> None:
    for line in (
        "token: hunter2",
        'token: "hunter2',
        "token:hunter2",
        "token = hunter2",
        "token: {hunter2: x",
        "tokn: hunter2",
    ):
        project.write(
            "policyctl.yaml",
            f"environments:\n  dev:\n    remote: https://x.invalid\n    auth:\n      type: bearer\n      {line}\n",
        )
        ran = policyctl("validate", "--format", "full")
        assert ran.code == 1, line
        assert "hunter2" not in ran.out + ran.err, line


def test_a_problem_of_a_directory_has_no_line(project: Project, policyctl: Policyctl) -> None:
    Path("empty").mkdir()
    assert shows("empty: contains no policy file [P016]", policyctl("validate", "empty").out)
    printed = json.loads(policyctl("validate", "empty", "--format", "json").out)
    jsonschema.Draft202012Validator(json.loads(schema_text("validate"))).validate(printed)
    assert [(problem["line"], problem["column"]) for problem in printed["problems"]] == [(None, None)]
