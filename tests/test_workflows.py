"""The workflows, of this repository and those that init writes, which are the same: what they may, and what their steps do."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from policyctl.load.workflows import PLACEHOLDER, SERVICES, Service, installable, workflows
from tests.cli.forges import Forge, forge_of
from tests.conftest import Policyctl
from tests.databases import live_documents, put, row
from tests.gitting import commit, git
from tests.running import Runner, Step

ROOT = Path(__file__).parent.parent
OURS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
POLICY = (
    "spec_version: v1\nkind: model\nname: {}\n"
    "policy: {{strategy: {{mode: single}}, targets: [{{model_name: virtual-model/a/one}}]}}\n"
)


def parsed(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))
    return found


def steps_of(workflow: dict[str, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_init_writes_what_this_repository_uses() -> None:
    written = workflows("github", Path("policies"), ".")
    assert written == {path: (ROOT / path).read_text("utf-8") for path in written}
    assert {ROOT / path for path in written} == set(OURS) - {ROOT / ".github" / "workflows" / "ci.yml"}


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_actions_of_others_are_pinned_by_commit(path: Path) -> None:
    used = re.findall(r"uses: (.*)", path.read_text("utf-8"))
    assert used
    assert all(re.fullmatch(r"[\w/-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+", one) for one in used)


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_nothing_from_an_event_is_pasted_into_a_shell(path: Path) -> None:
    assert [step["run"] for step in steps_of(parsed(path)) if "${{" in step.get("run", "")] == []


MAY = {
    "ci.yml": {"contents": "read"},
    "policyctl-plan.yml": {"contents": "read", "pull-requests": "write"},
    "policyctl-apply.yml": {"contents": "read", "pull-requests": "read"},
    "policyctl-drift.yml": {"contents": "read", "issues": "write"},
}


@pytest.mark.parametrize("path", OURS, ids=lambda path: path.name)
def test_permissions_are_the_least(path: Path) -> None:
    workflow = parsed(path)
    (job,) = workflow["jobs"].values()
    assert (workflow["permissions"], job["permissions"]) == ({}, MAY[path.name])
    assert "pull_request_target" not in path.read_text("utf-8")
    checkouts = [step for step in job["steps"] if step.get("uses", "").startswith("actions/checkout@")]
    assert [step["with"]["persist-credentials"] for step in checkouts] == [False]


def test_applies_come_one_after_the_other() -> None:
    workflow = parsed(ROOT / ".github" / "workflows" / "policyctl-apply.yml")
    assert workflow["concurrency"] == {"group": "policyctl-apply", "cancel-in-progress": False}


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("folder", ["policies", "deep/er", "odd [x] {y}: 'z'", "."])
def test_any_directory_is_written_so_that_it_is_read_back(service: Service, folder: str) -> None:
    for text in workflows(service, Path(folder), "policyctl @ git+https://example.org/x@1").values():
        assert "@@" not in text
        found = yaml.safe_load(text)
        environ = found[".policyctl"]["variables"] if service == "gitlab" else next(iter(found["jobs"].values()))["env"]
        assert environ["POLICYCTL_DIR"] == folder


def test_the_filter_of_paths_reads_a_directory_s_name_as_it_is() -> None:
    text = workflows("github", Path("odd [x]"), None)[Path(".github/workflows/policyctl-plan.yml")]
    assert yaml.safe_load(text)[True]["pull_request"]["paths"][0] == r"odd \[x\]/**"  # YAML 1.1 reads `on` as true
    assert PLACEHOLDER in text


def test_what_is_merged_into_the_default_branch_is_applied(
    tmp_path: Path, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "--quiet", "--initial-branch=trunk")
    ran = policyctl("init", "--ci", "github")
    assert (
        "the workflows apply what is merged into trunk; if your main branch has another name, write that name in them\n"
        in ran.err
    )
    apply, drift = (parsed(Path(f".github/workflows/policyctl-{name}.yml")) for name in ("apply", "drift"))
    assert apply[True]["push"]["branches"] == ["trunk"]
    for workflow in (apply, drift):
        (job,) = workflow["jobs"].values()
        assert job["if"] == "vars.POLICYCTL_ENV != '' && github.ref == 'refs/heads/trunk'"


@pytest.mark.parametrize(
    ("origin", "package"),
    [
        ({"url": "file:///here", "dir_info": {}}, None),
        (
            {"url": "https://example.org/p", "vcs_info": {"vcs": "git", "commit_id": "abc"}},
            "policyctl @ git+https://example.org/p@abc",
        ),
        ({"url": "https://me:canary@example.org/p", "vcs_info": {"vcs": "git", "commit_id": "abc"}}, None),
        ({"url": "https://example.org/p.whl", "archive_info": {}}, None),
    ],
)
def test_the_workflows_install_what_wrote_them_and_never_a_guess(origin: dict[str, Any], package: str | None) -> None:
    assert installable(json.dumps(origin)) == package


@pytest.mark.parametrize("service", SERVICES)
def test_init_changes_no_workflow_that_is_there(
    service: Service, tmp_path: Path, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    assert policyctl("init", "--ci", service).code == 0
    for name in workflows(service, Path("policies"), None):
        (tmp_path / name).write_text("mine", "utf-8")
    ran = policyctl("init", "--ci", service)
    for name, text in workflows(service, Path("policies"), None).items():
        assert (tmp_path / name).read_text("utf-8") == "mine"
        assert f"= {name} exists already; left as it is\n" in ran.out
        assert (text in ran.out) == (service == "gitlab")


class Repository:
    """A repository on a service, and a checkout of it, as a runner has one."""

    def __init__(self, folder: Path, forge: Forge, environment: str) -> None:
        self.upstream, self.database = folder / "upstream", folder / "prod.db"
        self.upstream.mkdir()
        self.runner = Runner(folder / "checkout", forge, environment)

    def open(self) -> None:
        """What is on main now, before any pull request."""
        commit(self.upstream)
        git(self.upstream, "clone", "-q", ".", str(self.runner.checkout))

    def write(self, name: str, text: str | None = None) -> None:
        (self.upstream / "policies" / f"{name}.yaml").write_text(text or POLICY.format(name), "utf-8")

    def propose(self) -> str:
        """A branch with what was written, checked out as services do for a pull request: merged into main; its base."""
        git(self.upstream, "checkout", "-q", "-B", "change")
        commit(self.upstream)
        git(self.runner.checkout, "fetch", "-q", "origin")
        git(self.runner.checkout, "checkout", "-q", "--detach", "origin/main")
        git(self.runner.checkout, "merge", "-q", "--no-ff", "--message=x", "origin/change")
        return git(self.runner.checkout, "rev-parse", "origin/main").strip()

    def merge(self) -> None:
        """Squash the branch into main, and check that out."""
        git(self.upstream, "checkout", "-q", "main")
        git(self.upstream, "merge", "-q", "--squash", "change")
        self.push()

    def push(self) -> None:
        """Commit to main, and check it out."""
        commit(self.upstream)
        git(self.runner.checkout, "fetch", "-q", "origin")
        git(self.runner.checkout, "checkout", "-q", "--detach", "origin/main")

    @property
    def live(self) -> set[str]:
        return {name.removeprefix("virtual-policy/") for name in live_documents(self.database)}


@pytest.fixture
def github() -> Iterator[Forge]:
    with forge_of("github") as forge:
        yield forge


def made(folder: Path, forge: Forge, policyctl: Policyctl, environment: str = "prod") -> Repository:
    """A repository that init made, with an environment whose remote is a database beside it."""
    repository = Repository(folder, forge, environment)
    (repository.upstream / ".git").mkdir()
    assert policyctl("init", "--ci", forge.kind, "--dir", str(repository.upstream / "policies")).code == 0
    (repository.upstream / ".git").rmdir()
    (repository.upstream / ".gitignore").write_text("plan.*\n.policyctl/\n", "utf-8")
    repository.write(
        "policyctl",
        f"default: local\nenvironments:\n  local: {{}}\n  prod: {{remote: 'sqlite:///{repository.database}', scope: ['*']}}\n",
    )
    repository.open()
    return repository


def codes(steps: list[Step]) -> list[tuple[str, int]]:
    return [(step.name, step.code) for step in steps]


PLANNED = [("Validate", 0), ("Test", 0), ("Plan", 0), ("Comment", 0)]
APPLIED = [("Apply what was approved", 0), ("Prove that nothing is left to do", 0)]


def test_a_pull_request_is_planned_commented_merged_and_applied(github: Forge, tmp_path: Path, policyctl: Policyctl) -> None:
    repository = made(tmp_path, github, policyctl)
    repository.write("new")
    repository.propose()
    assert codes(repository.runner.github("plan")) == PLANNED
    repository.write("newer")
    repository.propose()
    assert codes(repository.runner.github("plan")) == PLANNED
    (body,) = github.bodies
    assert "newer" in body
    assert repository.live == set()
    repository.merge()
    github.merge(5)
    assert codes(repository.runner.github("apply")) == APPLIED
    assert repository.live == {"example", "new", "newer"}


def test_what_was_not_approved_waits_for_a_person(github: Forge, tmp_path: Path, policyctl: Policyctl) -> None:
    repository = made(tmp_path, github, policyctl)
    repository.write("pushed")
    repository.push()
    (refused,) = repository.runner.github("apply")
    assert (refused.code, repository.live) == (4, set())
    found = re.search(r"nobody has approved a plan for this commit.*(sha256:[0-9a-f]{64})", refused.said)
    assert found is not None
    repository.runner.digest = found[1]
    assert codes(repository.runner.github("apply")) == APPLIED
    assert repository.live == {"example", "pushed"}
    repository.runner.digest = ""
    assert codes(repository.runner.github("apply")) == APPLIED  # nothing is left to do, so nothing needs to be approved


def test_a_remote_that_moved_since_the_plan_is_not_written_to(github: Forge, tmp_path: Path, policyctl: Policyctl) -> None:
    repository = made(tmp_path, github, policyctl)
    repository.write("new")
    repository.propose()
    assert codes(repository.runner.github("plan")) == PLANNED
    put([row("new")], repository.database)
    repository.merge()
    github.merge(5)
    (refused,) = repository.runner.github("apply")
    assert (refused.code, repository.live) == (4, {"new"})
    assert "this is not the plan that was approved" in refused.said


def test_a_branch_that_loosens_a_rule_is_held_to_the_old_one(github: Forge, tmp_path: Path, policyctl: Policyctl) -> None:
    repository = made(tmp_path, github, policyctl)
    put([row("live"), row("example")], repository.database)
    config = (repository.upstream / "policies" / "policyctl.yaml").read_text("utf-8")
    repository.write("policyctl", f"{config}protect: [live]\n")
    repository.push()
    repository.write("policyctl", config.replace("sqlite:///", "sqlite:////elsewhere"))
    repository.propose()
    steps = repository.runner.github("plan")
    assert codes(steps) == [*PLANNED[:2], ("Plan", 3), ("Comment", 0)]
    assert "virtual-policy/live is protected" in steps[2].said
    assert "environments.prod.remote: " in steps[2].said.split("environment prod, remote")[0]


@pytest.mark.parametrize("environment", ["prod", ""])
def test_without_credentials_the_plan_is_one_against_the_base(
    environment: str, github: Forge, tmp_path: Path, policyctl: Policyctl
) -> None:
    """A fork's token may not comment; a repository without an environment to apply to has a token that may."""
    repository = made(tmp_path, github, policyctl, environment)
    github.read_only = repository.runner.fork = bool(environment)
    repository.write("new")
    repository.propose()
    assert codes(repository.runner.github("plan")) == PLANNED
    summary = (tmp_path / "summary").read_text("utf-8").replace("forge.example", "")
    assert re.search(r"\bnew\b", summary)
    assert "example" not in summary  # it is on main already
    assert len(github.bodies) == (0 if environment else 1)


