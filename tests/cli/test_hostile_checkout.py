"""Every command that asks git, in a checkout whose author wrote everything that git could be led or made to run by."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import Policyctl, Project, Ran
from tests.git_repo import SURROUNDINGS, commit, git
from tests.patience import LONGEST

GUARDED = "guards: {deny_providers: [evil]}\nprotect: [a]\n"


class Checkout:
    """A branch of a repository, with traps: each is a program that leaves a file, or a history that was rewritten."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.sprung = project.folder.parent / f"{project.folder.name}-sprung"
        self.trap = project.folder.parent / f"{project.folder.name}-trap"
        self.trap.write_text(f'#!/bin/sh\necho "$0 $*" >> "{self.sprung}"\ncat\n', "utf-8")
        self.trap.chmod(0o755)
        project.write("policyctl.yaml", GUARDED)
        project.policy("a")
        self.base = commit(project.folder)
        git(project.folder, "checkout", "-q", "-b", "change")

    def configuration(self) -> str:
        """A git configuration that names the trap wherever git would run a program."""
        trap = self.trap
        return (
            f"[core]\n\trepositoryformatversion = 1\n\tbare = false\n\tfsmonitor = {trap}\n"
            f"\tpager = {trap}\n\teditor = {trap}\n"
            f"\tsshCommand = {trap}\n\tgitProxy = {trap}\n\taskPass = {trap}\n\thooksPath = {trap}.hooks\n"
            f'[filter "evil"]\n\tclean = {trap}\n\tsmudge = {trap}\n\trequired = true\n'
            f'[diff "evil"]\n\ttextconv = {trap}\n\tcommand = {trap}\n[diff]\n\texternal = {trap}\n'
            f"[alias]\n\tls-tree = !{trap}\n\tstatus = !{trap}\n[pager]\n\tls-tree = {trap}\n[log]\n\tshowSignature = true\n"
            f"[gpg]\n\tprogram = {trap}\n[protocol]\n\tallow = always\n[credential]\n\thelper = !{trap}\n"
            f'[extensions]\n\tpartialClone = origin\n[remote "origin"]\n\turl = .\n\tpromisor = true\n\tuploadpack = {trap}\n'
        )

    def set_traps(self) -> None:
        """Everything that a branch, a pushed tag or a local configuration can hold."""
        top, policies = self.project.folder, self.project.policies
        evil = self._evil()
        (top / ".gitattributes").write_text("* filter=evil diff=evil\n", "utf-8")
        (top / ".gitmodules").write_text(f'[submodule "x"]\n\tpath = x\n\turl = .\n\tupdate = !{self.trap}\n', "utf-8")
        self.project.policy("bad", "virtual-model/evil/m")
        self.head = commit(top)
        git(top, "tag", "HEAD", evil)
        git(top, "tag", "refs/heads/main", evil)
        git(top, "replace", self.base, evil)
        (top / ".git" / "info").mkdir(exist_ok=True)
        (top / ".git" / "info" / "grafts").write_text(f"{self.head} {evil}\n", "utf-8")
        for name in ("HEAD", "config", "objects", "refs", "packed-refs", "index"):
            source = top / ".git" / name
            if source.is_dir():
                shutil.copytree(source, policies / name)
            elif source.exists():
                shutil.copy(source, policies / name)
        (policies / "refs" / "heads" / "main").write_text(evil, "utf-8")
        (policies / "HEAD").write_text(evil, "utf-8")
        (policies / "config").write_text(f"{self.configuration()}[core]\n\tworktree = ..\n", "utf-8")
        hooks = Path(f"{self.trap}.hooks")
        hooks.mkdir()
        for hook in ("post-index-change", "reference-transaction", "pre-auto-gc"):
            (hooks / hook).symlink_to(self.trap)
        with open(top / ".git" / "config", "a", encoding="utf-8") as stream:
            stream.write(self.configuration())

    def _evil(self) -> str:
        """A commit with no rules and another policy, of which no reviewer knows."""
        top = self.project.folder
        git(top, "checkout", "-q", "--orphan", "evil")
        self.project.write("policyctl.yaml", "prune: true\n")
        self.project.policy("a", "virtual-model/evil/other")
        evil = commit(top)
        git(top, "checkout", "-q", "-f", "change")
        git(top, "branch", "-q", "-D", "evil")
        return evil


