"""What a policy directory has held: every version of its policies, by git's objects alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from policyctl.load.discovery import find_config, load_config
from policyctl.load.environment import Environment
from policyctl.load.history import History
from tests.conftest import ANYGEM, Project
from tests.git_repo import commit, git


def versions(project: Project, environment: str | None = None) -> list[tuple[str, str]]:
    """The versions, the youngest first: the commit, and the description or why there is none."""
    config = load_config(find_config(project.policies))
    found = History(project.policies, config).versions(config.environment(environment))
    return [(one.commit, "unread" if one.desired is None else str(one.desired.document.get("description"))) for one in found]


def describe(project: Project, text: str, name: str = "anygem") -> str:
    """Write a description into a file, and commit that."""
    new = ANYGEM.replace("Balances requests between 2 Gemini models", text).replace("name: anygem", f"name: {name}")
    project.write(f"{name}.yaml", new)
    return commit(project.folder)


def test_versions_come_youngest_first_and_each_once(project: Project) -> None:
    first = describe(project, "one")
    second = describe(project, "two")
    other = describe(project, "else", "other")
    describe(project, "one")
    again = git(project.folder, "rev-parse", "HEAD").strip()
    assert versions(project) == [(again, "one"), (again, "else"), (other, "two")]
    assert first != second


def test_a_merged_branch_counts_as_its_merge_and_what_it_had_in_between_comes_last(project: Project) -> None:
    """That never was on main, and was never applied from there, but it may have been from the branch."""
    describe(project, "one")
    git(project.folder, "checkout", "--quiet", "-b", "branch")
    describe(project, "between")
    describe(project, "two")
    git(project.folder, "checkout", "--quiet", "main")
    git(project.folder, "merge", "--quiet", "--no-ff", "--no-edit", "branch")
    assert [text for _, text in versions(project)] == ["two", "one", "between"]


def test_variables_and_include_are_those_of_each_commit(project: Project) -> None:
    config = "environments:\n  local: {{remote: local, vars: {{text: {text}, other: {other}}}, include: ['{include}']}}\n"
    project.write("policyctl.yaml", config.format(text="one", other=1, include="*"))
    describe(project, "'{{ text }}'")
    for text, other, include in (("two", 1, "*"), ("two", 2, "*"), ("three", 2, "x*")):
        project.write("policyctl.yaml", config.format(text=text, other=other, include=include))
        commit(project.folder)
    assert [text for _, text in versions(project)] == ["two", "one"]


def test_the_inventory_is_that_of_each_commit(project: Project) -> None:
    templates = "templates: {t: {remote: 'sqlite:///{{ n }}.db'}}\n"
    project.write("policyctl.yaml", templates + "fleet: [{from: rows.csv, name: '{{ n }}', extends: t, vars: [text]}]\n")
    for text in ("one", "two"):
        project.write("rows.csv", f"n,text\na,{text}\nb,always\n")
        describe(project, "'{{ text }}'")
    assert [text for _, text in versions(project, "a")] == ["two", "one"]
    assert [text for _, text in versions(project, "b")] == ["always"]


def test_what_cannot_be_read_is_not_passed_over(project: Project) -> None:
    """Broken text, a pointer to a large file store, a link; a configuration that was not valid is as none."""
    describe(project, "one")
    project.write("anygem.yaml", "name: [\n")
    commit(project.folder)
    project.write("anygem.yaml", "version https://git-lfs.github.com/spec/v1\noid sha256:0\n")
    project.write("policyctl.yaml", "environments: 1\n")
    commit(project.folder)
    (project.policies / "policyctl.yaml").unlink()
    (project.policies / "anygem.yaml").unlink()
    os.symlink("other.yaml", project.policies / "anygem.yaml")
    describe(project, "two", "other")
    assert [text for _, text in versions(project)] == ["unread", "two", "unread", "unread", "one"]


def test_a_directory_that_is_a_whole_repository_has_a_history_too(project: Project) -> None:
    project.write("anygem.yaml")
    commit(project.policies)
    project.write("anygem.yaml", ANYGEM.replace("0.75", "0.5"))
    commit(project.policies)
    assert len(versions(project)) == 2


def test_a_part_of_history_is_reported_as_such(project: Project) -> None:
    for text in ("one", "two", "three"):
        describe(project, text)
    found = History(project.policies, load_config(None), within=2)
    assert [one.desired and one.desired.document["description"] for one in found.versions(Environment("local"))] == [
        "three",
        "two",
    ]
    assert found.gap == "only the last 2 commits that changed the directory were looked at"
    assert History(project.policies, load_config(None)).gap is None


def test_git_is_asked_as_often_for_any_number_of_commits(
    project: Project, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One process reads the contents of all commits."""
    folder = tmp_path_factory.mktemp("bin")
    log = folder / "log"
    script = folder / "git"
    script.write_text(f'#!/bin/sh\necho "$@" >> {log}\nexec {_git()} "$@"\n', "utf-8")
    script.chmod(0o755)
    describe(project, "0")
    asked = []
    for number in (3, 12):
        for text in range(number):
            describe(project, f"{number}.{text}")
        with monkeypatch.context() as path:
            path.setenv("PATH", f"{folder}:{os.environ['PATH']}")
            assert len(versions(project)) >= number
        asked.append([line.split()[-2:] for line in log.read_text("utf-8").splitlines()])
        log.unlink()
    assert len(asked[0]) == len(asked[1])
    # The sizes, the contents, and once which configuration each commit has.
    assert sum("cat-file --batch" in " ".join(words) for words in asked[1]) == 3


def _git() -> Path:
    return next(path for folder in os.get_exec_path() if (path := Path(folder, "git")).exists())
