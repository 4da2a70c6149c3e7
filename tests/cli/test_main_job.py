"""The main job, end to end on the embedded remote: add, change, remove, and an empty plan to prove it."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import pytest

from tests.conftest import ANYGEM, Policyctl, Project
from tests.git_repo import git

DATABASE = Path(".policyctl/local.db")


@pytest.fixture
def applied(project: Project, policyctl: Policyctl) -> Project:
    """A project whose two policies are applied."""
    project.write("anygem.yaml")
    project.policy(
        "assistant", "virtual-model/a/one", "virtual-model/b/two", retry="{attempts: 2, on_status_codes: [429, 503]}"
    )
    assert policyctl("apply", "--yes").code == 0
    return project


def test_plan_on_an_empty_remote_adds_everything_and_makes_no_file(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    ran = policyctl("plan", "--detailed-exitcode")
    assert ran.code == 2
    assert "+ virtual-policy/anygem  policies/anygem.yaml" in ran.out
    assert ran.out.endswith("Plan: 1 to add, 0 to update, 0 to remove.\n")
    assert not DATABASE.parent.exists()


def test_after_apply_plan_is_empty_and_apply_does_nothing(applied: Project, policyctl: Policyctl) -> None:
    before = DATABASE.read_bytes()
    assert policyctl("plan", "--detailed-exitcode") == (
        0,
        "environment local, remote local\n\nNo changes. local matches the files: 2 unchanged.\n",
        "",
    )
    again = policyctl("apply")
    assert again.code == 0
    assert "No changes." in again.out
    assert DATABASE.read_bytes() == before


EDITS: dict[str, tuple[str, str, str, list[str]]] = {
    "one weight": (
        "anygem.yaml",
        "weight: 0.25",
        "weight: 0.4",
        ["policy.targets[google/gemini-2.0-flash-lite].weight: 0.25 → 0.4"],
    ),
    "the description": (
        "anygem.yaml",
        "Balances requests",
        "Shares requests",
        ['description: "Balances requests between 2 Gemini models" → "Shares requests between 2 Gemini models"'],
    ),
    "two fallback targets swapped": (
        "assistant.yaml",
        "    - model_name: virtual-model/a/one\n    - model_name: virtual-model/b/two\n",
        "    - model_name: virtual-model/b/two\n    - model_name: virtual-model/a/one\n",
        ["policy.targets order: a/one, b/two → b/two, a/one"],
    ),
    "no retry any more": (
        "assistant.yaml",
        "  retry: {attempts: 2, on_status_codes: [429, 503]}\n",
        "",
        ["policy.retry: {attempts: 2, on_status_codes: [429, 503]} → absent"],
    ),
    "a cache": ("anygem.yaml", "  retry:", "  cache: {mode: simple}\n  retry:", ["policy.cache: absent → {mode: simple}"]),
}


@pytest.mark.parametrize("case", EDITS)
def test_an_edit_is_one_update_with_its_field(case: str, applied: Project, policyctl: Policyctl) -> None:
    file, old, new, fields = EDITS[case]
    path = applied.policies / file
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    ran = policyctl("plan", "--detailed-exitcode")
    assert ran.code == 2
    indented = [line[4:] for line in ran.out.splitlines() if line.startswith("    ")]
    assert [line for line in indented if not line.startswith(" ")] == fields  # deeper is what it does to traffic
    assert policyctl("apply", "--yes").code == 0
    assert policyctl("plan", "--detailed-exitcode").code == 0


NO_EDITS = {
    "load-balance targets in another order": (
        "anygem.yaml",
        ANYGEM[ANYGEM.index("    - model") :],
        """\
    - {model_name: virtual-model/google/gemini-2.0-flash-lite, weight: 0.25}
    - {model_name: virtual-model/google/gemini-2.0-flash, weight: 0.75}