def test_what_comes_to_the_base_meanwhile_is_no_part_of_the_plan(github: Forge, tmp_path: Path, policyctl: Policyctl) -> None:
    """A run that is started again has the merge of then, and the branches of now."""
    repository = made(tmp_path, github, policyctl, "")
    repository.write("new")
    repository.propose()
    git(repository.upstream, "checkout", "-q", "main")
    repository.write("meanwhile")
    commit(repository.upstream)
    git(repository.runner.checkout, "fetch", "-q", "origin")
    assert codes(repository.runner.github("plan")) == PLANNED
    assert "1 to add in `local`" in github.bodies[0]
    assert "meanwhile" not in github.bodies[0]


def test_a_merged_result_on_gitlab_is_held_against_what_it_was_merged_into(tmp_path: Path, policyctl: Policyctl) -> None:
    with forge_of("gitlab") as forge:
        repository = made(tmp_path, forge, policyctl, "")
        left = git(repository.upstream, "rev-parse", "HEAD").strip()
        repository.write("meanwhile")
        repository.push()
        repository.write("new")
        target = repository.propose()
        assert codes(repository.runner.gitlab("plan", left, target)) == [("script", 0), ("after_script", 0)]
        assert "1 to add in `local`" in forge.bodies[0]


def test_a_matrix_of_environments_leaves_an_artifact_for_each() -> None:
    """An artifact's name may be given once in a run."""
    steps = steps_of(parsed(ROOT / ".github" / "workflows" / "policyctl-plan.yml"))
    (name,) = (step["with"]["name"] for step in steps if "actions/upload-artifact@" in step.get("uses", ""))
    assert name == "plan${{ env.POLICYCTL_ENV && format('-{0}', env.POLICYCTL_ENV) }}"


