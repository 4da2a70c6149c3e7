"""The directory that a command works on when none is named: here, or upward as git finds its repository."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import ANYGEM, Policyctl, Project
from tests.git_repo import commit
from tests.problem_lines import shows


def planned(policyctl: Policyctl, *args: str) -> tuple[str, str]:
    """The digest of a plan, and the remote that it is for."""
    ran = policyctl("plan", "--format", "json", *args)
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    return found["digest"], found["remote"]


@pytest.fixture
def repository(project: Project) -> Project:
    project.write("core/anygem.yaml", ANYGEM)
    project.write("policyctl.yaml", "environments: {dev: {}}\n")
    (project.folder / "src" / "app").mkdir(parents=True)
    commit(project.folder)
    return project


@pytest.mark.parametrize("folder", ["policies", "policies/core", "src/app"])
def test_every_directory_of_the_repository_gives_the_same_plan(
    folder: str, repository: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = planned(policyctl)
    monkeypatch.chdir(repository.folder / folder)
    assert planned(policyctl) == whole
    assert planned(policyctl, "--base", "HEAD", "--remote", "git:HEAD")[1] == "git:HEAD"
    assert policyctl("validate").out == "Valid: 1 policy in 1 file.\n"
    assert policyctl("apply", "--yes").code == 0
    assert (repository.folder / ".policyctl" / "dev.db").exists()
    assert policyctl("pull").out.startswith("Pulled: 0 files written, 1 unchanged;")
    assert not Path("policies").exists()


def test_paths_are_those_from_the_working_directory(
    repository: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.write("core/bad.yaml", "a: [")
    for folder, shown in (("policies", "core/bad.yaml"), ("src/app", "../../policies/core/bad.yaml")):
        monkeypatch.chdir(repository.folder / folder)
        assert policyctl("validate").out.startswith(f"{shown}:")


def test_a_directory_of_another_name_is_found_from_inside_by_its_configuration(
    project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    commit(project.folder)
    project.policies.rename(project.folder / "llm")
    (project.folder / "llm" / "policyctl.yaml").write_text("environments: {dev: {}}\n", "utf-8")
    (project.folder / "llm" / "a.yaml").write_text(ANYGEM, "utf-8")
    monkeypatch.chdir(project.folder / "llm")
    assert "environment dev" in policyctl("plan").out


def test_what_is_here_wins_and_what_is_called_so_and_holds_nothing_is_passed_over(
    repository: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository.folder / "src" / "policies").mkdir()
    (repository.folder / "src" / "policies" / "code.py").write_text("", "utf-8")
    monkeypatch.chdir(repository.folder / "src" / "app")
    assert policyctl("validate").out == "Valid: 1 policy in 1 file.\n"
    Path("policies").mkdir()
    assert shows("policies: [P016]", policyctl("validate").out)


def test_outside_a_repository_nothing_above_is_found(
    project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("anygem.yaml", ANYGEM)
    (project.folder / "deep").mkdir()
    monkeypatch.chdir(project.folder / "deep")
    assert shows("policies: the directory does not exist [P016]", policyctl("plan").err)
    monkeypatch.chdir(project.policies)
    assert policyctl("plan").code == 0


def test_effects_against_a_revision_are_asked_of_git_at_once(
    project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """However many policies there are: the number of times that git is run does not grow with them."""
    counted = tmp_path_factory.mktemp("bin") / "git"
    counts: list[int] = []
    for number in (3, 30):
        for index in range(number):
            project.write(f"p{index}.yaml", ANYGEM.replace("anygem", f"p{index}"))
        commit(project.folder)
        log = counted.parent / f"runs-{number}"
        import os
        import shutil

        real = shutil.which("git", path=os.environ["PATH"].replace(f"{counted.parent}{os.pathsep}", ""))
        counted.write_text(f'#!/bin/sh\necho x >> "{log}"\nexec "{real}" "$@"\n', "utf-8")
        counted.chmod(0o755)
        with monkeypatch.context() as patch:
            patch.setenv("PATH", f"{counted.parent}{os.pathsep}{os.environ['PATH']}")
            ran = policyctl("effect", "--against", "git:main", "--format", "json")
        assert ran.code == 0
        counts.append(len(log.read_text("utf-8").splitlines()))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("remote", ["local", "sqlite:///../.policyctl/dev.db", "sqlite:///../.policyctl/%64ev.db"])
def test_the_embedded_remote_of_a_directory_whose_path_looks_escaped_is_beside_it(
    remote: str, bare: Path, policyctl: Policyctl
) -> None:
    policies = bare / "a%41" / "policies"
    policies.mkdir(parents=True)
    (policies / "anygem.yaml").write_text(ANYGEM)
    (policies / "policyctl.yaml").write_text(f"environments: {{dev: {{remote: '{remote}'}}}}\n")
    (bare / "aA").mkdir()
    assert policyctl("apply", "--yes", "--dir", str(policies)).code == 0
    assert (bare / "a%41" / ".policyctl" / "dev.db").is_file()
    assert list((bare / "aA").iterdir()) == []
