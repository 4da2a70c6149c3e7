"""plan --remote git:REVISION, from a repository that git made: what was merged is taken as live."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import ANYGEM, Policyctl, Project
from tests.git_repo import commit


@pytest.fixture
def merged(project: Project) -> Project:
    """A repository with three policies on main, and in the working tree one changed, one gone and one new."""
    project.write("anygem.yaml")
    project.policy("gone")
    project.policy("same")
    commit(project.folder)
    project.write("anygem.yaml", ANYGEM.replace("0.25", "0.4").replace("0.75", "0.6"))
    (project.policies / "gone.yaml").unlink()
    project.policy("new")
    return project


def summary(policyctl: Policyctl, *args: str) -> dict[str, int]:
    ran = policyctl("plan", "--remote", "git:main", "--format", "json", *args)
    assert ran.code == 0
    found: dict[str, int] = json.loads(ran.out)["summary"]
    return found


def test_the_plan_has_its_changes_and_their_effect(merged: Project, policyctl: Policyctl) -> None:
    ran = policyctl("plan", "--remote", "git:main", "--detailed-exitcode")
    assert ran.code == 2
    assert ran.out.startswith("environment local, remote git:main\n")
    assert "policy.targets[google/gemini-2.0-flash-lite].weight: 0.25 → 0.4" in ran.out
    assert "traffic: google/gemini-2.0-flash 75% → 60%" in ran.out
    assert ran.out.endswith("Plan: 1 to add, 1 to update, 1 to remove. 1 unchanged.\n")
    assert not Path(".policyctl").exists()


def test_a_plan_against_what_is_committed_is_empty(merged: Project, policyctl: Policyctl) -> None:
    commit(merged.folder)
    assert policyctl("plan", "--remote", "git:HEAD", "--detailed-exitcode").out.endswith("matches the files: 3 unchanged.\n")


def test_it_works_from_any_directory_of_the_repository(
    merged: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = summary(policyctl)
    monkeypatch.chdir(merged.policies)
    assert summary(policyctl, "--dir", ".") == wanted


@pytest.mark.parametrize(
    ("settings", "removes"),
    [("prune: true", 1), ("prune: false", 0), ("scope: [same, anygem, new]", 0), ("scope: ['*']", 1)],
)
def test_removing_follows_the_rules_of_the_embedded_remote(
    merged: Project, policyctl: Policyctl, settings: str, removes: int
) -> None:
    merged.write("policyctl.yaml", settings)
    assert summary(policyctl)["remove"] == removes


def test_an_environment_may_have_it_as_its_remote(merged: Project, policyctl: Policyctl) -> None:
    merged.write("policyctl.yaml", "environments: {review: {remote: 'git:main'}}")
    assert policyctl("plan").out.startswith("environment review, remote git:main\n")
    assert policyctl("validate").code == 0
    ran = policyctl("apply", "--yes")
    assert (ran.code, ran.out) == (64, "")
    assert "but not applied to" in ran.err


def test_a_variable_that_changed_is_a_change(project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", "environments: {local: {vars: {big: 0.75}}}")
    project.write("anygem.yaml", ANYGEM.replace("0.75 ", "'{{ big }}' "))
    commit(project.folder)
    project.write("policyctl.yaml", "environments: {local: {vars: {big: 0.5}}}")
    assert "weight: 0.75 → 0.5" in policyctl("plan", "--remote", "git:main").out


def test_a_policy_that_was_invalid_is_reported_and_blocks_nothing(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml", ANYGEM.replace("0.75", "75"))
    commit(project.folder)
    project.write("anygem.yaml")
    ran = policyctl("plan", "--remote", "git:main")
    assert ran.code == 0
    assert (
        "main:policies/anygem.yaml:14:15: weight must be greater than 0 and at most 1, got 75 (did you mean 0.75?) [P103]"
        in ran.out
    )
    assert "Plan: 1 to add, 0 to update, 0 to remove." in ran.out


@pytest.mark.parametrize(
    ("revision", "said"),
    [
        ("-x", "error: --remote must not begin with -, / or ^\n"),
        ("", "error: --remote must be a branch, a tag or a commit, such as origin/main\n"),
        ("main\nHEAD", "error: --remote must be a branch, a tag or a commit, such as origin/main\n"),
        ("nope", "error: unknown git revision 'nope' (fetch it, or name another)\n"),
    ],
)
def test_a_wrong_revision_is_one_clear_line(merged: Project, policyctl: Policyctl, revision: str, said: str) -> None:
    ran = policyctl("plan", f"--remote=git:{revision}")
    assert (ran.code, ran.out, ran.err) == (64, "", said)


def test_outside_a_repository_it_is_one_clear_line(project: Project, policyctl: Policyctl) -> None:
    project.policy("a")
    ran = policyctl("plan", "--remote", "git:main")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "error: policies is not in a git repository, so it cannot be compared with a revision\n"


def test_apply_refuses_it_and_a_plan_that_was_saved_from_it(merged: Project, policyctl: Policyctl) -> None:
    assert policyctl("plan", "--remote", "git:main", "--out", "plan.json").code == 0
    for args in (["--remote", "git:main"], ["plan.json"], ["plan.json", "--remote", "git:main"]):
        ran = policyctl("apply", "--yes", *args)
        assert (ran.code, ran.out) == (64, "")
        assert ran.err.startswith("error: git:main is a git revision: it can be planned against but not")
    assert not Path(".policyctl").exists()


def test_the_commands_for_one_policy_refuse_to_write_to_it(merged: Project, policyctl: Policyctl) -> None:
    ran = policyctl("policy", "remove", "--name", "gone", "--remote", "git:main")
    assert ran.code == 64
    assert ran.err.startswith("error: git:main is a git revision")
