"""policyctl drift: who moved, by Git history and by the audit record; and what was edited by hand is not removed unnoticed."""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from policyctl.plan.drift import MOVED
from policyctl.report import schema_text
from tests.conftest import ANYGEM, Policyctl, Project
from tests.examples import crossed
from tests.git_repo import checked_out, commit, git
from tests.server.serving import loopback, serving_here
from tests.sqlite_rows import LOCAL, drop, edit, live_documents, put, row

AUDIT = Path("audit.jsonl")
ONE, TWO = "virtual-model/a/one", "virtual-model/b/two"


@pytest.fixture
def applied(project: Project, policyctl: Policyctl) -> Project:
    """chat, committed in two versions, of which the second is applied."""
    describe(project, "first")
    commit(project.folder, "policies")
    describe(project, "second")
    commit(project.folder, "policies")
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0
    return project


def describe(project: Project, text: str, name: str = "chat", **more: str) -> None:
    project.policy(name, ONE, TWO, retry=f"{{attempts: {more.pop('attempts', '1')}}}", **more)
    path = project.policies / f"{name}.yaml"
    path.write_text(f"{path.read_text('utf-8')}description: {text}\n", "utf-8")


def retries(attempts: int) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        document["policy"]["retry"] = {"attempts": attempts}

    return change


def describing(text: str) -> Callable[[dict[str, Any]], None]:
    return lambda document: document.update(description=text)


def data_of(policyctl: Policyctl, *args: str | Path) -> dict[str, Any]:
    """The drift of the first environment as JSON, which is as its schema describes."""
    found = json.loads(policyctl("drift", "--format", "json", *args).out)
    Draft202012Validator(json.loads(schema_text("drift"))).validate(found)
    environment: dict[str, Any] = found["environments"][0]
    return environment


def moved(policyctl: Policyctl, *args: str | Path) -> dict[str, tuple[str, str]]:
    """For each policy who moved, and what that rests on."""
    return {
        one["name"].removeprefix("virtual-policy/"): (one["moved"], one["basis"]) for one in data_of(policyctl, *args)["drifts"]
    }


def git_edits(project: Project) -> None:
    describe(project, "third")
    commit(project.folder, "policies")


def git_removes(project: Project) -> None:
    describe(project, "other", "other")
    (project.policies / "chat.yaml").unlink()
    commit(project.folder, "policies")


def remote_edits(_: Project) -> None:
    edit("chat", retries(5))


def remote_goes_back(_: Project) -> None:
    edit("chat", describing("first"))


def remote_removes(_: Project) -> None:
    drop("chat")


def both_edit(project: Project) -> None:
    git_edits(project)
    remote_edits(project)


def both_edit_one_field(project: Project) -> None:
    git_edits(project)
    edit("chat", describing("by hand"))


def edited_and_gone(project: Project) -> None:
    git_removes(project)
    remote_edits(project)


def nothing(_: Project) -> None:
    pass


