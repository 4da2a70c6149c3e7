"""The commands as steps of GitHub Actions: annotations, summaries and outputs; and SARIF anywhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import ANYGEM, Policyctl, Project

BAD = ANYGEM.replace("0.75", "75")
ANNOTATION = (
    "::error file={},line=14,col=15,title=P103 out-of-range::"
    "weight must be greater than 0 and at most 1, got 75 (did you mean 0.75?) [P103]\n"
)


@pytest.fixture
def files(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a step's files: `out` and `summary`, which the runner makes empty."""
    folder = tmp_path_factory.mktemp("step")
    for variable, name in (("GITHUB_OUTPUT", "out"), ("GITHUB_STEP_SUMMARY", "summary")):
        (folder / name).touch()
        monkeypatch.setenv(variable, str(folder / name))
    return folder


def outputs(files: Path) -> dict[str, str]:
    return dict(line.split("=", 1) for line in (files / "out").read_text("utf-8").splitlines())


@pytest.mark.parametrize(
    ("variables", "args", "begins"),
    [
        ((), (), "policies/"),
        (("GITHUB_ACTIONS",), (), "policies/"),  # other services that run actions set this one too
        (("GITHUB_WORKFLOW",), (), "policies/"),
        (("GITHUB_ACTIONS", "GITHUB_WORKFLOW"), (), "::error "),
        (("GITHUB_ACTIONS", "GITHUB_WORKFLOW"), ("--format", "text"), "policies/"),
        (("GITHUB_ACTIONS", "GITHUB_WORKFLOW"), ("--format", "json"), "{"),
        ((), ("--format", "github"), "::error "),
        ((), ("--format", "sarif"), "{"),
    ],
)
def test_validate_chooses_its_format_by_itself_on_github_only(
    project: Project,
    policyctl: Policyctl,
    monkeypatch: pytest.MonkeyPatch,
    variables: tuple[str, ...],
    args: tuple[str, ...],
    begins: str,
) -> None:
    for name in variables:
        monkeypatch.setenv(name, "true")
    project.write("bad.yaml", BAD)
    ran = policyctl("validate", *args)
    assert ran.code == 1
    assert ran.out.startswith(begins)


def test_annotations_come_before_the_verdict(project: Project, policyctl: Policyctl) -> None:
    project.write("bad.yaml", BAD)
    ran = policyctl("validate", "--format", "github")
    assert (ran.code, ran.err) == (1, "")
    assert ran.out == ANNOTATION.format("policies/bad.yaml") + "Not valid: 1 error (0 policies in 1 file).\n"


@pytest.mark.parametrize("top", ["workspace", "git", "elsewhere"])
def test_files_are_named_from_the_repository_s_top(
    project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch, top: str
) -> None:
    if top == "git":
        (project.folder / ".git").mkdir()
    else:
        monkeypatch.setenv("GITHUB_WORKSPACE", str(project.folder if top == "workspace" else project.folder / "other"))
    project.write("bad.yaml", BAD)
    monkeypatch.chdir(project.policies)
    shown = f"{project.policies}/bad.yaml" if top == "elsewhere" else "policies/bad.yaml"
    assert policyctl("validate", ".", "--format", "github").out.startswith(ANNOTATION.format(shown))
    (result,) = json.loads(policyctl("validate", ".", "--format", "sarif").out)["runs"][0]["results"]
    uri = result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
    assert uri == (f"file://{shown}" if top == "elsewhere" else shown)