@pytest.fixture
def hostile(project: Project, monkeypatch: pytest.MonkeyPatch) -> Iterator[Checkout]:
    checkout = Checkout(project)
    checkout.set_traps()
    policies = project.policies
    (project.folder / "git").symlink_to(checkout.trap)
    monkeypatch.setenv("PATH", f".{os.pathsep}{os.pathsep}{os.environ['PATH']}")
    leading = {
        "GIT_DIR": policies,
        "GIT_WORK_TREE": policies,
        "GIT_INDEX_FILE": policies / "index",
        "GIT_OBJECT_DIRECTORY": policies / "objects",
        "GIT_COMMON_DIR": policies,
        "GIT_NAMESPACE": "evil",
        "GIT_CONFIG": policies / "config",
        "GIT_CONFIG_GLOBAL": policies / "config",
        "GIT_CONFIG_COUNT": 1,
        "GIT_CONFIG_KEY_0": "core.fsmonitor",
        "GIT_CONFIG_VALUE_0": checkout.trap,
        "GIT_EXTERNAL_DIFF": checkout.trap,
        "GIT_PAGER": checkout.trap,
        "GIT_SSH_COMMAND": checkout.trap,
        "GIT_ASKPASS": checkout.trap,
        "GIT_TRACE": checkout.sprung,
    }
    for name, value in leading.items():
        monkeypatch.setenv(name, str(value))
    yield checkout
    assert not checkout.sprung.exists(), checkout.sprung.read_text("utf-8")


def test_the_traps_are_armed(project: Project) -> None:
    """What git does by itself in such a checkout; else the tests below could not fail."""
    checkout = Checkout(project)
    checkout.set_traps()
    for folder, command in ((project.folder, ["diff", "HEAD"]), (project.policies, ["-c", "core.pager=", "log", "-p", "-1"])):
        checkout.sprung.unlink(missing_ok=True)
        os.utime(project.policies / "a.yaml", (1, 1))
        subprocess.run(
            ["git", "-C", str(folder), *command], env=SURROUNDINGS, capture_output=True, check=False, timeout=LONGEST
        )
        assert checkout.sprung.exists(), command


ADDED = ["--name", "z", "--strategy", "single", "--model", "virtual-model/x/a"]
COMMANDS = {
    "plan": (["plan"], 3),
    "plan with a base": (["plan", "--base", "HEAD^1"], 3),
    "plan with a branch as base": (["plan", "--base", "main"], 3),
    "plan with a whole name as base": (["plan", "--base", "refs/heads/main"], 3),
    "plan with an id as base": (["plan", "--base", "{base}"], 3),
    "plan against a revision": (["plan", "--remote", "git:HEAD^1"], 3),
    "plan against a revision, with a base": (["plan", "--base", "main", "--remote", "git:main"], 3),
    "plan back to a revision": (["plan", "--to", "HEAD^1"], 0),
    "apply back to a revision": (["apply", "--to", "{base}", "--yes", "--audit", "{audit}"], 0),
    "apply": (["apply", "--yes", "--audit", "{audit}"], 3),
    "drift": (["drift"], 0),
    "effect": (["effect", "a", "--against", "git:main"], 0),
    "policy add": (["policy", "add", *ADDED, "--yes", "--audit", "{audit}"], 0),
    "validate": (["validate"], 0),
    "test": (["test", "--if-any"], 0),
    "pull": (["pull"], 0),
    "init": (["init", "--ci", "github"], 0),
}


@pytest.mark.parametrize("case", COMMANDS)
@pytest.mark.alike
def test_nothing_of_a_hostile_checkout_runs_and_nothing_is_read_from_it(
    case: str, hostile: Checkout, policyctl: Policyctl
) -> None:
    """The guard of the real base refuses the branch's policy, whatever the other histories say."""
    args, code = COMMANDS[case]
    filled = [arg.format(base=hostile.base, audit=hostile.trap.with_suffix(".jsonl")) for arg in args]
    ran = policyctl(*filled)
    assert ran.code == code, ran
    if code == 3:
        assert "virtual-policy/bad may reach evil (m), which is among deny_providers evil" in ran.out
    assert "evil/other" not in ran.out + ran.err


def test_the_plan_against_the_base_is_that_of_the_real_base(hostile: Checkout, policyctl: Policyctl) -> None:
    for remote in ("git:HEAD^1", "git:main", f"git:{hostile.base}"):
        ran = policyctl("plan", "--remote", remote, "--format", "json", "--allow-guard", "deny_providers")
        assert [(change["action"], change["name"]) for change in json.loads(ran.out)["changes"]] == [
            ("add", "virtual-policy/bad")
        ]


def test_the_audit_names_the_real_commit_and_that_the_directory_is_not_as_it_has_it(
    hostile: Checkout, policyctl: Policyctl
) -> None:
    audit = hostile.trap.with_suffix(".jsonl")
    assert _applied(policyctl, audit).code == 0
    lines = [json.loads(line) for line in audit.read_text("utf-8").splitlines()]
    assert {(line["commit"], line["dirty"], line["subject"]) for line in lines} == {(hostile.head, True, "x")}


def _applied(policyctl: Policyctl, audit: Path) -> Ran:
    return policyctl("apply", "--yes", "--audit", audit, "--allow-guard", "deny_providers")
