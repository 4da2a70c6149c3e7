"""The workflows, of this repository and those that init writes, which are the same: what they may, and what their steps do."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from policyctl.cli.init import PLACEHOLDER, SERVICES, ServiceName, installable, workflows
from policyctl.remote.sqlite import SqliteRemote
from tests import workflow_runner
from tests.cli.forges import Forge, forge_of
from tests.conftest import Policyctl, Project
from tests.forks import forking
from tests.git_repo import commit, git
from tests.sqlite_rows import add_models, live_documents, put, row
from tests.workflow_runner import Runner, Step

ROOT = Path(__file__).parent.parent
OURS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
POLICY = (
    "spec_version: v1\nkind: model\nname: {}\n"
    "policy: {{strategy: {{mode: single}}, targets: [{{model_name: virtual-model/a/one}}]}}\n"
)


def parsed(path: Path) -> dict[Any, Any]:
    found: dict[Any, Any] = yaml.safe_load(path.read_text("utf-8"))
    return found


def steps_of(workflow: dict[Any, Any]) -> list[dict[str, Any]]:
    return [step for job in workflow["jobs"].values() for step in job["steps"]]


def test_init_writes_what_this_repository_uses() -> None:
    """But for where policyctl is installed from: here that is the base, not the code that is being reviewed."""
    own = parsed(ROOT / ".github" / "workflows" / "policyctl-plan.yml")
    (package,) = (step["env"]["POLICYCTL_PACKAGE"] for step in steps_of(own) if step.get("name") == "Install policyctl")
    assert package == (
        "git+file://${{ github.workspace }}@"
        "${{ github.event.merge_group.base_sha || github.event.pull_request.base.sha || github.sha }}"
    )
    written = workflows("github", Path("policies"), package)
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
    "policyctl-plan.yml": {"contents": "read", "actions": "read", "pull-requests": "write"},
    "policyctl-apply.yml": {"contents": "read", "pull-requests": "write"},
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
    assert workflow["concurrency"] == {"group": "policyctl-apply", "cancel-in-progress": False, "queue": "max"}


@pytest.mark.parametrize(
    ("commits", "before", "base"),
    [(2, "0" * 40, "HEAD^1"), (1, "0" * 40, "0" * 40), (2, "HEAD", "HEAD"), (2, f"{'0' * 39}1", f"{'0' * 39}1")],
)
def test_the_base_of_a_pipeline_of_gitlab_that_is_run_by_hand(commits: int, before: str, base: str, tmp_path: Path) -> None:
    """GitLab names no commit before then. The base is the first parent, if there is one, as on GitHub."""
    for _ in range(commits):
        commit(tmp_path)
    names = {one: git(tmp_path, "rev-parse", one).strip() for one in ("HEAD", "HEAD^1")[:commits]}
    (text,) = workflows("gitlab", Path("policies"), None).values()
    (line,) = (one for one in yaml.safe_load(text)["policyctl apply"]["script"] if one.startswith("base="))
    command = ["bash", "-euc", f'{line}\necho "$base"']
    environ = {**os.environ, "CI_COMMIT_BEFORE_SHA": names.get(before, before)}
    ran = subprocess.run(command, cwd=tmp_path, env=environ, capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == names.get(base, base)


def test_a_plan_of_gitlab_ends_once_there_is_a_newer_commit_and_an_apply_does_not() -> None:
    (text,) = workflows("gitlab", Path("policies"), None).values()
    jobs = yaml.safe_load(text)
    assert [jobs[f"policyctl {name}"]["interruptible"] for name in ("plan", "apply")] == [True, False]


@pytest.mark.parametrize("service", SERVICES)
@pytest.mark.parametrize("folder", ["policies", "deep/er", "odd [x] {y}: 'z'", "."])
def test_any_directory_is_written_so_that_it_is_read_back(service: ServiceName, folder: str) -> None:
    for text in workflows(service, Path(folder), "policyctl @ git+https://example.org/x@1").values():
        assert "@@" not in text
        found = yaml.safe_load(text)
        environ = found[".policyctl"]["variables"] if service == "gitlab" else next(iter(found["jobs"].values()))["env"]
        assert environ["POLICYCTL_DIR"] == folder


def test_the_filter_of_paths_reads_a_directory_s_name_as_it_is() -> None:
    text = workflows("github", Path("odd [x]"), None)[Path(".github/workflows/policyctl-plan.yml")]
    assert yaml.safe_load(text)[True]["pull_request"]["paths"][0] == r"odd \[x\]/**"  # YAML 1.1 reads `on` as true
    assert PLACEHOLDER in text


def test_the_filter_of_paths_has_the_files_beside_the_directory_that_settings_refer_to(
    project: Project, policyctl: Policyctl
) -> None:
    git(project.folder, "init", "--quiet")
    fleet = "fleet: [{from: 'rows [1].csv', name: '{{ n }}', defaults: {ca_file: ca.pem}}]\n"
    (project.folder / "policyctl.yaml").write_text(fleet, "utf-8")
    (project.folder / "rows [1].csv").write_text("n\nprod\n", "utf-8")
    assert policyctl("init", "--ci", "github").code == 0
    assert not (project.policies / "policyctl.yaml").exists(), "it would hide the one above"
    for name, event in (("plan", "pull_request"), ("apply", "push")):
        paths = parsed(Path(f".github/workflows/policyctl-{name}.yml"))[True][event]["paths"]
        assert paths[3] == r"rows \[1\].csv"
        assert paths[:3] == ["policies/**", "**/policyctl.yaml", "ca.pem"]


def test_what_is_merged_into_the_default_branch_is_applied(
    tmp_path: Path, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    git(tmp_path, "init", "--quiet", "--initial-branch=trunk")
    ran = policyctl("init", "--ci", "github")
    assert "the workflows apply what is merged into trunk; if your main branch has another name, change it in them\n" in ran.err
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
    service: ServiceName, tmp_path: Path, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".git").mkdir()
    assert policyctl("init", "--ci", service).code == 0
    for name in workflows(service, Path("policies"), None):
        (tmp_path / name).write_text("mine", "utf-8")
    ran = policyctl("init", "--ci", service)
    for name, text in workflows(service, Path("policies"), None).items():
        assert (tmp_path / name).read_text("utf-8") == "mine"
        assert f"= {name} already exists, skipped\n" in ran.out
        assert (text in ran.out) == (service == "gitlab")


class Repository:
    """A repository on a service, and a checkout of it, as a runner has one."""

    def __init__(self, folder: Path, forge: Forge, environment: str) -> None:
        self.upstream, self.database = folder / "upstream", folder / "prod.db"
        self.upstream.mkdir()
        self.forge = forge
        self.runner = Runner(folder / "checkout", forge, environment)

    def open(self) -> None:
        """What is on main now, before any pull request."""
        self.forge.head = commit(self.upstream)
        git(self.upstream, "clone", "-q", ".", str(self.runner.checkout))

    def begin(self) -> None:
        """Have the history of main begin with what was written: no pull request showed its settings."""
        shutil.rmtree(self.upstream / ".git")
        shutil.rmtree(self.runner.checkout)
        self.open()

    def write(self, name: str, text: str | None = None) -> None:
        (self.upstream / "policies" / f"{name}.yaml").write_text(text or POLICY.format(name), "utf-8")

    def propose(self, branch: str = "change") -> str:
        """A branch with what was written, checked out as services do for a pull request: merged into main; its base."""
        git(self.upstream, "checkout", "-q", "-B", branch)
        self.forge.proposals[self.runner.pull] = (commit(self.upstream), "main")
        git(self.runner.checkout, "fetch", "-q", "origin")
        git(self.runner.checkout, "checkout", "-q", "--detach", "origin/main")
        git(self.runner.checkout, "merge", "-q", "--no-ff", "--message=x", f"origin/{branch}")
        return git(self.runner.checkout, "rev-parse", "origin/main").strip()

    def merge(self, branch: str = "change") -> None:
        """Squash the branch into main, and check that out."""
        git(self.upstream, "checkout", "-q", "main")
        git(self.upstream, "merge", "-q", "--squash", branch)
        self.push()

    def push(self) -> None:
        """Commit to main, and check it out."""
        self.runner.before = git(self.upstream, "rev-parse", "HEAD").strip()
        self.forge.head = commit(self.upstream)
        git(self.runner.checkout, "fetch", "-q", "origin")
        git(self.runner.checkout, "checkout", "-q", "--detach", "origin/main")

    @property
    def live(self) -> set[str]:
        return {name.removeprefix("virtual-policy/") for name in live_documents(self.database)}


@pytest.fixture(scope="module", autouse=True)
def _started_at_once() -> Iterator[None]:
    """The steps start policyctl a dozen times a test, and what they do is tested, not how it starts."""
    with forking() as program, pytest.MonkeyPatch.context() as patch:
        patch.setattr(workflow_runner, "PROGRAMS", f"{program.parent}{os.pathsep}{workflow_runner.PROGRAMS}")
        yield


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


PLANNED_ON_GITLAB = [("script", 0), *[("after_script", 0)] * 3]
CHECKED = [("Validate", 0), ("Test", 0)]
PLANNED = [*CHECKED, ("Read what may be overridden", 0), ("Plan", 0), ("Comment", 0)]
APPLIED = [
    *CHECKED,
    ("Apply what was approved", 0),
    ("Prove that nothing is left to do", 0),
    ("Note what was applied", 0),
]


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


MANAGED = """manage: [policies, models]
default: local
scope: ["virtual-policy/*", "virtual-model/openai/*"]
environments:
  local: {{}}
  prod: {{remote: "sqlite:///{}"}}
