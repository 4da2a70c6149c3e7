"""Reading files at a git revision, from repositories that git made."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from policyctl.errors import PolicyctlError, UsageError
from policyctl.load.base_config import config_at, sources_at
from policyctl.load.environment import NO_CONFIG
from policyctl.load.git.checkout import checkout_of, default_branch
from policyctl.load.git.repository import MissingObject, find_repository
from policyctl.load.git.revision import Revision
from policyctl.load.urls import revision_error
from tests.git_repo import commit, git

HOSTILE = ("-x", "^main", "--output=pwned", "/etc/passwd", "", "a\nb", "a\0b", "\x1b[2J", "main\n--all", "x" * 1001)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with files of all kinds in `policies`, which are gone from the working tree."""
    folder = tmp_path / "policies"
    (folder / "team x").mkdir(parents=True)
    (folder / "a.yaml").write_bytes(b"a: 1\r\n")
    (folder / "empty.yaml").write_bytes(b"")
    (folder / "team x" / "é\n.yaml").write_bytes(b"\x00\xff")
    (folder / "link.yaml").symlink_to("a.yaml")
    (tmp_path / "policies-too.yaml").write_text("not below")
    commit(tmp_path)
    for path in ("a.yaml", "empty.yaml", "team x/é\n.yaml", "link.yaml"):
        (folder / path).unlink()
    return tmp_path


def test_files_below_a_directory_are_listed_with_what_they_are(repository: Path) -> None:
    revision = Revision(repository / "policies", "main")
    found = revision.files()
    sizes = revision.sizes(found)
    assert [(entry.path, entry.kind, sizes[entry.path]) for entry in found] == [
        ("policies/a.yaml", "file", 6),
        ("policies/empty.yaml", "file", 0),
        ("policies/link.yaml", "link", 6),
        ("policies/team x/é\n.yaml", "file", 2),
    ]


def test_a_directory_of_the_name_of_the_configuration_is_not_one(repository: Path) -> None:
    """Git lists what is below a directory that is asked for by name: a file there must not become the base's settings."""
    for folder in (repository, repository / "policies" / "team x"):
        (folder / "policyctl.yaml" / "a" / "b").mkdir(parents=True)
        (folder / "policyctl.yaml" / "a" / "b" / "c.yaml").write_text("default: evil\nenvironments: {evil: {remote: local}}\n")
    commit(repository)
    revision = Revision(repository / "policies" / "team x", "HEAD")
    assert revision.entries(["policyctl.yaml"]) == []
    assert [one.path for one in revision.entries(["policyctl.yaml/"])] == ["policyctl.yaml/a/b/c.yaml"]
    assert config_at(revision) == NO_CONFIG


def test_contents_come_byte_for_byte(repository: Path) -> None:
    revision = Revision(repository / "policies", "HEAD")
    contents = revision.contents(revision.files())
    assert contents["policies/a.yaml"] == b"a: 1\r\n"
    assert contents["policies/empty.yaml"] == b""
    assert contents["policies/team x/é\n.yaml"] == b"\x00\xff"
    assert revision.contents([]) == {}


@pytest.mark.parametrize("folder", ["policies", "policies/team x", "policies/gone/deeper", "."])
def test_it_works_from_every_directory_of_the_repository(repository: Path, folder: str) -> None:
    revision = Revision(repository / folder, "main")
    assert revision.folder == ("" if folder == "." else f"{folder}/")
    everything = Revision(repository, "main").files()
    assert revision.files() == [entry for entry in everything if entry.path.startswith(revision.folder)]
    assert len(everything) == 5


