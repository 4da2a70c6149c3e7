"""What the name of a revision means, and what is said of clones that lack a part of the history or of the files."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from policyctl.errors import PolicyctlError, UsageError
from policyctl.load.base_config import base_commits
from policyctl.load.git.checkout import head
from policyctl.load.git.revision import Revision
from tests.conftest import Policyctl, Project
from tests.git_repo import SURROUNDINGS, commit, git


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, str, str]:
    """A repository with two commits, `main` being the second one."""
    (tmp_path / "a.yaml").write_text("1")
    first = commit(tmp_path)
    (tmp_path / "a.yaml").write_text("2")
    return tmp_path, first, commit(tmp_path)


# References that are made, the revision that is asked for, and the two things that it could mean.
TWO_MEANINGS = {
    "a branch and a tag": (["refs/tags/main"], "main", "a tag (refs/tags/main), a branch (refs/heads/main)"),
    "an ancestor of such a name": (["refs/tags/main"], "main~0", "a tag (refs/tags/main), a branch (refs/heads/main)"),
    "a remote branch and a tag": (
        ["refs/tags/origin/main", "refs/remotes/origin/main"],
        "origin/main",
        "a tag (refs/tags/origin/main), a remote branch (refs/remotes/origin/main)",
    ),
    "a remote branch and a branch": (
        ["refs/heads/origin/x", "refs/remotes/origin/x"],
        "origin/x^0",
        "a branch (refs/heads/origin/x), a remote branch (refs/remotes/origin/x)",
    ),
    "a remote and a tag": (
        ["refs/tags/origin", "refs/remotes/origin/HEAD"],
        "origin",
        "a tag (refs/tags/origin), the default branch of a remote (refs/remotes/origin/HEAD)",
    ),
}


@pytest.mark.parametrize("case", TWO_MEANINGS)
def test_a_name_with_two_meanings_is_refused(case: str, two: tuple[Path, str, str]) -> None:
    top, first, _ = two
    references, revision, meanings = TWO_MEANINGS[case]
    for reference in references:
        git(top, "update-ref", reference, first)
    with pytest.raises(UsageError) as caught:
        Revision(top, revision)
    assert f"has more than one meaning here: {meanings}; write the intended one in full" in str(caught.value)


def test_an_abbreviated_id_that_is_a_tag_too_is_refused(two: tuple[Path, str, str]) -> None:
    top, first, second = two
    assert Revision(top, first[:7]).commit == first
    git(top, "tag", first[:7], second)
    with pytest.raises(UsageError, match=rf"a tag \(refs/tags/{first[:7]}\), a commit \({first}\)"):
        Revision(top, first[:7])


@pytest.mark.parametrize("tag", ["HEAD", "refs/heads/main", "heads/main", "{id}", "refs/remotes/origin/main"])
def test_no_tag_is_taken_for_what_has_one_meaning(tag: str, two: tuple[Path, str, str]) -> None:
    """Whoever may push tags may call one anything."""
    top, first, second = two
    tag = tag.format(id=second)
    git(top, "update-ref", f"refs/tags/{tag}", first)
    if "origin" in tag:  # there is no such branch
        with pytest.raises(UsageError, match="unknown git revision"):
            Revision(top, tag)
    else:
        assert Revision(top, tag).commit == second


def test_a_tag_does_not_stand_in_for_a_remote_branch_that_was_not_fetched(two: tuple[Path, str, str]) -> None:
    top, first, _ = two
    git(top, "tag", "origin/main", first)
    with pytest.raises(UsageError, match="origin/main is a tag here, and origin has no branch of that name; fetch the branch"):
        Revision(top, "origin/main")
    assert Revision(top, "refs/tags/origin/main").commit == first
    git(top, "tag", "team/v1", first)
    assert Revision(top, "team/v1").commit == first


def test_a_tag_that_is_called_as_a_branch_of_the_remote_is_refused(two: tuple[Path, str, str]) -> None:
    """As in a checkout of a pull request, which has no branches of its own."""
    top, first, second = two
    git(top, "update-ref", "refs/remotes/origin/release/x", second)
    git(top, "tag", "release/x", first)
    with pytest.raises(UsageError, match=r"write refs/tags/release/x or refs/remotes/origin/release/x"):
        Revision(top, "release/x")


def cloned(top: Path, to: Path, *options: str) -> Path:
    git(top, "config", "uploadpack.allowFilter", "true")
    git(top, "clone", "-q", "--no-local", *options, f"file://{top}", str(to))
    return to


def test_a_shallow_clone_is_named_with_the_remedy(two: tuple[Path, str, str], tmp_path_factory: pytest.TempPathFactory) -> None:
    top, first, second = two
    clone = cloned(top, tmp_path_factory.mktemp("clones") / "shallow", "--depth=1")
    for revision in ("HEAD^1", first, "HEAD~5"):
        with pytest.raises(UsageError, match=r"this clone is shallow; fetch the whole history \(actions/checkout: fetch-depth"):
            Revision(clone, revision)
    assert Revision(clone, "HEAD").commit == second


def test_a_partial_clone_is_named_with_the_remedy_and_fetches_nothing(
    two: tuple[Path, str, str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    top, _, _ = two
    clone = cloned(top, tmp_path_factory.mktemp("clones") / "partial", "--filter=blob:none")
    sprung = clone.parent / "sprung"
    git(clone, "config", "remote.origin.uploadpack", f"touch {sprung}; false")
    then = Revision(clone, "HEAD^1")
    assert [entry.path for entry in then.files()] == ["a.yaml"]
    for ask in (lambda: then.contents(then.files()), lambda: Revision(clone, "2" * 40)):
        with pytest.raises(PolicyctlError, match=r"git fetch --refetch --no-filter|unknown git revision"):
            ask()
    assert not sprung.exists()
    git(clone, "config", "--unset", "remote.origin.uploadpack")
    fetch = ["git", "-C", str(clone), "fetch", "--quiet", "--refetch", "--no-filter"]
    subprocess.run(fetch, env={**SURROUNDINGS, "GIT_ALLOW_PROTOCOL": "file"}, capture_output=True, check=True)
    assert list(then.contents(then.files()).values()) == [b"1"]


def test_a_plan_against_a_revision_in_a_partial_clone_is_one_clear_line(
    project: Project, policyctl: Policyctl, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.policy("a")
    commit(project.folder)
    project.policy("a", "virtual-model/x/other")
    commit(project.folder)
    monkeypatch.chdir(cloned(project.folder, tmp_path_factory.mktemp("clones") / "partial", "--filter=blob:none"))
    for args in (["plan", "--remote", "git:HEAD^1"], ["effect", "--against", "git:HEAD^1"]):
        ran = policyctl(*args)
        assert (ran.code, ran.out, len(ran.err.splitlines())) == (1, "", 1)
        assert "is a partial clone, which lacks an object that is needed; fetch everything with git fetch" in ran.err


def test_a_linked_worktree_is_a_repository_with_a_head_of_its_own(two: tuple[Path, str, str]) -> None:
    top, first, second = two
    git(top, "worktree", "add", "-q", "linked", first)
    assert Revision(top / "linked", "HEAD").commit == first
    assert base_commits(top / "linked", "main") == (second, first)
    found = head(top / "linked")
    assert found is not None
    assert (found.commit, found.dirty) == (first, False)
    assert Revision(top, "HEAD").commit == second


def test_dirt_is_what_differs_and_not_what_was_touched(two: tuple[Path, str, str]) -> None:
    top, _, second = two
    changes = {
        "nothing": (lambda: None, False),
        "a file that was written again as it was": (lambda: (top / "a.yaml").write_text("2"), False),
        "a change": (lambda: (top / "a.yaml").write_text("3"), True),
        "a deletion": (lambda: (top / "a.yaml").unlink(), True),
        "a new file": (lambda: (top / "new").write_text("x"), True),
        "a mode": (lambda: (top / "a.yaml").chmod(0o755), True),
        "a link": (lambda: ((top / "a.yaml").unlink(), (top / "a.yaml").symlink_to("b")), True),
        "what is staged": (lambda: ((top / "a.yaml").write_text("3"), git(top, "add", ".")), True),
    }
    for case, (change, dirty) in changes.items():
        change()
        found = head(top)
        assert found is not None
        assert (found.commit, found.dirty) == (second, dirty), case
        git(top, "reset", "-q", "--hard")
        git(top, "clean", "-q", "-fd")


def test_a_directory_is_dirty_too_when_the_link_that_leads_to_it_is_not_committed(two: tuple[Path, str, str]) -> None:
    top, _, _ = two
    (top / "policies").mkdir()
    (top / "policies" / "a.yaml").write_text("a")
    commit(top)
    (top / "way").symlink_to("policies")
    for dirty in (True, False):
        found = head(top / "way")
        assert found is not None
        assert found.dirty is dirty
        commit(top)