"""
MODEL = "spec_version: v1\nkind: model\nname: openai/new\nconfig: {{temperature: {}}}\n"
OVER = POLICY.format("over").replace("a/one", "openai/new")


def with_models(repository: Repository) -> None:
    """Let main manage models, and have one with a policy over it that is applied."""
    repository.write("policyctl", MANAGED.format(repository.database))
    others = ("google/gemini-2.0-flash", "google/gemini-2.0-flash-lite", "a/one")
    add_models(repository.database, *({"name": f"virtual-model/{name}", "provider_config": {}} for name in others))
    repository.write("over", OVER)
    repository.write("model", MODEL.format(0.2))
    repository.begin()
    *_, refused = repository.runner.github("apply")
    found = re.search(r"sha256:[0-9a-f]{64}", refused.said)
    assert found is not None, refused.said
    repository.runner.digest = found[0]
    assert codes(repository.runner.github("apply")) == APPLIED
    repository.runner.digest = ""


def temperatures(repository: Repository) -> dict[str, Any]:
    with SqliteRemote(repository.database, models=True) as remote:
        return {row["name"]: row["config"]["temperature"] for row in remote.rows() if "openai" in row["name"]}


def test_a_change_of_a_model_is_planned_commented_merged_and_applied(
    github: Forge, tmp_path: Path, policyctl: Policyctl
) -> None:
    repository = made(tmp_path, github, policyctl)
    with_models(repository)
    assert temperatures(repository) == {"virtual-model/openai/new": 0.2}
    repository.write("model", MODEL.format(0.7))
    repository.propose()
    assert codes(repository.runner.github("plan")) == PLANNED
    (body,) = github.bodies
    assert "1 model to update" in body
    assert "config.temperature" in body
    assert temperatures(repository) == {"virtual-model/openai/new": 0.2}, "a pull request writes nothing"
    repository.merge()
    github.merge(5)
    assert codes(repository.runner.github("apply")) == APPLIED
    assert temperatures(repository) == {"virtual-model/openai/new": 0.7}


def test_a_change_of_a_model_from_a_fork_is_planned_against_the_base_and_waits_for_a_person(
    github: Forge, tmp_path: Path, policyctl: Policyctl
) -> None:
    """A fork has no login, so its plan approves nothing."""
    repository = made(tmp_path, github, policyctl)
    with_models(repository)
    github.read_only = repository.runner.fork = True
    repository.write("model", MODEL.format(0.7))
    repository.propose()
    assert codes(repository.runner.github("plan")) == PLANNED
    summary = (tmp_path / "summary").read_text("utf-8")
    assert "1 model to update" in summary
    assert "config.temperature" in summary
    assert github.bodies == []
    github.read_only = repository.runner.fork = False
    repository.merge()
    github.merge(5)
    *_, refused = repository.runner.github("apply")
    assert (refused.code, temperatures(repository)) == (4, {"virtual-model/openai/new": 0.2})


def test_what_was_not_approved_waits_for_a_person(github: Forge, tmp_path: Path, policyctl: Policyctl) -> None:
    repository = made(tmp_path, github, policyctl)
    repository.write("pushed")
    repository.push()
    *_, refused = repository.runner.github("apply")
    assert (refused.code, repository.live) == (4, set())
    found = re.search(r"no merged pull request has approved this plan.*(sha256:[0-9a-f]{64})", refused.said)
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
    *_, refused = repository.runner.github("apply")
    assert (refused.code, repository.live) == (4, {"new"})
    assert "the plan is not the sum of theirs" in refused.said


def test_a_branch_that_loosens_a_rule_is_held_to_the_old_one(github: Forge, tmp_path: Path, policyctl: Policyctl) -> None:
    repository = made(tmp_path, github, policyctl)
    put([row("live"), row("example")], repository.database)
    config = (repository.upstream / "policies" / "policyctl.yaml").read_text("utf-8")
    repository.write("policyctl", f"{config}protect: [live]\n")
    repository.push()
    repository.write("policyctl", config.replace("sqlite:///", "sqlite:////elsewhere"))
    repository.propose()
    steps = repository.runner.github("plan")
    assert codes(steps) == [*PLANNED[:3], ("Plan", 3), ("Comment", 0)]
    assert "virtual-policy/live is protected" in steps[3].said
    assert "environments.prod.remote: " in steps[3].said.split("environment prod, remote")[0]


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


def test_what_comes_to_the_base_meanwhile_is_not_part_of_the_plan(github: Forge, tmp_path: Path, policyctl: Policyctl) -> None:
    """A run that is started again has the merge of then, and the branches of now."""
    repository = made(tmp_path, github, policyctl, "")
    repository.write("new")
    repository.propose()
    git(repository.upstream, "checkout", "-q", "main")
    repository.write("meanwhile")
    commit(repository.upstream)
    git(repository.runner.checkout, "fetch", "-q", "origin")
    assert codes(repository.runner.github("plan")) == PLANNED
    assert "1 to add in each of `local`, `prod`" in github.bodies[0]
    assert "meanwhile" not in github.bodies[0]


def test_a_merged_result_on_gitlab_is_held_against_what_it_was_merged_into(tmp_path: Path, policyctl: Policyctl) -> None:
    with forge_of("gitlab") as forge:
        repository = made(tmp_path, forge, policyctl, "")
        left = git(repository.upstream, "rev-parse", "HEAD").strip()
        repository.write("meanwhile")
        repository.push()
        repository.write("new")
        target = repository.propose()
        assert codes(repository.runner.gitlab("plan", left, target)) == PLANNED_ON_GITLAB
        assert "1 to add in each of `local`, `prod`" in forge.bodies[0]


def test_a_matrix_of_environments_leaves_an_artifact_for_each() -> None:
    """An artifact's name may be given once in a run."""
    steps = steps_of(parsed(ROOT / ".github" / "workflows" / "policyctl-plan.yml"))
    (name,) = (step["with"]["name"] for step in steps if "actions/upload-artifact@" in step.get("uses", ""))
    assert name == "plan${{ strategy.job-total > 1 && format('-{0}', strategy.job-index) || '' }}"


