"""policyctl drift --adopt: edits of the remote become a patch, after which there is nothing to plan."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.cli.forges import Forge
from tests.conftest import ANYGEM, Policyctl, Project, Ran
from tests.examples import examples
from tests.git_repo import checked_out, commit, git
from tests.sqlite_rows import drop, edit, live_documents, put, row

AUDIT = Path("audit.jsonl")
PATCH = Path("adopt.patch")
COMMENT = "   # Weights must be greater than 0 and less than or equal to 1"


@pytest.fixture
def applied(project: Project, policyctl: Policyctl) -> Project:
    """anygem, committed and applied."""
    project.write("anygem.yaml")
    project.policy("other")
    commit(project.folder, "policies")
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0
    return project


def weighing(*weights: float) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        for target, weight in zip(document["policy"]["targets"], weights, strict=True):
            target["weight"] = weight

    return change


def describing(text: str) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.update(description=text)


def adopt(policyctl: Policyctl, *args: str | Path) -> Ran:
    """Adopt, and have git itself apply the patch, if there is one."""
    PATCH.unlink(missing_ok=True)
    ran = policyctl("drift", "--adopt", "--patch", PATCH, *args)
    if PATCH.exists():
        git(Path(), "apply", str(PATCH.absolute()))
    return ran


def in_sync(policyctl: Policyctl, *args: str) -> bool:
    return policyctl("plan", "--detailed-exitcode", *args).code == 0


def planned(policyctl: Policyctl) -> list[tuple[str, Any, Any]]:
    """The fields that the plan would change, each with both values."""
    changes = json.loads(policyctl("plan", "--format", "json").out)["changes"]
    return [(field["path"], field["before"], field["after"]) for change in changes for field in change["fields"]]


def test_an_edit_becomes_the_smallest_patch(applied: Project, policyctl: Policyctl) -> None:
    edit("anygem", weighing(0.6, 0.4))
    ran = policyctl("drift", "--adopt", "--patch", "-")
    assert [line for line in ran.out.splitlines() if line[0] in "+-"] == [
        "--- a/policies/anygem.yaml",
        "+++ b/policies/anygem.yaml",
        f"-      weight: 0.75{COMMENT}",
        f"+      weight: 0.6{COMMENT}",
        "-      weight: 0.25",
        "+      weight: 0.4",
    ]
    assert (ran.code, ran.err) == (0, "edited  policies/anygem.yaml\nadopted  virtual-policy/anygem\n")
    assert adopt(policyctl).code == 0
    assert in_sync(policyctl)


def test_the_exit_code_shows_whether_an_edit_was_taken_over_if_asked(applied: Project, policyctl: Policyctl) -> None:
    assert adopt(policyctl, "--detailed-exitcode").code == 0
    edit("anygem", weighing(0.6, 0.4))
    assert adopt(policyctl, "--detailed-exitcode").code == 2
    assert adopt(policyctl, "--detailed-exitcode").code == 0


def edit_text(_: Project) -> None:
    edit("anygem", describing("one: two\n\nthree # four\n"))


def add_by_hand(_: Project) -> None:
    put([row("new", description="by hand")])


def edit_both_fields(project: Project) -> None:
    """Git moved a weight, and that is not applied; the remote moved the description."""
    project.write("anygem.yaml", ANYGEM.replace("0.75", "0.7"))
    commit(project.folder, "policies")
    edit_text(project)


def from_a_folder(project: Project) -> None:
    """A file with a name that git quotes, in a directory of its own."""
    path = project.policies / "one dir" / 'wéird "name".yaml'
    path.parent.mkdir()
    (project.policies / "anygem.yaml").rename(path)
    commit(project.folder, "policies")
    edit_text(project)


def with_windows_line_ends(project: Project) -> None:
    (project.policies / "anygem.yaml").write_bytes(b"\xef\xbb\xbf" + ANYGEM.replace("\n", "\r\n").encode())
    commit(project.folder, "policies")
    edit("anygem", weighing(0.6, 0.4))


def beside_another(project: Project) -> None:
    """Two policies in one file, of which both were edited."""
    second = ANYGEM.replace("name: anygem", "name: second")
    project.write("anygem.yaml", f"{ANYGEM}---\n{second}")
    commit(project.folder, "policies")
    put([{**live_documents()["virtual-policy/anygem"], "name": "virtual-policy/second"}])
    edit("second", weighing(0.1, 0.9))
    edit("anygem", weighing(0.6, 0.4))


ADOPTED: dict[str, Callable[[Project], None]] = {
    "a text": edit_text,
    "a policy that was added by hand": add_by_hand,
    "beside a change in Git that is not applied": edit_both_fields,
    "in a file with an unusual name": from_a_folder,
    "in a file with a byte order mark and Windows line ends": with_windows_line_ends,
    "in two policies of one file": beside_another,
}


@pytest.mark.parametrize("case", ADOPTED)
@pytest.mark.alike
def test_after_the_patch_only_what_git_moved_is_left_to_apply(case: str, applied: Project, policyctl: Policyctl) -> None:
    ADOPTED[case](applied)
    before = live_documents()
    ran = adopt(policyctl)
    assert ran.code == 0, ran
    assert live_documents() == before, "nothing is written to the remote"
    if ADOPTED[case] is edit_both_fields:
        assert planned(policyctl) == [("policy.targets[google/gemini-2.0-flash].weight", 0.75, 0.7)]
        assert policyctl("apply", "--yes").code == 0
    assert in_sync(policyctl)


def test_a_policy_that_was_removed_by_hand_goes_from_the_files(applied: Project, policyctl: Policyctl) -> None:
    """The audit record shows that it was there; history alone takes it for not applied."""
    drop("anygem")
    assert adopt(policyctl).err == "nothing to adopt: the remote moved nothing\n"
    assert not PATCH.exists()
    assert adopt(policyctl, "--audit", AUDIT).code == 0
    assert not (applied.policies / "anygem.yaml").exists()
    assert in_sync(policyctl)


def test_a_conflict_is_left_until_it_is_named(applied: Project, policyctl: Policyctl) -> None:
    edit("anygem", weighing(0.6, 0.25))
    applied.write("anygem.yaml", ANYGEM.replace("0.75", "0.7"))
    commit(applied.folder, "policies")
    ran = adopt(policyctl, "--audit", AUDIT)
    assert (ran.code, PATCH.exists()) == (5, False)
    assert "left  virtual-policy/anygem: both sides moved policy.targets[google/gemini-2.0-flash].weight; name it" in ran.err
    assert adopt(policyctl, "--audit", AUDIT, "anygem").code == 0
    assert in_sync(policyctl)


def test_what_was_edited_and_is_gone_from_the_files_comes_back_when_it_is_named(applied: Project, policyctl: Policyctl) -> None:
    (applied.policies / "anygem.yaml").unlink()
    commit(applied.folder, "policies")
    edit("anygem", weighing(0.6, 0.4))
    ran = adopt(policyctl)
    assert (ran.code, "name it to take it over" in ran.err) == (5, True)
    assert adopt(policyctl, "anygem").code == 0
    assert in_sync(policyctl)


def test_what_no_file_can_hold_is_left_with_the_reason(applied: Project, policyctl: Policyctl) -> None:
    edit("anygem", weighing(250, 0.25))
    ran = adopt(policyctl)
    assert (ran.code, PATCH.exists()) == (5, False)
    assert "left  virtual-policy/anygem: policy.targets[0].weight: weight must be" in ran.err


def test_what_a_template_gives_is_reported(project: Project, policyctl: Policyctl) -> None:
    """The rest of the edit is adopted."""
    project.write("policyctl.yaml", "environments: {local: {remote: local, vars: {share: 0.75}}}\n")
    project.write("anygem.yaml", ANYGEM.replace("0.75", '"{{ share }}"'))
    commit(project.folder, "policies")
    assert policyctl("apply", "--yes").code == 0
    edit("anygem", weighing(0.6, 0.4))
    ran = adopt(policyctl)
    assert ran.code == 5
    path = "policy.targets[google/gemini-2.0-flash].weight"
    assert (
        f"left  virtual-policy/anygem: {path} is given by {{{{ share }}}}, and live it is 0.6: set share in the vars of local, "
        "or write 0.6 in policies/anygem.yaml\n"
    ) in ran.err
    assert planned(policyctl) == [(path, 0.6, 0.75)]


FLEET = """
scope: ["virtual-policy/*"]
templates: {one: {remote: "sqlite:///{{ t }}.db", vars: {share: 0.75}}}
fleet: [{from: rows.csv, name: "t-{{ t }}", extends: one}]
"""


@pytest.fixture
def fleet(project: Project, policyctl: Policyctl) -> Project:
    """Two environments; a weight is a variable, and t-a's remote was edited."""
    project.write("rows.csv", "t\na\nb\n")
    project.write("policyctl.yaml", FLEET)
    project.write("anygem.yaml", ANYGEM.replace("0.75", '"{{ share }}"'))
    commit(project.folder, "policies")
    assert policyctl("apply", "--all", "--yes").code == 0
    edit("anygem", weighing(0.6, 0.25), project.policies / "a.db")
    return project


