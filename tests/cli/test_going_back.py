"""plan --to and apply --to: back to the policies as they were at a revision, judged by the settings of today."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from policyctl.report import schema_text
from tests.conftest import Policyctl, Project
from tests.git_repo import commit, git
from tests.sqlite_rows import live_documents

BEFORE, AFTER = "virtual-model/x/before", "virtual-model/x/after"


class History:
    """A repository in which `a` moved from one model to another, `old` was removed and `new` was added, all applied."""

    def __init__(self, project: Project, policyctl: Policyctl) -> None:
        self.project = project
        project.write("policyctl.yaml", "environments: {local: {vars: {share: 0.25}}}\n")
        (project.folder / ".gitignore").write_text(".policyctl/\n", "utf-8")
        project.policy("a", BEFORE)
        project.policy("old")
        self.before = commit(project.folder)
        project.policy("a", AFTER)
        project.policy("new")
        (project.policies / "old.yaml").unlink()
        self.after = commit(project.folder)
        assert policyctl("apply", "--yes").code == 0


@pytest.fixture
def history(project: Project, policyctl: Policyctl) -> History:
    return History(project, policyctl)


def models(name: str) -> list[str]:
    """The models that a live policy targets."""
    return [target["model_name"] for target in live_documents()[f"virtual-policy/{name}"]["policy"]["targets"]]


def test_apply_to_makes_the_remote_as_the_files_were_and_the_next_apply_undoes_that(
    history: History, policyctl: Policyctl
) -> None:
    files = {path.name: path.read_bytes() for path in history.project.policies.iterdir()}
    ran = policyctl("apply", "--to", history.before, "--yes")
    assert ran.code == 0
    short = history.before[:12]
    assert f"note  this goes back to the files of {short}; Git still has the newer ones and wins at the next apply, " in ran.out
    assert f"~ virtual-policy/a  {history.before}:policies/a.yaml\n" in ran.out
    assert live_documents().keys() == {"virtual-policy/a", "virtual-policy/old"}
    assert models("a") == [BEFORE]
    assert "No changes." in policyctl("plan", "--to", history.before).out
    assert {path.name: path.read_bytes() for path in history.project.policies.iterdir()} == files
    assert policyctl("apply", "--yes").code == 0
    assert live_documents().keys() == {"virtual-policy/a", "virtual-policy/new"}
    assert models("a") == [AFTER]


def test_only_some_policies_go_back(history: History, policyctl: Policyctl) -> None:
    assert policyctl("apply", "--to", "HEAD~1", "--only", "a", "--yes").code == 0
    assert live_documents().keys() == {"virtual-policy/a", "virtual-policy/new"}
    assert models("a") == [BEFORE]


def test_a_plan_to_a_revision_is_saved_shown_and_applied_as_any_plan(history: History, policyctl: Policyctl) -> None:
    shown = json.loads(policyctl("plan", "--to", "HEAD~1", "--out", "plan.json", "--format", "json").out)
    Draft202012Validator(json.loads(schema_text("plan"))).validate(shown)
    assert shown["to"] == history.before
    assert [change["action"] for change in shown["changes"]] == ["update", "add", "remove"]
    audit = history.project.folder / "audit.jsonl"
    ran = policyctl("apply", "plan.json", "--yes", "--audit", audit)
    assert ran.code == 0
    assert "this goes back to the files of " in ran.out
    assert models("a") == [BEFORE]
    lines = [json.loads(line) for line in audit.read_text("utf-8").splitlines()]
    assert {(line["commit"], line["to"]) for line in lines} == {(history.after, history.before)}
    found = policyctl("history", "--audit", audit)
    assert f" at {history.after[:12]} (x), back to the files of {history.before[:12]}\n" in found.out
    data = json.loads(policyctl("history", "--audit", audit, "--format", "json").out)
    Draft202012Validator(json.loads(schema_text("history"))).validate(data)


def test_the_digest_is_that_of_the_reverts_own_plan(history: History, policyctl: Policyctl) -> None:
    """So what approves the one approves the other: they do the same."""
    back = json.loads(policyctl("plan", "--to", history.before, "--format", "json").out)
    git(history.project.folder, "checkout", "--quiet", history.before, "--", "policies")
    (history.project.policies / "new.yaml").unlink()
    own = json.loads(policyctl("plan", "--format", "json").out)
    assert back["digest"] == own["digest"]
    assert policyctl("apply", "--to", history.before, "--expect-digest", f"sha256:{'0' * 64}", "--yes").code == 4
    assert policyctl("apply", "--to", history.before, "--expect-digest", own["digest"], "--yes").code == 0


TEMPLATED = """
spec_version: v1
kind: model
name: b
policy:
  strategy: {mode: loadbalance}
  targets:
    - {model_name: virtual-model/x/a, weight: "{{ share }}"}
    - {model_name: virtual-model/x/b, weight: 0.5}