""",
    ),
    "codes in another order": ("assistant.yaml", "[429, 503]", "[503, 429]"),
    "weight 1 where it was absent": (
        "assistant.yaml",
        "- model_name: virtual-model/a/one\n",
        "- model_name: virtual-model/a/one\n      weight: 1\n",
    ),
    "the other spelling of the name": ("anygem.yaml", "name: anygem", "name: virtual-policy/anygem"),
    "a null": ("anygem.yaml", "policy:\n", "policy:\n  cache:\n"),
}


@pytest.mark.parametrize("case", NO_EDITS)
def test_what_means_the_same_is_not_a_change(case: str, applied: Project, policyctl: Policyctl) -> None:
    file, old, new = NO_EDITS[case]
    path = applied.policies / file
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    assert policyctl("plan", "--detailed-exitcode").code == 0


def test_a_deleted_file_is_one_removal(applied: Project, policyctl: Policyctl) -> None:
    (applied.policies / "assistant.yaml").unlink()
    ran = policyctl("plan", "--detailed-exitcode")
    assert ran.code == 2
    assert "- virtual-policy/assistant\n" in ran.out
    assert "0 to add, 0 to update, 1 to remove. 1 unchanged." in ran.out
    done = policyctl("apply", "--yes")
    assert done.code == 0
    assert done.out.endswith("Applied: 1 removed; read back and verified.\n")
    assert policyctl("plan", "--detailed-exitcode").code == 0


def test_an_update_keeps_the_rows_id_spelling_and_unknown_fields(applied: Project, policyctl: Policyctl) -> None:
    with sqlite3.connect(DATABASE) as database:
        (document,) = database.execute("SELECT document FROM policy WHERE canonical = 'virtual-policy/anygem'").fetchone()
        loose = {**json.loads(document), "name": "anygem", "labels": ["x"]}
        loose["policy"]["hooks"] = {"before": 1}
        database.execute("UPDATE policy SET document = ? WHERE canonical = 'virtual-policy/anygem'", (json.dumps(loose),))
    database.close()
    applied.write("anygem.yaml", ANYGEM.replace("0.25", "0.4"))
    assert policyctl("apply", "--yes").code == 0
    with sqlite3.connect(DATABASE) as database:
        (text,) = database.execute("SELECT document FROM policy WHERE canonical = 'virtual-policy/anygem'").fetchone()
    database.close()
    written = json.loads(text)
    assert (written["name"], written["labels"], written["policy"]["hooks"]) == ("anygem", ["x"], {"before": 1})
    assert written["policy"]["targets"][1]["weight"] == 0.4
    assert policyctl("plan", "--detailed-exitcode").code == 0


def test_only_and_exclude_select_on_plan_and_on_apply(project: Project, policyctl: Policyctl) -> None:
    for name in ("team-a", "team-b", "other"):
        project.policy(name)
    ran = policyctl("plan", "--only", "team-*", "--exclude", "*-b")
    assert "+ virtual-policy/team-a" in ran.out
    assert "Plan: 1 to add, 0 to update, 0 to remove. 2 not selected." in ran.out
    assert "1 added" in policyctl("apply", "--yes", "--only", "team-*", "--exclude", "*-b").out
    assert "Plan: 2 to add, 0 to update, 0 to remove. 1 unchanged." in policyctl("plan").out


def test_what_is_outside_the_scope_is_counted_and_left_alone(project: Project, policyctl: Policyctl) -> None:
    project.policy("team-a")
    project.policy("other")
    assert policyctl("apply", "--yes").code == 0
    (project.policies / "other.yaml").unlink()
    project.write("policyctl.yaml", "scope: ['team-*']\n")
    assert policyctl("plan", "--detailed-exitcode").out.endswith(": 1 unchanged, 1 outside the scope.\n")


def test_prune_off_never_removes(applied: Project, policyctl: Policyctl) -> None:
    (applied.policies / "assistant.yaml").unlink()
    applied.write("policyctl.yaml", "prune: false\n")
    ran = policyctl("plan", "--detailed-exitcode")
    assert ran.code == 0
    assert "1 unmanaged (live, in no file, not removed)" in ran.out


def test_environments_have_remotes_and_variables_of_their_own(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml", ANYGEM.replace("0.25", '"{{ lite }}"'))
    project.write(
        "policyctl.yaml",
        "default: dev\nenvironments:\n  dev: {vars: {lite: 0.25}}\n  prod: {remote: 'sqlite:///prod.db', vars: {lite: 0.1}}\n",
    )
    assert "(0.25)" in policyctl("apply", "--yes").out
    assert "(0.1)" in policyctl("apply", "--yes", "--env", "prod").out
    assert policyctl("plan", "--detailed-exitcode").code == 0
    assert policyctl("--env", "dev", "plan", "--env", "prod", "--detailed-exitcode").code == 0
    assert (project.policies / "prod.db").exists()
    assert Path(".policyctl/dev.db").exists()


def test_git_keeps_nothing_of_the_embedded_remote(project: Project, policyctl: Policyctl) -> None:
    """Its file may hold the settings of models' providers. A folder that was chosen by name is theirs to ignore."""
    project.policy("a")
    git(project.folder, "init", "--quiet")
    assert policyctl("apply", "--yes").code == 0
    assert policyctl("apply", "--yes", "--remote", "sqlite:///data/other.db").code == 0
    assert git(project.folder, "status", "--porcelain", "--untracked-files=all").splitlines() == [
        "?? data/other.db",
        "?? data/other.db.lock",
        "?? policies/a.yaml",
    ]
