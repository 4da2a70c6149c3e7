"""`lint` in policyctl.yaml decides which lint rules run; rules across files run where all files are seen."""

from __future__ import annotations

from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from policyctl.cli.main import run
from policyctl.load.config import ConfigFile
from policyctl.policy.schema import model_schema
from tests.problem_lines import place_and_code


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("policies").mkdir()


def policy(name: str, *targets: str, strategy: str = "{mode: loadbalance}") -> str:
    """A policy file of these targets."""
    listed = "".join(f"    - model_name: {target}\n" for target in targets)
    return f"spec_version: v1\nkind: model\nname: {name}\npolicy:\n  strategy: {strategy}\n  targets:\n{listed}"


def write(files: dict[str, str]) -> None:
    """Files below the policy directory."""
    for name, text in files.items():
        path = Path("policies", name)
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)


def found(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[str]:
    """What validate finds, as `file:line:col: CODE`."""
    run(["validate", *arguments])
    return [place_and_code(line) for line in capsys.readouterr().out.splitlines()[:-1]]


# One policy with P415 (info, line 5), P405 (warning, line 8) and P441 (warning, line 9).
MIXED = policy("x", "virtual-model/x/a", "virtual-model/x/a", "b", strategy="{mode: fallback}")
P415, P405, P441 = (
    "policies/x.yaml:5:3: P415",
    "policies/x.yaml:8:7: P405",
    "policies/x.yaml:9:19: P441",
)


@pytest.mark.parametrize(
    ("lint", "options", "expected"),
    [
        ("{}", [], [P405, P441]),
        ("{}", ["-v"], [P415, P405, P441]),
        ("{ignore: [P405]}", [], [P441]),
        ("{ignore: [P4]}", ["-v"], []),
        ("{ignore: [P40, P41]}", ["-v"], [P441]),
        ("{select: [P4]}", [], [P415, P405, P441]),
        ("{select: [P415]}", [], [P415]),
        ("{select: [P40]}", ["-v"], [P405]),
        ("{select: [P4], ignore: [P405]}", [], [P415, P441]),
        ("{select: []}", ["-v"], []),
    ],
)
def test_select_and_ignore(lint: str, options: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Codes and beginnings of codes; -v shows infos where nothing is selected."""
    write({"x.yaml": MIXED, "policyctl.yaml": f"lint: {lint}\n"})
    assert found(capsys, *options) == expected


def test_plan_shows_what_is_selected(capsys: pytest.CaptureFixture[str]) -> None:
    """On standard error, and never an info that was not selected."""
    write({"x.yaml": MIXED})
    assert run(["plan", "-v"]) == 0
    assert [line[-5:-1] for line in capsys.readouterr().err.splitlines()] == ["P405", "P441"]
    write({"policyctl.yaml": "lint: {select: [P415]}\n"})
    assert run(["plan"]) == 0
    assert [line[-5:-1] for line in capsys.readouterr().err.splitlines()] == ["P415"]


def test_a_comment_on_what_another_file_makes_is_not_called_useless_without_that_file(
    capsys: pytest.CaptureFixture[str],
) -> None:
    """By itself the policy makes one call, with the one that it targets thirteen."""
    models = [f"virtual-model/x/{number}" for number in range(13)]
    write({"x.yaml": policy("x", "virtual-policy/inner", strategy="{mode: single} # policyctl: ignore[P502]")})
    write({"inner.yaml": policy("inner", *models, strategy="{mode: fallback}")})
    assert found(capsys, "--deep", "policies/x.yaml") == []
    assert found(capsys, "--deep") == ["policies/inner.yaml:5:3: P502"]


# One policy with P415 and P503 (infos) and, on line 5, P501 (a warning).
NO_408 = policy("x", "virtual-model/x/a", "virtual-model/y/b", strategy="{mode: fallback, on_status_codes: [503]}")
P501, P503 = "policies/x.yaml:5:30: P501", "policies/x.yaml:7:19: P503"


@pytest.mark.parametrize(
    ("lint", "options", "expected"),
    [
        ("{}", [], []),
        ("{}", ["-v"], []),
        ("{}", ["--deep"], [P501]),
        ("{}", ["--deep", "-v"], [P501, P503]),
        ("{select: [P5]}", [], []),
        ("{select: [P5]}", ["--deep"], [P501, P503]),
        ("{select: [P4]}", ["--deep"], []),
        ("{ignore: [P501]}", ["--deep", "-v"], [P503]),
    ],
)
def test_deep_rules_are_asked_for_and_chosen_like_all_others(
    lint: str, options: list[str], expected: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Selecting them does not run them: they take their time."""
    write({"x.yaml": NO_408, "policyctl.yaml": f"lint: {lint}\n"})
    assert found(capsys, *options) == expected


def test_plan_and_apply_run_the_deep_rules(capsys: pytest.CaptureFixture[str]) -> None:
    """As warnings: what they find stops nothing."""
    write({"x.yaml": NO_408})
    for command in (["plan"], ["apply", "--yes"]):
        assert run(command) == 0
        assert [place_and_code(line) for line in capsys.readouterr().err.splitlines() if "P5" in line] == [P501]


def test_a_target_is_the_policy_of_another_file(capsys: pytest.CaptureFixture[str]) -> None:
    """The fallback from a policy to the model that it rests on is none."""
    x = policy("x", "virtual-policy/inner", "virtual-model/y/b", strategy="{mode: fallback, on_status_codes: [408, 500, 503]}")
    write({"x.yaml": x})
    assert found(capsys, "--deep", "-v") == ["policies/x.yaml:7:19: P451"]
    write({"inner.yaml": policy("inner", "virtual-model/y/b", strategy="{mode: single}")})
    assert found(capsys, "--deep", "-v") == ["policies/inner.yaml:7:19: P503", "policies/x.yaml:5:3: P503"]


@pytest.mark.parametrize(
    ("lint", "problem"),
    [
        ("{select: [P9]}", "1:17: P9 names no rule; only lint rules can be chosen (policyctl rules lists all) [P306]"),
        (
            "{ignore: [P405, P4O5]}",
            "1:23: P4O5 names no rule (did you mean P405?); only lint rules can be chosen (policyctl rules lists all) [P306]",
        ),
        ("{ignore: [P101]}", "1:17: P101 is always shown; only lint rules can be chosen (policyctl rules lists all) [P306]"),
        ("{ignore: [P1]}", "1:17: P1 is always shown; only lint rules can be chosen (policyctl rules lists all) [P306]"),
        ("{ignore: ['']}", "1:17: ignore item must not be empty [P106]"),
        ("{ignore: P405}", '1:16: ignore must be a list, got "P405" (write ["P405"]) [P104]'),
        ("{ignores: [P405]}", '1:8: unknown key "ignores" (did you mean ignore?) [P101]'),
    ],
)
def test_what_is_not_a_lint_rule_is_a_problem(lint: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    """A misspelled code would silence nothing, or everything but."""
    write({"x.yaml": policy("x", "virtual-model/x/a", "virtual-model/x/b"), "policyctl.yaml": f"lint: {lint}\n"})
    assert run(["validate"]) == 1
    assert capsys.readouterr().out.splitlines()[:-1] == [f"policies/policyctl.yaml:{problem}"]


def test_the_schema_of_the_configuration_has_lint() -> None:
    """Editors complete it."""
    validator = Draft202012Validator(model_schema(ConfigFile, "policyctl.yaml"))
    assert validator.is_valid({"lint": {"select": ["P4"], "ignore": ["P405"]}})
    assert not validator.is_valid({"lint": {"ignore": "P405"}})
    assert not validator.is_valid({"lint": {"ignores": []}})


GPT, CLAUDE = "virtual-model/openai/gpt-4o", "virtual-model/anthropic/claude-sonnet-4"
DECLARED = (
    "kind: model\nname: openai/gpt-4o\nprovider_config: {}\n---\nkind: model\nname: virtual-model/x/y\nmodel_type: chat\n"
)
P451 = "policies/x.yaml:8:19: P451"
P452 = "policies/x.yaml:8:19: P452"

# what the case shows: (the files, the arguments of validate, what is found)
REFERENCES: dict[str, tuple[dict[str, str], list[str], list[str]]] = {
    "an unknown policy": ({"x.yaml": policy("x", GPT, "virtual-policy/other")}, [], [P451]),
    "a known policy": ({"x.yaml": policy("x", GPT, "virtual-policy/other"), "y.yaml": policy("other", GPT, CLAUDE)}, [], []),
    "an unknown policy, the directory named": ({"x.yaml": policy("x", GPT, "virtual-policy/other")}, ["policies"], [P451]),
    "a single file does not know": ({"x.yaml": policy("x", GPT, "virtual-policy/other")}, ["policies/x.yaml"], []),
    "a file beside its directory does not know": (
        {"x.yaml": policy("x", GPT, "virtual-policy/other")},
        ["policies", "policies/x.yaml"],
        [],
    ),
    "a part of the directory does not know": (
        {"part/x.yaml": policy("x", GPT, "virtual-policy/other"), "policyctl.yaml": ""},
        ["policies/part"],
        [],
    ),
    "with errors elsewhere that is not known": (
        {"x.yaml": policy("x", GPT, "virtual-policy/other"), "y.yaml": policy("other")},
        [],
        ["policies/y.yaml:6:11: P104"],
    ),
    "live may have what is out of scope": (
        {"x.yaml": policy("x", GPT, "virtual-policy/other"), "policyctl.yaml": "scope: [x*]\n"},
        [],
        [],
    ),
    "live may have what is never removed": (
        {"x.yaml": policy("x", GPT, "virtual-policy/other"), "policyctl.yaml": "prune: false\n"},
        [],
        [],
    ),
    "live may have what is protected": (
        {"x.yaml": policy("x", GPT, "virtual-policy/other"), "policyctl.yaml": "protect: [other]\n"},
        [],
        ["policies/policyctl.yaml:1:11: P461"],  # which may be live and nothing else, as validate cannot know
    ),
    "a platform may have anything without a scope": (
        {
            "x.yaml": policy("x", GPT, "virtual-policy/other"),
            "policyctl.yaml": "environments: {p: {remote: 'https://example.com'}}\n",
        },
        [],
        [],
    ),
    "a platform with a scope": (
        {
            "x.yaml": policy("x", GPT, "virtual-policy/other"),
            "policyctl.yaml": "environments: {p: {remote: 'https://example.com', scope: ['*']}}\n",
        },
        [],
        [P451],
    ),
    "a file that an environment leaves out": (
        {
            "x.yaml": policy("x", GPT, "virtual-policy/other"),
            "y.yaml": policy("other", GPT, CLAUDE),
            "policyctl.yaml": "environments: {a: {}, b: {include: [x.yaml]}}\n",
        },
        [],
        [P451],
    ),
    "a comment": ({"x.yaml": policy("x", GPT, "virtual-policy/other # policyctl: ignore[P451]")}, [], []),
    "a comment where it is not known": (
        {"x.yaml": policy("x", GPT, "virtual-policy/other # policyctl: ignore[P451]")},
        ["policies/x.yaml"],
        [],
    ),
    "a useless comment": (
        {
            "x.yaml": policy("x", GPT, "virtual-policy/other # policyctl: ignore[P451]"),
            "y.yaml": policy("other", GPT, CLAUDE),
        },
        [],
        ["policies/x.yaml:8:60: P491"],
    ),
    "a model, and no models declared": ({"x.yaml": policy("x", GPT, CLAUDE)}, [], []),
    "an unknown model of a provider that has models": (
        {"x.yaml": policy("x", GPT, "virtual-model/openai/o3"), "models.yaml": DECLARED},
        [],
        [P452],
    ),
    "nearly a declared model": (
        {"x.yaml": policy("x", GPT, "virtual-model/opnai/gpt-4o"), "models.yaml": DECLARED},
        [],
        [P452],
    ),
    "a model of another provider may be declared elsewhere": (
        {"x.yaml": policy("x", GPT, CLAUDE), "models.yaml": DECLARED},
        [],
        [],
    ),
    "an unknown model, ignored": (
        {
            "x.yaml": policy("x", GPT, "virtual-model/openai/o3"),
            "models.yaml": DECLARED,
            "policyctl.yaml": "lint: {ignore: [P452]}\n",
        },
        [],
        [],
    ),
    "known models, in both spellings": ({"x.yaml": policy("x", GPT, "virtual-model/x/y"), "models.yaml": DECLARED}, [], []),
    "an unknown model, one file": (
        {"x.yaml": policy("x", GPT, "virtual-model/openai/o3"), "models.yaml": DECLARED},
        ["policies/x.yaml"],
        [],
    ),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_a_target_that_no_file_declares(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Found where all files of the directory are seen, all are right, and live cannot have it either."""
    files, arguments, expected = REFERENCES[name]
    write(files)
    assert found(capsys, *arguments) == expected


def test_a_near_miss_is_named_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """So that it can be copied."""
    write({"x.yaml": policy("x", "virtual-policy/anygen", "virtual-model/x/yy"), "models.yaml": DECLARED})
    write({"anygem.yaml": policy("anygem", GPT, "virtual-model/x/y")})
    run(["validate"])
    out = capsys.readouterr().out
    assert "no file here declares the policy virtual-policy/anygen (did you mean virtual-policy/anygem?)" in out
    assert (
        "virtual-model/x/yy is none of the virtual models that the files here declare (did you mean virtual-model/x/y?)" in out
    )