@pytest.mark.parametrize("name", [":(glob)x", "*", "-r", "[a]"])
def test_a_directory_name_is_never_a_pattern_or_an_option(tmp_path: Path, name: str) -> None:
    for folder in (name, "other"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.yaml").write_text("x")
    commit(tmp_path)
    assert [entry.path for entry in Revision(tmp_path / name, "HEAD").files()] == [f"{name}/a.yaml"]


def test_a_submodule_is_told_apart(repository: Path) -> None:
    git(repository, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},policies/sub")
    git(repository, "commit", "--quiet", "--message=sub")
    found = Revision(repository / "policies", "HEAD").files()
    assert [entry.path for entry in found if entry.kind == "submodule"] == ["policies/sub"]


def test_files_are_read_in_one_go_and_missing_ones_left_out(repository: Path) -> None:
    files = [repository / "policies" / name for name in ("a.yaml", "never.yaml", "team x/none.yaml")]
    found = sources_at(files, "main")
    assert {path: source.text for path, source in found.items()} == {files[0]: "a: 1\r\n"}


@pytest.mark.parametrize("revision", HOSTILE)
def test_hostile_revisions_are_refused_before_git_sees_them(repository: Path, revision: str) -> None:
    assert revision_error(revision)
    with pytest.raises(UsageError, match=r"^the git revision must .*$"):
        Revision(repository, revision)
    assert sorted(os.listdir(repository)) == [".git", "policies", "policies-too.yaml"]


@pytest.mark.parametrize("revision", ["nope", "main:policies", "main..HEAD", "HEAD~9", "0" * 40, "main --all"])
def test_what_is_not_a_commit_is_an_unknown_revision(repository: Path, revision: str) -> None:
    with pytest.raises(UsageError, match="unknown git revision"):
        Revision(repository, revision)


def test_no_repository_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(PolicyctlError, match=rf"^{tmp_path} is not in a git repository, so .*$"):
        Revision(tmp_path, "main")


def test_a_directory_inside_git_s_own_is_one_clear_line(repository: Path) -> None:
    with pytest.raises(PolicyctlError, match=r"hooks is not in a working tree"):
        Revision(repository / ".git" / "hooks", "main")


def test_no_git_is_one_clear_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PolicyctlError, match=r"^git is not installed"):
        Revision(tmp_path, "main")


def test_a_missing_object_is_one_clear_line(repository: Path) -> None:
    revision = Revision(repository / "policies", "main")
    gone = revision.files()[0]._replace(id="1" * 40)
    with pytest.raises(PolicyctlError, match=r"^git has no object 1111"):
        revision.contents([gone])


def test_a_missing_commit_is_named_and_no_hint_about_our_way_to_ask(repository: Path) -> None:
    commit(repository)
    first = git(repository, "rev-parse", "HEAD^").strip()
    (repository / ".git" / "objects" / first[:2] / first[2:]).unlink()
    found = find_repository(repository)
    assert found is not None
    with pytest.raises(PolicyctlError, match=first):
        found.output("rev-list", "HEAD")