# What happened → who moved by history, and who moved by the audit record.
CASES: dict[str, tuple[Callable[[Project], None], str | None, str | None]] = {
    "nothing": (nothing, None, None),
    "Git edited": (git_edits, "git", "git"),
    "Git removed": (git_removes, "git", "git"),
    "the remote was edited": (remote_edits, "remote", "remote"),
    "an old version was put back by hand, which history takes for not applied": (remote_goes_back, "git", "remote"),
    "removed by hand, which history takes for not applied": (remote_removes, "git", "remote"),
    "both edited": (both_edit, "both", "both"),
    "both edited one field, where history cannot see that Git moved first": (both_edit_one_field, "remote", "both"),
    "edited by hand, and gone from the files": (edited_and_gone, "both", "both"),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.alike
def test_who_moved(case: str, applied: Project, policyctl: Policyctl) -> None:
    happens, by_history, by_audit = CASES[case]
    happens(applied)
    expected = {} if by_history is None else {"chat": (by_history, "history")}
    assert {name: who for name, who in moved(policyctl).items() if name == "chat"} == expected
    expected = {} if by_audit is None else {"chat": (by_audit, "audit")}
    assert {name: who for name, who in moved(policyctl, "--audit", AUDIT).items() if name == "chat"} == expected


BY_POLICYCTL: dict[str, tuple[str, ...]] = {
    "a single command": ("policy", "import", "--file", "emergency.yaml"),
    "an earlier revision": ("apply", "--to", "HEAD~1"),
}


@pytest.mark.parametrize("edited", BY_POLICYCTL)
def test_what_a_person_edits_with_policyctl_is_not_taken_for_what_was_applied_from_files(
    edited: str, applied: Project, policyctl: Policyctl
) -> None:
    """In an emergency, with the audit record that every apply adds to."""
    (applied.folder / "emergency.yaml").write_text(
        (applied.policies / "chat.yaml").read_text("utf-8").replace("second", "emergency"), "utf-8"
    )
    assert policyctl(*BY_POLICYCTL[edited], "--yes", "--audit", AUDIT).code == 0
    (one,) = data_of(policyctl, "--audit", AUDIT)["drifts"]
    assert (one["moved"], one["basis"]) == ("remote", "audit")
    assert f"edited on the remote with policyctl {' '.join(BY_POLICYCTL[edited][:2])}".removesuffix(" --to") in one["why"]
    edit("chat", retries(5))
    assert moved(policyctl, "--audit", AUDIT) == {"chat": ("remote", "audit")}


def test_what_was_edited_with_policyctl_is_removed_only_if_it_is_named(applied: Project, policyctl: Policyctl) -> None:
    text = (applied.policies / "chat.yaml").read_text("utf-8").replace("second", "emergency")
    (applied.folder / "emergency.yaml").write_text(text, "utf-8")
    assert policyctl("policy", "import", "--file", "emergency.yaml", "--yes", "--audit", AUDIT).code == 0
    git_removes(applied)
    ran = policyctl("apply", "--yes", "--audit", AUDIT)
    assert (ran.code, "virtual-policy/chat would be removed, but it was edited since" in ran.out) == (3, True)
    assert policyctl("apply", "--yes", "--audit", AUDIT, "--allow-remove", "chat").code == 0


def test_an_edit_with_policyctl_that_the_files_took_over_is_one_of_git(applied: Project, policyctl: Policyctl) -> None:
    """Nothing was applied since, because nothing had to be."""
    text = (applied.policies / "chat.yaml").read_text("utf-8").replace("second", "emergency")
    (applied.policies / "chat.yaml").write_text(text, "utf-8")
    assert policyctl("policy", "import", "--file", applied.policies / "chat.yaml", "--yes", "--audit", AUDIT).code == 0
    commit(applied.folder, "policies")
    assert moved(policyctl, "--audit", AUDIT) == {}
    git_edits(applied)
    assert moved(policyctl, "--audit", AUDIT) == {"chat": ("git", "history")}


def test_a_watch_does_not_overwrite_what_a_person_edited_with_policyctl(applied: Project, policyctl: Policyctl) -> None:
    applied.write("policyctl.yaml", "watch: {apply: on-merge}\n")
    commit(applied.folder, "policies")
    assert policyctl("watch", "--once", "--audit", AUDIT).out == "", "it is in sync"
    assert policyctl("apply", "--to", "HEAD~2", "--yes", "--audit", AUDIT).code == 0
    describe(applied, "unrelated", "other")
    commit(applied.folder, "policies")
    ran = policyctl("watch", "--once", "--audit", AUDIT)
    assert "the remote moved: virtual-policy/chat" in ran.out
    assert live_documents()["virtual-policy/chat"]["description"] == "first"


def test_drift_writes_nothing_and_its_exit_code_shows_a_difference_only_if_asked(
    applied: Project, policyctl: Policyctl
) -> None:
    assert policyctl("drift", "--detailed-exitcode").code == 0
    both_edit(applied)
    before = live_documents()
    assert policyctl("drift").code == 0
    assert policyctl("drift", "--detailed-exitcode").code == 2
    assert live_documents() == before


BOTH = """\
environment local, remote local

~ virtual-policy/chat  policies/chat.yaml
    both moved: edited on the remote since policyctl wrote it, and changed in the files since (written WRITTEN)
    description: was second, files third, live second  (Git moved)
    policy.retry.attempts: was 1, files 1, live 5  (the remote moved)

1 answer from the audit record (audit.jsonl)

Drift: 1 moved on both sides, 0 in sync.
"""


def test_fields_that_each_side_moved_are_distinguished(applied: Project, policyctl: Policyctl) -> None:
    both_edit(applied)
    shown = policyctl("drift", "--audit", AUDIT).out
    written = shown.partition("(written ")[2].partition(")")[0]
    assert shown == BOTH.replace("WRITTEN", written)
    (one,) = data_of(policyctl, "--audit", AUDIT)["drifts"]
    assert one["conflicts"] == []
    edit("chat", describing("by hand"))
    (one,) = data_of(policyctl, "--audit", AUDIT)["drifts"]
    assert one["conflicts"] == ["description"]
    assert {field["path"]: field["moved"] for field in one["fields"]} == {
        "description": "both",
        "policy.retry.attempts": "remote",
    }


def test_history_finds_what_differs_least_and_so_which_field_was_edited(applied: Project, policyctl: Policyctl) -> None:
    both_edit(applied)
    (one,) = data_of(policyctl)["drifts"]
    assert {field["path"]: field["moved"] for field in one["fields"]} == {
        "description": "git",
        "policy.retry.attempts": "remote",
    }


def test_where_an_older_version_is_as_near_it_is_left_open_what_was_edited(applied: Project, policyctl: Policyctl) -> None:
    """The one field that both versions have otherwise was edited: it is not known which of them was applied."""
    edit("chat", describing("by hand"))
    (one,) = data_of(policyctl)["drifts"]
    assert (one["moved"], one["fields"]) == (
        "remote",
        [{"path": "description", "files": "second", "live": "by hand", "moved": "remote"}],
    )
    assert one["why"].endswith("an older version is as near to it as the files, so these may have changed too")
    edit("chat", describing("second"))
    edit("chat", retries(5))
    (one,) = data_of(policyctl)["drifts"]
    assert (one["why"].endswith("applied uncommitted"), one["fields"][0]["was"]) == (True, 1)


def test_what_rests_on_the_nearest_version_is_called_probable(applied: Project, policyctl: Policyctl) -> None:
    both_edit(applied)
    (one,) = data_of(policyctl)["drifts"]
    assert one["why"].endswith("so the files probably changed since")


def test_each_commit_is_rendered_with_its_own_configuration(project: Project, policyctl: Policyctl) -> None:
    """A variable that changed is a change in Git, and an inventory's cell too."""
    project.write("anygem.yaml", ANYGEM.replace("0.75", '"{{ share }}"'))
    config = "environments: {{local: {{remote: local, vars: {{share: {share}, other: {other}}}}}}}\n"
    project.write("policyctl.yaml", config.format(share=0.75, other=1))
    commit(project.folder, "policies")
    assert policyctl("apply", "--yes").code == 0
    project.write("policyctl.yaml", config.format(share=0.6, other=2))
    head = commit(project.folder, "policies")
    (one,) = data_of(policyctl)["drifts"]
    assert (one["moved"], one["commit"] == head) == ("git", False)
    edit("anygem", lambda document: document["policy"]["targets"][0].update(weight=0.9))
    assert moved(policyctl) == {"anygem": ("remote", "history")}


VARIABLES = """\
{version}scope: ["*"]
watch: {{heal: always, apply: never}}
environments: {{{name}: {{remote: "{remote}", vars: {{share: {share}}}}}}}
"""
LIVE_DB, SPELLED_ANEW = "sqlite:///../live.db", "sqlite:///../policies/../live.db"


@pytest.mark.parametrize(
    ("version", "name", "remote", "answer", "state"),
    [
        ("", "production", SPELLED_ANEW, "git", "pending"),
        ('required_version: "<0.1"\n', "prod", LIVE_DB, "unknown", "conflict"),
        ("a_setting_of_another_version: 1\n", "production", SPELLED_ANEW, "unknown", "conflict"),
    ],
)
def test_a_variable_that_changed_with_much_else_is_no_edit(
    version: str, name: str, remote: str, answer: str, state: str, project: Project, policyctl: Policyctl
) -> None:
    """The environment and its remote are written in another way now, or today's policyctl refuses the configuration of then.
    Nothing is put back for that."""
    project.write("anygem.yaml", ANYGEM.replace("0.75", '"{{ share }}"'))
    project.write("policyctl.yaml", VARIABLES.format(version="", name="prod", remote=LIVE_DB, share=0.75))
    assert policyctl("apply", "--yes").code == 0
    project.write("policyctl.yaml", VARIABLES.format(version=version, name="prod", remote=LIVE_DB, share=0.75))
    commit(project.folder, "policies")
    project.write("policyctl.yaml", VARIABLES.format(version="", name=name, remote=remote, share=0.6))
    commit(project.folder, "policies")
    assert moved(policyctl)["anygem"][0] == answer
    assert "remote moved" not in policyctl("plan").out
    assert f"{state}  " in policyctl("watch", "--once").out
    assert policyctl("plan", "--detailed-exitcode").code == 2


def test_a_policy_that_was_renamed_to_another_file_keeps_its_history(applied: Project, policyctl: Policyctl) -> None:
    git(applied.folder, "mv", "policies/chat.yaml", "policies/moved.yaml")
    commit(applied.folder, "policies")
    describe(applied, "third", "moved")
    path = applied.policies / "moved.yaml"
    path.write_text(path.read_text("utf-8").replace("name: moved", "name: chat"), "utf-8")
    assert moved(policyctl) == {"chat": ("git", "history")}


def test_a_checkout_that_is_behind_takes_a_newer_version_for_what_it_is(applied: Project, policyctl: Policyctl) -> None:
    """The default branch moved on and was applied; this branch does not have it yet."""
    old = checked_out(applied.folder)
    git_edits(applied)
    assert policyctl("apply", "--yes").code == 0
    git(applied.folder, "update-ref", "refs/remotes/origin/main", "HEAD")
    git(applied.folder, "symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main")
    git(applied.folder, "checkout", "--quiet", "-b", "behind", old)
    assert moved(policyctl) == {"chat": ("git", "history")}


SHARES = "environments: {{{name}: {{remote: 'sqlite:///x.db', vars: {{share: {share}}}}}}}\n"
X = Path("policies/x.db")


def shared(project: Project, name: str = "prod", share: float = 0.75) -> None:
    """anygem with a variable, applied to an environment."""
    project.write("anygem.yaml", ANYGEM.replace("0.75", '"{{ share }}"'))
    project.write("policyctl.yaml", SHARES.format(name=name, share=share))


def merges_what_was_applied(project: Project, policyctl: Policyctl) -> None:
    """A branch was applied, then went on, and was merged."""
    git(project.folder, "checkout", "--quiet", "-b", "change")
    git_edits(project)
    assert policyctl("apply", "--yes").code == 0
    describe(project, "fourth")
    commit(project.folder, "policies")
    git(project.folder, "checkout", "--quiet", "main")
    git(project.folder, "merge", "--quiet", "--no-ff", "-m", "x", "change")


def squashes_what_was_applied(project: Project, policyctl: Policyctl) -> None:
    """The same, but the branch is still there, beside one commit with its end."""
    merges_what_was_applied(project, policyctl)
    git(project.folder, "reset", "--quiet", "--hard", "main^")
    git(project.folder, "merge", "--quiet", "--squash", "change")
    commit(project.folder, "policies")


def amends_what_was_applied(project: Project, policyctl: Policyctl) -> None:
    """The commit is on no branch any more."""
    git_edits(project)
    assert policyctl("apply", "--yes").code == 0
    describe(project, "fourth")
    git(project.folder, "add", "policies")
    git(project.folder, "commit", "--quiet", "--amend", "-m", "x")


def moves_from(project: Project, old: str) -> None:
    """The directory was elsewhere when what is live was applied, and is edited by the commit that moves it."""
    (project.folder / old).mkdir(parents=True, exist_ok=True)
    before, after = project.folder / old / "chat.yaml", project.policies / "chat.yaml"
    git(project.folder, "mv", "policies/chat.yaml", str(before))
    commit(project.folder)
    before.write_text(before.read_text("utf-8").replace("second", "third"), "utf-8")
    commit(project.folder)
    edit("chat", describing("third"))
    project.policies.mkdir(exist_ok=True)
    git(project.folder, "mv", str(before), "policies/chat.yaml")
    after.write_text(after.read_text("utf-8").replace("third", "fourth"), "utf-8")
    commit(project.folder)


def renames_the_directory(project: Project, _: Policyctl) -> None:
    moves_from(project, "old/rules")


def moves_the_directory_from_the_top(project: Project, _: Policyctl) -> None:
    moves_from(project, "")


def renames_the_directory_twice(project: Project, _: Policyctl) -> None:
    moves_from(project, "first")
    (project.folder / "second").mkdir()
    git(project.folder, "mv", "policies/chat.yaml", "second/chat.yaml")
    commit(project.folder)
    project.policies.mkdir(exist_ok=True)
    git(project.folder, "mv", "second/chat.yaml", "policies/chat.yaml")
    commit(project.folder)


def renames_the_directory_on_a_branch(project: Project, _: Policyctl) -> None:
    """The branch was applied, and left."""
    git(project.folder, "checkout", "--quiet", "-b", "change")
    git(project.folder, "mv", "policies", "new")
    commit(project.folder, "new")
    path = project.folder / "new" / "chat.yaml"
    path.write_text(path.read_text("utf-8").replace("second", "third"), "utf-8")
    commit(project.folder, "new")
    edit("chat", describing("third"))
    git(project.folder, "checkout", "--quiet", "main")


def renames_an_environment(project: Project, policyctl: Policyctl) -> None:
    shared(project, "production")
    commit(project.folder, "policies")
    assert policyctl("apply", "--yes").code == 0
    shared(project, "prod", 0.6)
    commit(project.folder, "policies")


def applies_with_variables_of_another_branch(project: Project, policyctl: Policyctl) -> None:
    shared(project, share=0.9)
    commit(project.folder, "policies")
    git(project.folder, "checkout", "--quiet", "-b", "change")
    shared(project, share=0.75)
    commit(project.folder, "policies")
    assert policyctl("apply", "--yes").code == 0
    git(project.folder, "checkout", "--quiet", "main")
    shared(project, share=0.6)
    commit(project.folder, "policies")


def renames_an_inventory(project: Project, policyctl: Policyctl) -> None:
    """Which has the variables, and is renamed and changed in one commit."""
    fleet = "fleet: [{{from: {file}, name: '{{{{ n }}}}', extends: one, vars: [share]}}]\n"
    template = "templates: {one: {remote: 'sqlite:///x.db'}}\n"
    shared(project)
    project.write("rows.csv", "n,share\nprod,0.75\n")
    project.write("policyctl.yaml", template + fleet.format(file="rows.csv"))
    commit(project.folder, "policies")
    assert policyctl("apply", "--yes").code == 0
    (project.policies / "rows.csv").unlink()
    project.write("tenants.csv", "n,share\nprod,0.6\n")
    project.write("policyctl.yaml", template + fleet.format(file="tenants.csv"))
    commit(project.folder, "policies")


ONLY_GIT: dict[str, tuple[Callable[[Project, Policyctl], None], str, str]] = {
    "what was applied was merged with more": (merges_what_was_applied, "chat", "a commit of a merged branch had it"),
    "what was applied was squashed with more": (squashes_what_was_applied, "chat", "a commit of another branch had it"),
    "what was applied was amended": (amends_what_was_applied, "chat", "a commit that is on no branch had it"),
    "the directory was renamed": (renames_the_directory, "chat", "a commit had it in old/rules/"),
    "the directory was moved": (moves_the_directory_from_the_top, "chat", "a commit had it in the top directory"),
    "the directory was renamed twice": (renames_the_directory_twice, "chat", "a commit had it in first/"),
    "the directory was renamed on a branch": (
        renames_the_directory_on_a_branch,
        "chat",
        "a commit of another branch had it in new/",
    ),
    "the environment was renamed": (renames_an_environment, "anygem", "a commit had it for environment production"),
    "variables of another branch": (
        applies_with_variables_of_another_branch,
        "anygem",
        "a commit of another branch had it",
    ),
    "the inventory was renamed": (renames_an_inventory, "anygem", ""),
}


@pytest.mark.parametrize("case", ONLY_GIT)
@pytest.mark.alike
def test_what_git_had_elsewhere_is_not_called_an_edit_of_the_remote(case: str, applied: Project, policyctl: Policyctl) -> None:
    """And as soon as it is edited by hand, it is."""
    happens, name, way = ONLY_GIT[case]
    happens(applied, policyctl)
    (found,) = [one for one in data_of(policyctl)["drifts"] if one["name"] == f"virtual-policy/{name}"]
    assert (found["moved"], found["why"]) == ("git", f"{way}{': ' if way else ''}not applied since, or put back by hand")
    edit(name, retries(5), LOCAL if name == "chat" else X)
    assert moved(policyctl)[name][0] in ("remote", "both")


def shallow(project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A shallow clone of the project, with what is live beside it, as the working directory."""
    clone = tmp_path / "clone"
    git(tmp_path, "clone", "--quiet", "--depth=1", f"file://{project.folder}", str(clone))
    (project.folder / ".policyctl").rename(clone / ".policyctl")
    monkeypatch.chdir(clone)


def test_a_shallow_clone_knows_less_and_names_the_remedy(
    applied: Project, policyctl: Policyctl, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    remote_edits(applied)
    shallow(applied, tmp_path_factory.mktemp("shallow"), monkeypatch)
    assert moved(policyctl) == {"chat": ("unknown", "nothing")}
    assert "fetch the whole history (actions/checkout: fetch-depth: 0" in policyctl("drift").out


def test_what_git_cannot_show_is_not_called_drift(applied: Project, policyctl: Policyctl) -> None:
    """A version that may have been it, and that cannot be read; and outside a repository."""
    applied.write("chat.yaml", "name: chat\npolicy: {}\n")
    commit(applied.folder, "policies")
    describe(applied, "third")
    commit(applied.folder, "policies")
    remote_edits(applied)
    found = data_of(policyctl)["drifts"][0]
    assert (found["moved"], "that may have had it cannot be read" in found["why"]) == ("unknown", True)
    (applied.folder / ".git").rename(applied.folder / "git")
    found = data_of(policyctl)["drifts"][0]
    assert (found["moved"], "is not in a git repository" in found["why"]) == ("unknown", True)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 99\n".format("0" * 64)
UNREAD: dict[str, bytes | None] = {
    "a pointer of Git LFS": POINTER.encode(),
    "an encrypted file": b"\0GITCRYPT\0\xff\xfe\x80",
    "a template whose name is not known": b'name: "{{ who }}"\npolicy: {}\n',
    "a submodule": None,
}


@pytest.mark.parametrize(("case", "where"), crossed(UNREAD, ["here", "on a branch"]))
@pytest.mark.alike
def test_a_version_whose_content_is_not_known_may_have_been_it(
    case: str, where: str, applied: Project, policyctl: Policyctl
) -> None:
    """A file that could not be applied as it is now does not count on another branch: it may be work in progress."""
    path, content = applied.policies / "a.yaml", UNREAD[case]
    git(applied.folder, "checkout", "--quiet", "-b", "change")
    if content is None:
        git(applied.folder, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},policies/a.yaml")
    else:
        path.write_bytes(content)
        git(applied.folder, "add", "policies")
    git(applied.folder, "commit", "--quiet", "-m", "x")
    path.unlink(missing_ok=True)
    if where == "here":
        commit(applied.folder, "policies")
    else:
        git(applied.folder, "checkout", "--quiet", "--force", "main")
    remote_edits(applied)
    expected = "remote" if where == "on a branch" and "template" in case else "unknown"
    assert moved(policyctl)["chat"][0] == expected


def test_a_policy_that_no_file_ever_had_was_added_by_hand(applied: Project, policyctl: Policyctl) -> None:
    put([row("other")])
    assert moved(policyctl) == {"other": ("remote", "history")}


def test_an_apply_whose_outcome_is_not_known_may_have_written_either(applied: Project, policyctl: Policyctl) -> None:
    git_edits(applied)
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0
    begun = [line for line in AUDIT.read_text("utf-8").splitlines() if '"begun"' in line]
    AUDIT.write_text("\n".join(begun) + "\n", "utf-8")
    edit("chat", describing("second"))
    assert moved(policyctl, "--audit", AUDIT) == {"chat": ("git", "audit")}
    edit("chat", describing("by hand"))
    assert moved(policyctl, "--audit", AUDIT) == {"chat": ("remote", "audit")}


def test_an_audit_record_that_cannot_be_read_is_an_error(applied: Project, policyctl: Policyctl) -> None:
    assert policyctl("drift", "--audit", "none.jsonl").err.startswith("error: the audit file none.jsonl cannot be read:")
    AUDIT.write_text("{}\n{}\n", "utf-8")
    ran = policyctl("drift", "--audit", AUDIT)
    assert (ran.code, "audit.jsonl:1: does not have the format" in ran.err) == (1, True)


def test_an_audit_record_that_a_commit_brought_shows_nothing(applied: Project, policyctl: Policyctl) -> None:
    """Whoever may push would decide who moved, and so what a watch puts back and what is removed."""
    git_edits(applied)
    assert "drifted" not in policyctl("watch", "--once", "--audit", AUDIT).out
    git(applied.folder, "add", "--force", str(AUDIT))
    git(applied.folder, "commit", "--quiet", "-m", "x")
    for command in (["drift"], ["apply", "--yes"]):
        ran = policyctl(*command, "--audit", AUDIT)
        assert (ran.code, "audit.jsonl is in the checked-out commit" in ran.err) == (1, True), ran.err
    assert "failed     the audit file audit.jsonl is in" in policyctl("watch", "--once", "--audit", AUDIT).out
    git(applied.folder, "rm", "--quiet", "--cached", str(AUDIT))
    git(applied.folder, "commit", "--quiet", "-m", "x")
    assert moved(policyctl, "--audit", AUDIT) == {"chat": ("git", "audit")}


def test_names_select_and_one_that_matches_nothing_is_an_error(applied: Project, policyctl: Policyctl) -> None:
    describe(applied, "new", "other")
    remote_edits(applied)
    assert set(moved(policyctl)) == {"chat", "other"}
    assert set(moved(policyctl, "ch*")) == {"chat"}
    assert policyctl("drift", "chta").code == 64


def test_a_git_revision_is_not_a_remote_that_moves(applied: Project, policyctl: Policyctl) -> None:
    ran = policyctl("drift", "--remote", "git:HEAD")
    assert (ran.code, "use plan or diff" in ran.err) == (64, True)


def test_edits_over_http_are_found(project: Project, policyctl: Policyctl, tmp_path: Path) -> None:
    """A real server, edited through its API."""
    describe(project, "first")
    with serving_here(tmp_path / "served.db") as served:
        project.write("policyctl.yaml", f"scope: ['virtual-policy/*']\nenvironments: {{local: {{remote: '{served.url}'}}}}\n")
        commit(project.folder, "policies")
        assert policyctl("apply", "--yes").code == 0
        assert moved(policyctl) == {}
        (found,) = loopback.get(f"{served.url}/v1/orchestrate/model_policy").json()
        body = {key: found[key] for key in ("name", "display_name", "policy")} | {"description": "by hand"}
        assert loopback.put(f"{served.url}/v1/orchestrate/model_policy/{found['id']}", json=body).is_success
        assert moved(policyctl) == {"chat": ("remote", "history")}


def test_managed_models_drift_too(project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", "manage: [policies, models]\n")
    model = "spec_version: v1\nkind: model\nname: openai/a\ntags: [{}]\n"
    project.policy("other", "virtual-model/openai/a")
    for tag in ("first", "second"):
        project.write("models/a.yaml", model.format(tag))
        commit(project.folder, "policies")
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0
    project.write("models/a.yaml", model.format("third"))
    assert moved(policyctl) == {"virtual-model/openai/a": ("git", "history")}
    assert moved(policyctl, "--audit", AUDIT) == {"virtual-model/openai/a": ("git", "audit")}
    project.write("models/a.yaml", model.format("second"))
    with closing(sqlite3.connect(LOCAL)) as connection, connection:
        connection.execute("UPDATE model SET document = replace(document, 'second', 'by hand')")
    assert moved(policyctl) == {"virtual-model/openai/a": ("remote", "history")}
    assert moved(policyctl, "--audit", AUDIT) == {"virtual-model/openai/a": ("remote", "audit")}


def test_a_model_file_that_was_not_managed_yet_is_a_version_too(project: Project, policyctl: Policyctl) -> None:
    """Another tool may have imported it, as a file in Git has it."""
    model = "spec_version: v1\nkind: model\nname: openai/a\ntags: [{}]\n"
    project.policy("other", "virtual-model/openai/a")
    project.write("models/a.yaml", model.format("first"))
    project.write("policyctl.yaml", "manage: [policies, models]\n")
    assert policyctl("apply", "--yes").code == 0
    project.write("policyctl.yaml", "manage: [policies]\n")
    commit(project.folder, "policies")
    project.write("policyctl.yaml", "manage: [policies, models]\n")
    project.write("models/a.yaml", model.format("second"))
    commit(project.folder, "policies")
    assert moved(policyctl) == {"virtual-model/openai/a": ("git", "history")}


# What happened → whether removing chat is refused.
REMOVALS: dict[str, tuple[Callable[[Project], None], bool]] = {
    "not touched since": (git_removes, False),
    "edited by hand since": (edited_and_gone, True),
}


@pytest.mark.parametrize("case", REMOVALS)
def test_what_was_edited_by_hand_is_removed_only_when_it_is_named(case: str, applied: Project, policyctl: Policyctl) -> None:
    happens, refused = REMOVALS[case]
    happens(applied)
    ran = policyctl("plan", "--out", "plan.json")
    assert (ran.code, "virtual-policy/chat would be removed, but it was edited since" in ran.out) == (3 * refused, refused)
    if refused:
        for command in (["apply", "--yes"], ["apply", "plan.json", "--yes"]):
            assert policyctl(*command).code == 3
            assert "virtual-policy/chat" in live_documents()
    assert policyctl("apply", "--yes", *(["--allow-remove", "chat"] if refused else [])).code == 0
    assert set(live_documents()) == {"virtual-policy/other"}
    assert policyctl("plan", "--detailed-exitcode").code == 0


MODEL = "spec_version: v1\nkind: model\nname: openai/a\ntags: [{}]\n"


def renamed_file(project: Project, policyctl: Policyctl) -> None:
    git(project.folder, "mv", "policies/chat.yaml", "policies/new.yaml")
    commit(project.folder)
    describe(project, "other", "other")
    (project.policies / "new.yaml").unlink()


def renamed_directory(project: Project, policyctl: Policyctl) -> None:
    """The file is not in the new directory any more, and what was applied never was."""
    moves_from(project, "old")
    describe(project, "other", "other")
    (project.policies / "chat.yaml").unlink()


def renamed_policy(project: Project, policyctl: Policyctl) -> None:
    path = project.policies / "chat.yaml"
    path.write_text(path.read_text("utf-8").replace("name: chat", "name: talk"), "utf-8")


def applied_from_a_branch(project: Project, policyctl: Policyctl) -> None:
    merges_what_was_applied(project, policyctl)
    describe(project, "other", "other")
    (project.policies / "chat.yaml").unlink()


GONE: dict[str, Callable[[Project, Policyctl], None]] = {
    "after its file was renamed": renamed_file,
    "after its directory was renamed": renamed_directory,
    "by giving it another name": renamed_policy,
    "after a branch was applied": applied_from_a_branch,
}


@pytest.mark.parametrize("case", GONE)
@pytest.mark.alike
def test_a_removal_is_refused_only_if_the_policy_was_edited_by_hand(case: str, applied: Project, policyctl: Policyctl) -> None:
    GONE[case](applied, policyctl)
    commit(applied.folder)
    assert policyctl("plan").code == 0
    edit("chat", retries(5))
    ran = policyctl("plan")
    assert (ran.code, "virtual-policy/chat would be removed, but it was edited since" in ran.out) == (3, True)
    assert policyctl("apply", "--yes").code == 3
    assert policyctl("apply", "--yes", "--allow-remove", "chat").code == 0
    assert "virtual-policy/chat" not in live_documents()


def brings_what_is_live(project: Project) -> None:
    remote_edits(project)
    git(project.folder, "checkout", "--quiet", "-b", "change")
    document = live_documents()["virtual-policy/chat"]
    describe(project, document["description"], attempts=str(document["policy"]["retry"]["attempts"]))
    commit(project.folder, "policies")


def goes_back(project: Project) -> None:
    """To what the base had, and is live."""
    git_edits(project)
    git(project.folder, "checkout", "--quiet", "-b", "change")
    describe(project, "second")
    commit(project.folder, "policies")


def moves(project: Project) -> None:
    git(project.folder, "checkout", "--quiet", "-b", "change")
    git(project.folder, "mv", "policies/chat.yaml", "chat.yaml")
    commit(project.folder)
    project.policies.mkdir(exist_ok=True)
    git(project.folder, "mv", "chat.yaml", "policies/chat.yaml")
    commit(project.folder)


@pytest.mark.parametrize(("happens", "several"), crossed([brings_what_is_live, goes_back, moves], [(), ("--all",)]))
def test_a_branch_does_not_show_for_itself_that_nothing_was_edited(
    happens: Callable[[Project], None], several: tuple[str, ...], applied: Project, policyctl: Policyctl
) -> None:
    """Whether what it removes was edited by hand is decided by what its base had; so is what its page has of an update."""
    refused = happens is brings_what_is_live
    happens(applied)
    base = ("--base", "main", *several)
    describe(applied, "fifth")
    commit(applied.folder, "policies")
    assert ("Git moved" in policyctl("plan", *base).out) is not refused
    describe(applied, "other", "other")
    (applied.policies / "chat.yaml").unlink()
    commit(applied.folder, "policies")
    ran = policyctl("plan", *base)
    assert (ran.code, "may have been edited since: only commits that are not merged" in ran.out) == (3 * refused, refused)
    if refused:
        assert policyctl("plan", *base, "--allow-remove", "chat").code == 0


def brings_what_cannot_be_read(project: Project) -> None:
    """A file that may have had what is live."""
    remote_edits(project)
    git(project.folder, "checkout", "--quiet", "-b", "change")
    project.write("a.yaml", POINTER)
    commit(project.folder, "policies")
    (project.policies / "a.yaml").unlink()


MERGED: dict[Callable[[Project], None], str] = {  # what the branch does; what is shown of the policy that the next one removes
    brings_what_is_live: "may have been edited since: only commits of a merged branch have what is live, such as ",
    brings_what_cannot_be_read: "was edited since: no commit has what is live",
    moves: "",
}


@pytest.mark.parametrize(("happens", "audit"), crossed(MERGED, [False, True]))
def test_a_merged_branch_does_not_show_either_that_nothing_was_edited(
    happens: Callable[[Project], None], audit: bool, project: Project, policyctl: Policyctl
) -> None:
    """What it had on its way was not applied by its merge, so it shows nothing for what the next one removes."""
    why = MERGED[happens]
    record = ("--audit", str(project.folder.parent / "audit.jsonl")) if audit else ()
    describe(project, "first")
    describe(project, "first", "other")
    commit(project.folder)
    assert policyctl("apply", "--yes", *record).code == 0
    happens(project)
    (project.policies / "chat.yaml").unlink()
    commit(project.folder, "policies")
    git(project.folder, "checkout", "--quiet", "main")
    git(project.folder, "merge", "--quiet", "--no-ff", "-m", "x", "change")
    git(project.folder, "checkout", "--quiet", "-b", "next")
    describe(project, "third", "third")
    commit(project.folder, "policies")
    ran = policyctl("plan", "--base", "main", *record)
    expected = "was edited since: edited on the remote" if audit and why else why
    assert (ran.code, f"would be removed, but it {expected}" in ran.out) == (3 * bool(why), bool(why))


@pytest.mark.parametrize("edited", [False, True])
def test_a_model_that_was_edited_by_hand_is_removed_only_when_it_is_named(
    edited: bool, project: Project, policyctl: Policyctl
) -> None:
    project.write("policyctl.yaml", "manage: [policies, models]\n")
    project.policy("other", "virtual-model/openai/b")
    project.write("models/a.yaml", MODEL.format("first"))
    project.write("models/b.yaml", MODEL.format("first").replace("openai/a", "openai/b"))
    commit(project.folder, "policies")
    assert policyctl("apply", "--yes").code == 0
    (project.policies / "models" / "a.yaml").unlink()
    commit(project.folder, "policies")
    if edited:
        with closing(sqlite3.connect(LOCAL)) as connection, connection:
            connection.execute("UPDATE model SET document = replace(document, 'first', 'by hand') WHERE name LIKE '%/a'")
    ran = policyctl("plan")
    assert (ran.code, "virtual-model/openai/a would be removed, but it was edited since" in ran.out) == (3 * edited, edited)
    assert policyctl("apply", "--yes", *(["--allow-remove", "virtual-model/openai/a"] if edited else [])).code == 0


@pytest.mark.parametrize("args", [["--env", "t-a"], ["--env", "t-a", "--env", "t-b"]])
def test_in_a_generated_environment_too(args: list[str], project: Project, policyctl: Policyctl) -> None:
    """Its inventory got another name since, and the row another value."""
    for name in ("chat", "other"):
        describe(project, "'{{ share }}'", name)
    project.write("rows.csv", "t,share\na,first\nb,second\n")
    project.write("policyctl.yaml", FLEET.replace("extends: one", "extends: one, vars: [share]"))
    commit(project.folder, "policies")
    assert policyctl("apply", "--all", "--yes").code == 0
    (project.policies / "rows.csv").unlink()
    project.write("tenants.csv", "t,share\na,third\nb,second\n")
    project.write("policyctl.yaml", FLEET.replace("extends: one", "extends: one, vars: [share]").replace("rows", "tenants"))
    (project.policies / "chat.yaml").unlink()
    commit(project.folder, "policies")
    assert policyctl("plan", *args).code == 0
    edit("chat", retries(5), project.policies / "a.db")
    ran = policyctl("plan", *args)
    assert (ran.code, ran.out.count("virtual-policy/chat would be removed, but it was edited since")) == (
        (3, 1) if len(args) == 2 else (5, 2)
    )


def test_the_audit_record_of_an_apply_wins_over_history(applied: Project, policyctl: Policyctl) -> None:
    """An old version was put back by hand, which history takes for not applied; and what was applied was never committed."""
    git_removes(applied)
    edit("chat", describing("first"))
    assert policyctl("plan").code == 0
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 3
    edit("chat", describing("second"))
    describe(applied, "uncommitted")
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0
    (applied.policies / "chat.yaml").unlink()
    assert policyctl("plan").code == 3
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0
    assert set(live_documents()) == {"virtual-policy/other"}


def test_a_refusal_changes_no_digest(applied: Project, policyctl: Policyctl) -> None:
    """What history shows decides whether a plan may be applied, not which plan it is."""
    edited_and_gone(applied)
    digests = [json.loads(policyctl("plan", "--format", "json").out)["digest"]]
    (applied.folder / ".git").rename(applied.folder / "git")
    digests.append(json.loads(policyctl("plan", "--format", "json").out)["digest"])
    assert digests[0] == digests[1]


def test_a_shallow_clone_removes_and_notes_what_is_not_known(
    applied: Project, policyctl: Policyctl, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited_and_gone(applied)
    shallow(applied, tmp_path_factory.mktemp("shallow"), monkeypatch)
    ran = policyctl("plan")
    assert ran.code == 0
    assert "note  whether virtual-policy/chat was edited on the remote since is not known: this clone is shallow" in ran.out


def test_a_plan_uses_the_same_words(applied: Project, policyctl: Policyctl) -> None:
    """In text, in markdown and in JSON; the digest does not depend on them."""
    remote_edits(applied)
    put([row("other")])
    found = {one["name"]: f"{MOVED[one['moved']]}: {one['why']}" for one in data_of(policyctl)["drifts"]}
    shown = policyctl("plan", "--report", "markdown=plan.md")
    assert all(shown.out.count(f"    {words}\n") == 1 for words in found.values())
    page = Path("plan.md").read_text("utf-8")
    assert page.count("The remote moved: no commit has what is live") == 1
    plan = json.loads(policyctl("plan", "--format", "json").out)
    Draft202012Validator(json.loads(schema_text("plan"))).validate(plan)
    assert {one["name"]: f"{MOVED[one['moved']['by']]}: {one['moved']['why']}" for one in plan["changes"]} == found
    (applied.folder / ".git").rename(applied.folder / "git")
    without = json.loads(policyctl("plan", "--format", "json").out)
    assert (without["digest"], [one for one in without["changes"] if "moved" in one]) == (plan["digest"], [])


FLEET = """
scope: ["virtual-policy/*"]
templates: {one: {remote: "sqlite:///{{ t }}.db", vars: {lite: 0.1}}}
fleet: [{from: rows.csv, name: "t-{{ t }}", extends: one}]
"""


def test_several_environments_are_reported_together(project: Project, policyctl: Policyctl) -> None:
    """Equal drift once, failures by reason, and one exit code."""
    describe(project, "first")
    project.write("rows.csv", "t\na\nb\nc\nd\n")
    project.write("policyctl.yaml", FLEET)
    commit(project.folder, "policies")
    assert policyctl("apply", "--all", "--yes").code == 0
    for name in "ab":
        edit("chat", retries(5), project.policies / f"{name}.db")
    (project.policies / "c.db").write_bytes(b"not a database, whatever its name is")
    ran = policyctl("drift", "--all", "--detailed-exitcode")
    assert ran.code == 5
    assert "t-a, t-b: 1 moved on the remote, 0 in sync, the same in 2 environments\n" in ran.out
    assert ran.out.count("policy.retry.attempts: files 1, live 5") == 1
    assert "no changes in 1 environment: t-d" in ran.out
    assert ran.out.count("failed  1 × ") == 1
    assert policyctl("drift", "--env", "t-[abd]", "--detailed-exitcode").code == 2
    assert policyctl("drift", "--env", "t-d", "--detailed-exitcode").code == 0
    found = json.loads(policyctl("drift", "--all", "--format", "json").out)
    Draft202012Validator(json.loads(schema_text("drift"))).validate(found)
    assert [(one["name"], one["status"]) for one in found["environments"]] == [
        ("t-a", "planned"),
        ("t-b", "planned"),
        ("t-c", "failed"),
        ("t-d", "planned"),
    ]
    assert policyctl("drift", "-l", "ring=1").code == 64


def test_a_plan_of_several_environments_has_the_words_too_and_folds_only_what_is_the_same(
    project: Project, policyctl: Policyctl
) -> None:
    """In every format. c was edited by hand until it had what a and b have, which Git moved; the change is the same."""
    describe(project, "first")
    project.write("rows.csv", "t\na\nb\nc\n")
    project.write("policyctl.yaml", FLEET)
    commit(project.folder, "policies")
    assert policyctl("apply", "--all", "--yes", "--audit", AUDIT).code == 0
    describe(project, "second")
    commit(project.folder, "policies")
    assert policyctl("apply", "--env", "t-c", "--yes", "--audit", AUDIT).code == 0
    edit("chat", describing("first"), project.policies / "c.db")
    describe(project, "third")
    commit(project.folder, "policies")
    reports = {"markdown": Path("plans.md"), "html": Path("plans.html")}
    args = [word for form, path in reports.items() for word in ("--report", f"{form}={path}")]
    ran = policyctl("plan", "--all", *args)
    words = "Git moved: not applied since, or put back by hand"
    assert (ran.code, ran.out.count(words)) == (0, 1), "without the audit record, history takes c for the same"
    texts = {form: path.read_text("utf-8") for form, path in reports.items()}
    assert {form: text.count(f"{words}.") for form, text in texts.items()} == {"markdown": 1, "html": 1}
    (plan,) = json.loads(policyctl("plan", "--all", "--format", "json").out)["plans"]
    assert [one["moved"]["by"] for one in plan["changes"]] == ["git"]
    ran = policyctl("apply", "--all", "--audit", AUDIT)
    assert [line.strip() for line in ran.out.splitlines() if "moved: " in line] == [
        "Git moved: not applied since policyctl wrote what is live",
        "both moved: edited on the remote since policyctl wrote it, and changed in the files since",
    ]


def test_the_page_of_a_plan_has_the_words(applied: Project, policyctl: Policyctl) -> None:
    remote_edits(applied)
    assert policyctl("plan", "--report", "html=plan.html").code == 0
    assert "<p>The remote moved: no commit has what is live: edited by hand" in Path("plan.html").read_text("utf-8")


MARKDOWN = """\
### policyctl: drift in `local`: 1 moved on both sides

`local`: update `chat`: both moved: edited on the remote since policyctl wrote it, and changed in the files since WRITTEN.

| field | was | files | remote | who moved |
| --- | --- | --- | --- | --- |
| `description` | `second` | `third` | `second` | Git moved |
| `policy.retry.attempts` | `1` | `1` | `5` | the remote moved |

"""


def test_a_summary_of_a_step_has_a_table(applied: Project, policyctl: Policyctl) -> None:
    both_edit(applied)
    shown = policyctl("drift", "--audit", AUDIT, "--format", "markdown").out
    written = shown.partition("files since ")[2].partition(".\n")[0]
    assert written.startswith("(written ")
    assert shown == MARKDOWN.replace("WRITTEN", written)
    edit("chat", describing("fixes #1 @team <!-- x --> | a `b` | <b>"))
    put([row("@team", description="@team")])
    text = re.sub(r"(`+).+?\1", "", policyctl("drift", "--format", "markdown").out)
    assert [word for word in ("@team", "<!--", "fixes", "<b>") if word in text] == []


def test_a_summary_of_several_environments_has_equal_drift_once(project: Project, policyctl: Policyctl) -> None:
    describe(project, "first")
    project.write("rows.csv", "t\na\nb\nc\n")
    project.write("policyctl.yaml", FLEET)
    commit(project.folder, "policies")
    assert policyctl("apply", "--all", "--yes", "--audit", AUDIT).code == 0
    for name in "ab":
        edit("chat", retries(5), project.policies / f"{name}.db")
    (project.policies / "c.db").write_bytes(b"not a database, whatever its name is")
    ran = policyctl("drift", "--all", "--audit", AUDIT, "--format", "markdown")
    assert ran.code == 5
    assert ran.out.startswith("### policyctl: drift in 3 environments: 2 moved on the remote\n\n`t-a`, `t-b`: update `chat`: ")
    assert (ran.out.count("| `1` | `5` |"), ran.out.count("written")) == (1, 0)
    assert "Not compared, or not as a whole:\n\n- `t-c`: " in ran.out


def test_of_several_environments_only_the_edited_one_is_refused(project: Project, policyctl: Policyctl) -> None:
    describe(project, "first")
    describe(project, "other", "other")
    project.write("rows.csv", "t\na\nb\n")
    project.write("policyctl.yaml", FLEET)
    commit(project.folder, "policies")
    assert policyctl("apply", "--all", "--yes").code == 0
    edit("chat", retries(5), project.policies / "a.db")
    (project.policies / "chat.yaml").unlink()
    commit(project.folder, "policies")
    ran = policyctl("apply", "--all", "--yes")
    assert (ran.code, "refused by 1 safety rule" in ran.out, "failed  1 × " in ran.out) == (5, True, True), ran
    assert set(live_documents(project.policies / "a.db")) == {"virtual-policy/chat", "virtual-policy/other"}
    assert set(live_documents(project.policies / "b.db")) == {"virtual-policy/other"}


def test_a_removal_is_not_refused_because_the_remote_spells_a_model_otherwise(project: Project, policyctl: Policyctl) -> None:
    """Of one environment, of several, and of a saved plan."""
    with serving_here(project.folder / "tenant.db") as served:
        loopback.post(f"{served.url}/v1/models", json={"name": ONE}).raise_for_status()
        project.write("policyctl.yaml", f"scope: ['*']\nenvironments: {{dev: {{remote: '{served.url}'}}}}\n")
        for name in ("chat", "other"):
            project.policy(name, ONE.removeprefix("virtual-model/"))
        commit(project.folder, "policies")
        assert policyctl("apply", "--yes").code == 0
        (project.policies / "chat.yaml").unlink()
        commit(project.folder, "policies")
        for args in (["plan", "--all"], ["plan", "--out", "plan.json"], ["apply", "plan.json", "--yes"]):
            ran = policyctl(*args)
            assert (ran.code, "edited since" in ran.out) == (0, False), args


def committed_audit(project: Project, policyctl: Policyctl) -> None:
    """An edit of the remote that the audit file, which a branch brings, takes for the last write of policyctl."""
    describe(project, "edited")
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0
    git(project.folder, "checkout", "--quiet", "--", "policies")
    commit(project.folder, str(AUDIT))


@pytest.mark.parametrize("command", [("drift",), ("apply", "--yes"), ("drift", "--all")], ids=" ".join)
def test_an_audit_file_that_the_commit_has_decides_nothing(
    command: tuple[str, ...], applied: Project, policyctl: Policyctl
) -> None:
    committed_audit(applied, policyctl)
    before = live_documents()
    ran = policyctl(*command, "--audit", AUDIT)
    assert (ran.code, live_documents()) == (1, before)
    assert "the audit file audit.jsonl is in the checked-out commit, so a branch may have written it" in ran.err


def test_a_link_to_an_audit_file_that_the_commit_has_decides_nothing(applied: Project, policyctl: Policyctl) -> None:
    committed_audit(applied, policyctl)
    Path("link.jsonl").symlink_to(AUDIT)
    assert policyctl("drift", "--audit", "link.jsonl").code == 1


def test_history_shows_an_audit_file_that_the_commit_has_with_a_warning(applied: Project, policyctl: Policyctl) -> None:
    committed_audit(applied, policyctl)
    ran = policyctl("history", "--audit", AUDIT)
    assert (ran.code, ran.out.endswith("2 changes.\n")) == (0, True), ran.out
    assert ran.err.startswith("warning: the audit file audit.jsonl is in the checked-out commit")