def test_in_a_fleet_a_variable_is_overridden_for_that_environment_alone(fleet: Project, policyctl: Policyctl) -> None:
    assert adopt(policyctl, "--env", "t-a").code == 0
    assert (fleet.policies / "policyctl.yaml").read_text(
        "utf-8"
    ) == f"{FLEET}environments:\n  t-a:\n    vars:\n      share: 0.6\n"
    assert in_sync(policyctl, "--all")


def test_in_a_fleet_what_is_written_for_all_is_left(fleet: Project, policyctl: Policyctl) -> None:
    edit("anygem", describing("by hand"), fleet.policies / "a.db")
    ran = adopt(policyctl, "--env", "t-a")
    assert ran.code == 5
    assert (
        "policies/anygem.yaml is for 2 environments: take it over for all with --shared, or write a variable there" in ran.err
    )
    assert "description" not in PATCH.read_text("utf-8")
    assert in_sync(policyctl, "--env", "t-b")
    assert "description: by hand" not in (fleet.policies / "anygem.yaml").read_text("utf-8")
    assert adopt(policyctl, "--env", "t-a", "--shared").code == 0
    assert in_sync(policyctl, "--env", "t-a")
    assert not in_sync(policyctl, "--env", "t-b")


def test_a_variable_that_moves_another_policy_too_is_left(fleet: Project, policyctl: Policyctl) -> None:
    fleet.write("second.yaml", ANYGEM.replace("0.75", '"{{ share }}"').replace("name: anygem", "name: second"))
    commit(fleet.folder, "policies")
    ran = adopt(policyctl, "--env", "t-a")
    assert (ran.code, PATCH.exists()) == (5, False)
    assert "left  virtual-policy/anygem: setting share in the vars of t-a would change more than this\n" in ran.err


