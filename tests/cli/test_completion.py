"""Completion in shells: by the protocol of click's scripts, and by the scripts in the shells themselves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from policyctl.cli.main import run
from policyctl.rules import RULES
from tests.conftest import Policyctl, Project
from tests.remote.fake_server import Reply, standing_in
from tests.terminal import on_terminal

Complete = Callable[..., tuple[set[str], str]]
PROGRAM = Path(sys.executable).with_name("policyctl")
CONFIG = """\
default: dev
environments: {{dev: {{remote: "{url}"}}, prod: {{remote: "{url}/prod", auth: {{type: bearer, token: "env:UNSET"}}}}}}
manage: [policies, models]
"""
MODEL = "{spec_version: v1, kind: model, name: openai/gpt-5, app_id: creds}\n"


@pytest.fixture
def complete(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Complete:
    """What bash is given for the last word of a line (empty after a space), and what is on standard error."""

    def call(line: str, **environ: str) -> tuple[set[str], str]:
        words = line.split(" ")
        asked = {"_POLICYCTL_COMPLETE": "bash_complete", "COMP_WORDS": line, "COMP_CWORD": str(len(words) - 1)}
        capfd.readouterr()
        with monkeypatch.context() as within:
            for name, value in (asked | environ).items():
                within.setenv(name, value)
            with pytest.raises(SystemExit) as ended:
                run([])
        assert ended.value.code == 0
        out, err = capfd.readouterr()
        return {one.removeprefix("plain,") for one in out.splitlines() if one}, err

    return call


@pytest.fixture
def directory(project: Project) -> Project:
    project.write("policyctl.yaml", CONFIG.format(url="https://nowhere.example"))
    project.write("models/gpt-5.yaml", MODEL)
    for name in ("anygem", "assistant", "chat"):
        project.policy(name)
    return project


LINES: dict[str, tuple[str, set[str]]] = {
    "a command": ("policyctl comp", {"completion"}),
    "a format": ("policyctl plan --format j", {"json", "junit"}),
    "an environment": ("policyctl plan --env ", {"dev", "prod"}),
    "an environment, before the command": ("policyctl --env p", {"prod"}),
    "an environment to leave out": ("policyctl plan --exclude-env p", {"prod"}),
    "an environment to show": ("policyctl env show d", {"dev"}),
    "a selection": ("policyctl plan --only a", {"anygem", "assistant"}),
    "an exclusion": ("policyctl apply --exclude o", {"openai/gpt-5"}),
    "a whole name": ("policyctl plan --only virtual-policy/c", {"virtual-policy/chat"}),
    "a prefix": ("policyctl plan --only virtual-m", {"virtual-model/openai/gpt-5"}),
    "a second name": ("policyctl diff chat an", {"anygem"}),
    "of one environment": ("policyctl diff --env prod ch", {"chat"}),
    "a policy": ("policyctl policy show c", {"chat"}),
    "a policy by option": ("policyctl policy remove --name c", {"chat"}),
    "a policy and no model": ("policyctl policy show o", set()),
    "a model": ("policyctl model show ", {"openai/gpt-5"}),
    "who uses what": ("policyctl consumers as", {"assistant"}),
    "a policy for its effect": ("policyctl effect ch", {"chat"}),
    "a file for its effect": ("policyctl effect policies/", {"file,policies/"}),
    "a rule": ("policyctl rules P01", {code for code in RULES if code.startswith("P01")}),
    "a topic": ("policyctl help tu", {"tutorial"}),
    "a shell": ("policyctl completion z", {"zsh"}),
    "nothing that begins so": ("policyctl plan --only nope", set()),
}


@pytest.mark.parametrize("case", LINES)
def test_values_are_completed(case: str, directory: Project, complete: Complete) -> None:
    line, expected = LINES[case]
    found, said = complete(line)
    assert (found, said) == (expected, "")


def test_a_rule_is_completed_in_the_case_in_which_it_is_begun(directory: Project, complete: Complete) -> None:
    assert "p401" in complete("policyctl rules p40")[0]


def test_the_directory_of_the_line_counts(directory: Project, complete: Complete) -> None:
    other = directory.folder / "other"
    shutil.copytree(directory.policies, other)
    (other / "chat.yaml").rename(other / "chit.yaml")
    (other / "chit.yaml").write_text((other / "chit.yaml").read_text("utf-8").replace("name: chat", "name: chit"), "utf-8")
    assert complete("policyctl --dir other diff ch") == ({"chit"}, "")
    assert complete("policyctl diff --dir other ch") == ({"chit"}, "")
    assert complete("policyctl diff ch", POLICYCTL_DIR="other") == ({"chit"}, "")


BROKEN: dict[str, tuple[str, str]] = {
    "policyctl.yaml": ("policyctl.yaml", "environments: [\n"),
    "an environment that is not known": ("policyctl.yaml", "default: nope\nenvironments: {dev: {}}\n"),
    "a policy file": ("chat.yaml", "name: [\n"),
    "a link to itself": ("policyctl.yaml", ""),
}


@pytest.mark.parametrize("line", ["plan --env ", "plan --only a", "--dir nope plan --env ", "--nope plan --on", "nope x ", "'"])
@pytest.mark.parametrize("case", BROKEN)
def test_a_completion_never_shows_an_error(case: str, line: str, directory: Project, complete: Complete) -> None:
    """`complete` also fails for an exit code other than 0."""
    name, text = BROKEN[case]
    if text:
        directory.write(name, text)
    else:
        (directory.policies / name).unlink()
        (directory.policies / name).symlink_to(name)
    assert complete(f"policyctl {line}")[1] == ""


def test_a_broken_file_hides_no_other_name(directory: Project, complete: Complete) -> None:
    directory.write("chat.yaml", "name: [\n")
    assert complete("policyctl diff ") == ({"anygem", "assistant", "openai/gpt-5"}, "")


def test_no_remote_is_asked(directory: Project, complete: Complete) -> None:
    with standing_in(lambda _: Reply(500)) as server:
        directory.write("policyctl.yaml", CONFIG.format(url=server.url))
        for case in LINES:
            complete(LINES[case][0])
        assert server.seen == []


def test_a_name_that_a_shell_would_obey_is_not_offered(directory: Project, complete: Complete) -> None:
    for number, name in enumerate(("a;reboot", "a$(reboot)", "a b", "a,b", "-a", "a*")):
        body = "policy: {strategy: {mode: single}, targets: [{model_name: x/a}]}"
        text = f"spec_version: v1\nkind: model\nname: '{name}'\n{body}\n"
        directory.write(f"bad-{number}.yaml", text)
    assert complete("policyctl diff a")[0] == {"anygem", "assistant"}
    assert complete("policyctl diff -a")[0] == set()


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_of_a_shell_asks_the_program(shell: str, policyctl: Policyctl) -> None:
    ran = policyctl("completion", shell)
    assert (ran.code, ran.err) == (0, "")
    assert f"_POLICYCTL_COMPLETE={shell}_complete" in ran.out


def test_bash_completes_with_the_script(directory: Project, policyctl: Policyctl) -> None:
    """The script as bash runs it, for `policyctl plan --env p`."""
    script = policyctl("completion", "bash").out
    asked = "COMP_WORDS=(policyctl plan --env p) COMP_CWORD=3; _policyctl_completion policyctl; echo ${COMPREPLY[@]}"
    environ = {**os.environ, "PATH": f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"}
    ran = subprocess.run(["bash", "-c", f"{script}\n{asked}"], env=environ, capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("prod\n", "")


# What is typed before a tab, and the line that it becomes.
TYPED = {
    "policyctl completi": "policyctl completion",
    "policyctl plan --env p": "policyctl plan --env prod",
    "policyctl plan --only as": "policyctl plan --only assistant",
    "policyctl diff virtual-policy/an": "policyctl diff virtual-policy/anygem",
    "policyctl model show op": "policyctl model show openai/gpt-5",
    "policyctl rules P02": "policyctl rules P020",
    "policyctl schema doc": "policyctl schema doctor",
    "policyctl plan --format mark": "policyctl plan --format markdown",
    "policyctl help policy expo": "policyctl help policy export",
}


def shell(name: str) -> str:
    """The shell as the system has it."""
    path = shutil.which(name)
    if path is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"these tests need {name}: install it")
        pytest.skip(f"there is no {name} on this machine")
    return path


def environ_of(folder: Path) -> dict[str, str]:
    """The program is found, and nothing that the user set up for a shell is read."""
    own = {name: str(folder) for name in ("HOME", "ZDOTDIR", "XDG_CONFIG_HOME", "XDG_DATA_HOME")}
    return {**own, "PATH": f"{PROGRAM.parent}{os.pathsep}{os.environ['PATH']}"}


ZSHRC = """\
fpath=($ZDOTDIR $fpath)
autoload -Uz compinit
compinit -u -D
precmd() { prompts=$((prompts + 1)); PS1="READY$prompts> " }
"""


@pytest.mark.slow
def test_zsh_completes_what_is_typed(
    directory: Project, policyctl: Policyctl, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """In an interactive shell on a terminal, with the script where its help puts it. ^A and a word print the line."""
    folder, program = tmp_path_factory.mktemp("zsh"), shell("zsh")
    (folder / "_policyctl").write_text(policyctl("completion", "zsh").out, "utf-8")
    (folder / ".zshrc").write_text(ZSHRC, "utf-8")
    start = f"import os; os.execv({program!r}, ['zsh', '-i'])"
    with on_terminal("-c", start, width=200, environ=environ_of(folder)) as terminal:
        for number, (typed, line) in enumerate(TYPED.items(), 1):
            terminal.until(f"READY{number}> ")
            terminal.type(f"{typed}\t\x01print -r -- SHOWN{number} \n")
            terminal.until(f"\nSHOWN{number} {line}")
        terminal.until(f"READY{len(TYPED) + 1}> ")
        terminal.type("exit\n")
        assert terminal.end() == 0


@pytest.mark.slow
def test_fish_completes_what_is_typed(
    directory: Project, policyctl: Policyctl, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder, program = tmp_path_factory.mktemp("fish"), shell("fish")
    script = folder / "fish" / "completions" / "policyctl.fish"
    script.parent.mkdir(parents=True)
    script.write_text(policyctl("completion", "fish").out, "utf-8")
    asked = "\n".join(f"complete -C '{typed}'; echo -- ---" for typed in TYPED)
    environ = {**os.environ, **environ_of(folder)}
    ran = subprocess.run([program, "-c", asked], env=environ, capture_output=True, text=True, check=True)
    assert ran.stderr == ""
    found = [{line.partition("\t")[0] for line in part.splitlines()} for part in ran.stdout.split("---\n")][:-1]
    assert len(found) == len(TYPED)
    for values, line in zip(found, TYPED.values(), strict=True):
        assert line.split()[-1] in values, (line, values)
        assert all(value.startswith(line.split()[-1][:2]) for value in values), (line, values)


def test_an_unknown_shell_is_a_usage_error(policyctl: Policyctl) -> None:
    ran = policyctl("completion", "csh")
    assert (ran.code, "bash" in ran.err and "zsh" in ran.err and "fish" in ran.err) == (64, True)