def test_the_variables_of_a_hook_do_not_lead_to_another_repository(
    repository: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other")
    commit(other)
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    assert len(Revision(repository / "policies", "main").files()) == 4


def test_the_default_branch_is_the_origin_s_else_the_checked_out_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream, clone = tmp_path / "upstream", tmp_path / "clone"
    upstream.mkdir()
    assert default_branch(upstream / "policies") is None  # in no repository
    git(upstream, "init", "--quiet", "--initial-branch=trunk")
    assert default_branch(upstream / "policies") == "trunk"  # without a commit yet
    commit(upstream)
    git(tmp_path, "clone", "-q", str(upstream), str(clone))
    git(clone, "switch", "-qc", "fast")
    assert default_branch(clone) == "trunk"
    git(clone, "worktree", "add", "--quiet", "-b", "beside", str(tmp_path / "beside"))
    assert default_branch(tmp_path / "beside") == "trunk"
    git(clone, "remote", "set-head", "origin", "--delete")
    assert default_branch(clone) == "fast"
    assert default_branch(tmp_path / "beside") == "beside"
    git(upstream, "switch", "-qc", "it's")
    assert default_branch(upstream) is None


def test_git_is_not_asked_for_what_its_files_plainly_show(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setenv("PATH", str(repository))  # no git
        assert default_branch(repository) == "main"
        with pytest.raises(UsageError, match="unknown git revision"):
            Revision(repository, "refs/remotes/origin/HEAD")
        (repository / ".git" / "reftable").mkdir()  # has the references, if there is one
        assert default_branch(repository) is None
        with pytest.raises(PolicyctlError, match="git is not installed"):
            Revision(repository, "refs/remotes/origin/HEAD")
    assert default_branch(repository) == "main"
    with pytest.raises(UsageError, match="unknown git revision"):
        Revision(repository, "refs/remotes/origin/HEAD")


def test_a_reference_is_found_however_it_is_stored(repository: Path) -> None:
    commit(repository)
    git(repository, "worktree", "add", "--quiet", "-b", "beside", "tree")
    for move in (
        ("update-ref", "refs/topic", "HEAD"),
        ("pack-refs", "--all", "--prune"),
        ("update-ref", "-d", "refs/heads/beside"),
    ):
        git(repository, *move)
        for name in ("refs/topic", "refs/heads/main", "refs/heads/beside", "refs/heads/mai"):
            ids = git(repository, "for-each-ref", "--format=%(objectname)", name).split()
            for folder in (repository, repository / "tree"):
                if ids:
                    assert Revision(folder, name).commit == ids[0]
                else:
                    with pytest.raises(UsageError, match="unknown git revision"):
                        Revision(folder, name)


def test_that_an_object_is_missing_is_not_remembered(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    found = find_repository(repository)
    assert found is not None
    other = tmp_path_factory.mktemp("other") / "text"
    other.write_bytes(b"fetched later")
    identifier = git(repository, "hash-object", str(other)).strip()
    assert found.sizes([identifier]) == [None]
    with pytest.raises(MissingObject):
        found.contents([identifier])
    git(repository, "hash-object", "-w", str(other))
    assert found.sizes([identifier]) == [13]
    assert found.contents([identifier]) == [b"fetched later"]


def test_git_is_asked_once_for_what_an_object_holds(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    identifier = Revision(repository / "policies", "main").commit
    revision = Revision(repository / "policies", identifier)
    programs, log = tmp_path / "programs", tmp_path / "asked"
    programs.mkdir()
    (programs / "git").write_text(f'#!/bin/sh\necho asked >> {log}\nPATH={os.environ["PATH"]} exec git "$@"\n', "utf-8")
    (programs / "git").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    first = [revision.contents(revision.files()), log.read_text("utf-8").count("asked")]
    again = Revision(repository / "policies", identifier)
    assert [again.contents(again.files()), log.read_text("utf-8").count("asked")] == first


# What is done to a repository one after the other; each time HEAD is another commit, or is stored in another way.
MOVES: tuple[tuple[str, ...], ...] = (
    ("commit", "--quiet", "--allow-empty", "--message=x"),
    ("pack-refs", "--all"),
    ("checkout", "--quiet", "--detach", "HEAD~1"),
    ("checkout", "--quiet", "-b", "topic/a"),
    ("commit", "--quiet", "--allow-empty", "--message=x"),
    ("symbolic-ref", "refs/heads/also", "refs/heads/main"),
    ("symbolic-ref", "HEAD", "refs/heads/also"),
)


def test_the_checked_out_commit_is_the_one_that_git_names(repository: Path) -> None:
    """However it is stored, in the repository and in another working tree of it."""
    commit(repository)
    git(repository, "worktree", "add", "--quiet", "-b", "beside", "tree")
    for move in MOVES:
        git(repository, *move)
        assert Revision(repository, "HEAD").commit == git(repository, "rev-parse", "HEAD").strip()
        git(repository / "tree", "commit", "--quiet", "--allow-empty", "--message=y")
        assert Revision(repository / "tree", "HEAD").commit == git(repository / "tree", "rev-parse", "HEAD").strip()
    git(repository, "checkout", "--quiet", "--orphan", "new")
    with pytest.raises(UsageError, match="unknown git revision 'HEAD'"):
        Revision(repository, "HEAD")


def test_the_working_trees_of_a_shallow_clone_are_shallow_too(repository: Path) -> None:
    commit(repository)
    clone, beside = repository / "clone", repository / "beside"
    git(repository, "clone", "--quiet", "--depth=1", f"file://{repository}", str(clone))
    git(clone, "worktree", "add", "--quiet", "-b", "beside", str(beside))
    for folder, is_shallow in ((repository, False), (clone, True), (beside, True)):
        found = find_repository(folder)
        assert found is not None
        assert found.is_shallow == is_shallow


def test_what_git_adds_and_removes_is_seen_at_once(repository: Path) -> None:
    git(repository, "checkout", "--quiet", "--", ".")
    for number in range(20):
        name = repository / "policies" / f"{number}.yaml"
        name.write_text("a: 1")
        git(repository, "add", "policies")
        found = checkout_of(repository / "policies")
        assert found is not None
        assert str(name) in found.tracked
        git(repository, "rm", "--quiet", "--force", str(name))
        found = checkout_of(repository / "policies")
        assert found is not None
        assert str(name) not in found.tracked