CONFIGS = {
    "generated from rows": "templates: {{one: {{remote: 'sqlite:///{{{{ t }}}}.db', vars: {{{0}}}}}}}\n"
    "fleet: [{{from: rows.csv, name: 't-{{{{ t }}}}', extends: one}}]\n",
    "generated, with an entry": "templates: {{one: {{remote: 'sqlite:///{{{{ t }}}}.db', vars: {{{0}}}}}}}\n"
    "fleet: [{{from: rows.csv, name: 't-{{{{ t }}}}', extends: one}}]\n"
    "environments:\n  t-a:  # ours\n    limits: {{max_removes: 3}}  # few\n",
    "with own variables": "environments:\n"
    "  t-a: {{remote: 'sqlite:///a.db', vars: {{{0}}}}}\n  t-b: {{remote: 'sqlite:///b.db', vars: {{{0}}}}}\n",
    "in block style": "environments:\n  t-a:\n    remote: sqlite:///a.db\n    vars:  # of a\n      {1}\n"
    "  t-b:\n    remote: sqlite:///b.db\n    vars:\n      {1}\n",
    "with variables of a template": "templates: {{one: {{vars: {{{0}}}}}}}\n"
    "environments:\n  t-a: {{extends: one, remote: 'sqlite:///a.db'}}\n  t-b: {{extends: one, remote: 'sqlite:///b.db'}}\n",
}
TEMPLATE = """\
# for all
spec_version: v1
kind: model
name: anygem
description: "{{ about }}"  # what it is
policy:
  strategy: {mode: loadbalance}
  retry: {attempts: "{{ tries }}"}
  targets:
    - model_name: virtual-model/google/a
      weight: "{{ share }}"   # most
    - model_name: virtual-model/google/b
      weight: "{{ rest }}"
"""
ABOUT = ["plain words", "with: colon", "a # hash", "two\nlines", "x" * 90, "yes", "1.0", "é ü", "'q' \"d\"", "{{ x", "", "null"]


