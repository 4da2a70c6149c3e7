"""Settings and selections that match no policy are reported where they are; what was selected in vain is an error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import Policyctl, Project
from tests.git_repo import commit
from tests.problem_lines import shows
from tests.sqlite_rows import LOCAL, put, row

GUARD = "{policy: %s, guard: max_calls, reason: it was so}"
IDLE = {
    "scope": ('scope: ["chat*", emebd, embed]\n', "1:18", "scope has emebd", " (did you mean embed?)"),
    "protect": ("protect: [virtual-policy/chta]\n", "1:11", "protect has virtual-policy/chta", "virtual-policy/chat?)"),
    "a glob": ("protect: ['prod-*']\n", "1:11", "protect has prod-*", " (correct it, or remove it)"),
    "guard_exceptions": (f"guard_exceptions: [{GUARD % 'caht'}]\n", "1:29", "guard_exceptions has caht", "mean chat?)"),
    "allow_remove": (
        "allow_remove: [old]\n",
        "1:16",
        "allow_remove has old, and no live policy has that name",
        "remove the entry)",
    ),
    "in an environment": (
        "environments:\n  dev:\n    protect: [chta]\n",
        "3:15",
        "protect has chta, which matches no policy, neither in the files nor on the remote",
        "mean chat?)",
    ),
}


@pytest.fixture
def two(project: Project) -> Project:
    for name in ("chat", "embed"):
        project.policy(name)
    return project


@pytest.mark.parametrize("command", [("plan",), ("apply", "--yes"), ("plan", "--format", "markdown")])
@pytest.mark.parametrize("case", IDLE)
def test_plan_and_apply_show_a_setting_that_matches_nothing(
    case: str, command: tuple[str, ...], two: Project, policyctl: Policyctl
) -> None:
    text, place, said, guess = IDLE[case]
    path = two.write("policyctl.yaml", text)
    ran = policyctl(*command)
    assert ran.code == 0
    shown = ran.out.replace("`", "")
    assert f"{path}:{place}: {said}" in shown
    assert guess in shown


def test_a_setting_that_matches_a_file_or_a_live_policy_alone_is_at_work(two: Project, policyctl: Policyctl) -> None:
    put([row("live"), row("gone")])
    two.write(
        "policyctl.yaml",
        f"prune: false\nscope: [chat, embed, live, gone]\nprotect: ['li*', virtual-policy/embed]\n"
        f"allow_remove: [gone]\nguard_exceptions: [{GUARD % 'live'}, {GUARD % 'ch*'}]\n",
    )
    assert "policyctl.yaml" not in policyctl("plan").out


def test_a_rule_that_is_ignored_is_silent_in_plan_too(two: Project, policyctl: Policyctl) -> None:
    two.write("policyctl.yaml", "protect: [chta]\nallow_remove: [old]\nlint: {ignore: [P46]}\n")
    assert "chta" not in policyctl("plan").out
    assert "chta" not in policyctl("validate", "-v").out


def test_a_saved_plan_shows_it_too(two: Project, policyctl: Policyctl) -> None:
    two.write("policyctl.yaml", "protect: [chta]\n")
    assert policyctl("plan", "--out", "plan.json").code == 0
    assert "policyctl.yaml:1:11: protect has chta" in policyctl("apply", "plan.json", "--yes").out


def test_against_a_base_it_is_the_branch_s_own_settings_that_are_looked_at(two: Project, policyctl: Policyctl) -> None:
    two.write("policyctl.yaml", "protect: [chat]\n")
    commit(two.folder)
    path = two.write("policyctl.yaml", "protect: [chat, emebd]\n")
    ran = policyctl("plan", "--base", "HEAD", "--remote", "git:HEAD")
    assert f"note  {path}:1:17: protect has emebd" in ran.out


def test_validate_looks_at_every_environment_before_it_calls_a_shared_setting_idle(two: Project, policyctl: Policyctl) -> None:
    environments = "environments: {dev: {include: [chat.yaml]}, prod: {include: [embed.yaml]}}\ndefault: dev\n"
    two.write("policyctl.yaml", f"{environments}protect: [chat, embed]\n")
    assert policyctl("validate").out == "Valid: 2 policies in 2 files.\n"
    two.write("policyctl.yaml", f"{environments}protect: [chat, embed, other]\n")
    assert shows("policyctl.yaml:3:24: warning: protect has other [P461]", policyctl("validate").out)
    two.write("embed.yaml", "kind: model\nspec_version: v1\nname: other\npolicy: 7\n")
    assert "P461" not in policyctl("validate").out  # what a broken file names is not known


def test_one_configuration_is_looked_at_once_however_it_is_named(two: Project, policyctl: Policyctl) -> None:
    two.write("policyctl.yaml", "protect: [chta]\nenvironments: {dev: {vars: {x: '${X}'}}}\n")
    for named in (two.policies, two.folder, Path("policies"), Path("policies/../policies")):
        out = policyctl("validate", named).out
        assert (out.count("P461"), out.count("P443"), out.count("2 policies in 2 files")) == (1, 1, 1), named


SELECTED = {
    "--only": (
        ("--only", "caht"),
        "--only caht matches no policy, neither in the files nor on the remote (did you mean chat?)",
    ),
    "one of several": (("--only", "chat", "--only", "em?"), "--only em? matches no policy, neither"),
    "--exclude": (("--exclude", "prod-*"), "--exclude prod-* matches no policy, neither in the files nor on the remote"),
    "--allow-remove": (("--allow-remove", "liev"), "--allow-remove liev matches no live policy (did you mean live?)"),
    "--allow-remove of a glob": (("--allow-remove", "*"), "--allow-remove * matches no live policy"),
    "--allow-remove of a new policy": (("--allow-remove", "chat"), "--allow-remove chat matches no live policy"),
    "--allow-guard": (
        ("--allow-guard", "max_calls=virtual-policy/caht"),
        "--allow-guard max_calls=virtual-policy/caht matches",
    ),
}


@pytest.mark.parametrize("command", [("plan",), ("apply", "--yes")])
@pytest.mark.parametrize("case", SELECTED)
def test_what_is_selected_in_vain_is_an_error_before_anything_is_done(
    case: str, command: tuple[str, ...], two: Project, policyctl: Policyctl
) -> None:
    put([row("live")])
    before = LOCAL.read_bytes()
    options, said = SELECTED[case]
    ran = policyctl(*command, *options)
    assert (ran.code, ran.out) == (64, "")
    assert f"error: {said}" in ran.err
    assert LOCAL.read_bytes() == before
    assert not Path("plan.json").exists()


def test_all_of_them_are_named_at_once(two: Project, policyctl: Policyctl) -> None:
    ran = policyctl("plan", "--only", "one", "--exclude", "two", "--allow-remove", "three")
    assert [name in ran.err for name in ("--only one", "--exclude two", "--allow-remove three")] == [True] * 3


def test_a_selection_of_what_is_live_or_in_a_file_alone_is_none_in_vain(two: Project, policyctl: Policyctl) -> None:
    put([row("live"), row("embed")])
    assert policyctl("plan", "--only", "live", "--exclude", "virtual-policy/ch*", "--allow-guard", "max_calls=embed").code == 0
    assert policyctl("plan", "--allow-guard", "max_calls", "--allow-remove", "virtual-policy/live").code == 0


def test_an_override_of_a_guard_that_is_not_set_shows_that_it_does_nothing(two: Project, policyctl: Policyctl) -> None:
    two.write("policyctl.yaml", "guards: {max_calls: 9}\n")
    ran = policyctl("plan", "--allow-guard", "max_calls", "--allow-guard", "survive=chat")
    assert "note  --allow-guard survive=chat does nothing: survive is not set for local\n" in ran.out
    assert "note  --allow-guard max_calls" not in ran.out


RENAMED = {
    "under another name": ("", "", True),
    "with another name and other texts": ("description: old", "description: new", False),
    "with its own texts": ("description: the same\ndisplay_name: Same", "description: the same\ndisplay_name: Same", True),
}


@pytest.mark.parametrize("case", RENAMED)
def test_an_added_and_a_removed_policy_with_one_content_may_be_a_rename(case: str, two: Project, policyctl: Policyctl) -> None:
    before, after, same = RENAMED[case]
    old = two.policies / two.policy("old", "virtual-model/x/a", "virtual-model/x/b").name
    old.write_text(f"{old.read_text()}{before}\n")
    assert policyctl("apply", "--yes").code == 0
    new = two.policies / two.policy("new", "virtual-model/x/a", "virtual-model/x/b").name
    new.write_text(f"{new.read_text()}{after}\n")
    old.unlink()
    said = "virtual-policy/new is added with the content of the removed virtual-policy/old: a rename?"
    assert (said in policyctl("plan").out) == same
    old.write_text(new.read_text().replace("name: new", "name: old"))
    assert "a rename?" not in policyctl("plan").out


def test_a_saved_plan_can_be_applied_again_with_the_same_allowances(two: Project, policyctl: Policyctl) -> None:
    put([row("live")])
    two.write("policyctl.yaml", "protect: [live]\n")
    assert policyctl("plan", "--allow-remove", "live", "--out", "plan.json").code == 0
    for _ in range(2):
        assert policyctl("apply", "plan.json", "--allow-remove", "live", "--yes").code == 0
    assert policyctl("apply", "plan.json", "--allow-remove", "lvie", "--yes").code == 64


def test_nothing_that_was_left_out_is_reported_to_match(two: Project, policyctl: Policyctl) -> None:
    assert policyctl("apply", "--yes", "--only", "chat").code == 0
    for form in ("text", "markdown", "html"):
        assert "matches the files" not in policyctl("plan", "--only", "chat", "--format", form).out
    assert policyctl("plan", "--only", "chat").out.endswith("No changes selected. 1 unchanged, 1 not selected.\n")


NOT_COMPARED = {
    "a row without a name": ({"name": "", "id": "9"}, "1 unchanged, 1 unreadable (rows of the remote, see the notes)", 0),
    "an unreadable row in scope": (
        row("chat-2", id="9", policy=None),
        "1 unchanged, 1 unreadable (rows of the remote, see the notes)",
        0,
    ),
    "a name that is there twice": (row("chat", id="9"), "1 blocked", 5),
}


@pytest.mark.parametrize("case", NOT_COMPARED)
def test_no_match_is_claimed_for_rows_that_could_not_be_compared(case: str, project: Project, policyctl: Policyctl) -> None:
    """In any format, by plan, by apply and by a saved plan without changes."""
    bad, rest, code = NOT_COMPARED[case]
    project.policy("chat", "virtual-model/a/one")
    project.write("policyctl.yaml", "scope: ['chat*']\n")
    put([row("chat", id="1"), bad], unique_names=False)
    ran = policyctl("plan", "--out", "p.json", "--report", "markdown=p.md", "--report", "html=p.html")
    page, text = Path("p.html").read_text("utf-8"), Path("p.md").read_text("utf-8")
    said = "Nothing to apply, but not everything could be compared"
    for shown in (ran, policyctl("apply", "--yes"), policyctl("apply", "p.json", "--yes")):
        assert (shown.code, shown.out.splitlines()[-1]) == (code, f"{said}. {rest}.")
    assert f"<h2>{said}</h2>" in page
    assert (f"\n{said}.\n" in text, f" {rest}.\n" in text, "### policyctl: nothing to apply in `local`" in text) == (True,) * 3
    assert not any("matches the files" in one or "No changes" in one or "no changes" in one for one in (ran.out, text, page))
    summary = json.loads(policyctl("plan", "--format", "json").out)["summary"]
    assert (summary["unreadable"], summary["blocked"]) == ((0, 1) if code else (1, 0))


def test_what_the_files_do_not_manage_is_not_called_a_match(project: Project, policyctl: Policyctl) -> None:
    """An unreadable row that is outside the scope takes nothing from what is."""
    project.policy("chat", "virtual-model/a/one")
    project.write("policyctl.yaml", "scope: ['chat*']\n")
    put([row("chat", id="1"), row("theirs", id="2"), row("broken", id="3", policy=None)])
    said = "No changes. The policies that the files manage in local match: 1 unchanged, 1 outside the scope.\n"
    assert policyctl("plan").out.endswith(said)
    assert "\nThe policies that the files manage match.\n" in policyctl("plan", "--format", "markdown").out
