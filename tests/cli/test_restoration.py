"""The way back to what was reviewed: what an emergency changed on the remote is no longer what the branch's base has."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from policyctl.cli.options import AUDIT_VARIABLE
from tests.conftest import Policyctl, Project
from tests.examples import crossed
from tests.git_repo import commit, git
from tests.sqlite_rows import live_documents

GUARDS = "guards: {max_traffic_shift: 10, deny_new: provider}\n"
CHAT = ("virtual-model/openai/gpt-4o", "virtual-model/google/g")


@pytest.fixture
def emergency(
    project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """A policy as it was reviewed and applied, and then moved to another provider by hand; a branch that adds another one. What
    was applied is in the audit record."""
    monkeypatch.setenv(AUDIT_VARIABLE, str(tmp_path_factory.mktemp("audit") / "audit.jsonl"))
    project.write("policyctl.yaml", GUARDS)
    project.policy("chat", *CHAT)
    commit(project.folder)
    assert policyctl("apply", "--yes").code == 0
    added = policyctl("policy", "add", "--name", "chat", "--model", "aws/nova", "--strategy", "fallback", "--yes")
    assert added.code == 0, added.err
    assert "aws/nova" in str(live_documents())
    git(project.folder, "checkout", "-q", "-b", "change")
    project.policy("new")
    return project


def test_guards_that_compare_with_what_is_live_let_the_way_back_pass(emergency: Project, policyctl: Policyctl) -> None:
    refused = policyctl("plan")
    assert refused.code == 3
    assert refused.out.count("allow it with --allow-guard") == 3
    ran = policyctl("plan", "--base", "main")
    assert ran.code == 0
    assert "~ virtual-policy/chat  policies/chat.yaml\n    restoration: back to the policy as it was reviewed\n" in ran.out
    changes = json.loads(policyctl("plan", "--base", "main", "--format", "json").out)["changes"]
    assert {change["name"]: change.get("restoration", False) for change in changes} == {
        "virtual-policy/chat": True,
        "virtual-policy/new": False,
    }


def test_apply_takes_the_same_way_back(emergency: Project, policyctl: Policyctl) -> None:
    commit(emergency.folder)
    assert policyctl("apply", "--yes").code == 3
    assert policyctl("plan", "--out", "plan.json").code == 3
    assert policyctl("apply", "plan.json", "--yes").code == 3
    assert policyctl("apply", "plan.json", "--yes", "--base", "main").code == 0
    assert "aws/nova" not in str(live_documents())


@pytest.mark.parametrize("text", ["description: other\n", "display_name: Other\n"])
def test_a_policy_that_the_branch_changes_is_not_restored(text: str, emergency: Project, policyctl: Policyctl) -> None:
    file = emergency.policies / "chat.yaml"
    file.write_text(file.read_text("utf-8") + text, "utf-8")
    ran = policyctl("plan", "--base", "main")
    assert (ran.code, "restoration" in ran.out) == (3, False)


def test_the_other_guards_hold_on_the_way_back(emergency: Project, policyctl: Policyctl) -> None:
    emergency.write("policyctl.yaml", "guards: {max_traffic_shift: 10, deny_new: provider, deny_providers: [google]}\n")
    commit(emergency.folder)
    ran = policyctl("plan", "--base", "HEAD")
    assert (ran.code, ran.out.count("allow it with")) == (3, 1)
    assert "which is among deny_providers google" in ran.out


@pytest.mark.parametrize("base", ["", "0" * 40, "nonsense"])
def test_without_a_base_apply_restores_nothing(base: str, emergency: Project, policyctl: Policyctl) -> None:
    """What services say of a branch's first push, and a revision that a shallow checkout lacks: the stricter way."""
    ran = policyctl("apply", "--yes", "--base", base)
    assert (ran.code, "restoration:" in ran.out) == (3, False)
    assert ("no change is taken for a restoration: unknown git revision 'nonsense'" in ran.err) == (base == "nonsense")


def test_a_policy_that_was_removed_by_hand_is_restored_where_the_audit_shows_it(project: Project, policyctl: Policyctl) -> None:
    """Without the record it may as well be one that was never applied."""
    project.policy("a")
    project.policy("b")
    commit(project.folder)
    assert policyctl("apply", "--yes", "--audit", "audit.jsonl").code == 0
    assert policyctl("policy", "remove", "--name", "b", "--yes").code == 0
    restored = "+ virtual-policy/b  policies/b.yaml\n    restoration: back to the policy as it was reviewed\n"
    assert restored not in policyctl("plan", "--base", "HEAD").out
    assert restored in policyctl("apply", "--base", "HEAD", "--yes", "--audit", "audit.jsonl").out


PUSHED = ("virtual-model/evil/m",)
NEVER_APPLIED: dict[str, tuple[list[tuple[str, ...]], bool]] = {  # the versions that were applied; whether a person edits it
    "it is newer than what is live": ([CHAT], False),
    "it is what was applied before": ([PUSHED, CHAT], False),
    "it was edited on the remote too": ([CHAT], True),
    "it was made on the remote": ([], True),
}


