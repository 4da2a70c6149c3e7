"""init: a directory to start from."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ANYGEM, Policyctl, Project
from tests.problem_lines import shows
from tests.sqlite_rows import put, row

MADE = ("policies/policyctl.yaml", "policies/example.yaml", "policies/example.test.yaml", ".pre-commit-config.yaml")


def test_what_init_makes_is_valid_and_can_be_applied(bare: Path, policyctl: Policyctl) -> None:
    ran = policyctl("init")
    assert (ran.code, ran.out) == (0, "".join(f"+ {name}\n" for name in MADE))
    assert policyctl("validate").out == "Valid: 1 policy and 2 tests in 2 files.\n"
    assert policyctl("apply", "--yes").code == 0
    assert policyctl("plan", "--detailed-exitcode").code == 0


def test_every_setting_in_the_comments_is_one_that_may_be_written(bare: Path, policyctl: Policyctl) -> None:
    policyctl("init")
    config = Path("policies/policyctl.yaml")
    lines = config.read_text("utf-8").splitlines()
    settings = [line for line in lines if ":" in line and not line.startswith(("# W", "# E", "# T", "# P", "# H"))]
    config.write_text("\n".join(line.replace("# ", "", 1) if "#" in line[:3] else line for line in settings), "utf-8")
    assert {"manage", "scope", "prune", "protect", "allow_remove", "limits"} <= yaml.safe_load(config.read_text("utf-8")).keys()
    assert "prod" in yaml.safe_load(config.read_text("utf-8"))["environments"]
    ran = policyctl("validate", "policies/policyctl.yaml")
    problems = [line for line in ran.out.splitlines() if shows("remote still has a placeholder in it [P304]", line)]
    assert (ran.code, len(problems)) == (1, 1)
    config.write_text(config.read_text("utf-8").replace("<id>", "0d1f"), "utf-8")
    assert policyctl("validate", "policies/policyctl.yaml") == (0, "Valid: 0 policies in 0 files.\n", "")


def test_init_again_changes_nothing_and_prints_the_hook(bare: Path, policyctl: Policyctl) -> None:
    policyctl("init")
    for path in map(Path, MADE):
        path.write_text(f"# mine\n{path.read_text('utf-8')}", "utf-8")
    before = {path: path.read_bytes() for path in bare.rglob("*") if path.is_file()}
    ran = policyctl("init")
    assert ran.code == 0
    assert ran.out.startswith(
        "= policies/policyctl.yaml already exists, skipped\n"
        "= .pre-commit-config.yaml already exists, skipped\n\nAdd this below repos: in .pre-commit-config.yaml"
    )
    assert "entry: policyctl validate\n" in ran.out
    assert {path: path.read_bytes() for path in bare.rglob("*") if path.is_file()} == before


def test_beside_policies_there_is_no_example(project: Project, policyctl: Policyctl) -> None:
    project.write("team/anygem.yaml", ANYGEM)
    policyctl("init")
    assert not (project.policies / "example.yaml").exists()


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["policies", "deep/er/policies", "with blank"])
def test_the_hook_runs_on_the_directory_from_the_repositorys_top(
    folder: str, bare: Path, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path(".git").mkdir()
    Path("sub").mkdir()
    monkeypatch.chdir("sub")
    assert policyctl("init", "--dir", folder).code == 0
    (repo,) = yaml.safe_load((bare / ".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    (hook,) = repo["hooks"]
    assert hook["args"] == [f"sub/{folder}"]
    assert hook["files"].replace("\\", "") == f"^sub/{folder}/"
    monkeypatch.chdir(bare)
    command = [sys.executable, "-m", *hook["entry"].split(), *hook["args"]]
    ran = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stdout) == (0, "Valid: 1 policy and 2 tests in 2 files.\n")


def test_a_repository_may_be_the_directory_itself(bare: Path, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written beside the repository, and the hook looks at all of its files."""
    (bare / "repo/.git").mkdir(parents=True)
    monkeypatch.chdir("repo")
    made = ("policyctl.yaml", "example.yaml", "example.test.yaml", ".pre-commit-config.yaml", ".gitlab-ci.yml")
    ran = policyctl("init", "--dir", ".", "--ci", "gitlab")
    assert (ran.code, ran.out) == (0, "".join(f"+ {name}\n" for name in made))
    assert [path.name for path in bare.iterdir()] == ["repo"]
    (repo,) = yaml.safe_load(Path(".pre-commit-config.yaml").read_text("utf-8"))["repos"]
    assert (repo["hooks"][0]["args"], repo["hooks"][0]["files"]) == (["."], "")
    assert yaml.safe_load(Path(".gitlab-ci.yml").read_text("utf-8"))[".policyctl"]["variables"]["POLICYCTL_DIR"] == "."
    assert policyctl("validate", "--dir", ".").out == "Valid: 1 policy and 2 tests in 2 files.\n"


def test_init_then_pull_adds_the_live_policies_beside_the_example(bare: Path, policyctl: Policyctl) -> None:
    put([row("a")])
    policyctl("init")
    assert policyctl("pull").out.endswith("the plan is not empty: 1 to add.\n")
    Path("policies/example.yaml").unlink()
    Path("policies/example.test.yaml").unlink()
    assert policyctl("plan", "--detailed-exitcode").code == 0


def test_a_file_in_the_way_is_an_error(bare: Path, policyctl: Policyctl) -> None:
    Path("policies").write_text("mine", "utf-8")
    ran = policyctl("init")
    assert (ran.code, ran.err) == (1, "error: policies cannot be created: File exists\n")
