"""The break-glass commands on the embedded remote: add, import, remove, and what the directory makes of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from policyctl.cli.main import POLICY_COMMANDS
from tests.conftest import ANYGEM, Policyctl, Project
from tests.problem_lines import shows
from tests.sqlite_rows import LEAF, LOCAL, edit, live_documents, put, row
from tests.terminal import answer_on_terminal, on_terminal

ADD = ("policy", "add", "--name", "x", "--strategy", "single", "--model", "virtual-model/a/one")


@pytest.mark.parametrize("command", POLICY_COMMANDS)
def test_every_policy_command_has_help_with_an_example(command: str, policyctl: Policyctl) -> None:
    ran = policyctl("policy", command, "--help")
    assert ran.code == 0
    assert "Example:" in ran.out
    assert f"  {command} " in policyctl("policy", "--help").out


ADDED: dict[str, tuple[tuple[str, ...], dict[str, Any]]] = {
    "the least": (
        ("-n", "x", "-s", "single", "-m", "virtual-model/a/one"),
        {"display_name": "virtual-policy/x", "policy": {"strategy": {"mode": "single"}, "targets": [LEAF]}},
    ),
    "the prefix": (("-n", "virtual-policy/x", "-s", "single", "-m", "virtual-model/a/one"), {"name": "virtual-policy/x"}),
    "empty texts": (
        ("-n", "x", "-s", "single", "-m", "virtual-model/a/one", "-d", "", "--display-name", ""),
        {"display_name": "virtual-policy/x", "description": "virtual-policy/x"},
    ),
    "everything": (
        tuple(
            "--name x --strategy loadbalance --model virtual-model/a/one --weight 0.75 --model virtual-model/b/two --weight 1"
            " --strategy-on-code 503 --strategy-on-code 429 --retry-attempts 2 --retry-on-code 500 --retry-on-code 502"
            " --display-name X --description {{not}}".split()
        ),
        {
            "name": "virtual-policy/x",
            "display_name": "X",
            "description": "{{not}}",
            "policy": {
                "strategy": {"mode": "loadbalance", "on_status_codes": [503, 429]},
                "retry": {"attempts": 2, "on_status_codes": [500, 502]},
                "targets": [{**LEAF, "weight": 0.75}, {"model_name": "virtual-model/b/two", "weight": 1.0}],
            },
        },
    ),
}


@pytest.mark.parametrize("case", ADDED)
def test_add_writes_what_the_options_ask_for_without_any_directory(case: str, bare: Path, policyctl: Policyctl) -> None:
    args, expected = ADDED[case]
    ran = policyctl("policy", "add", *args, "--yes")
    assert ran.code == 0, ran.err
    assert "+ virtual-policy/x\n" in ran.out
    assert ran.out.endswith("Applied: 1 added; read back and verified.\n")
    document = live_documents()["virtual-policy/x"]
    assert {key: document[key] for key in expected} == expected
    assert sorted(path.name for path in bare.iterdir()) == [".policyctl"]
    again = policyctl("policy", "add", *args)
    assert again[:2] == (0, "No changes: the live policy already matches.\n")
    assert all(line.startswith("warning: --") for line in again.err.splitlines())


BAD_ADDS: dict[str, tuple[tuple[str, ...], str]] = {
    "attempts alone": (
        ("--retry-attempts", "2"),
        "error: --retry-attempts needs --retry-on-code: without codes the platform's own command drops the retry",
    ),
    "codes alone": (("--retry-on-code", "503"), "error: --retry-on-code needs --retry-attempts: the gateway refuses"),
    "a weight too few": (("--model", "virtual-model/b/two", "--weight", "1"), "error: --weight is given 1 × and --model 2 ×"),
    "a weight too many": (("--weight", "1", "--weight", "1"), "error: --weight is given 2 × and --model 1 ×"),
    "a percent": (
        ("--weight", "75"),
        "error: --weight: weight must be greater than 0 and at most 1, got 75 (did you mean 0.75?)",
    ),
    "no number": (("--weight", "nan"), "error: --weight: weight must be greater than 0 and at most 1, got nan"),
    "a code": (("--strategy-on-code", "99"), "error: --strategy-on-code: a status code must be from 100 to 599, got 99"),
    "a retry code": (("--retry-on-code", "600", "--retry-attempts", "1"), "error: --retry-on-code: a status code must be from"),
    "attempts": (
        ("--retry-on-code", "503", "--retry-attempts", "-1"),
        "error: --retry-attempts: attempts must be from 0 to 100",
    ),
    "no model name": (("--model", ""), "error: --model: model_name must not be empty"),
    "an empty name": (("--name", ""), "error: --name: name must not be empty"),
    "a hidden name": (("--name", "a\x1b[31m"), "error: --name: name must not contain control characters or invisible"),
    "no text": (("--description", "\udc80"), "error: --description: description must be valid Unicode text"),
}


@pytest.mark.parametrize("case", BAD_ADDS)
def test_add_refuses_what_no_file_may_contain_and_names_the_option(case: str, bare: Path, policyctl: Policyctl) -> None:
    args, message = BAD_ADDS[case]
    ran = policyctl(*ADD, *args, "--yes")
    assert ran.code == 64
    assert ran.out == ""
    assert shows(message, ran.err)
    assert ran.err.count("\n") == 1
    assert "\x1b" not in ran.err
    assert not LOCAL.exists()


MISSING = {
    "--name": "which policy? name it: policyctl policy add NAME",
    "--strategy": "missing option '--strategy'",
    "--model": "missing option '--model'",
}


@pytest.mark.parametrize("missing", MISSING)
def test_add_needs_a_name_a_strategy_and_a_model(missing: str, bare: Path, policyctl: Policyctl) -> None:
    at = ADD.index(missing)
    ran = policyctl(*ADD[:at], *ADD[at + 2 :])
    assert ran.code == 64
    assert MISSING[missing] in ran.err


def test_a_dry_run_shows_the_change_and_writes_nothing(bare: Path, policyctl: Policyctl) -> None:
    ran = policyctl(*ADD, "--dry-run")
    assert ran.code == 0
    assert ran.out.startswith("environment local, remote local\n\nchanges   1 to add\n")
    assert "\n\n+ virtual-policy/x\n    single of a/one\n\n" in ran.out
    assert "guards" not in ran.out, "they do not bind this command"
    assert ran.out.endswith("\n\nPlan: 1 to add, 0 to update, 0 to remove.\n")
    assert not LOCAL.exists()


def test_without_a_person_to_ask_it_is_a_usage_error_and_nothing_is_written(bare: Path, policyctl: Policyctl) -> None:
    ran = policyctl(*ADD)
    assert ran.code == 64
    assert "add --yes" in ran.err
    assert not LOCAL.exists()


@pytest.mark.slow
def test_on_a_terminal_no_declines_and_nothing_is_written(project: Project, policyctl: Policyctl) -> None:
    file = project.policy("x", "virtual-model/b/two")
    before = file.read_bytes()
    for question, command in {
        "Apply 1 change to local? [y/N]: ": ADD,
        f"Overwrite {file}? [y/N]: ": (*ADD, "--save"),
        f"Delete {file}? [y/N]: ": ("policy", "remove", "--name", "x", "--save"),
    }.items():
        code, shown = answer_on_terminal("n", *command)
        assert code == 1
        assert question in shown
        assert "declined; nothing was written" in shown
    assert file.read_bytes() == before
    assert not LOCAL.exists()


def target(name: str, model: str) -> None:
    edit(name, lambda document: document["policy"]["targets"][0].update(model_name=model))


WHILE_ASKED: dict[str, tuple[tuple[str, ...], tuple[str, str]]] = {
    "a policy begins to target what is removed": (("apply",), ("theirs", "virtual-policy/gone")),
    "what a change leads to moves to another model": (("apply",), ("base", "virtual-model/evil/m")),
    "the same, by one command": (("policy", "remove", "gone"), ("theirs", "virtual-policy/gone")),
    "nothing that the plan shows": (("apply",), ("theirs", "virtual-model/b/two")),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", WHILE_ASKED)
def test_what_changes_while_a_question_is_open_is_looked_at_before_anything_is_written(
    case: str, project: Project, policyctl: Policyctl
) -> None:
    project.write("policyctl.yaml", "scope: [own, gone]\nguards: {deny_providers: [evil]}\n")
    project.policy("own", "virtual-model/a/one")
    project.policy("gone", "virtual-model/a/one")
    assert policyctl("apply", "--yes").code == 0
    put([row("theirs"), row("base")])
    (project.policies / "gone.yaml").unlink()
    project.policy("own", "virtual-policy/base")
    command, edited = WHILE_ASKED[case]
    with on_terminal("-m", "policyctl", *command) as terminal:
        terminal.until("[y/N]: ")
        target(*edited)
        terminal.type("y\n")
        code, shown = terminal.end(), terminal.shown
    moved = case != "nothing that the plan shows"
    assert (code, "this is not the plan that you have seen; nothing was written, plan again" in shown) == (
        (4, True) if moved else (0, False)
    )
    assert ("virtual-policy/gone" in live_documents()) is moved


def test_dead_targets_are_a_warning_that_names_the_option(bare: Path, policyctl: Policyctl) -> None:
    ran = policyctl(*ADD, "--model", "virtual-model/b/two", "--strategy", "single", "--yes")
    assert ran.code == 0
    assert ran.err.startswith("warning: --model: only the first target is ever called under single")


def test_an_update_keeps_the_id_the_spelling_and_what_the_format_does_not_know(bare: Path, policyctl: Policyctl) -> None:
    before = row("x", owner="team-a", description="old")
    before["name"] = "x"
    before["policy"]["strategy"]["sticky"] = True
    before["policy"]["targets"] = [{**LEAF, "region": "eu"}]
    put([{**before, "id": "the-id"}])
    ran = policyctl(*ADD, "--weight", "0.5", "--yes")
    assert ran.code == 0, ran.err
    assert "~ virtual-policy/x\n" in ran.out
    assert "policy.targets[a/one].weight: 1 → 0.5" in ran.out
    assert live_documents()["x"] == {
        "name": "x",
        "owner": "team-a",
        "display_name": "virtual-policy/x",
        "description": "virtual-policy/x",
        "policy": {
            "strategy": {"mode": "single", "sticky": True},
            "targets": [{**LEAF, "weight": 0.5, "region": "eu"}],
        },
    }


VENDOR_JSON = json.dumps(
    {
        "spec_version": "v1",
        "kind": "model",
        "name": "virtual-policy/anygem",
        "display_name": "Any Gem 🙂",
        "description": "Balances requests between 2 Gemini models",
        "policy": {"strategy": {"mode": "single", "on_status_codes": [503]}, "targets": [{**LEAF, "weight": 1.0}]},
    }
)


@pytest.mark.parametrize(("file", "text"), [("a.yaml", ANYGEM), ("a.yml", ANYGEM), ("a.json", VENDOR_JSON)])
def test_import_adds_then_updates_then_has_nothing_to_do(file: str, text: str, bare: Path, policyctl: Policyctl) -> None:
    Path(file).write_text(text, "utf-8")
    ran = policyctl("policy", "import", "--file", file, "--yes")
    assert ran.code == 0, ran.err
    assert f"+ virtual-policy/anygem  {file}\n" in ran.out
    Path(file).write_text(text.replace("Balances", "Shares"), "utf-8")
    ran = policyctl("policy", "import", "-f", file, "--yes")
    assert 'description: "Balances requests' in ran.out
    assert ran.out.endswith("Applied: 1 updated; read back and verified.\n")
    assert policyctl("policy", "import", "-f", file).out == "No changes: the live policy already matches.\n"


BAD_IMPORTS: dict[str, tuple[str, str, int, str]] = {
    "a typo": ("a.yaml", ANYGEM.replace("strategy:", "stratgy:"), 1, "a.yaml:7:3: unknown key [P101]"),
    "not YAML": ("a.yaml", "a: [", 1, "a.yaml:1:4: this [ is never closed"),
    "a percent": ("a.yaml", ANYGEM.replace("0.75", "75"), 1, "a.yaml:14:15: weight must be greater than 0 [P103]"),
    "two policies": ("a.yaml", f"{ANYGEM}---\n{ANYGEM}", 64, "error: --file: a.yaml holds 2 policies; one is imported"),
    "no policy": ("a.test.yaml", ANYGEM, 64, "error: --file: a.test.yaml holds no policies"),
    "Python": ("a.py", "", 64, "error: --file: a.py must end in .yaml, .yml, .json; Python is not run here"),
    "an unset variable": (
        "a.yaml",
        ANYGEM.replace("0.75", '"{{ w }}"'),
        1,
        "a.yaml:14:15: the variable w is not set in environment local [P018]",
    ),
}


@pytest.mark.parametrize("case", BAD_IMPORTS)
def test_import_refuses_a_bad_file_with_its_place(case: str, bare: Path, policyctl: Policyctl) -> None:
    file, text, code, message = BAD_IMPORTS[case]
    Path(file).write_text(text, "utf-8")
    ran = policyctl("policy", "import", "--file", file, "--yes")
    assert ran.code == code
    assert shows(message, ran.err)
    assert not LOCAL.exists()


def test_a_file_that_is_not_there_is_a_clear_error(bare: Path, policyctl: Policyctl) -> None:
    ran = policyctl("policy", "import", "--file", "nope.yaml", "--yes")
    assert (ran.code, ran.err) == (1, "nope.yaml: the file does not exist; correct the path [P001]\n")


def test_import_renders_templates_with_the_vars_of_the_environment(project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", "environments: {a: {vars: {w: 0.5}}}\n")
    Path("a.yaml").write_text(ANYGEM.replace("0.75", '"{{ w }}"'), "utf-8")
    assert policyctl("policy", "import", "--file", "a.yaml", "--yes").code == 0
    assert live_documents(Path(".policyctl/a.db"))["virtual-policy/anygem"]["policy"]["targets"][0]["weight"] == 0.5


@pytest.mark.parametrize("name", ["x", "virtual-policy/x"])
def test_remove_takes_either_spelling_and_removes_the_last_policy_too(name: str, bare: Path, policyctl: Policyctl) -> None:
    put([row("x")])
    ran = policyctl("policy", "remove", "--name", name, "--yes")
    assert ran.code == 0, ran.err
    assert "- virtual-policy/x\n" in ran.out
    assert ran.out.endswith("Applied: 1 removed; read back and verified.\n")
    assert live_documents() == {}


def test_removing_what_is_not_there_is_an_error(bare: Path, policyctl: Policyctl) -> None:
    put([row("anygem")])
    ran = policyctl("policy", "remove", "--name", "anygen", "--yes")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "error: no policy virtual-policy/anygen on local (did you mean virtual-policy/anygem?)\n"
    ran = policyctl("policy", "remove", "--name", "router", "--yes")
    assert ran.err == "error: no policy virtual-policy/router on local\n"


def test_a_policy_that_another_one_targets_is_not_removed_in_scope_or_not(project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", 'scope: ["x"]\n')
    nested = {"strategy": {"mode": "single"}, "targets": [{"model_name": "x"}]}
    put([row("x"), row("user", policy={"strategy": {"mode": "fallback"}, "targets": [LEAF, nested]})])
    ran = policyctl("policy", "remove", "--name", "x", "--yes")
    assert ran.code == 3
    assert "virtual-policy/x would be removed, but virtual-policy/user still targets it" in ran.out
    assert len(live_documents()) == 2


def test_protect_binds_and_scope_prune_and_limits_do_not(project: Project, policyctl: Policyctl) -> None:
    limits = "limits: {max_removes: 0, max_change_percent: 0}"
    project.write("policyctl.yaml", f'scope: ["mine-*"]\nprune: false\nprotect: ["prod-*"]\nallow_remove: [mine-a]\n{limits}\n')
    put([row("prod-a"), row("prod-b"), row("free"), *(row(f"other-{number}") for number in range(12))])
    refused = policyctl("policy", "remove", "--name", "prod-a", "--yes")
    assert refused.code == 3
    assert "virtual-policy/prod-a is protected and would be removed (allow it with --allow-remove" in refused.out
    assert policyctl("policy", "remove", "--name", "prod-a", "--allow-remove", "prod-b", "--yes").code == 64
    assert policyctl("policy", "remove", "--name", "prod-a", "--allow-remove", "prod-a", "--yes").code == 0
    removed = policyctl("policy", "remove", "--name", "free", "--yes")
    assert removed.code == 0
    assert "note" not in removed.out  # what allow_remove means for others does not concern this command
    assert policyctl(*ADD, "--name", "prod-b", "--weight", "0.5", "--yes").code == 0
    assert {"virtual-policy/prod-a", "virtual-policy/free"}.isdisjoint(live_documents())


def test_a_refused_removal_is_refused_by_a_dry_run_too(project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", "protect: [x]\n")
    put([row("x")])
    assert policyctl("policy", "remove", "--name", "x", "--dry-run").code == 3


def test_a_policy_may_not_target_itself_by_way_of_others(bare: Path, policyctl: Policyctl) -> None:
    over_x = {"strategy": {"mode": "single"}, "targets": [{"model_name": "virtual-policy/x"}]}
    put([row("x"), row("a", policy=over_x), row("loop", policy={**over_x, "targets": [{"model_name": "loop"}]})])
    for target in ("x", "virtual-policy/a"):
        ran = policyctl(*ADD, "--model", target, "--yes")
        assert ran.code == 3
        assert "virtual-policy/x would target itself" in ran.err
    assert policyctl(*ADD, "--model", "loop", "--yes").code == 0  # a circle elsewhere is not this command's business


ROWS_THAT_BLOCK: dict[str, tuple[list[dict[str, Any]], str]] = {
    "twins": (
        [row("x", id="1"), row("x", id="2")],
        "the remote has several policies of this name; remove all but one by id (ids 1, 2)",
    ),
    "unreadable": ([row("x", id="1", policy=None)], "the row has no policy"),
}


@pytest.mark.parametrize("command", [ADD, ("policy", "remove", "--name", "x")])
@pytest.mark.parametrize("case", ROWS_THAT_BLOCK)
def test_rows_that_cannot_be_told_apart_block_and_are_left_alone(
    case: str, command: tuple[str, ...], bare: Path, policyctl: Policyctl
) -> None:
    rows, message = ROWS_THAT_BLOCK[case]
    put(rows)
    before = LOCAL.read_bytes()
    if case == "twins":
        # The look-up by name finds one of them only; the list shows both.
        assert policyctl("policy", "list").out.count(f"blocked  virtual-policy/x: {message}") == 1
    ran = policyctl(*command, "--yes")
    assert ran.code == 5
    assert message in ran.out + ran.err
    assert LOCAL.read_bytes() == before


def test_an_invalid_row_is_repaired_by_an_add(bare: Path, policyctl: Policyctl) -> None:
    put([row("x", policy={"targets": [{**LEAF, "weight": 250}]})])
    ran = policyctl(*ADD, "--yes")
    assert ran.code == 0, ran.err
    assert "policy.strategy: absent → {mode: single}" in ran.out
    assert live_documents()["virtual-policy/x"]["policy"] == {"strategy": {"mode": "single"}, "targets": [LEAF]}


DIFFERS = "policies/x.yaml differs and wins at the next apply"
NEXT_APPLY: dict[str, tuple[dict[str, str], tuple[str, ...], str]] = {
    "a file says the same": ({"x": "virtual-model/a/one"}, ADD, ""),
    "a file says otherwise": ({"x": "virtual-model/b/two"}, ADD, DIFFERS),
    "no file has it": ({"other": "virtual-model/b/two"}, ADD, "no file of policies has it, so the next apply removes it"),
    "no file at all": ({}, ADD, ""),
    "a file still has the removed one": (
        {"live": "virtual-model/a/one"},
        ("policy", "remove", "--name", "live"),
        "policies/live.yaml still has it, so the next apply adds it again",
    ),
    "no file has the removed one": ({"other": "virtual-model/b/two"}, ("policy", "remove", "--name", "live"), ""),
}


@pytest.mark.parametrize("case", NEXT_APPLY)
def test_the_file_that_wins_at_the_next_apply_is_named(case: str, project: Project, policyctl: Policyctl) -> None:
    files, command, note = NEXT_APPLY[case]
    put([row("live")])
    for name, target in files.items():
        project.policy(name, target)
    ran = policyctl(*command, "--dry-run")
    assert ran.code == 0
    assert (f"note  {note}" in ran.out) if note else ("next apply" not in ran.out + ran.err)
    assert policyctl(*command, "--yes").code == 0


def test_the_file_that_wins_is_named_also_when_there_is_nothing_to_change(project: Project, policyctl: Policyctl) -> None:
    put([row("x")])
    project.policy("x", "virtual-model/b/two")
    ran = policyctl(*ADD)
    assert ran.code == 0
    assert ran.err.startswith(f"note  {DIFFERS}")


def test_a_directory_with_errors_does_not_stand_in_the_way(project: Project, policyctl: Policyctl) -> None:
    project.write("broken.yaml", "a: [")
    ran = policyctl(*ADD, "--yes")
    assert ran.code == 0, ran.err
    assert "note  policies has 1 error, so it is not known whether one of its files has this policy" in ran.out
    assert "virtual-policy/x" in live_documents()


def test_what_would_not_be_removed_has_no_note(project: Project, policyctl: Policyctl) -> None:
    project.policy("other")
    for settings in ("prune: false\n", "scope: [other]\n"):
        project.write("policyctl.yaml", settings)
        assert "next apply" not in policyctl(*ADD, "--dry-run").out


def test_the_remote_and_the_environment_can_be_chosen(project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", "default: a\nenvironments: {a: {}, b: {}}\n")
    assert policyctl("policy", "--env", "b", *ADD[1:], "--yes").code == 0
    assert policyctl(*ADD, "--remote", "sqlite:///other.db", "--yes").code == 0
    assert sorted(path.name for path in Path(".policyctl").iterdir()) == [".gitignore", "b.db", "b.db.lock"]
    assert list(live_documents(Path("other.db"))) == ["virtual-policy/x"]