"""


def test_variables_and_include_are_those_of_then_and_everything_else_is_as_it_is_now(
    project: Project, policyctl: Policyctl
) -> None:
    project.write(
        "policyctl.yaml", "environments: {local: {vars: {share: 0.25}, include: [b.yaml]}}\nlimits: {max_removes: 9}\n"
    )
    project.write("b.yaml", TEMPLATED)
    project.policy("c")
    before = commit(project.folder)
    project.write("policyctl.yaml", "environments: {local: {vars: {share: 0.75}}}\nprotect: [c]\nlimits: {max_removes: 0}\n")
    commit(project.folder)
    assert policyctl("apply", "--yes").code == 0
    ran = policyctl("apply", "--to", before, "--yes")
    assert ran.code == 3
    assert "policy.targets[x/a].weight: 0.75 → 0.25" in ran.out
    assert "virtual-policy/c is protected and would be removed" in ran.out
    assert "1 policy would be removed, more than max_removes 0" in ran.out
    assert models("c") == ["virtual-model/x/a"]
    assert policyctl("apply", "--to", before, "--yes", "--allow-remove", "c", "--max-removes", "1").code == 0
    assert live_documents().keys() == {"virtual-policy/b"}


def test_a_guard_holds_on_the_way_back_too(history: History, policyctl: Policyctl) -> None:
    """It does not count as a restoration, which guards let pass: choosing a revision must not lift a guard."""
    history.project.write("policyctl.yaml", "guards: {max_traffic_shift: 10}\nenvironments: {local: {}}\n")
    ran = policyctl("apply", "--to", history.before, "--yes")
    assert ran.code == 3
    assert "max_traffic_shift" in ran.out
    assert models("a") == [AFTER]
    assert policyctl("apply", "--to", history.before, "--yes", "--allow-guard", "max_traffic_shift").code == 0


def test_uncommitted_edits_do_not_count(history: History, policyctl: Policyctl) -> None:
    history.project.policy("a", "virtual-model/x/edited")
    history.project.write("broken.yaml", "kind: [")
    assert "No changes." in policyctl("plan", "--to", "HEAD").out


WRONG = {
    "no such revision": ("unknown", [], 64, "unknown git revision 'unknown' (fetch it, or name another)"),
    "an option": ("--all", [], 64, "the git revision "),
    "a branch that was not merged": ("aside", [], 3, "aside is not in the history of the checked out commit"),
    "with a base": ("HEAD~1", ["--base", "HEAD"], 64, "--to and --base exclude each other"),
    "before the directory": ("first", [], 1, "first:policies: holds no policy"),
    "invalid files": ("invalid", [], 1, "invalid:policies/a.yaml:1:9: "),
    "an invalid configuration": ("config", [], 1, "at config, policyctl.yaml is not valid"),
    "a link": ("link", [], 1, "link:policies/l.yaml: is a link, which is not followed at a git revision"),
    "in Git LFS": ("lfs", [], 1, "lfs:policies/a.yaml is kept in Git LFS"),
    "before the environment": ("HEAD~1", ["--env", "late"], 3, "environment late did not exist at HEAD~1"),
}


@pytest.fixture(scope="module")
def wrong(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """A repository in which each revision of `WRONG` is a commit in the history of main, but for `aside`."""
    project = Project(tmp_path_factory.mktemp("wrong"))
    top, file, config = project.folder, project.policies / "a.yaml", project.policies / "policyctl.yaml"
    (top / ".gitignore").write_text(".policyctl/\n", "utf-8")
    commit(top)
    git(top, "tag", "first")
    for tag, text in (("invalid", "policy: ["), ("lfs", "version https://git-lfs.github.com/spec/v1\noid sha256:1\n")):
        file.write_text(text, "utf-8")
        commit(top)
        git(top, "tag", tag)
    project.policy("a")
    (project.policies / "l.yaml").symlink_to("a.yaml")
    commit(top)
    git(top, "tag", "link")
    (project.policies / "l.yaml").unlink()
    config.write_text("nothing: 1\n", "utf-8")
    commit(top)
    git(top, "tag", "config")
    config.unlink()
    commit(top)
    git(top, "branch", "aside")
    git(top, "checkout", "--quiet", "aside")
    commit(top)
    git(top, "checkout", "--quiet", "main")
    config.write_text("default: local\nenvironments: {local: {}, late: {}}\n", "utf-8")
    commit(top)
    return project


@pytest.mark.parametrize("case", WRONG)
def test_what_cannot_be_gone_back_to_is_one_clear_line_and_nothing_is_written(
    case: str, wrong: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(wrong.folder)
    to, more, code, message = WRONG[case]
    ran = policyctl("apply", f"--to={to}", *more, "--yes")
    assert ran.code == code, ran
    assert message in ran.err
    assert ran.err.count("\n") == 1
    assert not live_documents()


def test_a_selection_that_matches_nothing_then_or_now_is_an_error(history: History, policyctl: Policyctl) -> None:
    ran = policyctl("plan", "--to", "HEAD~1", "--only", "olt")
    assert ran.code == 64
    assert "--only olt matches no policy, neither in the files nor on the remote (did you mean old?)" in ran.err


def test_outside_a_repository_and_in_a_shallow_clone_it_says_why(
    history: History, policyctl: Policyctl, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    shallow = tmp_path_factory.mktemp("clones") / "shallow"
    git(history.project.folder, "clone", "--quiet", "--depth=1", f"file://{history.project.folder}", str(shallow))
    ran = policyctl("plan", "--dir", shallow / "policies", "--to", "HEAD~1")
    assert ran.code == 64
    assert "unknown git revision 'HEAD~1', and this clone is shallow; fetch the whole history" in ran.err
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    monkeypatch.chdir(elsewhere)
    Project(elsewhere).policy("a")
    ran = policyctl("plan", "--to", "HEAD~1")
    assert ran.code == 1
    assert ran.err.startswith("error: policies is not in a git repository")


def test_scenario_tests_are_about_the_files_of_now(history: History, policyctl: Policyctl) -> None:
    ran = policyctl("plan", "--to", "HEAD~1", "--test")
    assert ran.code == 64
    assert "--to and --test exclude each other: scenario tests are about the files as they are now" in ran.err


FLEET = """
templates: {one: {remote: "sqlite:///{{ tenant }}.db", vars: {share: 0.1}}}
fleet: [{from: tenants.csv, name: "t-{{ tenant }}", extends: one, vars: [share]}]
"""


def fleet_live(project: Project, tenant: str) -> list[float]:
    document = live_documents(project.policies / f"{tenant}.db")["virtual-policy/b"]
    return [target["weight"] for target in document["policy"]["targets"]]


def test_several_environments_go_back_together_each_with_its_own_variables_of_then(
    project: Project, policyctl: Policyctl
) -> None:
    (project.folder / ".gitignore").write_text("*.db*\n.policyctl/\n", "utf-8")
    project.write("policyctl.yaml", FLEET)
    project.write("tenants.csv", "tenant,share\na,\nb,0.4\n")
    project.write("b.yaml", TEMPLATED)
    before = commit(project.folder)
    project.write("tenants.csv", "tenant,share\na,0.9\nb,0.9\nc,0.9\n")
    commit(project.folder)
    assert policyctl("apply", "--all", "--yes").code == 0
    ran = policyctl("apply", "--all", "--to", before, "--yes")
    assert ran.code == 5
    assert "environment t-c did not exist at " in ran.out
    assert [fleet_live(project, name)[0] for name in "abc"] == [0.1, 0.4, 0.9]
    assert "wins at the next apply" in ran.out
    assert policyctl("plan", "--env", "t-a", "--env", "t-b", "--to", before, "--detailed-exitcode").code == 0
    assert policyctl("plan", "--env", "t-a", "--env", "t-b", "--detailed-exitcode").code == 2


def test_a_resumed_run_goes_back_to_the_same_revision(project: Project, policyctl: Policyctl) -> None:
    (project.folder / ".gitignore").write_text("*.db*\n.policyctl/\n", "utf-8")
    project.write("policyctl.yaml", FLEET)
    project.write("tenants.csv", "tenant,share\na,0.1\nb,0.2\n")
    project.write("b.yaml", TEMPLATED)
    before = commit(project.folder)
    project.write("tenants.csv", "tenant,share\na,0.9\nb,0.9\n")
    commit(project.folder)
    assert policyctl("apply", "--all", "--yes").code == 0
    in_the_way = project.policies / "b.db"
    in_the_way.rename(project.policies / "kept.db")
    in_the_way.mkdir()
    ran = policyctl("apply", "--all", "--to", before, "--yes")
    assert ran.code == 5
    identifier = ran.err.partition("run ")[2].partition(";")[0]
    in_the_way.rmdir()
    (project.policies / "kept.db").rename(in_the_way)
    runs = json.loads(policyctl("runs", identifier, "--format", "json").out)
    Draft202012Validator(json.loads(schema_text("runs"))).validate(runs)
    assert runs["runs"][0]["to"] == before
    assert policyctl("apply", "--resume", identifier, "--to", before, "--yes").code == 64
    assert policyctl("apply", "--resume", identifier, "--yes").code == 0
    assert [fleet_live(project, name)[0] for name in "ab"] == [0.1, 0.2]


def test_the_top_of_a_repository_may_be_the_directory(
    tmp_path: Path, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    project = Project(tmp_path)
    (project.policies / "sub").mkdir()
    project.write("policyctl.yaml", "environments: {local: {include: [sub/*]}}\n")
    project.policy("sub/a", BEFORE)
    project.policy("left-out")
    commit(project.policies)
    project.policy("sub/a", AFTER)
    commit(project.policies)
    monkeypatch.chdir(project.policies)
    found = json.loads(policyctl("plan", "--dir", ".", "--to", "HEAD~1", "--format", "json").out)
    assert [change["file"] for change in found["changes"]] == ["HEAD~1:./sub/a.yaml"]


@pytest.mark.parametrize("command", ["plan", "apply"])
def test_what_a_branch_affects_says_nothing_about_going_back(command: str, history: History, policyctl: Policyctl) -> None:
    """The files of today may be as they were at the revision of one option, and not at that of the other."""
    ran = policyctl(command, "--affected", "HEAD", "--to", history.before)
    assert (ran.code, ran.out) == (64, "")
    assert "--affected compares the files of today" in ran.err
