"""What a policy directory has held: every version of its policies, by git's objects alone."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from policyctl.load.discovery import find_config, load_config
from policyctl.load.environment import Environment
from policyctl.load.history import History, PastVersion
from tests.conftest import ANYGEM, Project
from tests.git_repo import commit, git


def past_versions(project: Project, environment: str | None = None) -> list[PastVersion]:
    config = load_config(find_config(project.policies))
    return list(History(project.policies, config).versions(config.environment(environment)))


def versions(project: Project, environment: str | None = None) -> list[tuple[str, str]]:
    """The versions, the youngest first: the commit, and the description or why there is none."""
    found = past_versions(project, environment)
    return [(one.commit, "unread" if one.desired is None else str(one.desired.document.get("description"))) for one in found]


def texts(project: Project, environment: str | None = None) -> list[str]:
    """The descriptions, the youngest first, with `?` for what is not known."""
    found = past_versions(project, environment)
    return ["?" if one.desired is None else str(one.desired.document.get("description")) for one in found]


def doubts(project: Project, environment: str | None = None) -> list[str]:
    return [one.doubt for one in past_versions(project, environment) if one.doubt]


def environments(**remotes: tuple[str, str]) -> str:
    """A configuration: by the names of environments their remotes, and the variable `text` of each."""
    each = (f"{name}: {{remote: '{remote}', vars: {{text: {text}}}}}" for name, (remote, text) in remotes.items())
    return f"scope: ['*']\nenvironments: {{{', '.join(each)}}}\n"


def configure(project: Project, text: str) -> str:
    """Commit a configuration, beside a policy whose description is the variable `text`."""
    project.write("policyctl.yaml", text)
    return describe(project, "'{{ text }}'")


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


ONE = "https://one.example.com/instances/1"


@pytest.mark.parametrize(
    "spelling",
    [
        ONE + "/",
        ONE.replace("one.", "ONE."),
        ONE.replace("/inst", ":443/inst"),
        ONE[:-1] + "%31",
    ],
)
def test_an_environment_is_that_of_its_remote_in_each_spelling(project: Project, spelling: str) -> None:
    configure(project, environments(prod=(ONE, "one")))
    configure(project, environments(production=(spelling, "two")))
    assert texts(project) == ["two", "one"]


@pytest.mark.parametrize("spelling", ["http://127.0.0.1:4300/v1", "http://localhost:4300/", "http://[::1]:4300/v1/"])
def test_a_local_server_is_one_in_each_spelling(project: Project, spelling: str) -> None:
    configure(project, environments(prod=("http://localhost:4300", "one")))
    configure(project, environments(production=(spelling, "two")))
    assert texts(project) == ["two", "one"]


def test_a_file_as_a_remote_is_one_under_each_path(project: Project) -> None:
    configure(project, environments(prod=("sqlite:///../live.db", "one")))
    configure(project, environments(production=(f"sqlite:///{project.folder}/x/%2e%2e/live.db", "two")))
    assert texts(project) == ["two", "one"]


def test_environments_that_swapped_their_names_are_those_of_their_remotes(project: Project) -> None:
    two = ONE.replace("/1", "/2")
    configure(project, environments(a=(ONE, "one"), b=(two, "else")))
    configure(project, environments(a=(two, "elsewhere"), b=(ONE, "two")))
    assert texts(project, "b") == ["two", "one"]


def test_a_remote_with_another_address_is_that_of_the_environment_with_the_same_name(project: Project) -> None:
    configure(project, environments(prod=("https://old.example.com", "one")))
    configure(project, environments(prod=("https://new.example.com", "two")))
    assert texts(project) == ["two", "one"]


def test_an_environment_that_is_gone_may_have_been_one_that_is_new(project: Project) -> None:
    """A server may have two names; then the variables of then are not known."""
    first = configure(project, environments(prod=("https://old.example.com", "one"), dev=("local", "x")))
    configure(project, environments(production=("https://new.example.com", "two"), dev=("local", "x")))
    assert versions(project, "production")[-1] == (first, "unread")
    assert doubts(project, "production") == ["it may have been environment prod of then"]
    assert doubts(project, "dev") == []


def test_the_name_of_an_environment_that_is_gone_may_be_that_of_another_one_now(project: Project) -> None:
    configure(project, environments(prod=("https://a.example.com", "one"), stage=("https://b.example.com", "else")))
    configure(project, environments(stage=("https://a2.example.com", "two")))
    assert doubts(project) == ["it may have been environment prod of then"]


@pytest.mark.parametrize("name", ["prod", "production"])
def test_of_an_environment_whose_row_cannot_be_used_today_the_variables_are_not_known(project: Project, name: str) -> None:
    """The others in its inventory can."""
    templates = "templates: {t: {remote: '{{ url }}'}}\nallow_origins: ['https://*.example.com']\n"
    fleet = templates + "fleet: [{from: rows.csv, name: '{{ n }}', extends: t, vars: [text]}]\n"
    project.write("rows.csv", f"n,url,text\nprod,ftp://x,one\nb,{ONE},else\n")
    configure(project, fleet)
    project.write("rows.csv", f"n,url,text\n{name},https://two.example.com,two\nb,{ONE},else\n")
    configure(project, fleet)
    assert len(doubts(project, name)) == 1
    assert doubts(project, "b") == []


def test_another_path_of_a_server_may_lead_to_the_same(project: Project) -> None:
    configure(project, environments(prod=("https://a.example.com/api", "one")))
    configure(project, environments(production=("https://a.example.com", "two")))
    assert doubts(project) == ["it may have been environment prod of then"]


@pytest.mark.parametrize("gone", [{}, {"old": (ONE.replace("/1", "/3"), "x")}])
def test_an_environment_did_not_exist_if_all_of_then_are_others(project: Project, gone: dict[str, tuple[str, str]]) -> None:
    """They are there now, or were another instance on the same server. Nothing was applied to it from there."""
    configure(project, environments(prod=(ONE, "one"), **gone))
    configure(project, environments(prod=(ONE, "one"), new=(ONE.replace("/1", "/2"), "two")))
    assert texts(project, "new") == ["two"]
    assert doubts(project, "new") == []


@pytest.mark.parametrize(
    "refused", ['required_version: "<0.1"\n', "a_setting_of_another_version: 1\n", "fleet: [{from: none.csv, name: x}]\n"]
)
def test_of_a_configuration_that_is_refused_today_the_variables_are_not_known(project: Project, refused: str) -> None:
    """It may have been valid for the policyctl of then. A file without templates does not depend on it."""
    describe(project, "plain", "other")
    first = configure(project, refused + environments(prod=(ONE, "one")))
    configure(project, environments(prod=(ONE, "two")))
    assert [(one.commit, one.doubt) for one in past_versions(project) if one.desired is None] == [
        (first, "policies/policyctl.yaml of then is not valid for this policyctl")
    ]
    assert "plain" in texts(project)


def test_with_a_configuration_that_nothing_can_read_nothing_was_applied(project: Project) -> None:
    configure(project, environments(prod=(ONE, "one")))
    project.write("policyctl.yaml", "environments: {\n")
    commit(project.folder)
    configure(project, environments(prod=(ONE, "two")))
    assert texts(project) == ["two", "one"]


def test_without_a_configuration_in_git_the_variables_are_not_known(project: Project) -> None:
    describe(project, "'{{ text }}'")
    describe(project, "plain", "other")
    project.write("policyctl.yaml", environments(prod=(ONE, "two")))
    assert sorted(texts(project)) == ["?", "plain", "two"]
    assert doubts(project) == ["policyctl.yaml is not in Git"]
    commit(project.folder)
    assert doubts(project) == []  # from the commits before it nothing was applied


def test_what_is_not_included_today_may_have_been_with_a_configuration_that_is_not_known(project: Project) -> None:
    describe(project, "two", "other")
    youngest = describe(project, "plain")
    project.write("policyctl.yaml", "environments: {prod: {remote: local, include: [other.yaml]}}\n")
    assert versions(project) == [(youngest, "unread"), (youngest, "two")]


def test_a_configuration_of_a_moved_directory_counts_as_any_other(project: Project) -> None:
    """Also where it is refused today, and where a policy beside it is."""
    project.write("../old/policyctl.yaml", 'required_version: "<0.1"\n' + environments(prod=(ONE, "one")))
    project.write("../old/broken.yaml", "spec_version: v1\nkind: model\nname: broken\npolicy: {unknown: 1}\n")
    project.write("../old/anygem.yaml", ANYGEM.replace("Balances requests between 2 Gemini models", "'{{ text }}'"))
    commit(project.folder)
    git(project.folder, "rm", "--quiet", "old/policyctl.yaml", "old/broken.yaml")
    git(project.folder, "mv", "old/anygem.yaml", "policies/anygem.yaml")
    configure(project, environments(prod=(ONE, "two")))
    assert doubts(project) == ["old/policyctl.yaml of then is not valid for this policyctl"]
    assert [one.content.count(b"unknown") for one in past_versions(project) if one.desired is None and not one.doubt] == [1]


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
    assert len(asked[0]) >= len(asked[1])  # what is known already is not asked again
    # The sizes, the contents, and once which configuration each commit has.
    assert sum("cat-file --batch" in " ".join(words) for words in asked[1]) == 3


def _git() -> Path:
    return next(path for folder in os.get_exec_path() if (path := Path(folder, "git")).exists())
