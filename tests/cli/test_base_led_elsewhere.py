"""A branch that puts a link or a submodule where the policy directory was does not choose the base that it is compared with."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Policyctl, Project
from tests.git_repo import commit, git
from tests.gone import add_submodule
from tests.remote.fake_server import Reply, standing_in

LOOSE = "scope: ['*']\n"
STRICT = "guards: {deny_providers: [evil]}\nprotect: [a]\n"
COMMANDS = (
    ["plan", "--base", "main"],
    ["plan", "--base", "HEAD^1", "--remote", "git:HEAD^1"],
    ["plan", "--remote", "git:main"],
    ["effect", "bad", "--against", "git:main"],
)


def write(folder: Path, settings: str, name: str, model: str) -> None:
    """A policy directory with settings and one policy."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "policyctl.yaml").write_text(settings, "utf-8")
    (folder / f"{name}.yaml").write_text(
        f"spec_version: v1\nkind: model\nname: {name}\n"
        f"policy: {{strategy: {{mode: single}}, targets: [{{model_name: virtual-model/{model}}}]}}\n",
        "utf-8",
    )


@pytest.fixture
def reviewed(project: Project) -> Project:
    """A branch of a main with two teams: one with strict settings, one with no rule and another policy."""
    write(project.folder / "team" / "policies", STRICT, "a", "x/a")
    write(project.folder / "other" / "policies", LOOSE, "bad", "evil/m")
    commit(project.folder)
    git(project.folder, "checkout", "-q", "-b", "change")
    return project


def _directory(top: Path) -> None:
    shutil.rmtree(top / "team" / "policies")
    (top / "team" / "policies").symlink_to("../other/policies")


def _above(top: Path) -> None:
    shutil.rmtree(top / "team")
    (top / "team").symlink_to("other")


def _over_another(top: Path) -> None:
    (top / "way").symlink_to("other")
    shutil.rmtree(top / "team" / "policies")
    (top / "team" / "policies").symlink_to(top / "way" / "policies")


def _in_a_circle(top: Path) -> None:
    shutil.rmtree(top / "team" / "policies")
    (top / "team" / "policies").symlink_to("policies")


def _submodule(top: Path) -> None:
    write(top / "team" / "policies", LOOSE, "bad", "evil/m")
    git(top, "rm", "-r", "-q", "--cached", "team/policies")
    (top / "team" / "policies" / "a.yaml").unlink()
    add_submodule(top, "team/policies")
    commit(top / "team" / "policies")
    git(top / "team" / "policies", "commit", "-q", "--allow-empty", "-m", "x")


def _link_to_a_submodule(top: Path) -> None:
    write(top / "sub", LOOSE, "bad", "evil/m")
    add_submodule(top, "sub")
    git(top / "sub", "commit", "-q", "--allow-empty", "-m", "x")
    shutil.rmtree(top / "team" / "policies")
    (top / "team" / "policies").symlink_to("../sub")


LED: dict[str, tuple[Callable[[Path], None], str]] = {
    "the directory is a link": (_directory, "is a link or below one"),
    "the directory above is a link": (_above, "is a link or below one"),
    "a link leads to another": (_over_another, "is a link or below one"),
    "a link leads to itself": (_in_a_circle, ""),
    "it is a submodule": (_submodule, "is in a submodule"),
    "a link leads to a submodule": (_link_to_a_submodule, "is in a submodule"),
}


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
@pytest.mark.parametrize("case", LED)
@pytest.mark.alike
def test_a_directory_that_the_branch_leads_elsewhere_has_no_base(
    case: str, command: list[str], reviewed: Project, policyctl: Policyctl
) -> None:
    lead, said = LED[case]
    lead(reviewed.folder)
    commit(reviewed.folder)
    ran = policyctl(*command, "--dir", "team/policies")
    assert ran.code in (1, 3)
    assert (ran.out, len(ran.err.splitlines())) == ("", 1), ran
    assert said in ran.err


