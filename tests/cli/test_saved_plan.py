"""A saved plan: applied as it is, again after it was interrupted, and refused when anything moved."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import ANYGEM, Policyctl, Project

PLAN = Path("plan.json")


@pytest.fixture
def saved(project: Project, policyctl: Policyctl) -> Project:
    """A project with an applied policy, and a saved plan that updates it and adds another."""
    project.write("anygem.yaml")
    assert policyctl("apply", "--yes").code == 0
    project.write("anygem.yaml", ANYGEM.replace("0.25", "0.4").replace("0.75", "0.6"))
    project.policy("new")
    assert policyctl("plan", "--out", PLAN).code == 0
    return project


def test_it_is_applied_without_the_files(saved: Project, policyctl: Policyctl) -> None:
    for path in saved.policies.glob("*.yaml"):
        path.unlink()
    ran = policyctl("apply", PLAN, "--yes")
    assert ran.code == 0
    assert "policy.targets[google/gemini-2.0-flash-lite].weight: 0.25 → 0.4" in ran.out
    assert ran.out.endswith("Applied: 1 updated, 1 added; read back and verified.\n")


def test_it_can_be_applied_again_wholly_and_half(saved: Project, policyctl: Policyctl) -> None:
    assert policyctl("apply", "--yes", "--only", "new").code == 0
    half = policyctl("apply", PLAN, "--yes")
    assert half.code == 0
    assert "note  already there, so not written again: 1 of 2 changes (virtual-policy/new)\n" in half.out
    assert half.out.endswith("Applied: 1 updated, 1 already; read back and verified.\n")
    again = policyctl("apply", PLAN, "--yes")
    assert again.code == 0
    assert "already there, so not written again: 2 of 2 changes" in again.out
    assert again.out.endswith("2 already; read back and verified.\n")
    assert policyctl("plan", "--detailed-exitcode").code == 0


def test_a_moved_policy_is_named_with_its_fields_and_nothing_is_written(saved: Project, policyctl: Policyctl) -> None:
    saved.write("anygem.yaml", ANYGEM.replace("0.25", "0.1").replace("attempts: 1", "attempts: 2"))
    assert policyctl("apply", "--yes", "--only", "anygem").code == 0
    database = Path(".policyctl/local.db").read_bytes()
    ran = policyctl("apply", PLAN, "--yes")
    assert ran.code == 4
    moved = "policy.retry.attempts: 1 → 2, policy.targets[google/gemini-2.0-flash-lite].weight: 0.25 → 0.1"
    assert f"\nstale  virtual-policy/anygem: {moved}\n" in ran.out
    assert ran.err == "error: the remote changed since the plan was made; nothing was written, plan again (see above)\n"
    assert Path(".policyctl/local.db").read_bytes() == database


def test_a_policy_that_was_removed_meanwhile_is_stale(saved: Project, policyctl: Policyctl) -> None:
    (saved.policies / "anygem.yaml").unlink()
    assert policyctl("apply", "--yes").code == 0
    assert policyctl("apply", PLAN, "--yes").code == 4


def test_another_configuration_makes_it_stale(saved: Project, policyctl: Policyctl) -> None:
    saved.write("policyctl.yaml", "limits: {max_removes: 1}\n")
    ran = policyctl("apply", PLAN, "--yes")
    assert ran.code == 4
    assert ran.err.splitlines() == [
        "error: policyctl.yaml changed the settings of local since the plan was made; plan again",
        "  limits.max_removes: 5 → 1",
    ]


def test_what_changed_in_the_configuration_is_shown_from_what_to_what(saved: Project, policyctl: Policyctl) -> None:
    before = "vars: {w: {a: 1, b: 2}, same: 1}, protect: [new], guards: {max_calls: 9}"
    after = "vars: {w: {b: 2, a: 1}, same: 1, more: x}, protect: [new, anygem], prune: false"
    saved.write("policyctl.yaml", f"environments: {{local: {{{before}}}}}\n")
    assert policyctl("plan", "--out", PLAN).code == 0
    saved.write("policyctl.yaml", f"environments: {{local: {{{after}}}}}\n")
    assert policyctl("apply", PLAN, "--yes").err.splitlines()[1:] == [
        '  vars.w: {"a":1,"b":2} → {"b":2,"a":1}',
        "  prune: true → false",
        "  protect: [new] → [new, anygem]",
        "  guards.max_calls: 9 → absent",
        '  vars.more: absent → "x"',
    ]


def test_limits_are_asked_again_by_apply(saved: Project, policyctl: Policyctl) -> None:
    for name in "abcdef":
        saved.policy(name)
    assert policyctl("apply", "--yes").code == 0
    for name in "abcdef":
        (saved.policies / f"{name}.yaml").unlink()
    assert policyctl("plan", "--out", PLAN, "--max-removes", "6").code == 0
    refused = policyctl("apply", PLAN, "--yes")
    assert refused.code == 3
    assert "--max-removes 6" in refused.out
    assert policyctl("apply", PLAN, "--yes", "--max-removes", "6").code == 0


BAD = {
    "no such file": (lambda text: None, "cannot be read", 1),
    "truncated": (lambda text: text[: len(text) // 2], "incomplete JSON", 1),
    "edited by hand": (lambda text: text.replace("0.4", "0.9"), "was changed after it was made", 1),
    "of another environment": (lambda text: text.replace('"local"', '"prod"'), "was changed after it was made", 1),
    "from a newer version": (lambda text: text.replace('"version": 1', '"version": 2'), "version 2", 1),
    "not text": (lambda text: b"\xff\xfe\x00", "not text", 1),
    "empty": (lambda text: "", "incomplete JSON", 1),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_plan_files_change_nothing(case: str, saved: Project, policyctl: Policyctl) -> None:
    edit, expected, code = BAD[case]
    database = Path(".policyctl/local.db").read_bytes()
    edited = edit(PLAN.read_text("utf-8"))
    if edited is None:
        PLAN.unlink()
    else:
        PLAN.write_bytes(edited if isinstance(edited, bytes) else edited.encode())
    ran = policyctl("apply", PLAN, "--yes")
    assert (ran.code, ran.out) == (code, "")
    assert expected in ran.err
    assert len(ran.err.splitlines()) == 1
    assert Path(".policyctl/local.db").read_bytes() == database


def test_for_another_environment_or_remote_it_is_refused(saved: Project, policyctl: Policyctl) -> None:
    saved.write("policyctl.yaml", "environments: {dev: {}, prod: {}}\n")
    assert policyctl("plan", "--env", "dev", "--out", PLAN).code == 0
    ran = policyctl("apply", PLAN, "--env", "prod", "--yes")
    assert (ran.code, ran.err) == (1, "error: plan.json is a plan for environment dev, not for prod\n")
    ran = policyctl("apply", PLAN, "--remote", "sqlite:///other.db", "--yes")
    assert ran.code == 1
    assert "is a plan for sqlite:///" in ran.err
    assert not Path("other.db").exists()


def test_without_env_it_shows_which_environment_it_is_for(saved: Project, policyctl: Policyctl) -> None:
    saved.write("policyctl.yaml", "default: dev\nenvironments: {dev: {}, prod: {}}\n")
    assert policyctl("plan", "--env", "prod", "--out", PLAN).code == 0
    assert policyctl("apply", PLAN, "--yes").out.startswith("environment prod,")
    assert policyctl("plan", "--env", "prod", "--detailed-exitcode").code == 0
    assert policyctl("plan", "--detailed-exitcode").code == 2


def test_a_selection_belongs_to_plan(saved: Project, policyctl: Policyctl) -> None:
    assert policyctl("apply", PLAN, "--only", "new", "--yes").code == 64


def test_out_is_always_the_saved_plan_whatever_the_format(saved: Project, policyctl: Policyctl) -> None:
    ran = policyctl("plan", "--format", "json", "--out", PLAN)
    assert json.loads(ran.out)["format"] == "policyctl/plan"
    written = json.loads(PLAN.read_text("utf-8"))
    assert written["format"] == "policyctl/saved-plan"
    assert written["digest"] == json.loads(ran.out)["digest"]


def test_a_plan_that_cannot_be_saved_says_so(saved: Project, policyctl: Policyctl) -> None:
    ran = policyctl("plan", "--out", "no/such/folder/plan.json")
    assert (ran.code, ran.err) == (1, "error: no/such/folder/plan.json cannot be written: No such file or directory\n")