def test_invalid_files_take_an_old_plan_away(github: Forge, tmp_path: Path, policyctl: Policyctl) -> None:
    repository = made(tmp_path, github, policyctl)
    repository.write("new")
    repository.propose()
    assert codes(repository.runner.github("plan")) == PLANNED
    for file in repository.runner.checkout.glob("plan.*"):
        file.unlink()  # each run has a checkout of its own
    repository.write("new", POLICY.format("new").replace("mode: single", "mode: singel"))
    repository.propose()
    steps = repository.runner.github("plan")
    assert codes(steps) == [("Validate", 1), ("Comment", 0)]
    assert steps[0].said.startswith("::error file=policies/new.yaml,line=4")
    assert "There is no plan for the newest commit" in github.bodies[0]


def test_drift_opens_one_issue_updates_it_and_closes_it(github: Forge, tmp_path: Path, policyctl: Policyctl) -> None:
    repository = made(tmp_path, github, policyctl)
    put([row("example"), row("foreign")], repository.database)
    looked = [("Plan", 0), ("Keep the issue", 0)]
    for _ in range(2):
        assert codes(repository.runner.github("drift")) == looked
    ((state, text),) = github.issue_texts
    assert (state, "foreign" in text) == ("open", True)
    repository.runner.digest = json.loads((repository.runner.checkout / "plan.json").read_text("utf-8"))["digest"]
    assert codes(repository.runner.github("apply")) == APPLIED
    assert codes(repository.runner.github("drift")) == looked
    assert [state for state, _ in github.issue_texts] == ["closed"]


def test_the_same_on_gitlab(tmp_path: Path, policyctl: Policyctl) -> None:
    with forge_of("gitlab") as forge:
        repository = made(tmp_path, forge, policyctl)
        repository.write("new")
        for _ in range(2):
            base = repository.propose()
            assert codes(repository.runner.gitlab("plan", base)) == [("script", 0), ("after_script", 0)]
        assert len(forge.bodies) == 1
        repository.merge()
        (refused,) = repository.runner.gitlab("apply", "")
        assert (refused.code, repository.live) == (4, set())
        forge.merge(5)
        assert codes(repository.runner.gitlab("apply", "")) == [("script", 0)]
        assert repository.live == {"example", "new"}
        put([row("foreign")], repository.database)
        assert codes(repository.runner.gitlab("drift", "")) == [("script", 0), ("after_script", 0)]
        assert [state for state, _ in forge.issue_texts] == ["open"]
