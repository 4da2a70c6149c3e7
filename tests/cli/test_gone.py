"""What is not there was not removed: checkouts that lack a part, and policies that are where nothing is read."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from tests.conftest import ANYGEM, Policyctl, Project
from tests.examples import crossed
from tests.git_repo import SURROUNDINGS, commit, git
from tests.gone import GAPS, add_submodule, sparse
from tests.problem_lines import shows

POLICY = (
    "spec_version: v1\nkind: model\nname: {}\n"
    "policy: {{strategy: {{mode: single}}, targets: [{{model_name: virtual-model/openai/gpt-4o}}]}}\n"
)


@pytest.fixture
def applied(
    project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory
) -> Project:
    """A repository with alpha in `core` and beta in `edge`, both applied to a remote that no checkout touches."""
    monkeypatch.setenv("POLICYCTL_REMOTE", f"sqlite:///{tmp_path_factory.mktemp('live')}/live.db")
    project.write("core/alpha.yaml", POLICY.format("alpha"))
    project.write("edge/beta.yaml", POLICY.format("beta"))
    commit(project.folder)
    assert policyctl("apply", "--yes").code == 0
    return project


@pytest.mark.parametrize(("case", "remote"), crossed(GAPS, [None, "git:HEAD"]))
@pytest.mark.alike
def test_what_the_checkout_lacks_is_not_removed(case: str, remote: str | None, applied: Project, policyctl: Policyctl) -> None:
    leave_out, path, remedy = GAPS[case]
    leave_out(applied.folder)
    ran = policyctl("plan", *([] if remote is None else ["--remote", remote]))
    assert shows(f"{path}: warning: is in git but not on this disk: [P471]", ran.err)
    assert "- virtual-policy/beta" not in ran.out
    if case == "a submodule" and remote is not None:  # neither side has it
        assert ran.code == 0
        return
    assert ran.code == 3
    assert "refused  virtual-policy/beta may not be gone, so nothing is removed: git has files" in ran.out
    assert path in ran.out
    assert remedy in ran.out
    assert "matches the files" not in ran.out


@pytest.mark.parametrize("case", GAPS)
@pytest.mark.alike
def test_apply_refuses_it_and_writes_nothing(case: str, applied: Project, policyctl: Policyctl) -> None:
    GAPS[case][0](applied.folder)
    applied.write("core/new.yaml", POLICY.format("new"))
    assert policyctl("apply", "--yes").code == 3
    assert sorted(row["name"] for row in json.loads(policyctl("policy", "list", "--format", "json").out)["policies"]) == [
        "virtual-policy/alpha",
        "virtual-policy/beta",
    ]


@pytest.mark.parametrize("case", GAPS)
@pytest.mark.alike
def test_pull_writes_no_twin_of_what_the_checkout_lacks(case: str, applied: Project, policyctl: Policyctl) -> None:
    leave_out, path, remedy = GAPS[case]
    leave_out(applied.folder)
    before = sorted(applied.policies.rglob("*"))
    ran = policyctl("pull")
    assert ran.code == 5
    assert path in ran.out
    assert remedy in ran.out
    assert sorted(applied.policies.rglob("*")) == before


@pytest.mark.parametrize("case", GAPS)
@pytest.mark.alike
def test_the_command_that_is_named_mends_it(case: str, applied: Project, policyctl: Policyctl) -> None:
    leave_out, _, remedy = GAPS[case]
    leave_out(applied.folder)
    for command in remedy.split(" && "):
        environ = {**SURROUNDINGS, "GIT_ALLOW_PROTOCOL": "file"}
        subprocess.run(command.split(), cwd=applied.folder, env=environ, capture_output=True, check=True)
    ran = policyctl("plan", "--detailed-exitcode")
    assert (ran.code, ran.err) == (0, "")


def test_a_file_that_was_deleted_is_gone_committed_or_not(applied: Project, policyctl: Policyctl) -> None:
    (applied.policies / "edge" / "beta.yaml").unlink()
    for _ in range(2):
        ran = policyctl("plan")
        assert (ran.code, "- virtual-policy/beta\n" in ran.out) == (0, True)
        commit(applied.folder)
    git(applied.folder, "sparse-checkout", "set", "--cone", "policies/core")
    assert "- virtual-policy/beta\n" in policyctl("plan").out


def test_what_include_leaves_out_anyway_may_be_left_out(applied: Project, policyctl: Policyctl) -> None:
    applied.write("policyctl.yaml", "include: ['core/*']\n")
    applied.policy("gone")
    commit(applied.folder)
    git(applied.folder, "sparse-checkout", "set", "--cone", "policies/core")
    ran = policyctl("plan")
    assert (ran.code, ran.err) == (0, "")
    assert "- virtual-policy/beta\n" in ran.out  # as the whole checkout has it, too


def test_a_part_that_is_not_a_policy_may_be_left_out(applied: Project, policyctl: Policyctl) -> None:
    for name in ("docs/readme.md", "docs/.hidden.yaml"):
        applied.write(name, "x")
    commit(applied.folder)
    git(applied.folder, "sparse-checkout", "set", "--cone", "policies/core", "policies/edge")
    assert not (applied.policies / "docs").exists()
    (applied.policies / "edge" / "beta.yaml").unlink()
    ran = policyctl("plan")
    assert (ran.code, ran.err, "- virtual-policy/beta\n" in ran.out) == (0, "", True)


@pytest.mark.parametrize("config", ["policies/policyctl.yaml", "policyctl.yaml"])
def test_without_its_configuration_nothing_is_planned(config: str, applied: Project, policyctl: Policyctl) -> None:
    (applied.folder / config).write_text("protect: ['*']\n", "utf-8")
    commit(applied.folder)
    git(applied.folder, "update-index", "--skip-worktree", config)
    (applied.folder / config).unlink()
    (applied.policies / "edge" / "beta.yaml").unlink()
    for args in (["plan"], ["apply", "--yes"], ["pull"], ["effect"], ["test"], ["plan", "--remote", "git:HEAD"]):
        ran = policyctl(*args)
        assert (ran.code, ran.out) == (3, ""), args
        assert ran.err.startswith(f"error: {applied.folder / config} is in git but not on this disk, so its settings are ")
        assert f"git update-index --no-skip-worktree {config} && git checkout -- {config}" in ran.err
    ran = policyctl("validate")
    assert (ran.code, shows(f"{applied.folder / config}: is in git but not on this disk [P001]", ran.out)) == (1, True)


def test_a_directory_that_the_checkout_leaves_out_as_a_whole_is_named(applied: Project, policyctl: Policyctl) -> None:
    (applied.folder / "other").mkdir()
    (applied.folder / "other" / "x").write_text("x", "utf-8")
    commit(applied.folder)
    git(applied.folder, "sparse-checkout", "set", "--cone", "other")
    ran = policyctl("plan")
    assert (ran.code, ran.out) == (1, "")
    assert "git has policies/core/alpha.yaml, and this sparse checkout leaves it out (git sparse-checkout disable)" in ran.err
    assert policyctl("pull").code == 5
    assert not applied.policies.exists()


def test_where_git_cannot_be_asked_nothing_is_removed(
    applied: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    (applied.policies / "edge" / "beta.yaml").unlink()
    os.utime(applied.folder / ".git" / "index")  # so that what git said to the command before does not count
    monkeypatch.setenv("PATH", str(applied.folder))
    ran = policyctl("plan")
    assert ran.code == 3
    assert "git cannot be asked whether files are missing: git is not installed" in ran.out
    applied.write("edge/beta.yaml", POLICY.format("beta"))
    assert policyctl("plan", "--detailed-exitcode").code == 0


def test_a_submodule_is_compared_as_the_revision_names_it(applied: Project, policyctl: Policyctl) -> None:
    """Whole with whole: what the submodule held at that commit, against what it holds now."""
    source = add_submodule(applied.folder, "policies/edge")
    assert policyctl("plan", "--remote", "git:HEAD", "--detailed-exitcode").code == 0
    (applied.policies / "edge" / "new.yaml").write_text(POLICY.format("new"), "utf-8")
    ran = policyctl("plan", "--remote", "git:HEAD")
    assert ran.out.endswith("Plan: 1 to add, 0 to update, 0 to remove. 2 unchanged.\n")
    missing = commit(source)
    git(applied.folder, "update-index", "--cacheinfo", f"160000,{missing},policies/edge")
    git(applied.folder, "commit", "-q", "-m", "a commit of the submodule that was not fetched")
    ran = policyctl("plan", "--remote", "git:HEAD")
    assert (ran.code, ran.out) == (1, "")
    assert f"the submodule policies/edge does not have the commit {missing}; fetch it: git -C " in ran.err


LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 512\n".format("4d" * 32)


def test_a_pointer_of_git_lfs_is_neither_a_policy_nor_a_removal(applied: Project, policyctl: Policyctl) -> None:
    whole = applied.write("edge/beta.yaml", LFS)
    commit(applied.folder)
    for args in (["plan"], ["apply", "--yes"], ["validate"], ["effect"], ["pull"]):
        ran = policyctl(*args)
        assert ran.code == 1
        assert shows(
            "policies/edge/beta.yaml: is a pointer of Git LFS, not the file itself; run git lfs pull [P019]", ran.out + ran.err
        )
    whole.write_text(POLICY.format("beta"), "utf-8")
    ran = policyctl("plan", "--remote", "git:HEAD")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.startswith("error: policies/edge/beta.yaml is kept in Git LFS, so git:HEAD cannot be compared with")


# Where beta may be that nothing reads: how it gets there, and how the plan describes it.
ELSEWHERE: dict[str, tuple[dict[str, str | None], str]] = {
    "a file that include leaves out": (
        {"policyctl.yaml": "include: ['core/*']\n"},
        "policies/edge/beta.yaml has it, but include leaves that file out",
    ),
    "a hidden file": ({"edge/.beta.yaml": None}, "policies/edge/.beta.yaml has it, but hidden files are not read"),
    "a hidden directory": ({".old/x/beta.yaml": None}, "policies/.old/x/beta.yaml has it, but hidden files are not read"),
    "a backup": ({"edge/beta.yaml.bak": None}, "policies/edge/beta.yaml.bak has it, but only *.yaml, *.yml and *.json are"),
    "a text": ({"beta.txt": None}, "policies/beta.txt has it, but only *.yaml, *.yml and *.json are read"),
    "words for a name": (
        {"this is fine.txt": None},
        '"policies/this is fine.txt" has it, but only *.yaml, *.yml and *.json are',
    ),
    "no suffix": ({"beta": None}, "policies/beta has it, but only *.yaml, *.yml and *.json are read"),
    "a file for tests": ({"beta.test.yaml": None}, "policies/beta.test.yaml has it, but files called *.test.* hold tests only"),
}


ADDED = ("--name", "beta", "--strategy", "single", "--model", "virtual-model/x/a")


@pytest.mark.parametrize("case", ELSEWHERE)
@pytest.mark.alike
def test_a_removal_shows_where_the_policy_is_all_the_same(case: str, applied: Project, policyctl: Policyctl) -> None:
    files, place = ELSEWHERE[case]
    for name, text in files.items():
        applied.write(name, POLICY.format("beta") if text is None else text)
        if text is None:
            (applied.policies / "edge" / "beta.yaml").unlink()
    commit(applied.folder)
    ran = policyctl("plan")
    assert ran.code == 0
    assert "- virtual-policy/beta\n" in ran.out
    assert f"note  no file that is read has virtual-policy/beta, but {place}" in ran.out
    pulled = policyctl("pull")
    assert (pulled.code, place in pulled.out) == (5, True)
    assert not (applied.policies / "beta.yaml").exists()
    asked = policyctl("effect", "beta")
    assert (asked.code, place in asked.err) == (64, True)
    if case != "a file for tests":
        added = policyctl("policy", "add", "--save", "--yes", *ADDED)
        assert (added.code, place in added.err) == (1, True)


def test_what_looks_like_a_policy_is_named_by_every_command(project: Project, policyctl: Policyctl) -> None:
    project.policy("a")
    project.write("b.yaml.orig", POLICY.format("b"))
    said = "policies/b.yaml.orig: warning: contains virtual-policy/b but is not read [P472]"
    assert shows(said, policyctl("validate").out)
    for command in ("plan", "effect", "apply"):
        assert shows(said, policyctl(command, *(["--yes"] if command == "apply" else [])).err)
    project.write("policyctl.yaml", "lint: {ignore: [P47]}\n")
    assert "P472" not in policyctl("validate").out


def test_globs_of_include_that_match_nothing_are_shown_where_they_are(project: Project, policyctl: Policyctl) -> None:
    project.write("edge/a.yaml", POLICY.format("a"))
    project.write("policyctl.yaml", "include:\n  - edge/*\n  - ./edge/*\n")
    for command in ("validate", "plan"):
        ran = policyctl(command)
        assert (
            'policies/policyctl.yaml:3:5: warning: "./edge/*" matches no file of the directory (did you mean edge/*?) [P473]'
            in (ran.out + ran.err)
        )
    project.write("policyctl.yaml", "include: [Edge/*]\n")
    ran = policyctl("plan")
    assert (ran.code, shows("holds no policy for environment local [P016]", ran.err), "P473" in ran.err) == (1, True, True)


def test_include_is_relative_to_the_directory_wherever_the_configuration_is(project: Project, policyctl: Policyctl) -> None:
    commit(project.folder)
    project.write("core/a.yaml", POLICY.format("a"))
    project.write("edge/b.yaml", POLICY.format("b"))
    (project.folder / "policyctl.yaml").write_text("include: ['core/*']\n", "utf-8")
    assert "Plan: 1 to add" in policyctl("plan").out
    assert policyctl("validate").out == "Valid: 1 policy in 2 files.\n"
    assert policyctl("validate", project.policies / "core" / "a.yaml").out == "Valid: 1 policy in 1 file.\n"


@pytest.mark.parametrize("how", ["untracked", "ignored"])
def test_a_run_in_ci_notes_what_git_does_not_have(
    how: str, applied: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied.policy("extra")
    if how == "ignored":
        (applied.folder / ".gitignore").write_text("extra.yaml\n", "utf-8")
    note = (
        "note  git does not have all files that were read (untracked or ignored), so no review shows them: policies/extra.yaml"
    )
    assert note not in policyctl("plan").out
    monkeypatch.setenv("CI", "true")
    assert note in policyctl("plan").out
    git(applied.folder, "add", "--force", "policies/extra.yaml")
    assert "no review shows them" not in policyctl("plan").out


def test_files_of_a_submodule_are_git_s(applied: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch) -> None:
    add_submodule(applied.folder, "policies/edge")
    monkeypatch.setenv("CI", "true")
    assert "no review shows them" not in policyctl("plan").out


def test_a_hook_ends_at_once_where_the_commit_changes_nothing_here(
    applied: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = "Nothing to check: the commit changes nothing here.\n"
    assert policyctl("validate").out == "Valid: 2 policies in 2 files.\n"  # outside of a commit everything is checked
    monkeypatch.setenv("GIT_INDEX_FILE", ".git/index")
    os.utime(applied.policies / "core" / "alpha.yaml", (1, 1))  # as old as can be, and still the same
    assert policyctl("validate").out == nothing
    (applied.folder / "elsewhere.txt").write_text("x", "utf-8")
    assert policyctl("validate", "policies").out == nothing
    for change in (
        lambda: (applied.policies / "edge" / "beta.yaml").unlink(),
        lambda: (applied.policies / "edge" / "beta.yaml").rename(applied.policies / "moved.yaml"),
        lambda: applied.write("core/alpha.yaml", POLICY.format("alpha2")),
        lambda: applied.policy("new"),
        lambda: (applied.folder / "policyctl.yaml").write_text("prune: true\n", "utf-8"),
    ):
        change()
        assert policyctl("validate").out.startswith("Valid: ")
        git(applied.folder, "reset", "-q", "--hard")
        git(applied.folder, "clean", "-q", "-fd")
        assert policyctl("validate").out == nothing


@pytest.mark.parametrize("rows", ["n,remote\nb,sqlite:///b.db\n", "n,remote\nb,nowhere\n", None])
def test_a_hook_checks_where_the_commit_changes_an_inventory_beside_the_directory(
    applied: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch, rows: str | None
) -> None:
    inventory = applied.folder / "rows.csv"
    inventory.write_text("n,remote\na,sqlite:///a.db\n", "utf-8")
    fleet = "fleet: [{from: rows.csv, name: 'e-{{ n }}', defaults: {remote: '{{ remote }}'}}]\n"
    (applied.folder / "policyctl.yaml").write_text(f"scope: ['*']\n{fleet}", "utf-8")
    commit(applied.folder)
    monkeypatch.setenv("GIT_INDEX_FILE", ".git/index")
    assert policyctl("validate").out.startswith("Nothing to check")
    inventory.unlink() if rows is None else inventory.write_text(rows, "utf-8")
    assert "Nothing to check" not in policyctl("validate").out


@pytest.mark.slow
def test_the_hook_that_init_writes_runs_when_a_file_is_only_deleted(project: Project, policyctl: Policyctl) -> None:
    """In pre-commit itself, which passes over hooks without files."""
    git(project.folder, "init", "-q")
    policyctl("init")
    project.write("beta.yaml", ANYGEM.replace("anygem", "beta"))
    project.write(
        "beta.test.yaml",
        "spec_version: v1\nkind: policy_test\npolicy: beta\ntests: [{name: it answers, expect: {served: 1}}]\n",
    )
    commit(project.folder)
    git(project.folder, "rm", "-q", "policies/beta.yaml")
    environ = {**SURROUNDINGS, "PRE_COMMIT_HOME": str(project.folder.parent / "pre-commit"), "PATH": _with_programs()}
    ran = subprocess.run(["pre-commit", "run"], cwd=project.folder, env=environ, capture_output=True, text=True, check=False)
    assert ran.returncode == 1, ran
    assert shows("there is no policy beta to test [P205]", ran.stdout)


def _with_programs() -> str:
    import sys

    return f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


def test_a_second_hook_of_ours_runs_always() -> None:
    import yaml

    hooks = yaml.safe_load((Path(__file__).parents[2] / ".pre-commit-hooks.yaml").read_text("utf-8"))
    assert {hook["id"]: hook.get("always_run", False) for hook in hooks} == {
        "policyctl-validate": False,
        "policyctl-fmt": False,
        "policyctl-validate-all": True,
    }


def test_sparse_checkouts_are_made_by_git(applied: Project) -> None:
    """The helper does what its name promises, or the tests above prove nothing."""
    sparse(applied.folder)
    assert not (applied.policies / "edge").exists()
    assert git(applied.folder, "status", "--porcelain", "--untracked-files=no") == ""