def test_invalid_files_take_an_old_plan_away(github: Forge, tmp_path: Path, policyctl: Policyctl) -> None:
    repository = made(tmp_path, github, policyctl)
    repository.write("new")
    repository.propose()
    assert codes(repository.runner.github("plan")) == PLANNED
    repository.write("new", POLICY.format("new").replace("mode: single", "mode: singel"))
    repository.propose()
    steps = repository.runner.github("plan")
    assert codes(steps) == [("Validate", 1), ("Comment", 0)]
    assert steps[0].said.startswith("::error file=policies/new.yaml,line=4")
    assert "The newest commit has no plan" in github.bodies[0]


def test_drift_opens_one_issue_updates_it_and_closes_it(github: Forge, tmp_path: Path, policyctl: Policyctl) -> None:
    repository = made(tmp_path, github, policyctl)
    put([row("example"), row("foreign")], repository.database)
    looked = [("Plan", 0), ("Keep the issue", 0)]
    for _ in range(2):
        assert codes(repository.runner.github("drift")) == looked
    ((state, text),) = github.issue_texts
    assert (state, "foreign" in text) == ("open", True)
    repository.runner.digest = json.loads((repository.runner.temporary / "plan.json").read_text("utf-8"))["digest"]
    assert codes(repository.runner.github("apply")) == APPLIED
    assert codes(repository.runner.github("drift")) == looked
    assert [state for state, _ in github.issue_texts] == ["closed"]


