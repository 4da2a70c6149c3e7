"""policyctl show: a saved plan in every format, from nothing but its file."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from policyctl.ci.comments import shown_in
from policyctl.cli.plan import OF_ONE
from policyctl.policy.document import digest
from policyctl.report import schema_text
from tests.conftest import ANYGEM, Policyctl, Project
from tests.git_repo import commit
from tests.remote.fake_server import Reply, standing_in

PLAN = Path("plan.json")
OFFLINE = re.compile(
    r"this is a saved plan, made at [\d-]{10} [\d:]{8} UTC; the remote was not looked at, and may have changed since"
)


@pytest.fixture
def saved(project: Project, policyctl: Policyctl) -> Project:
    """A saved plan that updates, adds and removes a policy; of the project nothing else is left."""
    project.write("anygem.yaml")
    project.policy("old")
    project.policy("front", "virtual-policy/anygem", "virtual-model/x/a")
    assert policyctl("apply", "--yes").code == 0
    project.write("anygem.yaml", ANYGEM.replace("0.25", "0.4").replace("0.75", "0.6"))
    (project.policies / "old.yaml").unlink()
    project.policy("new")
    assert policyctl("plan", "--out", PLAN).code == 0
    shutil.rmtree(project.policies)
    shutil.rmtree(".policyctl")
    return project


def test_every_format_shows_the_changes_and_that_the_remote_was_not_looked_at(saved: Project, policyctl: Policyctl) -> None:
    for form in OF_ONE:
        ran = policyctl("show", PLAN, "--format", form)
        assert (ran.code, ran.err) == (0, ""), form
        assert OFFLINE.search(re.sub(r"[`\\]", "", ran.out)), form
        for name in ("anygem", "new", "old"):
            assert name in ran.out, (form, name)
    assert not Path(".policyctl").exists()


def test_the_text_is_that_of_plan_but_for_what_only_the_remote_shows(saved: Project, policyctl: Policyctl) -> None:
    out = policyctl("show", PLAN).out
    assert "    policy.targets[google/gemini-2.0-flash-lite].weight: 0.25 → 0.4\n" in out
    assert "traffic: google/gemini-2.0-flash 75% → 60%, google/gemini-2.0-flash-lite 25% → 40%" in out
    assert "rules     safety rules are checked by apply, not here\n" in out
    assert "note  it also moves the traffic of virtual-policy/front, by way of what it changes\n" in out
    assert "also affected" not in out
    assert out.endswith("Plan: 1 to add, 1 to update, 1 to remove. 1 unchanged.\n")


def test_the_json_is_as_its_schema_describes_and_passed_nothing(saved: Project, policyctl: Policyctl) -> None:
    data = json.loads(policyctl("show", PLAN, "--format", "json").out)
    Draft202012Validator(json.loads(schema_text("plan"))).validate(data)
    assert data["digest"] == json.loads(PLAN.read_text("utf-8"))["digest"]
    assert not data["verdict"]["passed"]
    assert data["verdict"]["rules"] == "safety rules are checked by apply, not here"


def test_a_page_made_like_this_approves_nothing(saved: Project, policyctl: Policyctl) -> None:
    """Whoever edits the file could else have a comment approve what no rule was asked about."""
    page = shown_in(policyctl("show", PLAN, "--format", "markdown").out)
    assert page is not None
    assert page.approves == "none"


def test_the_remote_is_not_asked(project: Project, policyctl: Policyctl) -> None:
    project.policy("a")
    with standing_in(lambda _: Reply(200, [])) as remote:
        project.write("policyctl.yaml", f"scope: ['*']\nenvironments: {{local: {{remote: '{remote.url}'}}}}\n")
        assert policyctl("plan", "--out", PLAN).code == 0
        asked = len(remote.seen)
        assert asked
        assert f"remote {remote.url}" in policyctl("show", PLAN).out
        assert len(remote.seen) == asked


def test_a_plan_without_changes_claims_nothing_about_the_remote(project: Project, policyctl: Policyctl) -> None:
    project.policy("a")
    assert policyctl("apply", "--yes").code == 0
    assert policyctl("plan", "--out", PLAN).code == 0
    for form in OF_ONE:
        ran = policyctl("show", PLAN, "--format", form)
        assert ran.code == 0
        assert "matches the files" not in ran.out
        assert "No changes" not in ran.out


def test_an_unseen_target_is_not_known_and_never_said_to_be_missing(project: Project, policyctl: Policyctl) -> None:
    project.policy("below")
    project.policy("a", "virtual-policy/below")
    assert policyctl("apply", "--yes").code == 0
    project.policy("a", "virtual-policy/below", "virtual-model/x/b")
    assert policyctl("plan", "--out", PLAN).code == 0
    out = policyctl("show", PLAN).out
    assert "does not exist" not in out
    assert "virtual-policy/below" in out
    assert "not known" in out


def test_a_plan_that_goes_back_names_its_commit(project: Project, policyctl: Policyctl) -> None:
    project.policy("a")
    head = commit(project.folder)
    assert policyctl("plan", "--to", "HEAD", "--out", PLAN).code == 0
    assert f"note  this goes back to the files of {head[:12]}\n" in policyctl("show", PLAN).out


def edited(**more: object) -> None:
    """Edit the plan file, with a checksum that is right."""
    data = json.loads(PLAN.read_text("utf-8")) | more
    del data["checksum"]
    PLAN.write_text(json.dumps({**data, "checksum": digest(data)}), "utf-8")


def replace(edit: Callable[[str], str]) -> None:
    PLAN.write_text(edit(PLAN.read_text("utf-8")), "utf-8")


BAD: dict[str, tuple[Callable[[], object], str]] = {
    "not there": (lambda: PLAN.unlink(), "plan.json cannot be read: No such file or directory"),
    "a directory": (lambda: (PLAN.unlink(), PLAN.mkdir()), "'plan.json' is a directory"),
    "cut off": (lambda: replace(lambda text: text[:-9]), "is not a plan: incomplete JSON"),
    "changed": (
        lambda: PLAN.write_text(PLAN.read_text("utf-8").replace("0.4", "0.5"), "utf-8"),
        "was changed after it was made",
    ),
    "another digest": (lambda: edited(digest=f"sha256:{'0' * 64}"), "its digest is not that of its changes"),
    "an impossible time": (lambda: edited(made="yesterday\x1b[2J"), "is not a plan: "),
    "an impossible commit": (lambda: edited(to="main"), "is not a plan: "),
    "a policy file": (lambda: PLAN.write_text(ANYGEM, "utf-8"), "is not a plan"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_file_that_apply_would_refuse_is_refused_in_one_line(case: str, saved: Project, policyctl: Policyctl) -> None:
    spoil, message = BAD[case]
    spoil()
    ran = policyctl("show", PLAN)
    assert ran.code in (1, 64)
    assert ran.out == ""
    assert message in ran.err
    assert ran.err.count("\n") == 1
    assert "\x1b" not in ran.err


def test_a_plan_of_an_earlier_policyctl_has_no_time(saved: Project, policyctl: Policyctl) -> None:
    data = json.loads(PLAN.read_text("utf-8"))
    del data["made"]
    PLAN.write_text(json.dumps(data), "utf-8")
    edited()
    assert (
        "this is a saved plan, which does not say when it was made; the remote was not looked at" in policyctl("show", PLAN).out
    )


def test_values_that_a_terminal_would_obey_are_escaped(project: Project, policyctl: Policyctl) -> None:
    project.policy("a")
    assert policyctl("plan", "--out", PLAN).code == 0
    edited(traffic={"virtual-policy/\x1b[31mred": "x"})
    data = json.loads(PLAN.read_text("utf-8"))
    same = {key: data[key] for key in ("environment", "remote", "config", "traffic")}
    changes = [[c["action"], c["name"], c.get("id"), c.get("before"), c.get("after")] for c in data["changes"]]
    edited(digest=digest({**same, "changes": changes, "overrides": []}))
    ran = policyctl("show", PLAN)
    assert ran.code == 0
    assert "\x1b" not in ran.out
