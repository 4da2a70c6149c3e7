"""The policies of a git revision as a remote: what it reads as live, and that nothing can be written to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from policyctl.errors import UsageError
from policyctl.load.environment import Environment
from policyctl.policy.live import UnreadableRow, observe_rows
from policyctl.remote.git import GitReader
from policyctl.remote.open import Access, open_reader, open_writer
from tests.conftest import ANYGEM, Project
from tests.git_repo import commit, git

TEMPLATED = ANYGEM.replace("0.75 ", "'{{ big }}' ")


def reader(name: str = "local", **more: Any) -> GitReader:
    return GitReader("git:main", Path("policies"), Environment(name, **more))


def names(reader: GitReader) -> list[str]:
    return sorted(observe_rows(reader.rows()).live)


def unreadable(reader: GitReader) -> list[str]:
    return [row.reason for row in observe_rows(reader.rows()).unreadable]


def test_rows_are_the_policies_of_the_revision(project: Project) -> None:
    project.write("anygem.yaml")
    project.write("team/two.yaml", "\n---\n".join(ANYGEM.replace("anygem", name) for name in ("b", "c")))
    commit(project.folder)
    (project.policies / "anygem.yaml").unlink()
    project.policy("new")
    live = reader()
    assert names(live) == ["virtual-policy/anygem", "virtual-policy/b", "virtual-policy/c"]
    assert [row["id"] for row in live.rows()] == [
        "policies/anygem.yaml#1",
        "policies/team/two.yaml#1",
        "policies/team/two.yaml#2",
    ]
    assert [row["name"] for row in live.find({"virtual-policy/c", "virtual-policy/new"})] == ["virtual-policy/c"]


@pytest.mark.parametrize(
    ("then", "weight", "problems"),
    [
        ("environments: {local: {vars: {big: 0.5}}}", 0.5, 0),
        ("environments: {other: {vars: {big: 0.5}}}", 0.9, 0),  # no such environment then
        ("environments: {local: {vars: {big: 0.5}", 0.9, 1),  # a configuration that cannot be read
    ],
)
@pytest.mark.parametrize("place", ["policies/policyctl.yaml", "policyctl.yaml"])
def test_variables_are_those_of_the_revision_where_it_has_the_environment(
    project: Project, then: str, weight: float, problems: int, place: str
) -> None:
    (project.folder / place).write_text(then)
    project.write("anygem.yaml", TEMPLATED)
    commit(project.folder)
    (project.folder / place).unlink()
    live = reader(vars={"big": 0.9})
    row = live.find({"virtual-policy/anygem"})[0]
    assert row["policy"]["targets"][0]["weight"] == weight
    assert len(unreadable(live)) == problems


def test_the_nearest_configuration_of_the_revision_counts(project: Project) -> None:
    (project.folder / "policyctl.yaml").write_text("environments: {local: {vars: {big: 0.1}}}")
    project.write("policyctl.yaml", "environments: {local: {vars: {big: 0.2}}}")
    project.write("anygem.yaml", TEMPLATED)
    commit(project.folder)
    assert reader().rows()[0]["policy"]["targets"][0]["weight"] == 0.2


def test_what_was_outside_the_scope_then_is_a_row_all_the_same(project: Project) -> None:
    project.write("policyctl.yaml", "scope: [team-*]")
    project.write("anygem.yaml")
    commit(project.folder)
    live = reader()
    assert (names(live), unreadable(live)) == (["virtual-policy/anygem"], [])


def test_without_a_configuration_then_the_built_in_environment_has_no_variables(project: Project) -> None:
    project.write("anygem.yaml")
    commit(project.folder)
    assert names(reader(include=("none*",))) == ["virtual-policy/anygem"]
    assert names(reader("prod", include=("none*",))) == []


def test_invalid_files_are_unreadable_rows_and_never_fatal(project: Project) -> None:
    project.policy("good")
    project.write("bad.yaml", ANYGEM.replace("0.75", "75").replace("attempts: 1", "attempts: -1"))
    project.write("broken.yaml", "a: [")
    project.write("latin.yaml").write_bytes(b"name: \xe9")
    project.write("big.json", " " * (8 * 1024 * 1024 + 1))
    project.write("twin-a.yaml", ANYGEM.replace("anygem", "twin"))
    project.write("twin-b.yaml", ANYGEM.replace("anygem", "twin"))
    (project.policies / "link.yaml").symlink_to("good.yaml")
    commit(project.folder)
    live = reader()
    assert names(live) == ["virtual-policy/good"]
    assert all(row.name is None for row in live.rows() if isinstance(row, UnreadableRow))
    assert observe_rows(live.rows()).twins == ()
    reasons = sorted(unreadable(live))
    assert [reason.split(": ")[0] for reason in reasons] == [
        "main:policies/bad.yaml:10:15",
        "main:policies/big.json",
        "main:policies/broken.yaml:1:4",
        "main:policies/latin.yaml:1:7",
        "main:policies/link.yaml",
        "main:policies/twin-a.yaml:3:7",
    ]
    assert reasons[0].endswith("(and 1 more in this file)")


def test_what_the_loader_of_a_directory_passes_over_is_passed_over(project: Project) -> None:
    project.policy("good")
    for file in (".hidden/a.yaml", ".b.yaml", "notes.txt", "policyctl.yml", "sub/.c/d.yaml", "x.test.yaml"):
        project.write(file, "nonsense")
    commit(project.folder)
    live = reader()
    assert (names(live), unreadable(live)) == (["virtual-policy/good"], [])


def test_a_submodule_is_named(project: Project) -> None:
    project.policy("good")
    commit(project.folder)
    git(project.folder, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},policies/sub")
    git(project.folder, "commit", "--quiet", "--message=sub")
    assert unreadable(reader()) == [
        "main:policies/sub: is a submodule, which is not followed at a git revision; copy the file instead [P008]"
    ]


def test_a_directory_that_was_not_there_reads_as_empty(project: Project) -> None:
    commit(project.folder)
    project.policy("new")
    assert reader().rows() == []


def test_it_is_opened_by_its_url_and_only_for_reading(project: Project) -> None:
    project.policy("a")
    commit(project.folder)
    with open_reader("git:main", Access(directory=project.policies)) as live:
        assert (live.identity, live.embedded, live.models()) == ("git:main", True, frozenset())
        assert len(list(live.rows())) == 1
    with pytest.raises(UsageError, match=r"^git:main is a git revision: it can be planned against but not applied to"):
        open_writer("git:main", Access(directory=project.policies))