@pytest.mark.parametrize("case", CONFIGS)
@pytest.mark.alike
def test_random_edits_of_variables_are_overrides_of_that_environment_alone(
    case: str, project: Project, policyctl: Policyctl
) -> None:
    random = Random(case)
    values = ["about: words", "tries: 1", "share: 0.75", "rest: 0.25"]
    project.write("rows.csv", "t\na\nb\n")
    config = 'scope: ["virtual-policy/*"]\n' + CONFIGS[case].format(", ".join(values), "\n      ".join(values))
    project.write("policyctl.yaml", config)
    project.write("anygem.yaml", TEMPLATE)
    commit(project.folder, "policies")
    assert policyctl("apply", "--env", "t-a", "--env", "t-b", "--yes").code == 0
    adopted = 0
    for _ in range(examples(10)):
        for change in random.sample(
            [
                describing(random.choice(ABOUT)),
                weighing(random.choice([0.1, 0.5, 1]), random.choice([0.2, 0.5, 1])),
                lambda document: document["policy"].update(retry={"attempts": random.randint(1, 5)}),
                lambda document: document["policy"]["targets"][0].pop("weight", None),
            ],
            random.randint(1, 3),
        ):
            edit("anygem", change, project.policies / "a.db")
        ran = adopt(policyctl, "--env", "t-a")
        assert ran.code in (0, 5), ran
        adopted += ran.code == 0
        assert (project.policies / "anygem.yaml").read_text("utf-8") == TEMPLATE
        assert in_sync(policyctl, "--env", "t-a") == (ran.code == 0), ran
        assert in_sync(policyctl, "--env", "t-b")
        git(project.folder, "checkout", "--quiet", "policies")
    assert adopted


ANCHORED = """
scope: ["virtual-policy/*"]
environments:
  a: {remote: "sqlite:///a.db", vars: &v {share: 0.75}}
  b: {remote: "sqlite:///b.db", vars: *v}
"""


@pytest.mark.parametrize("own", "ab")
def test_a_variable_that_an_anchor_shares_with_another_environment_is_left(
    own: str, project: Project, policyctl: Policyctl
) -> None:
    project.write("policyctl.yaml", ANCHORED)
    project.write("anygem.yaml", ANYGEM.replace("0.75", '"{{ share }}"'))
    commit(project.folder, "policies")
    assert policyctl("apply", "--all", "--yes").code == 0
    edit("anygem", weighing(0.6, 0.25), project.policies / f"{own}.db")
    ran = adopt(policyctl, "--env", own)
    assert (ran.code, PATCH.exists()) == (5, False)
    assert f"setting share in the vars of {own} would change more than this\n" in ran.err


WRONG = {
    "nowhere to write to": (["--adopt"], "--adopt needs --patch FILE or --pr"),
    "a pull request of nothing": (["--pr"], "--pr needs --adopt"),
    "a patch of nothing": (["--patch", "x"], "--patch needs --adopt"),
    "files of nothing": (["--shared"], "--shared needs --adopt"),
    "several environments": (["--adopt", "--patch", "x", "--all"], "--adopt is for one environment"),
    "a table": (["--adopt", "--patch", "x", "--format", "markdown"], "--format markdown is not for --adopt"),
    "another format": (["--adopt", "--patch", "x", "--format", "json"], "--format json is not for --adopt"),
}


@pytest.mark.parametrize("case", WRONG)
def test_options_that_do_not_go_together_are_errors(case: str, applied: Project, policyctl: Policyctl) -> None:
    args, message = WRONG[case]
    ran = policyctl("drift", *args)
    assert (ran.code, message in ran.err) == (64, True)


def test_a_file_that_cannot_be_edited_in_place_is_written_anew(applied: Project, policyctl: Policyctl) -> None:
    """An anchor that two targets share: an edit of one would change both."""
    text = ANYGEM.replace("weight: 0.75", "weight: &w 0.5").replace("weight: 0.25", "weight: *w")
    applied.write("anygem.yaml", text)
    commit(applied.folder, "policies")
    assert policyctl("apply", "--yes").code == 0
    edit("anygem", weighing(0.6, 0.4))
    ran = adopt(policyctl)
    assert (ran.code, "written anew  policies/anygem.yaml" in ran.err) == (0, True)
    assert in_sync(policyctl)