@pytest.mark.parametrize(("case", "audited"), crossed(NEVER_APPLIED, [False, True]))
def test_what_git_moved_and_nothing_applied_is_not_brought_back(
    case: str, audited: bool, project: Project, policyctl: Policyctl
) -> None:
    """A push that no pull request showed must not lift the guards of the next one."""
    versions, edited = NEVER_APPLIED[case]
    audit = ["--audit", ".git/audit.jsonl"] if audited else []
    project.policy("other")
    for models in [None, *versions]:
        if models is not None:
            project.policy("chat", *models)
        commit(project.folder)
        assert policyctl("apply", "--yes", *audit).code == 0
    if edited:
        assert policyctl("policy", "add", "--name", "chat", "--model", "aws/nova", "--strategy", "single", "--yes").code == 0
    project.write("policyctl.yaml", GUARDS)
    project.policy("chat", *PUSHED)
    commit(project.folder)
    project.policy("new")
    for command in (["plan", *audit], ["apply", "--yes", *audit]):
        ran = policyctl(*command, "--base", "HEAD")
        assert (ran.code, "restoration" in ran.out) == (3, False)
        assert "would reach evil (m), a new provider, and deny_new is provider" in ran.out


def test_an_exception_that_the_branch_adds_counts_after_its_merge(project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", "guards: {max_calls: 1}\n")
    project.policy("a")
    commit(project.folder)
    git(project.folder, "checkout", "-q", "-b", "change")
    project.policy("a", "virtual-model/x/a", "virtual-model/x/b")
    exception = "guard_exceptions: [{policy: a, guard: max_calls, reason: it may}]\n"
    project.write("policyctl.yaml", f"guards: {{max_calls: 1}}\n{exception}")
    ran = policyctl("plan", "--base", "main")
    assert ran.code == 3
    assert "note  the exception from max_calls for a takes effect after its merge: it may\n" in ran.out
    commit(project.folder)
    git(project.folder, "checkout", "-q", "-B", "main")
    project.policy("c")
    after = policyctl("plan", "--base", "main")
    assert (after.code, "takes effect after its merge" in after.out) == (0, False)
    assert Path("policies/c.yaml").exists()


AUDIT = ".git/audit.jsonl"  # no commit has it
OPENAI, EVIL, LAB = "virtual-model/openai/gpt-4o", "virtual-model/evil/m", "virtual-policy/lab"


def led_through_lab(project: Project, policyctl: Policyctl, live: dict[str, str], base: dict[str, str]) -> None:
    """Policies as they are live, by hand; and as they are at the base, and were applied. A branch begins there, with guards."""
    for policies, audit in ((base, ["--audit", AUDIT]), (live, [])):
        for name, target in policies.items():
            project.policy(name, target)
        if policies is base:
            commit(project.folder)
        assert policyctl("apply", "--yes", *audit).code == 0
    for name in base.keys() - live.keys():
        assert policyctl("policy", "remove", "--name", name, "--yes").code == 0
    for name, target in base.items():
        project.policy(name, target)
    project.write("policyctl.yaml", GUARDS)
    commit(project.folder)
    git(project.folder, "checkout", "-q", "-b", "change")


LED: dict[str, tuple[dict[str, str], str, bool]] = {  # what is live, what the branch makes of lab, and whether front is back
    "the policy that it targets is changed": ({"front": OPENAI, "lab": OPENAI}, EVIL, False),
    "the policy that it targets is added": ({"front": OPENAI}, EVIL, False),
    "the policy that it targets stays another one": ({"front": OPENAI, "lab": EVIL}, EVIL, False),
    "the policy that it targets is what it was": ({"front": EVIL, "lab": OPENAI}, OPENAI, True),
    "the policy that it targets comes back too": ({"front": EVIL, "lab": "virtual-model/other/m"}, OPENAI, True),
}


@pytest.mark.parametrize("case", LED)
@pytest.mark.alike
def test_a_restoration_brings_back_all_that_a_policy_leads_to(case: str, project: Project, policyctl: Policyctl) -> None:
    live, lab, restored = LED[case]
    led_through_lab(project, policyctl, live, {"front": LAB, "lab": OPENAI})
    project.policy("lab", lab)
    ran = policyctl("plan", "--base", "HEAD", "--audit", AUDIT)
    assert (ran.code == 0) == restored, ran.out
    front = ran.out.partition("virtual-policy/front")[2].splitlines()[1]
    assert ("restoration" in front) == restored
    assert ("virtual-policy/front would have 100% of its requests served by another model" in ran.out) == (not restored)


def test_a_policy_that_stays_is_not_brought_back_by_a_change_that_the_base_did_not_lead_it_to(
    project: Project, policyctl: Policyctl
) -> None:
    """The base has the change, but a policy that led elsewhere; the branch only takes over what was done to that one."""
    led_through_lab(project, policyctl, {"front": LAB, "lab": OPENAI}, {"front": OPENAI, "lab": EVIL})
    project.policy("front", LAB)
    ran = policyctl("plan", "--base", "HEAD", "--audit", AUDIT)
    assert ran.code == 3
    assert "restoration: back to the policy as it was reviewed" in ran.out
    assert "virtual-policy/front (through virtual-policy/lab) would have 100% of its requests" in ran.out
