"""Files that a link led to: whose directory a policyctl.yaml may come from, and what is said of what it leads to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from policyctl.errors import PolicyctlError
from policyctl.load.git import is_ours
from policyctl.load.git.repository import find_repository
from tests.conftest import ANYGEM, Policyctl, Project
from tests.examples import crossed
from tests.git_repo import SURROUNDINGS, commit, git
from tests.problem_lines import shows

SECRET = "ghp_canary"
EVERY = (["validate"], ["plan"], ["apply", "--yes"], ["effect"], ["test", "--if-any"], ["pull"])


@pytest.fixture
def secret(project: Project) -> Path:
    """A repository in a directory of its own, and a token beside it."""
    project.policy("a")
    commit(project.folder)
    path = project.folder.parent / f"{project.folder.name}-token"
    path.write_text(f"{SECRET}\n", "utf-8")
    return path


@pytest.mark.parametrize(
    ("name", "command"),
    crossed(["policies/policyctl.yaml", "policyctl.yaml", "policies/b.yaml", "policies/b.test.yaml"], EVERY),
)
def test_a_link_out_of_the_repository_is_never_read(
    name: str, command: list[str], secret: Path, project: Project, policyctl: Policyctl
) -> None:
    (project.folder / name).symlink_to(os.path.relpath(secret, (project.folder / name).parent))
    ran = policyctl(*command)
    assert ran.code == 1
    assert shows(f"{name}: is a link that leads out of the [P008]", ran.out + ran.err)
    assert (ran.out + ran.err).count("P008") == 1
    assert SECRET not in ran.out + ran.err


LINKS = [
    ("policies/policyctl.yaml", "../.git/config"),
    ("policyctl.yaml", ".git/config"),
    ("policyctl.yaml", "held"),
    ("policies/b.yaml", "a.txt"),
    ("policies/b.test.yaml", "a.txt"),
    ("policies/b.json", "a.txt"),
]


@pytest.mark.parametrize(("link", "command"), crossed(LINKS, EVERY))
def test_no_message_quotes_what_a_link_leads_to(
    link: tuple[str, str], command: list[str], secret: Path, project: Project, policyctl: Policyctl
) -> None:
    """Also where it stays in the repository: git's own configuration may hold a token there."""
    name, target = link
    (project.policies / "a.txt").write_text(f"name: {{{SECRET}: 1, 2: {SECRET}}}\nkind: {SECRET}\n", "utf-8")
    (project.folder / "held").write_text(f"default: {SECRET}\n{SECRET}: 1\n", "utf-8")
    git(project.folder, "config", f"http.{SECRET}.extraheader", SECRET)
    (project.folder / name).symlink_to(target)
    ran = policyctl(*command)
    assert name in ran.out + ran.err or "b.test" in name
    assert SECRET not in ran.out + ran.err


def test_a_file_that_is_named_may_not_lead_out_of_its_repository(
    secret: Path, project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    (project.folder / "named.yaml").symlink_to(secret)
    for command in (["validate"], ["effect"], ["policy", "import", "--file"]):
        ran = policyctl(*command, "named.yaml")
        assert ran.code == 1
        assert shows("named.yaml: is a link that leads out of the repository [P008]", ran.out + ran.err)
        assert SECRET not in ran.out + ran.err


@pytest.mark.parametrize("text", [f"a: *{SECRET}\n", f"name: x\nkind: {SECRET}\npolicy: {SECRET}\n"])
def test_a_named_file_that_is_a_link_is_not_quoted_either(
    text: str, project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.policy("a")
    (project.folder / "held.yaml").write_text(text, "utf-8")
    (project.folder / "named.yaml").symlink_to("held.yaml")
    for command in (["validate"], ["effect"], ["policy", "import", "--yes", "--file"]):
        ran = policyctl(*command, "named.yaml")
        assert "named.yaml:" in ran.out + ran.err
        assert SECRET not in ran.out + ran.err


def test_a_configuration_that_other_directories_share_is_followed(project: Project, policyctl: Policyctl) -> None:
    commit(project.folder)
    (project.folder / "shared.yaml").write_text("environments: {shared: {}}\n", "utf-8")
    (project.policies / "policyctl.yaml").symlink_to("../shared.yaml")
    project.write("anygem.yaml", ANYGEM)
    assert "environment shared" in policyctl("plan").out


def test_a_policy_directory_may_be_a_link_in_the_repository(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml", ANYGEM)
    commit(project.folder)
    (project.folder / "link").symlink_to("policies")
    assert policyctl("validate", "--dir", "link").out == "Valid: 1 policy in 1 file.\n"
    ran = policyctl("plan", "--dir", "link", "--detailed-exitcode")
    assert (ran.code, "1 to add" in ran.out) == (2, True)


def test_a_policy_directory_may_not_lead_out_of_the_repository(secret: Path, project: Project, policyctl: Policyctl) -> None:
    elsewhere = project.folder.parent / f"{project.folder.name}-elsewhere"
    project.policies.rename(elsewhere)
    project.policies.symlink_to(elsewhere)
    ran = policyctl("plan")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "policies: is a link that leads out of the repository; copy the file instead [P008]\n"


def test_no_link_on_the_way_to_the_directory_leads_out_of_the_repository(
    secret: Path, project: Project, policyctl: Policyctl
) -> None:
    elsewhere = project.folder.parent / f"{project.folder.name}-elsewhere"
    (elsewhere / "deep").mkdir(parents=True)
    (elsewhere / "deep" / "a.yaml").write_text(f"{SECRET}: 1\n", "utf-8")
    (elsewhere / "policyctl.yaml").write_text(f"{SECRET}: 1\n", "utf-8")
    (project.folder / "way").symlink_to(elsewhere)
    for args in (["plan"], ["validate"], ["effect"]):
        ran = policyctl(*args, "--dir", "way/deep")
        assert ran.code == 1
        assert shows("is a link that leads out of the repository [P008]", ran.out + ran.err)
        assert SECRET not in ran.out + ran.err


def test_what_belongs_to_another_user_is_trusted_as_git_trusts_it(
    project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only root can give a repository away; for others it is asked of the root directory."""
    project.policy("a")
    commit(project.folder)
    assert is_ours(project.folder)
    if os.geteuid() != 0:
        assert not is_ours(Path("/"))
        return
    monkeypatch.delenv("SUDO_UID", raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(project.folder.parent / f"{project.folder.name}-gitconfig"))
    (project.folder / "policyctl.yaml").write_text("default: local\n", "utf-8")
    for path in (project.folder, *project.folder.rglob("*")):
        os.chown(path, 65534, 65534)
    said = f"the repository {project.folder} belongs to another user, so git does not trust it (dubious ownership); "
    remedy = f"git config --global --add safe.directory {project.folder}"
    for args in (["plan"], ["plan", "--remote", "git:HEAD"], ["plan", "--base", "HEAD"]):
        ran = policyctl(*args)
        assert (ran.code, ran.out, ran.err) == (1, "", f"error: {said}if you do: {remedy}\n")
    with pytest.raises(PolicyctlError, match="dubious ownership"):
        find_repository(project.folder)
    monkeypatch.setenv("SUDO_UID", "65534")
    assert policyctl("plan").code == 0
    monkeypatch.delenv("SUDO_UID")
    environ = {**SURROUNDINGS, "GIT_CONFIG_GLOBAL": os.environ["GIT_CONFIG_GLOBAL"]}
    import subprocess

    subprocess.run(remedy.split(), env=environ, check=True)
    assert policyctl("plan").code == 0