def test_the_same_on_gitlab(tmp_path: Path, policyctl: Policyctl) -> None:
    with forge_of("gitlab") as forge:
        repository = made(tmp_path, forge, policyctl)
        repository.write("new")
        for _ in range(2):
            base = repository.propose()
            assert codes(repository.runner.gitlab("plan", base)) == PLANNED_ON_GITLAB
        assert len(forge.bodies) == 1
        repository.merge()
        *_, refused = repository.runner.gitlab("apply", "")
        assert (refused.code, repository.live) == (4, set())
        forge.merge(5)
        assert codes(repository.runner.gitlab("apply", "")) == [("script", 0)]
        assert repository.live == {"example", "new"}
        put([row("foreign")], repository.database)
        assert codes(repository.runner.gitlab("drift", "")) == [("script", 0), ("after_script", 0)]
        assert [state for state, _ in forge.issue_texts] == ["open"]


FLAKY = "spec_version: v1\nkind: policy_test\npolicy: {}\ntests: [{{name: flaky, given: {{}}, expect: {{status: 500}}}}]\n"


@pytest.mark.parametrize("service", SERVICES)
def test_a_plan_that_the_branch_brings_is_never_the_one_that_is_shown(
    service: ServiceName, tmp_path: Path, policyctl: Policyctl
) -> None:
    """Not even where a test fails, or the files are links: a run takes only what it wrote itself."""
    with forge_of(service) as forge:
        repository = made(tmp_path, forge, policyctl)
        precious = tmp_path / "precious"
        precious.write_text("precious", "utf-8")
        repository.write("evil")
        repository.write("evil.test", FLAKY.format("evil"))
        forged = f"<!-- policyctl:plan environment=prod directory=policies -->\n<!-- policyctl:shows sha256:{'f' * 64} -->\n"
        (repository.upstream / "plan.md").write_text(f"{forged}fix a typo\n", "utf-8")
        (repository.upstream / "plan.json").symlink_to(precious)
        base = repository.propose()
        if service == "github":
            assert codes(repository.runner.github("plan")) == [
                ("Validate", 0),
                ("Test", 1),
                *PLANNED[2:3],
                ("Plan", 1),
                PLANNED[4],
            ]
        else:
            assert codes(repository.runner.gitlab("plan", base)) == [("script", 1), *PLANNED_ON_GITLAB[1:]]
        (body,) = forge.bodies
        assert "2 to add in `prod`: 1 scenario test fails" in body
        assert "fix a typo" not in body
        assert body.endswith("<!-- policyctl none -->\n")
        assert precious.read_text("utf-8") == "precious"