@pytest.mark.parametrize("command", COMMANDS[:3], ids=" ".join)
def test_what_the_base_had_in_place_of_the_directory_is_not_followed(
    command: list[str], reviewed: Project, policyctl: Policyctl
) -> None:
    """A link or a submodule at the base: the directory that it led to has no say, and nor does an empty one."""
    for lead, kind in ((_directory, "a link"), (_above, "a link"), (_submodule, "a submodule")):
        git(reviewed.folder, "checkout", "-q", "-f", "-B", "main", "change")
        lead(reviewed.folder)
        commit(reviewed.folder)
        git(reviewed.folder, "checkout", "-q", "-b", "mend")
        path = reviewed.folder / ("team" if lead is _above else "team/policies")
        path.unlink() if path.is_symlink() else shutil.rmtree(path)
        git(reviewed.folder, "rm", "-q", "--cached", path.relative_to(reviewed.folder).as_posix())
        write(reviewed.folder / "team" / "policies", LOOSE, "bad", "evil/m")
        commit(reviewed.folder)
        ran = policyctl(*command, "--dir", "team/policies")
        assert (ran.code, ran.out, len(ran.err.splitlines())) == (3, "", 1), ran
        assert f" team{'' if lead is _above else '/policies'} is {kind}, which is not followed at a revision" in ran.err
        git(reviewed.folder, "branch", "-q", "-M", "mend", "gone")


def test_a_link_leads_no_credentials_to_another_place(
    reviewed: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "canary-key")
    with standing_in(lambda _: Reply(200, [])) as evil:
        settings = f"environments: {{prod: {{remote: '{evil.url}', auth: {{type: bearer, token: 'env:KEY'}}}}}}\n{LOOSE}"
        write(reviewed.folder / "other" / "policies", settings, "bad", "evil/m")
        commit(reviewed.folder)
        _directory(reviewed.folder)
        commit(reviewed.folder)
        ran = policyctl("plan", "--base", "HEAD^1", "--dir", "team/policies")
        assert (ran.code, ran.out, evil.seen) == (3, "", [])


def test_a_link_brings_no_restoration(reviewed: Project, policyctl: Policyctl) -> None:
    """What another directory had before is no policy that was reviewed under these names."""
    _directory(reviewed.folder)
    commit(reviewed.folder)
    ran = policyctl("apply", "--yes", "--base", "HEAD^1", "--dir", "team/policies")
    assert "restoration: back" not in ran.out
    assert "no change is taken for a restoration: team/policies is a link or below one" in ran.err


@pytest.mark.parametrize("name", ["way/../policies", "way/policies"])
def test_a_path_that_steps_through_a_link_has_no_base(name: str, reviewed: Project, policyctl: Policyctl) -> None:
    """The system takes `way/..` for the directory above what `way` leads to, and a reader for this one."""
    (reviewed.folder / "way").symlink_to("other/policies" if ".." in name else "other")
    write(reviewed.folder / "policies", STRICT, "a", "x/a")
    commit(reviewed.folder)
    ran = policyctl("plan", "--base", "HEAD", "--dir", name)
    assert (ran.code, ran.out) == (3, "")
    assert f"{name} is a link or below one" in ran.err


def test_a_working_directory_that_a_link_led_to_has_no_base(
    reviewed: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As far as the shell shows which way it took."""
    _directory(reviewed.folder)
    commit(reviewed.folder)
    here = reviewed.folder / "team" / "policies"
    monkeypatch.chdir(here)
    monkeypatch.setenv("PWD", str(here))
    assert policyctl("plan", "--base", "HEAD^1", "--dir", ".").code == 3
    monkeypatch.chdir(reviewed.folder / "other" / "policies")
    monkeypatch.setenv("PWD", str(reviewed.folder / "other" / "policies"))
    assert policyctl("plan", "--base", "HEAD^1", "--dir", ".").code == 0


def test_links_above_the_repository_are_the_machine_s_own(
    reviewed: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    way = reviewed.folder.parent / f"{reviewed.folder.name}-way"
    way.symlink_to(reviewed.folder)
    monkeypatch.chdir(reviewed.folder.parent)
    monkeypatch.setenv("PWD", os.getcwd())
    for name in (way / "team/policies", Path(way.name, "team/policies")):
        assert policyctl("plan", "--base", "main", "--dir", name).code == 0


def test_a_repository_in_another_that_does_not_know_it_has_its_own_base(reviewed: Project, policyctl: Policyctl) -> None:
    inner = reviewed.folder / "inner"
    write(inner / "policies", STRICT, "a", "x/a")
    commit(inner)
    git(inner, "checkout", "-q", "-b", "change")
    write(inner / "policies", LOOSE, "bad", "evil/m")
    ran = policyctl("plan", "--base", "main", "--dir", "inner/policies", "--format", "json")
    assert ran.code == 3
    assert [field["path"] for field in json.loads(ran.out)["settings"]] == ["protect", "guards.deny_providers", "scope"]
