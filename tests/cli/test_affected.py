"""--affected: what it leaves out is as it was at the revision, whatever a branch changes and however."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.conftest import ANYGEM, Policyctl, Project
from tests.git_repo import commit, git

CONFIG = """
environments:
  a: {remote: "sqlite:///a.db", vars: {lite: 0.1}, include: ["shared/*", "a/*"]}
  b: {remote: "sqlite:///b.db", vars: {lite: 0.2}, include: ["shared/*", "b/*"]}
  tls:
    remote: https://x.example/instances/i
    auth: {type: bearer, token: "file:token"}
    ca_file: ca.pem
    vars: {lite: 0.3}
    include: ["shared/*"]
"""
POLICY = ANYGEM.replace("name: anygem", "name: NAME")
MODEL = "spec_version: v1\nkind: model\nname: openai/gpt-4o\nmodel_type: chat\n"
TESTS = """
kind: policy_test
spec_version: v1
policy: shared
tests:
  - {name: pro is down, given: {gemini-2.0-flash: 503}, expect: {served: 1}}
"""
AGENT = "spec_version: v1\nkind: native\nname: bot\nllm: virtual-policy/shared\n"
EVERY = ["a", "b", "tls"]


@pytest.fixture
def repository(project: Project) -> Project:
    project.write("policyctl.yaml", CONFIG)
    project.write("ca.pem", "one")
    project.write("token", "one")
    project.write("shared/shared.yaml", POLICY.replace("NAME", "shared"))
    project.write("shared/shared.test.yaml", TESTS)
    project.write("shared/gpt.yaml", MODEL)
    project.write("shared/bot.yaml", AGENT)
    for name in ("a", "b"):
        project.write(f"{name}/own.yaml", POLICY.replace("NAME", "own"))
    commit(project.folder)
    return project


def affected(policyctl: Policyctl, revision: str = "HEAD") -> list[str]:
    ran = policyctl("env", "list", "--format", "json", "--affected", revision)
    assert ran.code == 0, ran.err
    return [one["name"] for one in json.loads(ran.out)["environments"]]


def replacing(name: str, old: str, new: str) -> Callable[[Project], object]:
    def change(project: Project) -> object:
        text = (project.policies / name).read_text()
        assert old in text
        return project.write(name, text.replace(old, new))

    return change


def moved(name: str, to: str) -> Callable[[Project], object]:
    return lambda project: (project.policies / name).rename(project.policies / to)


def linked(name: str) -> Callable[[Project], object]:
    """The file becomes a link to another one with the same content."""

    def change(project: Project) -> object:
        path = project.policies / name
        path.rename(path.with_suffix(".txt"))
        return path.symlink_to(path.with_suffix(".txt").name)

    return change


CHANGES: dict[str, tuple[Callable[[Project], object], list[str]]] = {
    "nothing": (lambda _: None, []),
    "a policy of one": (replacing("a/own.yaml", "weight: 0.25", "weight: 0.3"), ["a"]),
    "a policy of all": (replacing("shared/shared.yaml", "weight: 0.25", "weight: 0.3"), EVERY),
    "a comment": (lambda project: project.write("a/own.yaml", "# why\n" + POLICY.replace("NAME", "own")), []),
    "the name of a file": (moved("a/own.yaml", "a/other.yaml"), []),
    "a file into what another one reads": (moved("a/own.yaml", "b/other.yaml"), ["a", "b"]),
    "a file that git does not have": (lambda project: project.write("b/new.yaml", POLICY.replace("NAME", "new")), ["b"]),
    "a file that is gone": (lambda project: (project.policies / "b" / "own.yaml").unlink(), ["b"]),
    "a file that becomes a link to the same": (linked("b/own.yaml"), []),
    "an error": (replacing("a/own.yaml", "name: own", "nam: own"), ["a"]),
    "the type of a declared model": (replacing("shared/gpt.yaml", "chat", "embedding"), EVERY),
    "the name of a declared model": (replacing("shared/gpt.yaml", "gpt-4o", "gpt-5"), EVERY),
    "scenario tests": (replacing("shared/shared.test.yaml", "served: 1", "served: 0.9"), EVERY),
    "scenario tests of one": (lambda project: project.write("a/own.test.yaml", TESTS.replace("shared", "own")), ["a"]),
    "what an agent uses": (replacing("shared/bot.yaml", "virtual-policy/shared", "virtual-policy/own"), EVERY),
    "a variable": (replacing("policyctl.yaml", "lite: 0.2", "lite: 0.25"), ["b"]),
    "a remote": (replacing("policyctl.yaml", "a.db", "c.db"), ["a"]),
    "who is trusted": (lambda project: project.write("ca.pem", "two"), ["tls"]),
    "a committed login": (lambda project: project.write("token", "two"), ["tls"]),
    "lint rules": (lambda project: project.write("policyctl.yaml", "lint: {ignore: [P431]}" + CONFIG), EVERY),
    "how effects are worked out": (lambda project: project.write("policyctl.yaml", "effect: {partial: 0.5}" + CONFIG), EVERY),
    "a setting of all": (lambda project: project.write("policyctl.yaml", "limits: {max_removes: 1}" + CONFIG), EVERY),
    "where policyctl.yaml is": (moved("policyctl.yaml", "../policyctl.yaml"), EVERY),
    "an environment that is gone": (
        replacing("policyctl.yaml", '  b: {remote: "sqlite:///b.db"', '  c: {remote: "sqlite:///c.db"'),
        ["c"],
    ),
}


@pytest.mark.parametrize("case", CHANGES)
@pytest.mark.alike
def test_an_environment_is_left_out_only_where_nothing_of_it_changes(
    case: str, repository: Project, policyctl: Policyctl
) -> None:
    change, names = CHANGES[case]
    change(repository)
    assert affected(policyctl) == names
    git(repository.folder, "checkout", "--quiet", "-b", "topic")
    commit(repository.folder)
    assert affected(policyctl, "main") == names, "committed or not"


def test_what_was_broken_before_is_affected_as_long_as_it_is(repository: Project, policyctl: Policyctl) -> None:
    """That it fails alike proves nothing: a file with an error may have changed in all else."""
    replacing("a/own.yaml", "name: own", "nam: own")(repository)
    commit(repository.folder)
    replacing("a/own.yaml", "weight: 0.25", "weight: 0.3")(repository)
    assert affected(policyctl) == ["a"]


def test_a_revision_that_is_no_ancestor_is_compared_with_itself(repository: Project, policyctl: Policyctl) -> None:
    git(repository.folder, "checkout", "--quiet", "-b", "topic")
    replacing("a/own.yaml", "weight: 0.25", "weight: 0.3")(repository)
    commit(repository.folder)
    git(repository.folder, "checkout", "--quiet", "main")
    replacing("b/own.yaml", "weight: 0.25", "weight: 0.3")(repository)
    commit(repository.folder)
    git(repository.folder, "checkout", "--quiet", "topic")
    assert affected(policyctl, "main") == ["a", "b"]


def test_a_shallow_clone_without_the_revision_proves_nothing(
    repository: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    replacing("a/own.yaml", "weight: 0.25", "weight: 0.3")(repository)
    commit(repository.folder)
    clone = repository.folder / "clone"
    git(repository.folder, "clone", "--quiet", "--depth=1", f"file://{repository.folder}", str(clone))
    monkeypatch.chdir(clone)
    ran = policyctl("env", "list", "--affected", "HEAD^1")
    assert (ran.code, ran.out) == (64, "")
    assert "shallow" in ran.err


def test_tests_that_a_branch_changes_are_run(repository: Project, policyctl: Policyctl) -> None:
    replacing("shared/shared.test.yaml", "served: 1", "served: 0.123")(repository)
    assert policyctl("test", "--affected", "HEAD").code == 1


def test_a_branch_that_affects_no_environment_still_shows_its_settings(repository: Project, policyctl: Policyctl) -> None:
    replacing("policyctl.yaml", CONFIG, CONFIG + "waves: [{max_failures: 9}]\n")(repository)
    commit(repository.folder)
    shown = policyctl("plan", "--affected", "HEAD^1", "--base", "HEAD^1")
    assert shown.code == 0, shown.err
    assert "waves: absent → [{max_failures: 9}]" in shown.out
    assert shown.out.endswith("no environment is affected, so there is nothing to do\n")
