"""A comment `# policyctl: ignore[CODE]` suppresses a lint finding on its line, and only that."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyctl.cli.main import run

HEAD = "spec_version: v1\nkind: model\nname: x\n"
TARGETS = "  targets:\n    - model_name: virtual-model/x/a\n    - model_name: virtual-model/x/b"
ONE = "  targets: [{model_name: virtual-model/x/a}]"


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def validate(text: str, capsys: pytest.CaptureFixture[str], *options: str, name: str = "x.yaml") -> list[str]:
    """What validate prints for a file of that text, without the file's name and the summary line."""
    Path(name).write_bytes(text.encode())
    run(["validate", name, *options])
    return [line.removeprefix(f"{name}:") for line in capsys.readouterr().out.splitlines()[:-1]]


SINGLE = f"{HEAD}policy:\n  strategy: {{mode: single}}\n{TARGETS}"
P401 = (
    "8:7: warning: only the first target is ever called under single; the other target is dead (remove, or use fallback) [P401]"
)

# what the case shows: (the file, what is still found)
CASES: dict[str, tuple[str, list[str]]] = {
    "no comment": (f"{SINGLE}\n", [P401]),
    "a comment on the line": (f"{SINGLE} # policyctl: ignore[P401]\n", []),
    "more white space, or less": (f"{SINGLE}   #policyctl:ignore [ P401 ]\n", []),
    "several codes, all of use": (
        f"{SINGLE.replace('virtual-model/x/b', 'b')} # policyctl: ignore[P401, P441]\n",
        [],
    ),
    "after another comment": (f"{SINGLE} # kept for later # policyctl: ignore[P401]\n", []),
    "on a line of CRLF": (f"{SINGLE} # policyctl: ignore[P401]\n".replace("\n", "\r\n"), []),
    "behind characters of several bytes": (
        f"{SINGLE.replace('name: x', 'name: näme🦆', 1)} # ü 🦆 # policyctl: ignore[P401]\n",
        [],
    ),
    "in the second document": (
        f"{SINGLE.replace('single', 'fallback')}\n---\n{SINGLE.replace(': x', ': second', 1)} # policyctl: ignore[P401]\n",
        [],
    ),
    "on the line above": (
        SINGLE.replace(
            "    - model_name: virtual-model/x/b", "    # policyctl: ignore[P401]\n    - model_name: virtual-model/x/b"
        ),
        [
            "8:25: warning: there is no P401 on this line to suppress (remove the comment) [P491]",
            P401.replace("8:7", "9:7"),
        ],
    ),
    "of another rule": (
        f"{SINGLE} # policyctl: ignore[P405]\n",
        [P401, "8:57: warning: there is no P405 on this line to suppress (remove the comment) [P491]"],
    ),
    "one of two of use": (
        f"{SINGLE} # policyctl: ignore[P401,P405]\n",
        ["8:62: warning: there is no P405 on this line to suppress (remove the comment) [P491]"],
    ),
    "of a rule that is not looked for": (f"{SINGLE} # policyctl: ignore[P401, P422]\n", []),
    "of no rule": (
        f"{SINGLE} # policyctl: ignore\n",
        [P401, "8:37: warning: this comment does not name a rule (write # policyctl: ignore[CODE]) [P492]"],
    ),
    "of an empty list": (
        f"{SINGLE} # policyctl: ignore[]\n",
        [P401, "8:37: warning: this comment does not name a rule (write # policyctl: ignore[CODE]) [P492]"],
    ),
    "of an unknown rule": (
        f"{SINGLE} # policyctl: ignore[P4]\n",
        [P401, '8:57: warning: unknown rule "P4"; policyctl rules lists all [P492]'],
    ),
    "of a misspelled rule": (
        f"{SINGLE} # policyctl: ignore[P4O1]\n",
        [P401, '8:57: warning: unknown rule "P4O1" (did you mean P401?); policyctl rules lists all [P492]'],
    ),
    "of a rule that must hold": (
        f"{SINGLE} # policyctl: ignore[P401, P101]\n",
        ["8:63: warning: P101 is not a lint rule and cannot be ignored; fix the problem [P492]"],
    ),
    "on the line of a schema problem": (
        f"{HEAD}policy:\n  strategy: {{mode: sinlge}} # policyctl: ignore[P105]\n{TARGETS}\n",
        ['5:20: mode must be loadbalance, fallback or single, got "sinlge" (did you mean single?) [P105]'],
    ),
    "useless, in a file that has errors": (
        f"{SINGLE} # policyctl: ignore[P405]\n---\n{HEAD}polcy:\n  strategy: {{mode: single}}\n{ONE}\n",
        [P401, '13:1: unknown key "polcy" (did you mean policy?) [P101]'],
    ),
    "in quoted text": (
        f'{HEAD}description: "a # policyctl: ignore[P405] b"\npolicy:\n  strategy: {{mode: fallback}}\n{TARGETS}\n',
        [],
    ),
    "in a block of text": (
        f"{HEAD}description: |\n  # policyctl: ignore[P405]\n  more\npolicy:\n  strategy: {{mode: fallback}}\n{TARGETS}\n",
        [],
    ),
    "after a block of text": (
        f"{HEAD}description: |\n  text\n# policyctl: ignore[P405]\npolicy:\n  strategy: {{mode: fallback}}\n{TARGETS}\n",
        ["6:21: warning: there is no P405 on this line to suppress (remove the comment) [P491]"],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_comment_suppresses_what_it_names_on_its_line(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """And is itself a finding when it suppresses nothing, or cannot."""
    text, expected = CASES[name]
    assert validate(text, capsys) == expected


def test_a_suppressed_finding_is_not_in_the_json_either(capsys: pytest.CaptureFixture[str]) -> None:
    """Both formats show the same."""
    Path("x.yaml").write_text(f"{SINGLE} # policyctl: ignore[P401]\n")
    assert run(["validate", "x.yaml", "--format", "json"]) == 0
    assert '"problems": []' in capsys.readouterr().out


def test_an_info_is_shown_with_v_and_its_comment_is_of_use_then(capsys: pytest.CaptureFixture[str]) -> None:
    """Without -v the comment is not called useless: its rule was not asked."""
    text = f"{HEAD}policy:\n  strategy: {{mode: fallback}}\n{TARGETS}\n"
    silenced = text.replace("fallback}", "fallback} # policyctl: ignore[P415]")
    assert validate(text, capsys) == []
    assert len(validate(text, capsys, "-v")) == 1
    assert validate(silenced, capsys) == validate(silenced, capsys, "-v") == []


def test_text_in_json_is_not_a_comment(capsys: pytest.CaptureFixture[str]) -> None:
    """JSON has none, so nothing can be suppressed there."""
    text = (
        '{"spec_version": "v1", "kind": "model", "name": "x", "description": "# policyctl: ignore[P401]", "policy": '
        '{"strategy": {"mode": "single"}, "targets": [{"model_name": "virtual-model/x/a"}, '
        '{"model_name": "virtual-model/x/b"}]}}'
    )
    assert [line[-5:-1] for line in validate(text, capsys, name="x.json")] == ["P401"]


CONFIG = "default: dev\nenvironments:\n  dev: {vars: {mode: single}}\n  prod: {vars: {mode: fallback}}\n"
TEMPLATED = SINGLE.replace("mode: single", "mode: '{{ mode }}'")


def test_a_comment_that_one_environment_needs_is_of_use(capsys: pytest.CaptureFixture[str]) -> None:
    """It is useless only where no environment needs it."""
    Path("policyctl.yaml").write_text(CONFIG)
    assert validate(f"{TEMPLATED}\n", capsys) == [P401.replace(" [P401]", " (environment dev) [P401]")]
    assert validate(f"{TEMPLATED} # policyctl: ignore[P401]\n", capsys) == []
    assert len(validate(f"{TEMPLATED} # policyctl: ignore[P405]\n", capsys)) == 2


def test_plan_keeps_to_the_comments_too(capsys: pytest.CaptureFixture[str]) -> None:
    """What is suppressed is not said on standard error; whether comments are of use is validate's business."""
    Path("policies").mkdir()
    Path("policies/x.yaml").write_text(f"{SINGLE}\n")
    assert run(["plan"]) == 0
    assert "P401" in capsys.readouterr().err
    Path("policies/x.yaml").write_text(f"{SINGLE} # policyctl: ignore[P401, P405]\n")
    assert run(["plan"]) == 0
    assert capsys.readouterr().err == ""