def test_apply_checks_and_tests_before_it_writes(github: Forge, tmp_path: Path, policyctl: Policyctl) -> None:
    repository = made(tmp_path, github, policyctl)
    repository.write("new")
    repository.propose()
    assert codes(repository.runner.github("plan")) == PLANNED
    repository.merge()
    github.merge(5)
    repository.write("new.test", FLAKY.format("new"))
    repository.push()
    assert codes(repository.runner.github("apply")) == [("Validate", 0), ("Test", 1)]
    assert repository.live == set()


def test_a_run_that_is_started_again_writes_nothing_once_main_has_moved_on(
    github: Forge, tmp_path: Path, policyctl: Policyctl
) -> None:
    repository = made(tmp_path, github, policyctl)
    repository.write("risky")
    repository.propose()
    assert codes(repository.runner.github("plan")) == PLANNED
    repository.merge()
    github.merge(5)
    assert codes(repository.runner.github("apply")) == APPLIED
    of_then = git(repository.runner.checkout, "rev-parse", "HEAD").strip()
    (repository.upstream / "policies" / "risky.yaml").unlink()
    repository.push()
    *_, refused = repository.runner.github("apply")
    repository.runner.digest = digest_in(refused.said)
    assert codes(repository.runner.github("apply")) == APPLIED
    repository.runner.digest = ""
    assert repository.live == {"example"}
    git(repository.runner.checkout, "checkout", "-q", "--detach", of_then)
    *_, again = repository.runner.github("apply")
    assert (again.code, repository.live) == (4, {"example"})
    assert "main has moved on to " in again.said
    repository.runner.digest = digest_in(refused.said)  # which a person gave that run
    *_, again = repository.runner.github("apply")
    assert (again.code, repository.live) == (4, {"example"})


