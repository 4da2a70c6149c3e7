"""--quiet: only problems and the last line, as text; exit codes and everything for programs are as without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Policyctl, Project
from tests.sqlite_rows import live_documents

WRITTEN = """
spec_version: v1
kind: policy_test
policy: a
tests: [{name: it answers, expect: {served: 1}}, {name: it fails, expect: {served: 0}}]
"""


@pytest.fixture
def applied(project: Project, policyctl: Policyctl) -> Project:
    """Two applied policies, of which one is changed and one has lost its file; a third one is new."""
    project.policy("a")
    project.policy("b")
    assert policyctl("apply", "--yes").code == 0
    project.policy("a", "virtual-model/x/b")
    project.policy("c")
    (project.policies / "b.yaml").unlink()
    return project


def test_plan_shows_its_last_line(applied: Project, policyctl: Policyctl) -> None:
    line = "Plan: 1 to add, 1 to update, 1 to remove.\n"
    for args in (["plan", "-q"], ["--quiet", "plan"], ["plan", "--quiet", "--detailed-exitcode"]):
        ran = policyctl(*args)
        assert (ran.code, ran.out, ran.err) == (2 if "--detailed-exitcode" in args else 0, line, "")


def test_what_is_refused_is_shown_with_its_reason(applied: Project, policyctl: Policyctl) -> None:
    applied.write("policyctl.yaml", "protect: [b]\n")
    loud = policyctl("plan")
    for command in (["plan", "-q"], ["apply", "-q", "--yes"]):
        ran = policyctl(*command)
        assert (ran.code, ran.err) == (3, loud.err)
        assert ran.out.startswith("refused  virtual-policy/b is protected and would be removed")
        assert ran.out.count("\n") == 2


def test_apply_shows_its_outcome_alone(applied: Project, policyctl: Policyctl) -> None:
    ran = policyctl("apply", "-q", "--yes")
    assert (ran.code, ran.out, ran.err) == (0, "Applied: 1 updated, 1 added, 1 removed; read back and verified.\n", "")
    ran = policyctl("apply", "-q", "--yes")
    assert (ran.code, ran.out) == (0, "No changes. local matches the files: 2 unchanged.\n")


def test_apply_shows_the_whole_plan_where_it_would_have_to_ask(applied: Project, policyctl: Policyctl) -> None:
    ran = policyctl("apply", "-q")
    assert ran.code == 64
    assert "~ virtual-policy/a" in ran.out
    assert live_documents().keys() == {"virtual-policy/a", "virtual-policy/b"}


def test_what_programs_read_is_the_same(applied: Project, policyctl: Policyctl) -> None:
    for form in ("json", "markdown", "html"):
        assert policyctl("plan", "-q", "--format", form).out == policyctl("plan", "--format", form).out
    assert json.loads(policyctl("apply", "-q", "--yes", "--format", "json").out)["complete"]


def test_problems_of_files_and_tests_are_shown_and_what_is_well_is_not(project: Project, policyctl: Policyctl) -> None:
    project.policy("a")
    project.write("a.test.yaml", WRITTEN)
    ran = policyctl("test", "-q")
    assert ran.code == 1
    lines = ran.out.splitlines()
    assert lines[0] == "FAILED it fails  (virtual-policy/a)"
    assert lines[-1] == "1 passed, 1 failed"
    assert len(lines) == 3
    assert policyctl("validate", "-q") == policyctl("validate", "--format", "concise")
    project.write("a.yaml", "kind: [")
    for command in ("validate", "plan", "test"):
        quiet = policyctl(command, "-q")
        assert quiet.code == 1
        assert quiet == policyctl(command)


REMOTES = {"a": "local", "b": "sqlite:///nope/x/y.db", "c": "local"}


def test_several_environments_are_one_line_each_that_failed(project: Project, policyctl: Policyctl) -> None:
    project.policy("a")
    environments = ", ".join(f"{name}: {{remote: '{remote}'}}" for name, remote in REMOTES.items())
    project.write("policyctl.yaml", f"environments: {{{environments}}}\n")
    (project.policies / "nope").write_text("", "utf-8")
    quiet = policyctl("apply", "--all", "--yes", "-q")
    assert quiet.code == 5
    assert "virtual-policy/a" not in quiet.out
    assert "failed  1 × " in quiet.out
    assert quiet.out.endswith("3 environments: 2 applied, 1 failed.\n")
    assert quiet.err == ""
    assert policyctl("apply", "--all", "--yes").code == 5


def test_the_variable_is_for_all_commands_and_an_option_wins_over_it(
    applied: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLICYCTL_QUIET", "1")
    assert policyctl("plan").out.count("\n") == 1
    assert policyctl("diff").code == 0
    assert policyctl("plan", "-v").out.count("\n") > 1
    monkeypatch.setenv("POLICYCTL_VERBOSE", "1")
    assert policyctl("plan", "-q").out.count("\n") == 1
    assert policyctl("plan").code == 64


def test_both_at_once_and_a_command_without_it_are_errors(project: Project, policyctl: Policyctl) -> None:
    project.policy("a")
    assert "--quiet and --verbose exclude each other; leave one out" in policyctl("plan", "-q", "-v").err
    ran = policyctl("-q", "effect", "a")
    assert ran.code == 64
    assert "policyctl effect does not use --quiet; leave it out" in ran.err


def test_fmt_shows_how_many_files_changed(project: Project, policyctl: Policyctl) -> None:
    project.write("a.yaml", "a:   1\n")
    ran = policyctl("fmt", "-q", "--check")
    assert (ran.code, ran.out) == (1, f"{Path('policies/a.yaml')}\n")
    ran = policyctl("fmt", "-q")
    assert (ran.code, ran.out, ran.err) == (0, "", "1 file formatted, 0 unchanged\n")
