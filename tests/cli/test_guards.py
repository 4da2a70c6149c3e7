"""The guards from the command line: plan and apply refuse with exit code 3, and what passes them over once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conftest import Policyctl, Project

A, B, C = "virtual-model/x/a", "virtual-model/x/b", "virtual-model/y/c"
PLAN = Path("plan.json")
SIX = "may make 6 calls for one request, more than max_calls 5: 3 × x/a ending with 500, then 3 × y/c"
OVERRIDE = "(allow it with --allow-guard max_calls=virtual-policy/p, or in guard_exceptions)"


@pytest.fixture
def guarded(project: Project) -> Project:
    """A policy that may make six calls, where five are allowed."""
    project.write("policyctl.yaml", "guards: {max_calls: 5}\n")
    project.policy("p", A, C, retry="{attempts: 2}")
    return project


def test_plan_and_apply_refuse_and_nothing_is_written(guarded: Project, policyctl: Policyctl) -> None:
    for command in (["plan"], ["apply", "--yes"]):
        ran = policyctl(*command)
        assert ran.code == 3
        assert f"refused  virtual-policy/p {SIX} {OVERRIDE}\n" in ran.out
        assert ran.err == "error: refused by 1 safety rule; see above\n"  # once is enough
    assert not Path(".policyctl").exists()


@pytest.mark.parametrize("form", ["json", "markdown", "html"])
def test_what_is_not_printed_for_people_has_the_refusals_as_a_message_too(
    form: str, guarded: Project, policyctl: Policyctl
) -> None:
    ran = policyctl("plan", "--format", form)
    assert (ran.code, ran.err) == (3, f"error: refused by 1 safety rule:\n  virtual-policy/p {SIX} {OVERRIDE}\n")


@pytest.mark.parametrize(
    ("allowed", "code"),
    [
        (["--allow-guard", "max_calls"], 0),
        (["--allow-guard", "max_calls=p"], 0),
        (["--allow-guard", "max_calls=virtual-policy/p"], 0),
        (["--allow-guard", "survive", "--allow-guard", "max_calls=*"], 0),
        (["--allow-guard", "max_calls=q"], 64),
        (["--allow-guard", "survive"], 3),
    ],
)
def test_a_guard_is_passed_over_once_by_naming_it(
    guarded: Project, policyctl: Policyctl, allowed: list[str], code: int
) -> None:
    planned, applied = policyctl("plan", *allowed), policyctl("apply", "--yes", *allowed)
    assert (planned.code, applied.code) == (code, code)
    assert (f"note  virtual-policy/p {SIX}; allowed: {' '.join(allowed[-2:])}\n" in planned.out) == (code == 0)


@pytest.mark.parametrize(
    ("value", "complaint"),
    [
        ("max_call", "unknown guard max_call (did you mean max_calls?); known: max_traffic_shift, max_calls, "),
        ("", "unknown guard ; known: "),
        ("max_calls=", "write max_calls alone, or max_calls=NAME"),
    ],
)
def test_what_is_not_a_guard_is_a_usage_error(guarded: Project, policyctl: Policyctl, value: str, complaint: str) -> None:
    for command in ("plan", "apply"):
        ran = policyctl(command, "--allow-guard", value)
        assert (ran.code, complaint in ran.err) == (64, True)


def test_an_exception_in_the_file_is_a_note_with_its_reason(guarded: Project, policyctl: Policyctl) -> None:
    exception = "guard_exceptions: [{policy: p, guard: max_calls, reason: 'batch, nobody waits'}]\n"
    guarded.write("policyctl.yaml", f"guards: {{max_calls: 5}}\n{exception}")
    ran = policyctl("apply", "--yes")
    assert ran.code == 0
    assert f"note  virtual-policy/p {SIX}; allowed: batch, nobody waits\n" in ran.out


def test_a_reason_cannot_command_the_terminal(guarded: Project, policyctl: Policyctl) -> None:
    exception = 'guard_exceptions: [{policy: p, guard: max_calls, reason: "a\\e[2Jb\\nc"}]\n'
    guarded.write("policyctl.yaml", f"guards: {{max_calls: 5}}\n{exception}")
    assert "allowed: a\\x1b[2Jb\\nc\n" in policyctl("plan").out


def test_a_saved_plan_is_judged_again_by_apply(guarded: Project, policyctl: Policyctl) -> None:
    """What was passed over when it was made must be named again."""
    assert policyctl("plan", "--out", PLAN, "--allow-guard", "max_calls").code == 0
    refused = policyctl("apply", PLAN, "--yes")
    assert (refused.code, SIX in refused.out) == (3, True)
    assert policyctl("apply", PLAN, "--yes", "--allow-guard", "max_calls").code == 0
    assert policyctl("plan", "--detailed-exitcode").code == 0


@pytest.mark.parametrize(
    "changed",
    [
        "guards: {max_calls: 6}",
        "guards: {max_calls: 9, deny_new: model}",
        "guards: {max_calls: 9}\nguard_exceptions: [{policy: p, guard: max_calls, reason: r}]",
    ],
)
def test_other_guards_make_a_saved_plan_stale(guarded: Project, policyctl: Policyctl, changed: str) -> None:
    guarded.write("policyctl.yaml", "guards: {max_calls: 9}\n")
    assert policyctl("plan", "--out", PLAN).code == 0
    guarded.write("policyctl.yaml", f"{changed}\n")
    ran = policyctl("apply", PLAN, "--yes")
    assert (ran.code, "policyctl.yaml changed the settings of local" in ran.err) == (4, True)


def test_only_what_changes_is_judged(guarded: Project, policyctl: Policyctl) -> None:
    """What was live before the guard stays until it is changed."""
    assert policyctl("apply", "--yes", "--allow-guard", "max_calls").code == 0
    guarded.policy("q", A)
    assert policyctl("apply", "--yes").code == 0
    guarded.policy("p", A, C, retry="{attempts: 3}")
    assert policyctl("plan").code == 3


UPDATES = {
    "traffic": ("max_traffic_shift: 50", [B], "100% of its requests served by another model, more than max_traffic_shift 50"),
    "a new provider": ("deny_new: provider", [A, C], "would reach y (c, when a fails), a new provider"),
    "a denied provider": ("deny_providers: ['y']", [A, C], "may reach y (c, when a fails)"),
    "an outage": ("survive: {any: model, down_with: [503]}", [B], "serves 0% while x/b is down with 503"),
}


@pytest.mark.parametrize("name", UPDATES)
def test_an_update_is_held_against_what_is_live(project: Project, policyctl: Policyctl, name: str) -> None:
    guard, models, said = UPDATES[name]
    project.policy("p", A)
    assert policyctl("apply", "--yes").code == 0
    project.write("policyctl.yaml", f"guards: {{{guard}}}\n")
    project.policy("p", *models)
    for command in (["plan"], ["apply", "--yes"]):
        ran = policyctl(*command)
        assert (ran.code, said in ran.out) == (3, True), ran.out


def test_the_commands_for_one_policy_are_not_guarded(guarded: Project, policyctl: Policyctl) -> None:
    """Whoever breaks the glass names the policy."""
    assert policyctl("policy", "import", "-f", "policies/p.yaml", "--yes").code == 0


def test_single_policies_are_not_bound_by_guards_and_it_is_reported(guarded: Project, policyctl: Policyctl) -> None:
    """Who puts out a fire may have to move all traffic at once; that it will not pass the next plan is worth knowing."""
    note = f"note  plan and apply would refuse this: virtual-policy/p {SIX} {OVERRIDE}\n"
    load = ("policy", "import", "--file", "policies/p.yaml")
    shown = policyctl(*load, "--dry-run")
    assert shown.code == 0
    assert note in shown.out
    assert not Path(".policyctl").exists()
    done = policyctl(*load, "--yes")
    assert done.code == 0
    assert note in done.out
    guarded.write("policyctl.yaml", "guards: {max_calls: 6}\n")
    assert "would refuse" not in policyctl("policy", "remove", "--name", "p", "--yes").out
    assert "would refuse" not in policyctl(*load, "--yes").out