def digest_in(said: str) -> str:
    found = re.search(r"then approve (?:its digest|the digest of all), (sha256:[0-9a-f]{64})", said)
    assert found is not None, said
    return found[1]


def test_merges_whose_runs_were_dropped_are_applied_by_the_next_one(
    github: Forge, tmp_path: Path, policyctl: Policyctl
) -> None:
    """Three quick merges, or a merge queue that pushes several: one run."""
    repository = made(tmp_path, github, policyctl)
    put([row("example")], repository.database)
    repository.runner.digest = "none"
    *_, first = repository.runner.github("apply")
    repository.runner.digest = digest_in(first.said)
    assert codes(repository.runner.github("apply")) == APPLIED
    repository.runner.digest = ""
    for number, name in ((5, "web"), (6, "api"), (7, "bot")):
        git(repository.upstream, "checkout", "-q", "-B", f"pr{number}", "main")
        repository.write(name)
        repository.runner.pull = number
        repository.propose(f"pr{number}")
        assert codes(repository.runner.github("plan")) == PLANNED
    for number in (5, 6, 7):
        repository.merge(f"pr{number}")
        github.merge(number)
    steps = repository.runner.github("apply")
    assert codes(steps) == APPLIED
    assert "approved by 3 pull requests: #5, #6, #7" in steps[2].said
    assert repository.live == {"example", "web", "api", "bot"}
    assert all("Applied by [this run](" in github.comments[number][-1]["body"] for number in (5, 6, 7))


def test_in_a_merge_queue_the_plan_reports_and_comments_nothing(github: Forge, tmp_path: Path, policyctl: Policyctl) -> None:
    repository = made(tmp_path, github, policyctl)
    repository.write("new")
    repository.runner.queue = repository.propose()
    steps = repository.runner.github("plan")
    assert (codes(steps), github.bodies) == (PLANNED, [])
    assert "2 to add" in steps[3].said
    workflow = parsed(ROOT / ".github" / "workflows" / "policyctl-plan.yml")
    starts = workflow[True]  # YAML 1.1 reads `on` as true
    assert "merge_group" in starts
    assert starts["pull_request"]["types"] == ["opened", "synchronize", "reopened", "edited"], "edited: for another branch"