@pytest.fixture
def step(applied: Project, forge: Forge, monkeypatch: pytest.MonkeyPatch) -> Forge:
    """A step that runs for main, in a checkout of it, after the weights were edited by hand."""
    for name, value in forge.branch_environ.items():
        monkeypatch.setenv(name, value)
    (applied.folder / ".gitignore").write_text(".policyctl\naudit.jsonl\n", "utf-8")
    commit(applied.folder, ".gitignore")
    edit("anygem", weighing(0.6, 0.4))
    return forge


def propose(policyctl: Policyctl, *args: str) -> Ran:
    return policyctl("drift", "--adopt", "--pr", *args)


def body_of(request: dict[str, Any]) -> str:
    """The text of a pull request, on either service."""
    text = request.get("description") or request.get("body")
    assert isinstance(text, str)
    return text


def test_a_pull_request_has_the_edits_and_what_they_do(step: Forge, applied: Project, policyctl: Policyctl) -> None:
    ran = propose(policyctl)
    assert (ran.code, ran.err.endswith("a pull request was opened\n")) == (0, True)
    ((branch, pushed),) = step.branches.items()
    head = checked_out(applied.folder)
    assert (branch.startswith("policyctl/drift-local-"), pushed["start"]) == (True, head)
    text = ANYGEM.replace("0.75", "0.6").replace("0.25", "0.4")
    assert pushed["files"] == {"policies/anygem.yaml": text}
    (request,) = step.requests
    assert request["title"] == "policyctl: adopt 1 edit made on local"
    assert (request.get("base") or request["target_branch"]) == "main"
    body = body_of(request)
    assert body.startswith("<!-- policyctl:edits environment=local directory=policies -->\n<!-- policyctl:adopts sha256:")
    assert "<!-- policyctl:plan" not in body, "an approval is not read from it"
    assert "| `policy.targets[google/gemini-2.0-flash].weight` | `0.75` | `0.75` | `0.6` | the remote moved |" in body
    assert "75% → 60%" in body
    (applied.policies / "anygem.yaml").write_text(text, "utf-8")
    plan = json.loads(policyctl("plan", "--format", "json").out)
    assert (plan["has_changes"], f"the plan is empty, with the digest `{plan['digest']}`" in body) == (False, True)


def test_the_same_drift_updates_the_same_pull_request(step: Forge, policyctl: Policyctl) -> None:
    """Without a new commit; other drift replaces the commit; and when nothing is left, it is closed."""
    assert propose(policyctl).code == 0
    first = dict(step.branches)
    step.branches = {branch: {"start": "untouched"} for branch in step.branches}
    ran = propose(policyctl)
    assert (ran.code, "the pull request was updated" in ran.err, len(step.requests)) == (0, True, 1)
    assert [*step.branches.values()] == [{"start": "untouched"}]
    edit("anygem", describing("by hand"))
    assert "the pull request was updated" in propose(policyctl).err
    assert (len(step.requests), step.branches.keys()) == (1, first.keys())
    ((_, pushed),) = step.branches.items()
    assert "description: by hand" in pushed["files"]["policies/anygem.yaml"]
    edit("anygem", weighing(0.75, 0.25))
    edit("anygem", describing("Balances requests between 2 Gemini models"))
    assert "the pull request was closed" in propose(policyctl).err
    assert (step.requests[0].get("state"), len(step.requests)) == ("closed", 1)
    assert "no pull request: there is nothing to adopt" in propose(policyctl).err


def test_the_commit_is_replaced_when_the_files_would_be_others(step: Forge, applied: Project, policyctl: Policyctl) -> None:
    """The drift is the same; the text of the pull request describes what its branch has."""
    assert propose(policyctl).code == 0
    applied.write("anygem.yaml", ANYGEM.replace("attempts: 1", "attempts: 2"))
    commit(applied.folder, "policies")
    assert propose(policyctl).code == 0
    ((_, pushed),) = step.branches.items()
    assert pushed["start"] == checked_out(applied.folder)
    text = ANYGEM.replace("attempts: 1", "attempts: 2").replace("0.75", "0.6").replace("0.25", "0.4")
    assert pushed["files"] == {"policies/anygem.yaml": text}