def test_plan_leaves_a_summary_and_outputs(
    project: Project, policyctl: Policyctl, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1764288000")  # a page shows when it was made
    project.write("anygem.yaml")
    ran = policyctl("plan", "--out", "plan.json", "--color", "always")
    assert ran.code == 0
    digest = json.loads(Path("plan.json").read_text("utf-8"))["digest"]
    assert outputs(files) == {
        "has_changes": "true",
        "add": "1",
        "update": "0",
        "remove": "0",
        "blocked": "0",
        "refusals": "0",
        "settings": "0",
        "failed_tests": "0",
        "digest": digest,
        "plan_path": "plan.json",
    }
    assert "Plan:" in ran.out, "the log has the text"
    once = (files / "summary").read_text("utf-8")
    page = policyctl("plan", "--format", "markdown").out
    assert page.startswith("<!-- policyctl:plan environment=local directory=policies -->\n<!-- policyctl:shows ")
    assert once == f"{page}\n"
    assert (files / "summary").read_text("utf-8") == once * 2


def test_one_run_leaves_several_renderings_and_its_own_output(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    ran = policyctl(
        "plan", "--format", "json", "--out", "plan.json", "--report", "markdown=plan.md", "--report", "text=plan.txt"
    )
    assert ran.code == 0
    assert json.loads(ran.out)["digest"] == json.loads(Path("plan.json").read_text("utf-8"))["digest"]
    assert Path("plan.md").read_text("utf-8") == policyctl("plan", "--format", "markdown").out
    assert Path("plan.txt").read_text("utf-8") == policyctl("plan").out


@pytest.mark.parametrize(
    ("report", "said"),
    [
        ("markdwn=plan.md", "unknown format markdwn (did you mean markdown?)"),
        ("markdown", "write markdown=FILE"),
        ("markdown=", "write markdown=FILE"),
    ],
)
def test_a_report_that_cannot_be_is_a_usage_error(project: Project, policyctl: Policyctl, report: str, said: str) -> None:
    project.write("anygem.yaml")
    ran = policyctl("plan", "--report", report)
    assert ran.code == 64
    assert said in ran.err


@pytest.mark.parametrize("args", [("--out", "one", "--report", "html=one"), ("--report", "html=one", "--report", "json=./one")])
def test_two_outputs_in_one_file_are_a_usage_error(project: Project, policyctl: Policyctl, args: tuple[str, ...]) -> None:
    project.write("anygem.yaml")
    ran = policyctl("plan", *args)
    assert (ran.code, ran.out, Path("one").exists()) == (64, "", False)
    assert "one more than once; give each a file of its own" in ran.err


@pytest.mark.slow
def test_a_comment_points_at_the_run_that_has_the_files(
    project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in range(400):
        project.policy(f"policy-{number}", *(f"virtual-model/provider/model-{number}-{place}" for place in range(9)))
    for variable, value in (("SERVER_URL", "https://github.com"), ("REPOSITORY", "a/b"), ("RUN_ID", "7")):
        monkeypatch.setenv(f"GITHUB_{variable}", value)
    page = policyctl("plan", "--format", "markdown").out
    assert len(page) <= 65_536
    assert "all of it is in [this run's artifacts](https://github.com/a/b/actions/runs/7)" in page
    monkeypatch.setenv("GITHUB_RUN_ID", "7) [x](https://x.example")
    assert "x.example" not in policyctl("plan", "--format", "markdown").out


def test_a_directory_is_named_from_the_repository_s_top(
    project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("anygem.yaml")
    monkeypatch.setenv("GITHUB_WORKSPACE", str(project.folder.parent))
    marker = f"<!-- policyctl:plan environment=local directory={project.folder.name}/policies -->\n"
    assert policyctl("plan", "--format", "markdown").out.startswith(marker)


def test_a_refused_plan_leaves_them_too(project: Project, policyctl: Policyctl, files: Path) -> None:
    for name in "abc":
        project.policy(name)
    assert policyctl("apply", "--yes").code == 0
    (files / "out").write_text("")
    (project.policies / "a.yaml").unlink()
    project.write("policyctl.yaml", "protect: [a]")
    assert policyctl("plan").code == 3
    assert (outputs(files)["remove"], outputs(files)["refusals"]) == ("1", "1")
    assert "`virtual-policy/a` is protected" in (files / "summary").read_text("utf-8")


def test_a_stale_plan_leaves_what_moved(project: Project, policyctl: Policyctl, files: Path) -> None:
    project.write("anygem.yaml")
    assert policyctl("plan", "--out", "plan.json").code == 0
    project.write("anygem.yaml", ANYGEM.replace("0.25", "0.1"))
    assert policyctl("apply", "--yes").code == 0
    (files / "summary").write_text("")
    ran = policyctl("apply", "plan.json", "--yes")
    assert ran.code == 4
    assert "stale  virtual-policy/anygem: policy: absent → live\n" in ran.out
    assert "> - `virtual-policy/anygem`: policy: absent → live\n" in (files / "summary").read_text("utf-8")


def test_apply_leaves_its_plan_and_what_became_of_it(project: Project, policyctl: Policyctl, files: Path) -> None:
    project.write("anygem.yaml")
    ran = policyctl("apply", "--yes")
    assert ran.code == 0
    summary = (files / "summary").read_text("utf-8")
    assert summary.count("### policyctl: 1 to add in `local`\n") == 1
    assert summary.count("\n\n```text\n") == 1
    assert summary.endswith("Applied: 1 added; read back and verified.\n```\n\n")
    assert outputs(files)["has_changes"] == "true"
    (files / "out").write_text("")
    assert policyctl("apply", "--yes").code == 0
    assert outputs(files)["has_changes"] == "false"


@pytest.mark.parametrize("expected", ["none", f"sha256:{'0' * 64}"])
def test_a_plan_that_was_not_approved_says_so_first_with_the_digest_to_approve(
    expected: str, project: Project, policyctl: Policyctl, files: Path
) -> None:
    project.write("anygem.yaml")
    ran = policyctl("apply", "--yes", "--expect-digest", expected)
    assert ran.code == 4
    summary = (files / "summary").read_text("utf-8")
    assert summary.startswith("> [!CAUTION]\n> ")
    assert f"`{outputs(files)['digest']}`" in summary.splitlines()[1]
    assert "### policyctl: 1 to add in `local`\n" in summary


def test_a_summary_that_cannot_be_written_stops_nothing(
    project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", "no/such/folder")
    project.write("anygem.yaml")
    ran = policyctl("apply", "--yes")
    assert ran.code == 0
    assert "GITHUB_STEP_SUMMARY: no/such/folder cannot be written: No such file or directory; so" in ran.err


def test_outputs_that_cannot_be_written_end_it_before_any_write(
    project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", "no/such/folder")
    project.write("anygem.yaml")
    ran = policyctl("apply", "--yes")
    assert (ran.code, ran.err) == (1, "error: GITHUB_OUTPUT: no/such/folder cannot be written: No such file or directory\n")
    assert not Path(".policyctl").exists()


def test_a_summary_stays_below_github_s_limit(project: Project, policyctl: Policyctl, files: Path) -> None:
    (files / "summary").write_text("x" * (1024 * 1024 - 9000))
    for number in range(90):
        project.policy(f"policy-{number}")
    assert policyctl("plan").code == 0
    size = (files / "summary").stat().st_size
    assert 1024 * 1024 - 3000 < size <= 1024 * 1024
    ran = policyctl("plan")
    assert (ran.code, (files / "summary").stat().st_size) == (0, size)
    assert "GITHUB_STEP_SUMMARY: the step summary is full, so this is not in it" in ran.err