@pytest.mark.parametrize("service", SERVICES)
def test_what_an_approver_lets_through_is_shown_and_applied(service: ServiceName, tmp_path: Path, policyctl: Policyctl) -> None:
    with forge_of(service) as forge:
        forge.rights["ana"] = "write" if service == "github" else 30
        repository = made(tmp_path, forge, policyctl)
        put([row("example"), row("old")], repository.database)
        config = (repository.upstream / "policies" / "policyctl.yaml").read_text("utf-8")
        repository.write("policyctl", f"{config}limits: {{max_removes: 0}}\n")
        repository.begin()
        repository.write("new")
        base = repository.propose()

        def planned() -> list[int]:
            ran = repository.runner.github("plan") if service == "github" else repository.runner.gitlab("plan", base)
            return [step.code for step in ran]

        assert 3 in planned()
        forge.write("/policyctl allow --max-removes 1 because nothing uses it", "ana")
        assert set(planned()) == {0}
        assert "- `--max-removes` 1: nothing uses it (allowed by ana)" in forge.bodies[0]
        repository.merge()
        forge.merge(5)
        ran = repository.runner.github("apply") if service == "github" else repository.runner.gitlab("apply", "")
        assert {step.code for step in ran} == {0}
        assert repository.live == {"example", "new"}


def test_a_person_gives_overrides_beside_the_digest(github: Forge, tmp_path: Path, policyctl: Policyctl) -> None:
    repository = made(tmp_path, github, policyctl)
    put([row("example"), row("old")], repository.database)
    config = (repository.upstream / "policies" / "policyctl.yaml").read_text("utf-8")
    repository.write("policyctl", f"{config}limits: {{max_removes: 0}}\n")
    repository.push()
    *_, refused = repository.runner.github("apply")
    settings = re.search("DIGEST(@sha256:[0-9a-f]{64})", refused.said)  # which were pushed
    assert settings is not None
    repository.runner.digest = digest_in(refused.said)
    assert repository.runner.github("apply")[-1].code == 4
    repository.runner.digest += settings[1]
    assert repository.runner.github("apply")[-1].code == 3
    repository.runner.overrides = "--max-removes 1 because nothing uses it"
    assert codes(repository.runner.github("apply")) == APPLIED
    assert repository.live == {"example"}


def test_guards_do_not_block_the_way_back_after_an_emergency(github: Forge, tmp_path: Path, policyctl: Policyctl) -> None:
    """With an audit record, which the jobs share."""
    repository = made(tmp_path, github, policyctl)
    repository.runner.audit = str(tmp_path / "audit.jsonl")
    config = (repository.upstream / "policies" / "policyctl.yaml").read_text("utf-8")
    repository.write("policyctl", f"{config}guards: {{max_traffic_shift: 10, deny_new: provider}}\n")
    repository.begin()
    *_, first = repository.runner.github("apply")
    repository.runner.digest = digest_in(first.said)
    assert codes(repository.runner.github("apply")) == APPLIED
    repository.runner.digest = ""
    checkout = ("--dir", str(repository.runner.checkout / "policies"), "--env", "prod")
    options = ("--name", "example", "--model", "aws/nova", "--strategy", "single", "--yes")
    assert policyctl("policy", "add", *options, *checkout).code == 0
    repository.write("new")
    repository.propose()
    steps = repository.runner.github("plan")
    assert codes(steps) == PLANNED
    assert "restoration: back to the policy as it was reviewed" in steps[3].said
    repository.merge()
    github.merge(5)
    assert codes(repository.runner.github("apply")) == APPLIED
    assert "aws/nova" not in str(live_documents(repository.database))