def test_a_pull_request_is_not_closed_for_what_was_not_looked_at(step: Forge, applied: Project, policyctl: Policyctl) -> None:
    """A policy that is named has a pull request of its own, and edits that cannot be adopted are still there."""
    assert propose(policyctl).code == 0
    assert "no pull request: there is nothing to adopt" in propose(policyctl, "other").err
    applied.write("anygem.yaml", ANYGEM.replace("0.75", "0.7"))
    commit(applied.folder, "policies")
    ran = propose(policyctl, "--audit", str(AUDIT))
    assert (ran.code, "the pull request stays as it is: nothing can be adopted now" in ran.err) == (5, True)
    assert [one["state"] for one in step.requests] == ["open"]


def test_a_pull_request_is_closed_when_the_edits_that_it_has_are_gone(step: Forge, policyctl: Policyctl) -> None:
    """Another edit, which cannot be adopted, does not keep it open: what it takes over is not live any more."""
    assert propose(policyctl).code == 0
    put([row("new", policy={"targets": []})])
    ran = propose(policyctl)
    assert (ran.code, "the pull request was updated" in ran.err) == (5, True)
    edit("anygem", weighing(0.75, 0.25))
    ran = propose(policyctl)
    assert (ran.code, "the pull request was closed" in ran.err) == (5, True)
    assert [one["state"] for one in step.requests] == ["closed"]


def test_a_new_pull_request_is_opened_after_one_was_closed(step: Forge, policyctl: Policyctl) -> None:
    """By us, by a person, or by a merge that was reverted."""
    assert propose(policyctl).code == 0
    step.requests[0]["state"] = "closed"
    ran = propose(policyctl)
    assert (ran.code, "a pull request was opened" in ran.err, len(step.requests)) == (0, True, 2)


def test_what_git_moved_too_is_left_to_apply(step: Forge, policyctl: Policyctl, applied: Project) -> None:
    applied.write("anygem.yaml", ANYGEM.replace("Balances", "Spreads"))
    commit(applied.folder, "policies")
    assert propose(policyctl).code == 0
    assert "nothing left to apply" not in body_of(step.requests[0])
    assert "what only Git moved" in body_of(step.requests[0])


REFUSED = "> [!CAUTION]\n> The safety rules refuse this change, so it is a draft:\n>\n> - "


def is_draft(request: dict[str, Any]) -> bool:
    return bool(request.get("draft")) or request["title"].startswith("Draft: ")


def test_an_adoption_that_a_guard_refuses_is_a_draft_with_the_reason_first(
    step: Forge, applied: Project, policyctl: Policyctl
) -> None:
    applied.write("policyctl.yaml", "guards: {max_traffic_shift: 5}\n")
    commit(applied.folder, "policies")
    assert propose(policyctl).code == 0
    (request,) = step.requests
    assert is_draft(request)
    _, _, text = body_of(request).split("\n", 2)
    assert text.startswith(REFUSED)
    assert "max_traffic_shift" in text.partition("\n\n")[0]


def test_a_pull_request_becomes_a_draft_when_a_guard_refuses_the_edits_that_it_has_by_then(
    step: Forge, applied: Project, policyctl: Policyctl
) -> None:
    """And ready again when it refuses them no more, unless a person made it a draft."""
    applied.write("policyctl.yaml", "guards: {max_traffic_shift: 20}\n")
    commit(applied.folder, "policies")
    for weights, refused in (((0.6, 0.4), False), ((0.3, 0.7), True), ((0.3, 0.7), True), ((0.7, 0.3), False)):
        edit("anygem", weighing(*weights))
        assert propose(policyctl).code == 0
        assert (len(step.requests), is_draft(step.requests[0])) == (1, refused)
        assert (REFUSED in body_of(step.requests[0])) == refused
    if step.kind == "github":
        step.requests[0]["draft"] = True
        assert propose(policyctl).code == 0
        assert is_draft(step.requests[0])


