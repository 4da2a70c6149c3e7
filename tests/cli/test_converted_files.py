"""Files that git converts on checkout: they are not on the disk as a revision has them, so the two are not compared."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Policyctl, Project
from tests.git_repo import SURROUNDINGS, commit, git
from tests.gone import add_submodule

SETTINGS = "protect: [prod-*]\n# $Id$\n"
POLICY = (
    "spec_version: v1\nkind: model\nname: a\npolicy: {strategy: {mode: single}, targets: [{model_name: virtual-model/x/a}]}\n"
)
COMPARING = (
    ["plan", "--base", "main"],
    ["plan", "--base", "main", "--remote", "git:main"],
    ["plan", "--remote", "git:main"],
    ["apply", "--yes", "--base", "main"],
)


def store(top: Path, path: str, content: bytes) -> None:
    """Let the index have this content at a path, whatever a filter would make of it."""
    made = ["git", "-C", str(top), "hash-object", "-w", "--stdin", "--no-filters"]
    ran = subprocess.run(made, input=content, env=SURROUNDINGS, capture_output=True, check=True)
    git(top, "update-index", "--add", "--cacheinfo", f"100644,{ran.stdout.decode().strip()},{path}")


def check_out(top: Path, *paths: str) -> None:
    """Write these files as a checkout writes them."""
    for path in paths:
        (top / path).unlink(missing_ok=True)
    git(top, "checkout", "--", *paths)


@pytest.fixture
def branch(project: Project) -> Project:
    project.write("policyctl.yaml", SETTINGS)
    project.write("a.yaml", POLICY)
    commit(project.folder)
    git(project.folder, "checkout", "-q", "-b", "change")
    return project


def attributes(project: Project, text: str) -> None:
    (project.folder / ".gitattributes").write_text(text, "utf-8")
    git(project.folder, "add", ".gitattributes")


def refused(policyctl: Policyctl, *command: str) -> str:
    """The one line that a command is refused with."""
    ran = policyctl(*command)
    assert (ran.code, ran.out, len(ran.err.splitlines())) == (3, "", 1), ran
    return ran.err


# On checkout git fills in what is between the dollars.
IDENT = "policies/policyctl.yaml ident\n"


@pytest.mark.parametrize("command", COMPARING, ids=" ".join)
def test_a_configuration_that_git_converts_is_not_compared(command: list[str], branch: Project, policyctl: Policyctl) -> None:
    attributes(branch, IDENT)
    commit(branch.folder)
    check_out(branch.folder, "policies/policyctl.yaml")
    assert "$Id: " in (branch.policies / "policyctl.yaml").read_text("utf-8")
    said = refused(policyctl, *command)
    assert said.startswith("error: policies/policyctl.yaml differs on this disk from git: git converts it on ")
    assert "(ident in .gitattributes)" in said


@pytest.fixture
def fleet_branch(branch: Project) -> Project:
    """A branch of a repository whose environments come from an inventory."""
    branch.write("policyctl.yaml", 'fleet: [{from: rows.yaml, name: "t-{{ t }}"}]\n')
    branch.write("rows.yaml", "- {t: a}  # $Id$\n")
    commit(branch.folder)
    git(branch.folder, "branch", "--force", "main")
    return branch


@pytest.mark.parametrize("several", [[], ["--all"]], ids=["one", "all"])
def test_an_inventory_that_git_converts_is_not_compared(
    several: list[str], fleet_branch: Project, policyctl: Policyctl
) -> None:
    attributes(fleet_branch, "policies/rows.yaml ident\n")
    commit(fleet_branch.folder)
    check_out(fleet_branch.folder, "policies/rows.yaml")
    ran = policyctl("plan", "--base", "main", *several)
    assert ran.code == 3
    assert "policies/rows.yaml differs on this disk from git: git converts it on checkout" in ran.out + ran.err


@pytest.mark.parametrize("several", [[], ["--all"]], ids=["one", "all"])
def test_an_inventory_that_a_branch_makes_a_link_is_refused(
    several: list[str], fleet_branch: Project, policyctl: Policyctl
) -> None:
    rows = fleet_branch.policies / "rows.yaml"
    rows.rename(fleet_branch.policies / "rows.txt")
    rows.symlink_to("rows.txt")
    commit(fleet_branch.folder)
    ran = policyctl("plan", "--base", "main", *several)
    assert ran.code == 3
    assert "policies/rows.yaml is a link, which is not followed at a git revision" in ran.out + ran.err


def test_what_is_only_read_may_be_converted(branch: Project, policyctl: Policyctl) -> None:
    attributes(branch, IDENT)
    commit(branch.folder)
    check_out(branch.folder, "policies/policyctl.yaml")
    for command in (["validate"], ["plan"], ["apply", "--yes"]):
        assert policyctl(*command).code == 0


@pytest.mark.parametrize("name", ["a.yaml", "deep/a.yaml", "a.test.yaml", "a.json"])
def test_no_file_that_is_read_may_be_converted(name: str, branch: Project, policyctl: Policyctl) -> None:
    branch.write(name, '{"kind": "agent", "x": "$Id$"}' if name.endswith(".json") else "# $Id$\n" + POLICY)
    if name != "a.yaml":
        (branch.policies / "a.yaml").unlink()
    attributes(branch, "* ident\n")
    commit(branch.folder)
    check_out(branch.folder, f"policies/{name}")
    assert f"policies/{name} differs on this disk " in refused(policyctl, "plan", "--base", "main", "--test")


def test_letters_that_a_checkout_writes_as_others_are_not_read_for_them(branch: Project, policyctl: Policyctl) -> None:
    """Git stores a letter that the encoding on the disk lacks, and writes one that looks the same."""
    attributes(branch, "policies/policyctl.yaml working-tree-encoding=ASCII//TRANSLIT\n")
    store(branch.folder, "policies/policyctl.yaml", SETTINGS.replace("prod", "\uff50rod").encode())
    git(branch.folder, "commit", "-q", "-m", "x")
    (branch.policies / "policyctl.yaml").write_text(SETTINGS, "utf-8")  # as iconv does it in most locales
    for base in ("main", "HEAD"):
        assert "working-tree-encoding=ASCII//TRANSLIT" in refused(policyctl, "plan", "--base", base)


def test_attributes_that_are_converted_themselves_hide_nothing(branch: Project, policyctl: Policyctl) -> None:
    """A checkout goes by what the index has, so what is on the disk may say that nothing is converted."""
    attributes(branch, IDENT)
    commit(branch.folder)
    check_out(branch.folder, "policies/policyctl.yaml")
    (branch.folder / ".gitattributes").write_text("policies/policyctl.yaml -ident\n", "utf-8")
    assert "(ident in .gitattributes)" in refused(policyctl, "plan", "--base", "main")


def test_what_an_earlier_checkout_converted_is_not_read_either(branch: Project, policyctl: Policyctl) -> None:
    """Git leaves a file alone that did not change from one commit to the next, also when its attributes did."""
    attributes(branch, IDENT)
    commit(branch.folder)
    check_out(branch.folder, "policies/policyctl.yaml")
    path = branch.policies / "policyctl.yaml"
    os.utime(path, (1_000_000_000, 1_000_000_000))  # long before the index was written, so that git looks no closer
    git(branch.folder, "update-index", "--refresh")
    attributes(branch, "")
    git(branch.folder, "commit", "-q", "-m", "x")
    assert "$Id: " in path.read_text("utf-8")
    assert "git considers it unchanged" in refused(policyctl, "plan", "--base", "main")


def test_files_of_a_submodule_go_by_its_own_attributes(branch: Project, policyctl: Policyctl) -> None:
    sub = branch.policies / "sub"
    sub.mkdir()
    (branch.policies / "a.yaml").rename(sub / "a.yaml")
    (sub / "a.yaml").write_text("# $Id$\n" + POLICY, "utf-8")
    (sub / ".gitattributes").write_text("*.yaml ident\n", "utf-8")
    add_submodule(branch.folder, "policies/sub")
    assert "policies/sub/a.yaml differs on this disk " in refused(policyctl, "plan", "--base", "main")


def test_a_link_is_read_as_what_it_leads_to(branch: Project, policyctl: Policyctl) -> None:
    (branch.policies / "a.txt").write_text("# $Id$\n" + POLICY, "utf-8")
    (branch.policies / "a.yaml").unlink()
    (branch.policies / "a.yaml").symlink_to("a.txt")
    attributes(branch, "*.txt ident\n")
    commit(branch.folder)
    check_out(branch.folder, "policies/a.txt")
    assert "policies/a.yaml differs on this disk " in refused(policyctl, "plan", "--base", "main")


EDITS: dict[str, Callable[[Project], object]] = {
    "nothing": lambda _: None,
    "an edit": lambda project: project.write("a.yaml", POLICY + "# more\n"),
    "an edit that is staged": lambda project: (project.write("a.yaml", POLICY + "# more\n"), git(project.folder, "add", ".")),
    "a file that was written again as it was": lambda project: project.write("a.yaml", POLICY),
    "a file that is only announced": lambda project: (
        project.policy("b"),
        git(project.folder, "add", "--intent-to-add", "policies/b.yaml"),
    ),
    "a file that git does not know": lambda project: project.policy("b"),
    "an edited configuration": lambda project: project.write("policyctl.yaml", SETTINGS + "# more\n"),
    "the ends of lines of Windows": lambda project: (
        git(project.folder, "config", "core.autocrlf", "true"),
        check_out(project.folder, "policies/a.yaml", "policies/policyctl.yaml"),
    ),
    "the ends of lines by an attribute": lambda project: (
        attributes(project, "*.yaml text eol=crlf\n"),
        check_out(project.folder, "policies/a.yaml", "policies/policyctl.yaml"),
    ),
    "an attribute that changes nothing": lambda project: attributes(
        project, "* ident filter=lfs working-tree-encoding=UTF-8\n"
    ),
}


@pytest.mark.parametrize("case", EDITS)
@pytest.mark.alike
def test_edits_and_the_ends_of_lines_are_not_conversions(case: str, project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", "protect: [prod-*]\n")
    project.write("a.yaml", POLICY)
    commit(project.folder)
    EDITS[case](project)
    if "lines" in case:
        assert b"\r\n" in (project.policies / "a.yaml").read_bytes()
    for command in COMPARING[:3]:
        assert policyctl(*command).code == 0