def with_dev_and_prod(folder: Path, forge: Forge, policyctl: Policyctl, environment: str = "*") -> Repository:
    """An empty repository in which init wrote the workflows, with two environments whose remotes are databases beside it."""
    repository = made(folder, forge, policyctl, environment)
    rows = (f"  {name}: {{remote: 'sqlite:///{folder}/{name}.db', scope: ['*']}}\n" for name in ("dev", "prod"))
    repository.write("policyctl", f"environments:\n{''.join(rows)}")
    repository.begin()
    return repository


def live_in(folder: Path) -> list[set[str]]:
    databases = [folder / f"{name}.db" for name in ("dev", "prod")]
    return [{name.removeprefix("virtual-policy/") for name in live_documents(one)} for one in databases if one.exists()]


@pytest.mark.slow
@pytest.mark.parametrize("service", SERVICES)
def test_dev_and_prod_are_planned_approved_and_applied_in_one_job(
    service: ServiceName, tmp_path: Path, policyctl: Policyctl
) -> None:
    with forge_of(service) as forge:
        repository, runner = (made := with_dev_and_prod(tmp_path, forge, policyctl)), made.runner
        repository.write("new")
        base = repository.propose()
        planned = runner.github("plan") if service == "github" else runner.gitlab("plan", base)
        assert {step.code for step in planned} == {0}
        (body,) = forge.bodies
        assert body.startswith("<!-- policyctl:plan environment=%2A directory=policies -->\n")
        assert "### policyctl: 2 to add in each of `dev`, `prod`\n" in body
        assert live_in(tmp_path) == []
        assert (runner.temporary / "plan.html").read_text("utf-8").count("<h3>") == 2
        repository.merge()
        forge.merge(5)
        old = git(runner.checkout, "rev-parse", "HEAD").strip()
        repository.write("later")
        repository.push()
        git(runner.checkout, "checkout", "-q", old)
        *_, refused = again = runner.github("apply") if service == "github" else runner.gitlab("apply", "")
        assert (refused.code, live_in(tmp_path)) == (4, []), "the run of an older commit, started again"
        assert any("main has moved on to" in step.said for step in again)
        git(repository.upstream, "reset", "-q", "--hard", old)
        forge.head = old
        applied = runner.github("apply") if service == "github" else runner.gitlab("apply", "")
        assert {step.code for step in applied} == {0}
        assert live_in(tmp_path) == [{"example", "new"}] * 2
        assert "Applied by [this run](" in forge.bodies[0]


@pytest.mark.slow
@pytest.mark.parametrize("environment", ["*", ""])
def test_without_credentials_every_environment_is_compared_with_the_base(
    environment: str, github: Forge, tmp_path: Path, policyctl: Policyctl
) -> None:
    """From a fork, whose token may not comment, and before there is anything to apply to."""
    repository = with_dev_and_prod(tmp_path, github, policyctl, environment)
    github.read_only = repository.runner.fork = bool(environment)
    repository.write("new")
    repository.propose()
    assert codes(repository.runner.github("plan")) == PLANNED
    assert "### policyctl: 1 to add in each of `dev`, `prod`\n" in (tmp_path / "summary").read_text("utf-8")
    assert (len(github.bodies), live_in(tmp_path)) == (0 if environment else 1, [])
    if not environment:
        assert "Merging approves no plan.\n" in github.bodies[0]
        assert github.bodies[0].endswith("<!-- policyctl none -->\n")


@pytest.mark.slow
def test_plans_of_all_that_nothing_approved_wait_for_a_person(github: Forge, tmp_path: Path, policyctl: Policyctl) -> None:
    repository = with_dev_and_prod(tmp_path, github, policyctl)
    *_, refused = repository.runner.github("apply")
    assert (refused.code, live_in(tmp_path)) == (4, [])
    assert "no merged pull request has approved" in (tmp_path / "summary").read_text("utf-8")
    repository.runner.digest = digest_in(refused.said)
    assert codes(repository.runner.github("apply")) == APPLIED
    assert live_in(tmp_path) == [{"example"}] * 2