def test_a_draft_that_the_token_may_not_make_is_reported(step: Forge, applied: Project, policyctl: Policyctl) -> None:
    """The reason is at the top of the text then, too."""
    assert propose(policyctl).code == 0
    applied.write("policyctl.yaml", "guards: {max_traffic_shift: 5}\n")
    commit(applied.folder, "policies")
    step.no_drafts = True
    ran = propose(policyctl)
    complaint = "the pull request was updated, but it could not be made a draft: GitHub did not carry out"
    assert (ran.code, complaint in ran.err) == (0, step.kind == "github")
    assert REFUSED in body_of(step.requests[0])


def test_new_and_deleted_files_are_in_it(step: Forge, applied: Project, policyctl: Policyctl) -> None:
    put([row("new")])
    drop("other")
    assert propose(policyctl, "--audit", str(AUDIT)).code == 0
    ((_, pushed),) = step.branches.items()
    assert set(pushed["files"]) == {"policies/anygem.yaml", "policies/new.yaml", "policies/other.yaml"}
    assert pushed["files"]["policies/other.yaml"] is None


def test_what_is_left_is_in_the_pull_request(step: Forge, policyctl: Policyctl) -> None:
    put([row("new", policy={"targets": []})])
    assert propose(policyctl).code == 5
    assert "Not taken over:\n\n- `virtual-policy/new`: " in body_of(step.requests[0])


def test_nothing_from_a_policy_acts_in_the_pull_request(step: Forge, policyctl: Policyctl) -> None:
    edit("anygem", describing("fixes #1 @team <!-- policyctl:adopts x --> | a `b` | <b>"))
    put([row("fixes", description="@team")])
    assert propose(policyctl).code == 0
    text = re.sub(r"^(```+).*?^\1$", "", body_of(step.requests[0]), flags=re.MULTILINE | re.DOTALL)
    lines = re.sub(r"(`+).+?\1|<code>.*?</code>", "", text).splitlines()
    assert len(lines) > 20
    assert [line for line in lines[2:] if any(word in line for word in ("@team", "<!--", "fixes"))] == []


def test_the_pull_request_of_another_user_is_left_alone(step: Forge, policyctl: Policyctl) -> None:
    assert propose(policyctl).code == 0
    step.requests[0] |= {"user": {"login": "stranger"}, "author": {"username": "stranger"}}
    body = body_of(step.requests[0])
    assert "a pull request was opened" in propose(policyctl).err
    assert (len(step.requests), body_of(step.requests[0])) == (2, body)


def test_files_that_are_not_as_committed_open_none(step: Forge, applied: Project, policyctl: Policyctl) -> None:
    applied.policy("uncommitted")
    ran = propose(policyctl)
    assert (ran.code, "the files are not as committed" in ran.err) == (1, True)
    assert (step.requests, step.branches) == ([], {})


def test_a_policyctl_yaml_above_the_directory_that_is_not_as_committed_opens_none(
    step: Forge, applied: Project, policyctl: Policyctl
) -> None:
    """A variable is overridden there, and all of its text would be proposed."""
    one = "{{remote: 'sqlite:///{0}.db', vars: {{share: {1}}}}}"
    shares = f"environments: {{a: {one.format('a', 0.75)}, b: {one.format('b', 0.1)}}}\ndefault: a\n"
    above = applied.folder / "policyctl.yaml"
    above.write_text(shares, "utf-8")
    (applied.folder / ".gitignore").write_text("*.db*\n.policyctl\n", "utf-8")
    applied.write("anygem.yaml", ANYGEM.replace("0.75", '"{{ share }}"'))
    for below in ("policies", "policyctl.yaml", ".gitignore"):
        commit(applied.folder, below)
    assert policyctl("apply", "--yes").code == 0
    edit("anygem", weighing(0.6, 0.25), applied.folder / "a.db")
    above.write_text(f"{shares}limits: {{max_removes: 999}}\n", "utf-8")
    ran = propose(policyctl)
    assert (ran.code, "the files are not as committed" in ran.err) == (1, True)
    assert (step.requests, step.branches) == ([], {})


def test_outside_a_workflow_there_is_no_pull_request(applied: Project, policyctl: Policyctl) -> None:
    edit("anygem", weighing(0.6, 0.4))
    ran = propose(policyctl)
    assert (ran.code, "this is not a step of GitHub Actions or GitLab CI" in ran.err) == (1, True)
