"""The command line itself: options before and after, help, colour, exit codes, streams."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from policyctl import __version__
from policyctl.cli import ci, environments
from policyctl.cli.main import COMMANDS, POLICY_COMMANDS
from tests.conftest import ANYGEM, Policyctl, Project, Ran
from tests.problem_lines import shows
from tests.sqlite_rows import live_documents, put
from tests.terminal import answer_on_terminal

POLICYCTL = (sys.executable, "-m", "policyctl")


SUBCOMMANDS = [
    *(f"policy {name}" for name in POLICY_COMMANDS),
    *(f"ci {name}" for name in ci.COMMANDS),
    *(f"env {name}" for name in environments.ENV_COMMANDS),
]


@pytest.mark.parametrize("command", [*COMMANDS, *SUBCOMMANDS])
def test_every_command_has_help_with_an_example(command: str, policyctl: Policyctl) -> None:
    ran = policyctl(*command.split(), "--help")
    assert ran.code == 0
    assert "Example:" in ran.out


SHARED = {"--dir": "x", "--env": "x", "--remote": "local", "--color": "never"}
ALL = set(SHARED)
USED = {
    "validate": ALL - {"--remote"},
    "test": ALL - {"--remote"},
    "history": {"--env", "--color"},
    "show": {"--color"},
    "fmt": {"--dir", "--color"},
    "runs": {"--dir", "--color"},
    "env list": {"--dir", "--env", "--color"},
    "env show": {"--dir", "--color"},
    "init": {"--dir"},
    "policy list": ALL,
    "policy show": {"--dir", "--env", "--remote"},
    "policy export": {"--dir", "--env", "--remote"},
    "ci overrides": {"--dir", "--env"},
    "ci applied": {"--dir", "--env"},
    "ci comment": {"--dir", "--env"},
    "ci drift": {"--dir"},
    "serve": {"--dir", "--env", "--remote"},
    "gateway": {"--dir", "--env", "--remote"},
    "watch": ALL - {"--remote"},
    "worker": {"--dir", "--color"},
    "rules": {"--color"},
    "schema": set(),
    "help": set(),
    "completion": set(),
}


@pytest.mark.parametrize("command", [*COMMANDS, *SUBCOMMANDS])
def test_a_command_has_the_shared_options_that_it_uses_and_refuses_the_others(command: str, policyctl: Policyctl) -> None:
    """In its help, behind its name, and before it."""
    words, used = command.split(), USED.get(command, ALL)
    shown = policyctl(*words, "--help").out
    assert {option for option in SHARED if f"  {option}" in shown} == used
    for option in ALL - used:
        given = [option, *([SHARED[option]] if SHARED[option] else [])]
        after, before = policyctl(*words, *given), policyctl(*given, *words)
        assert (after.code, after.out, before.code, before.out) == (64, "", 64, "")
        assert after.err == f"error: unknown option {option} (see policyctl {command} --help)\n"
        required = (
            "missing" in before.err or "name it" in before.err
        )  # click asks for what a command must have before the command can say more
        assert required or before.err == f"error: policyctl {command} does not use {option}; leave it out\n"


def test_a_variable_is_for_the_commands_that_use_it(policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DIR", "ENV", "REMOTE", "COLOR"):
        monkeypatch.setenv(f"POLICYCTL_{name}", "always" if name == "COLOR" else "1")
    assert policyctl("rules", "P401").code == 0
    assert policyctl("schema").code == 0


@pytest.mark.parametrize("place", ["before", "after"])
def test_validate_looks_at_one_environment_when_it_is_asked_to(
    place: str, project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    def validate(name: str) -> Ran:
        return policyctl("validate", "--env", name) if place == "after" else policyctl("--env", name, "validate")

    project.write("policyctl.yaml", "environments: {dev: {vars: {w: 0.25}}, prod: {}}\n")
    project.write("a.yaml", ANYGEM.replace("weight: 0.25", 'weight: "{{ w }}"'))
    assert policyctl("validate").code == 1
    assert validate("dev") == (0, "Valid in dev: 1 policy in 1 file.\n", "")
    ran = validate("prod")
    assert (ran.code, "Not valid in prod: 1 error" in ran.out, "P018" in ran.out) == (1, True, True)
    ran = validate("pord")
    assert (ran.code, ran.out) == (64, "")
    assert "error: unknown environment pord (did you mean prod?); known: dev, prod" in ran.err
    monkeypatch.setenv("POLICYCTL_ENV", "dev")  # which is for all commands, and hides no environment from validate
    assert policyctl("validate").code == 1


def test_validate_of_an_environment_that_is_not_there_fails_without_a_configuration_too(
    project: Project, policyctl: Policyctl
) -> None:
    project.write("anygem.yaml")
    ran = policyctl("validate", "--env", "nonexistent")
    assert (ran.code, "unknown environment nonexistent" in ran.err) == (64, True)


def test_help_lists_every_command(policyctl: Policyctl) -> None:
    shown = policyctl("--help").out
    assert all(f"  {name} " in shown for name in COMMANDS)


def test_version(policyctl: Policyctl) -> None:
    assert policyctl("--version") == (0, f"policyctl {__version__}\n", "")


USAGE = {
    "no command": (),
    "an unknown command": ("plann",),
    "an unknown command of a group": ("policy", "lst"),
    "a missing option": ("policy", "show"),
    "a missing choice": ("policy", "add", "--name", "x", "--model", "y"),
    "an unknown option": ("plan", "--nope"),
    "a bad choice": ("plan", "--format", "xml"),
    "an unknown environment": ("plan", "--env", "prod"),
    "an unknown kind of remote": ("plan", "--remote", "ftp://x"),
    "a password in the remote": ("plan", "--remote", "https://user:hunter2@example.com/"),
    "nobody to answer": ("apply",),
    "too many at once": ("apply", "--parallelism", "1000"),
}


@pytest.mark.parametrize("case", USAGE)
def test_usage_errors_exit_with_64(case: str, project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    ran = policyctl(*USAGE[case])
    assert ran.code == 64
    assert ran.err.startswith("Usage: policyctl") if case == "no command" else ran.err.startswith("error: ")
    assert (ran.err.count("\n") == 1) == (case != "no command")
    assert "hunter2" not in ran.out + ran.err


def test_a_misspelled_command_is_told_the_one_that_was_meant(policyctl: Policyctl) -> None:
    assert policyctl("plann").err == "error: unknown command plann (did you mean plan?) (see policyctl --help)\n"


def test_the_option_after_the_command_wins_then_the_one_before_then_the_variable(
    project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("anygem.yaml")
    project.write("policyctl.yaml", "default: a\nenvironments: {a: {}, b: {}, c: {}, d: {}}\n")
    assert policyctl("plan").out.startswith("environment a,")
    monkeypatch.setenv("POLICYCTL_ENV", "b")
    assert policyctl("plan").out.startswith("environment b,")
    assert policyctl("--env", "c", "plan").out.startswith("environment c,")
    assert policyctl("--env", "c", "plan", "--env", "d").out.startswith("environment d,")


def test_every_global_option_has_a_variable(project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write("anygem.yaml")
    (project.folder / "elsewhere").mkdir()
    project.policies.rename(project.folder / "elsewhere/p")
    monkeypatch.setenv("POLICYCTL_DIR", "elsewhere/p")
    monkeypatch.setenv("POLICYCTL_REMOTE", "sqlite:///x.db")
    monkeypatch.setenv("POLICYCTL_COLOR", "always")
    monkeypatch.setenv("POLICYCTL_VERBOSE", "1")
    ran = policyctl("apply", "--yes")
    assert ran.code == 0
    assert "remote sqlite:///x.db" in ran.out
    assert "\x1b[" in ran.out
    assert Path("x.db").exists()


COLOURS = {
    "a pipe": ({}, (), False),
    "asked for": ({}, ("--color", "always"), True),
    "forced": ({"FORCE_COLOR": "1"}, (), True),
    "NO_COLOR beats FORCE_COLOR": ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, (), False),
    "the option beats NO_COLOR": ({"NO_COLOR": "1"}, ("--color", "always"), True),
    "never": ({"FORCE_COLOR": "1"}, ("--color", "never"), False),
}


@pytest.mark.parametrize("case", COLOURS)
def test_colour(case: str, project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch) -> None:
    project.write("anygem.yaml")
    environ, options, expected = COLOURS[case]
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    assert ("\x1b[" in policyctl("plan", *options).out) == expected


def test_json_is_alone_on_standard_output(project: Project, policyctl: Policyctl) -> None:
    project.policy("two", "virtual-model/x/a", "virtual-model/x/b", mode="single")
    ran = policyctl("plan", "--format", "json")
    assert ran.out.startswith("{\n")
    assert shows("warning: [P401]", ran.err)


def test_progress_is_a_line_a_change_on_standard_error(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    assert policyctl("apply", "--yes").err == "+ virtual-policy/anygem  applied\n"


@pytest.mark.slow
def test_on_a_terminal_apply_asks_and_yes_applies(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    code, shown = answer_on_terminal("y", "apply")
    assert code == 0
    assert "Apply 1 change to local? [y/N]: " in shown
    assert policyctl("plan", "--detailed-exitcode").code == 0


@pytest.mark.slow
def test_on_a_terminal_no_declines_and_nothing_is_written(project: Project) -> None:
    project.write("anygem.yaml")
    code, shown = answer_on_terminal("n", "apply")
    assert code == 1
    assert "declined; nothing was written" in shown
    assert not Path(".policyctl").exists()


@pytest.mark.slow
def test_an_output_that_cannot_show_an_arrow_gives_no_traceback(project: Project) -> None:
    project.write("anygem.yaml")
    subprocess.run([*POLICYCTL, "apply", "--yes"], check=True, capture_output=True)
    project.write("anygem.yaml", ANYGEM.replace("0.25", "0.4").replace("0.75", "0.6"))
    environ = {**os.environ, "PYTHONIOENCODING": "latin-1"}
    ran = subprocess.run([*POLICYCTL, "plan"], capture_output=True, env=environ, check=False)
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert rb"0.25 \u2192 0.4" in ran.stdout


def unread(project: Project, *args: str) -> tuple[int, str]:
    """The exit code, and what standard error has, of a command whose reader has left before the first line."""
    said = project.folder / "stderr.txt"
    reading, writing = os.pipe()
    os.close(reading)
    with said.open("wb") as stream:
        code = subprocess.run([*POLICYCTL, *args], stdout=writing, stderr=stream, check=False).returncode
    os.close(writing)
    return code, said.read_text("utf-8")


UNREAD = {
    "a plan": (("plan",), 0),
    "a plan that tells changes": (("plan", "--detailed-exitcode"), 2),
    "a plan as JSON": (("plan", "--detailed-exitcode", "--format", "json"), 2),
    "a list of rules": (("rules",), 0),
    "help": (("plan", "--help"), 0),
    "the version": (("--version",), 0),
    "a schema": (("schema",), 0),
    "a page of the manual": (("help", "rules"), 0),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", UNREAD)
def test_a_reader_that_goes_away_changes_no_exit_code_and_shows_no_traceback(case: str, project: Project) -> None:
    project.write("anygem.yaml")
    args, code = UNREAD[case]
    assert unread(project, *args) == (code, "")


@pytest.mark.slow
def test_a_reader_that_goes_away_hides_no_problem(project: Project) -> None:
    project.write("anygem.yaml", ANYGEM + "colour: red\n")
    assert unread(project, "validate") == (1, "")


@pytest.mark.slow
@pytest.mark.parametrize("failing", [False, True])
def test_apply_does_its_work_when_the_reader_of_its_plan_goes_away(failing: bool, project: Project) -> None:
    for name in "abc":
        project.policy(name)
    if failing:
        put([{"name": "virtual-policy/a", "policy": None}])
    code, said = unread(project, "apply", "--yes")
    assert code == (5 if failing else 0)
    assert ("Traceback" in said, len(live_documents())) == (False, 3)


@pytest.mark.slow
def test_a_reader_of_errors_that_goes_away_changes_no_exit_code(project: Project) -> None:
    project.write("anygem.yaml", ANYGEM + "colour: red\n")
    reading, writing = os.pipe()
    os.close(reading)
    assert subprocess.run([*POLICYCTL, "plan"], stderr=writing, check=False).returncode == 1
    assert subprocess.run([*POLICYCTL, "plan", "--nope"], stderr=writing, check=False).returncode == 64
    os.close(writing)


def in_a_shell(redirected: str, *args: str) -> subprocess.CompletedProcess[str]:
    """policyctl with its streams as a shell redirects them."""
    script = f'exec "$@" {redirected}'
    return subprocess.run(["sh", "-c", script, "sh", *POLICYCTL, *args], capture_output=True, text=True, check=False)


CLOSED = {
    "standard output": (">&-", 0),
    "standard error": ("2>&-", 0),
    "all of them": ("<&- >&- 2>&-", 0),
    "standard input, which nobody can answer on": ("<&-", 64),
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CLOSED)
def test_a_stream_that_is_closed_leads_nowhere(case: str, project: Project) -> None:
    redirected, code = CLOSED[case]
    project.write("anygem.yaml")
    ran = in_a_shell(redirected, "apply", *(["--yes"] if code == 0 else []))
    assert ran.returncode == code
    assert "bug" not in ran.stderr
    assert Path(".policyctl/local.db").exists() == (code == 0)


@pytest.mark.slow
def test_a_result_that_cannot_be_printed_is_an_error_in_one_line(project: Project) -> None:
    """Before anything is written: a person who cannot read the plan has not agreed to it."""
    project.write("anygem.yaml")
    ran = in_a_shell(">/dev/full", "apply", "--yes")
    assert (ran.returncode, ran.stderr) == (1, "error: standard output cannot be written: No space left on device\n")
    assert not Path(".policyctl").exists()
    told = in_a_shell(">/dev/full", "--help")
    assert (told.returncode, told.stderr) == (ran.returncode, ran.stderr)


@pytest.mark.slow
@pytest.mark.parametrize("redirected", ["2>/dev/full", ">/dev/full 2>/dev/full"])
def test_a_full_standard_error_changes_no_exit_code(redirected: str, project: Project) -> None:
    project.write("anygem.yaml", "nonsense: [")
    assert in_a_shell(redirected, "plan", "--detailed-exitcode").returncode == 1
    assert in_a_shell(redirected, "plan", "--nope").returncode == 64
    project.write("anygem.yaml")
    if redirected.startswith("2"):
        assert in_a_shell(redirected, "plan", "--detailed-exitcode").returncode == 2


@pytest.mark.slow
def test_apply_goes_on_when_its_progress_is_not_read(project: Project, policyctl: Policyctl) -> None:
    """What was begun is finished, noted and reported on standard output, as if standard error were read."""
    for number in range(300):
        project.policy(f"p{number}")
    command = [*POLICYCTL, "apply", "--yes", "--audit", "audit.jsonl"]
    told = project.folder / "stdout.txt"
    with told.open("w") as stream, subprocess.Popen(command, stdout=stream, stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        process.stderr.readline()
        process.stderr.close()
        assert process.wait() == 0
    assert told.read_text("utf-8").endswith("Applied: 300 added; read back and verified.\n")
    assert policyctl("history", "--audit", "audit.jsonl").out.count("  applied") == 300


def test_names_that_would_act_on_a_terminal_are_shown_escaped(project: Project, policyctl: Policyctl) -> None:
    project.write("a.yaml", ANYGEM.replace("Any Gem", '"\\e[2J\\u202edone"').replace("display_name", "descripton"))
    ran = policyctl("plan")
    assert "\x1b" not in ran.err + ran.out
    assert ran.code == 1


UNUSED = {
    "draws without a trace": (("effect", "--seed", "3"), "--seed is for the draws of --trace"),
    "a remote that is not asked": (("effect", "--remote", "local"), "--remote is only used with --against live"),
    "a remote that git has": (("effect", "--against", "git:HEAD", "--remote", "local"), "--remote is only used with"),
    "another policy's removal": (
        ("policy", "remove", "--name", "a", "--allow-remove", "b"),
        "--allow-remove b is not the policy to remove, virtual-policy/a",
    ),
    "an allowance for a file": (("policy", "remove", "--name", "a", "--allow-remove", "a", "--save"), "--allow-remove is for"),
    "an audit of a file": (("policy", "remove", "--name", "a", "--save", "--audit", "x"), "--audit records what is"),
    "an audit of nothing": (
        ("policy", "import", "-f", "a.yaml", "--dry-run", "--audit", "x"),
        "--audit records what is",
    ),
}


@pytest.mark.parametrize("case", UNUSED)
def test_an_option_without_a_use_beside_the_others_is_an_error(case: str, project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    args, said = UNUSED[case]
    ran = policyctl(*args)
    assert (ran.code, ran.out) == (64, "")
    assert ran.err.startswith(f"error: {said}")
