"""policyctl watch as people run it: on real remotes, with real git, and ended by signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime, tzinfo
from pathlib import Path
from threading import Event, Lock
from typing import Any

import jsonschema
import pytest

from policyctl.cli.console import first_signal_apart
from policyctl.cli.watch_work import EnvironmentWork
from policyctl.reconcile.audit import AuditFile
from policyctl.report import schema_text
from policyctl.watch.memory import FILE
from policyctl.watch.notify import FILE as SPOOL_FILE
from tests.cli.pull_requests import Work
from tests.conftest import Policyctl, Project
from tests.git_repo import commit, git
from tests.patience import LONGEST
from tests.remote.fake_server import certificates, standing_in
from tests.remote.fake_tenant import Tenant
from tests.sqlite_rows import LOCAL, edit, live_documents

CONFIG = """\
default: dev
environments:
  dev:
    remote: local
    watch: {watch}
"""


@pytest.fixture
def repository(project: Project) -> Project:
    """A repository with one policy, and an environment that is only looked at."""
    project.policy("chat", "virtual-model/x/a", "virtual-model/x/b")
    configure(project, "{}")
    return project


def configure(project: Project, watch: str) -> None:
    """Commit settings, and with them all policies."""
    project.write("policyctl.yaml", CONFIG.replace("{watch}", watch))
    commit(project.folder, "policies")


def test_one_look_shows_what_differs_and_writes_nothing(repository: Project, policyctl: Policyctl) -> None:
    ran = policyctl("watch", "--once", "--detailed-exitcode")
    assert (ran.code, ran.out.count("\n")) == (2, 1)
    assert "dev  pending" in ran.out
    assert "Git moved: virtual-policy/chat; policyctl apply --env dev" in ran.out
    assert "watching 1 environment, every 5m; none is applied once merged, none is healed" in ran.err
    assert not policyctl("policy", "list").out.count("virtual-policy")
    assert policyctl("watch", "--once").out == ""  # it was announced


def test_what_is_merged_is_applied_and_what_is_edited_is_put_back(repository: Project, policyctl: Policyctl) -> None:
    configure(repository, "{apply: on-merge, heal: always}")
    first = policyctl("watch", "--once", "--format", "json", "--audit", "audit.jsonl")
    events = [json.loads(line) for line in first.out.splitlines()]
    assert [(one["before"], one["state"], one["changes"]) for one in events] == [
        (None, "pending", 1),
        ("pending", "in_sync", 0),
    ]
    schema = jsonschema.Draft202012Validator(json.loads(schema_text("watch")))
    for one in events:
        schema.validate(one)
    assert policyctl("plan", "--detailed-exitcode").code == 0
    assert policyctl("policy", "remove", "chat", "--yes").code == 0
    second = policyctl("watch", "--once")
    assert "drifted" in second.out
    assert "applied: the remote moved: virtual-policy/chat" in second.out
    assert policyctl("plan", "--detailed-exitcode").code == 0
    (begun, done) = [line.entry for line in AuditFile(Path("audit.jsonl")).lines()]
    assert begun is not None
    assert done is not None
    assert (begun.origin.command, begun.outcome, done.outcome) == ("watch", "begun", "applied")


def test_an_audit_file_that_the_commit_has_heals_nothing(repository: Project, policyctl: Policyctl) -> None:
    configure(repository, "{heal: always}")
    commit(repository.folder, "policies")
    assert policyctl("apply", "--yes", "--audit", "audit.jsonl").code == 0
    edit("chat", lambda document: document.update(description="edited"), DEV)
    commit(repository.folder, "audit.jsonl")
    before = live_documents(DEV)
    ran = policyctl("watch", "--once", "--audit", "audit.jsonl")
    assert "failed" in ran.out
    assert "the audit file audit.jsonl is in the checked-out commit" in ran.out
    assert live_documents(DEV) == before


@pytest.mark.parametrize("name", [FILE, SPOOL_FILE])
def test_state_that_the_commit_has_is_not_read(
    name: str, repository: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOOK", "canary-secret")
    repository.write("policyctl.yaml", 'notify: [{name: team, url: "https://hooks.example", secret: "env:HOOK"}]\n')
    folder = repository.folder / ".policyctl"
    folder.mkdir(exist_ok=True)
    (folder / name).write_text("{}\n", "utf-8")
    commit(repository.folder)
    ran = policyctl("watch", "--once")
    assert (ran.code, ran.out) == (1, "")
    assert f".policyctl/{name} is in the checked-out commit, so a branch may have written it; remove it from Git" in ran.err
    assert (folder / name).read_text("utf-8") == "{}\n"


def test_heal_alone_leaves_what_git_moved(repository: Project, policyctl: Policyctl) -> None:
    configure(repository, "{heal: always}")
    assert "pending" in policyctl("watch", "--once").out
    assert policyctl("apply", "--yes").code == 0
    policyctl("watch", "--once")
    repository.policy("chat", "virtual-model/x/b", "virtual-model/x/a")
    assert policyctl("watch", "--once", "--detailed-exitcode").code == 2
    assert policyctl("plan", "--detailed-exitcode").code == 2


@pytest.mark.parametrize("how", ["a file that is missing", "a file that is new", "a cut-off git"])
def test_a_directory_that_is_not_as_committed_is_looked_at_and_not_applied(
    repository: Project, policyctl: Policyctl, how: str
) -> None:
    """A git that is cut off leaves half of a revision, which may lack what every commit has."""
    repository.policy("other", "virtual-model/x/a")
    configure(repository, "{apply: on-merge, heal: always}")
    assert "applied" in policyctl("watch", "--once").out
    before = live_documents(DEV)
    lock = repository.folder / ".git" / "index.lock"
    if how == "a file that is missing":
        (repository.policies / "other.yaml").unlink()
    elif how == "a file that is new":
        repository.policy("draft", "virtual-model/x/a")
    else:
        edit("chat", to("virtual-model/x/b"), DEV)
        before = live_documents(DEV)
        lock.touch()
    ran = policyctl("watch", "--once")
    assert "; waits for the files, which are not as committed: " in ran.out
    assert ("(index.lock)" if lock.exists() else "git status shows what differs") in ran.out
    assert live_documents(DEV) == before
    lock.unlink(missing_ok=True)
    commit(repository.folder, "policies")
    policyctl("watch", "--once")
    assert policyctl("plan", "--detailed-exitcode").code == 0


def _ignored(repository: Project) -> str:
    (repository.folder / ".git" / "info").mkdir()
    (repository.folder / ".git" / "info" / "exclude").write_text("draft*\n")
    repository.policy("draft", "virtual-model/x/c")
    return "policies/draft.yaml"


def _marked(flag: str) -> Callable[[Project], str]:
    def mark(repository: Project) -> str:
        git(repository.folder, "update-index", flag, "policies/chat.yaml")
        repository.policy("chat", "virtual-model/x/c")
        return "policies/chat.yaml"

    return mark


def _inventory(repository: Project) -> str:
    (repository.folder / "rows.csv").write_text("n,m\ndev,virtual-model/x/c\n")
    return str(repository.folder / "rows.csv")


def _staged(repository: Project) -> str:
    file = _inventory(repository)
    git(repository.folder, "add", "rows.csv")
    return file


UNSEEN: dict[str, Callable[[Project], str]] = {  # by git status, or because it is beside the directory
    "a file that git ignores": _ignored,
    "a file that is assumed to be unchanged": _marked("--assume-unchanged"),
    "a file that is left to the working tree": _marked("--skip-worktree"),
    "an inventory above the directory": _inventory,
    "an inventory above the directory that is staged": _staged,
}


@pytest.mark.parametrize("case", UNSEEN)
@pytest.mark.alike
def test_what_no_commit_has_is_not_applied(case: str, project: Project, policyctl: Policyctl) -> None:
    """Whatever git takes for unchanged: what was read is compared with the commit."""
    fleet = "fleet: [{from: rows.csv, name: '{{ n }}', vars: [m], defaults: {remote: local}}]\nwatch: {apply: on-merge}\n"
    (project.folder / "policyctl.yaml").write_text(fleet)
    (project.folder / "rows.csv").write_text("n,m\ndev,virtual-model/x/a\n")
    project.policy("chat", "virtual-model/x/a")
    project.policy("led", "'{{ m }}'")
    commit(project.folder)
    assert "applied" in policyctl("watch", "--once", "--all").out
    before = live_documents(DEV)
    file = UNSEEN[case](project)
    ran = policyctl("watch", "--once", "--all")
    assert f"; waits for the files, which are not as committed: no commit has {file} as it is\n" in ran.out
    assert live_documents(DEV) == before


def test_a_secret_beside_the_files_is_in_no_commit(project: Project, policyctl: Policyctl) -> None:
    (project.folder / ".gitignore").write_text("key\n")
    with standing_in(Tenant()) as server:
        login = "{type: bearer, token: 'file:../key'}"
        project.write(
            "policyctl.yaml",
            f"environments: {{dev: {{remote: '{server.url}', auth: {login}, watch: {{apply: on-merge}}}}}}\n",
        )
        project.policy("chat", "virtual-model/x/a")
        commit(project.folder)
        (project.folder / "key").write_text("secret")
        assert "in_sync    applied: Git moved" in policyctl("watch", "--once").out


def test_a_directory_that_changed_since_it_was_read_is_not_applied(
    repository: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is as committed now, and was not when it was read: a checkout ended meanwhile."""
    configure(repository, "{apply: on-merge}")
    looked = EnvironmentWork._look

    def then_committed(*args: Any) -> Any:
        found = looked(*args)
        repository.policy("other", "virtual-model/x/a")
        commit(repository.folder, "policies")
        return found

    monkeypatch.setattr(EnvironmentWork, "_look", then_committed)
    assert "waits for the newest files, which are not in use yet" in policyctl("watch", "--once").out
    assert "virtual-policy" not in policyctl("policy", "list").out


NEWER = {
    "a file elsewhere": ("other.txt", True),
    "a policy file elsewhere": ("other/policies.yaml", True),
    "a file in the directory": ("policies/other.yaml", False),
    "a configuration above": ("policyctl.yaml", False),
    "a file that settings refer to": ("ca.pem", False),
}


@pytest.mark.parametrize("case", NEWER)
@pytest.mark.alike
def test_an_edit_is_put_back_whatever_a_newer_commit_changes_elsewhere(
    case: str, project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, is_put_back = NEWER[case]
    looked, tenant = EnvironmentWork._look, Tenant()

    def then_committed(*args: Any) -> Any:
        found = looked(*args)
        (project.folder / file).parent.mkdir(exist_ok=True)
        (project.folder / file).write_text("{} # newer\n")
        commit(project.folder, file)
        return found

    watch = ("watch", "--once", "--all", "--source", str(project.folder), "--state", "state")
    with standing_in(tenant) as server:
        (project.folder / "ca.pem").write_bytes((certificates() / "ca.pem").read_bytes())
        settings = "watch: {apply: on-merge, heal: always}\n"
        settings += f"environments: {{dev: {{remote: '{server.url}', ca_file: ../ca.pem}}}}\n"
        project.write("policyctl.yaml", settings)
        project.policy("chat", "virtual-model/x/a")
        commit(project.folder)
        assert "in_sync    applied: Git moved" in policyctl(*watch).out
        (row,) = tenant.rows.values()
        row["policy"]["targets"][0]["model_name"] = "virtual-model/x/b"
        monkeypatch.setattr(EnvironmentWork, "_look", then_committed)
        out = policyctl(*watch).out
    assert ("in_sync" in out, "waits for the newest files, which are not in use yet" in out) == (is_put_back, not is_put_back)


MEANWHILE = {"edited again": ("c", "failed"), "removed": (None, "failed"), "put back by others": ("a", "in_sync")}


@pytest.mark.parametrize("case", MEANWHILE)
def test_what_is_done_on_the_remote_while_the_source_is_fetched_is_not_undone(
    case: str, project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fetch may take minutes. The plan that was made before it is held against the remote once more."""
    becomes, state = MEANWHILE[case]
    watch = ("watch", "--once", "--source", str(project.folder), "--state", "state")
    tenant = Tenant()
    with standing_in(tenant) as server:
        settings = "watch: {apply: on-merge, heal: always}\n"
        project.write("policyctl.yaml", f"{settings}environments: {{dev: {{remote: '{server.url}'}}}}\n")
        project.policy("chat", "virtual-model/x/a")
        commit(project.folder)
        assert "in_sync    applied: Git moved" in policyctl(*watch).out
        (target,) = (row["policy"]["targets"][0] for row in tenant.rows.values())
        target["model_name"] = "virtual-model/x/b"
        fetch = EnvironmentWork.outdated

        def slow(work: EnvironmentWork) -> str | None:
            if becomes is None:
                tenant.rows.clear()
            else:
                target["model_name"] = f"virtual-model/x/{becomes}"
            return fetch(work)

        with monkeypatch.context() as patched:
            patched.setattr(EnvironmentWork, "outdated", slow)
            asked = len(server.seen)
            out = policyctl(*watch).out
        assert {seen.method for seen in server.seen[asked:]} == {"GET"}
        assert f"dev  {state}" in out
        again = policyctl(*watch).out
        assert ("drifted" in again, "in_sync    applied: the remote moved" in again) == (state == "failed",) * 2


def test_a_directory_outside_of_git_is_applied_as_it_is(project: Project, policyctl: Policyctl) -> None:
    project.policy("chat", "virtual-model/x/a")
    project.write("policyctl.yaml", CONFIG.replace("{watch}", "{apply: on-merge}"))
    assert policyctl("apply", "--yes", "--audit", "audit.jsonl").code == 0
    project.policy("chat", "virtual-model/x/b")
    assert "applied: Git moved" in policyctl("watch", "--once", "--audit", "audit.jsonl").out


def test_a_policyctl_yaml_that_vanishes_is_an_error_and_not_another_environment(
    repository: Project, policyctl: Policyctl
) -> None:
    policyctl("watch", "--once")
    config = repository.policies / "policyctl.yaml"
    config.rename(repository.folder / "aside")
    for _ in range(2):
        ran = policyctl("watch", "--once")
        assert (ran.code, ran.out) == (1, "")
        assert "there is no policyctl.yaml, which had the environments that are watched (dev); put it back" in ran.err
    (repository.folder / "aside").rename(config)
    assert policyctl("watch", "--once").out == ""  # it is still known, so nothing is announced anew


@pytest.mark.slow
def test_the_revision_in_use_stays_when_policyctl_yaml_vanishes(repository: Project) -> None:
    with started() as process:
        try:
            line_with(process, "pending")
            (repository.policies / "policyctl.yaml").unlink()
            assert process.stderr is not None
            error = next(line for line in process.stderr if "the source cannot be read" in line)
            assert "there is no policyctl.yaml, which had the environments that are watched (dev)" in error
            assert "stays in use" in error
        finally:
            process.kill()


def test_what_a_rule_refuses_is_never_applied(repository: Project, policyctl: Policyctl) -> None:
    assert policyctl("apply", "--yes").code == 0
    text = CONFIG.replace("{watch}", "{apply: on-merge}") + "    guards: {deny_providers: [other]}\n"
    repository.write("policyctl.yaml", text)
    repository.policy("chat", "virtual-model/other/a")
    ran = policyctl("watch", "--once")
    assert (ran.code, "refused" in ran.out, "policyctl plan --env dev" in ran.out) == (3, True, True)
    assert policyctl("plan", "--detailed-exitcode").code == 3


def test_a_suspended_environment_is_shown_and_left(repository: Project, policyctl: Policyctl) -> None:
    text = CONFIG.replace("{watch}", "{apply: on-merge}") + "    suspend: {reason: migration}\n"
    repository.write("policyctl.yaml", text)
    assert "suspended  migration" in policyctl("watch", "--once").out
    assert "virtual-policy" not in policyctl("policy", "list").out


def test_a_branch_is_watched_without_a_checkout(
    repository: Project, policyctl: Policyctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere, state = tmp_path / "elsewhere", tmp_path / "state"
    elsewhere.mkdir()
    configure(repository, "{apply: on-merge, heal: always}")
    text = (repository.policies / "policyctl.yaml").read_text("utf-8")
    repository.write("policyctl.yaml", text.replace("remote: local", f"remote: sqlite:///{tmp_path}/remote.db"))
    made = commit(repository.folder, "policies")
    repository.policy("draft", "virtual-model/x/a")  # not committed
    source = ("--source", repository.folder, "--ref", "main")
    monkeypatch.chdir(elsewhere)
    ran = policyctl("watch", "--once", *source, "--state", state, "--audit", "audit.jsonl")
    assert (ran.code, f"revision {made[:19]} is in use" in ran.err) == (0, True)
    assert "applied: Git moved: virtual-policy/chat" in ran.out
    assert [path.name for path in state.glob("mirror-*/*")] == [".git"]  # no file was checked out
    (begun, _) = [line.entry for line in AuditFile(Path("audit.jsonl")).lines()]
    assert begun is not None
    assert (begun.origin.commit, begun.origin.dirty, begun.origin.subject) == (made, False, "x")
    commit(repository.folder, "policies")
    assert "virtual-policy/draft" in policyctl("watch", "--once", *source, "--state", state).out


def test_a_mirror_in_which_git_was_killed_is_used_again(repository: Project, policyctl: Policyctl, tmp_path: Path) -> None:
    """A lock that is older than any fetch is removed: that of a fetch that runs is not."""
    source = ("--source", repository.folder, "--ref", "main", "--state", tmp_path / "state")
    assert policyctl("watch", "--once", *source).code == 0
    configure(repository, "{interval: 1m}")
    (mirror,) = (tmp_path / "state").glob("mirror-*/.git")
    lock = mirror / "refs" / "heads" / "mirrored.lock"
    lock.touch()
    ran = policyctl("watch", "--once", *source)
    assert (ran.code, "the source cannot be fetched" in ran.err) == (1, True)
    before = time.time() - 1000
    os.utime(lock, (before, before))
    assert "every 1m" in policyctl("watch", "--once", *source).err


@pytest.mark.parametrize(
    ("args", "what"),
    [
        (["--source", "https://me:secret@git.example.com/x.git"], "has a user or password in it"),
        (["--source", "ext::sh -c true"], "is not the URL or path"),
        (["--source", "--upload-pack=x"], "is not the URL or path"),
        (["--ref", "main"], "--ref is for --source"),
        (["--detailed-exitcode"], "--detailed-exitcode is for --once"),
        (["--poll", "5"], "must be a duration"),
        (["--env", "prod"], "prod"),
    ],
)
def test_wrong_command_lines(repository: Project, policyctl: Policyctl, args: list[str], what: str) -> None:
    once = () if "--detailed-exitcode" in args else ("--once",)
    ran = policyctl("watch", *once, *args)
    assert ran.code in (1, 64)
    assert what in ran.err
    assert "secret" not in ran.err
    assert "Traceback" not in ran.err


def test_a_source_that_cannot_be_fetched_is_one_line(repository: Project, policyctl: Policyctl, tmp_path: Path) -> None:
    (tmp_path / "nothing").mkdir()
    ran = policyctl("watch", "--once", "--source", tmp_path / "nothing", "--state", tmp_path / "state")
    assert ran.code == 1
    assert "the source cannot be fetched: " in ran.err


def window(kind: str, *, manual: bool = False) -> str:
    """A window that is open now."""
    more = ", manual: true" if manual else ""
    return f"{{windows: [{{kind: {kind}, at: 0 0 * * *, for: 1d{more}}}]}}"


def test_a_person_applies_in_a_deny_window_only_with_a_reason(repository: Project, policyctl: Policyctl) -> None:
    configure(repository, window("deny"))
    for several in ([], ["--all"]):
        ran = policyctl("apply", "--yes", *several)
        assert ran.code == 3
        assert "--outside-window REASON" in ran.err + ran.out
    assert policyctl("apply", "--yes", "--outside-window", " ").code == 64
    assert "virtual-policy" not in policyctl("policy", "list").out
    ran = policyctl("apply", "--yes", "--outside-window", "an incident", "--audit", "audit.jsonl")
    assert ran.code == 0
    (begun, _) = [line.entry for line in AuditFile(Path("audit.jsonl")).lines()]
    assert begun is not None
    assert [(one.option, one.reason) for one in begun.overrides] == [("--outside-window", "an incident")]
    assert policyctl("apply", "--yes").code == 0  # there is nothing to write


class Opening:
    """A clock for the windows of an apply: so many times it is a usual day, then one on which a window is open."""

    def __init__(self, usual: int) -> None:
        self._usual = usual

    def now(self, zone: tzinfo) -> datetime:
        self._usual -= 1
        return datetime(2028, 2, 28 if self._usual >= 0 else 29, tzinfo=zone)


@pytest.mark.parametrize(
    ("command", "usual", "code"),
    [
        (["apply", "--yes"], 1, 3),  # it is asked before the question too
        (["apply", "--yes", "--all"], 0, 3),
        (["watch", "--once"], 0, 1),
    ],
)
def test_a_window_that_opens_while_an_apply_waits_lets_nothing_be_written(
    command: list[str], usual: int, code: int, repository: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    configure(repository, "{apply: on-merge, windows: [{kind: deny, at: 0 0 29 2 *, for: 1s}]}")
    monkeypatch.setattr("policyctl.cli.review.datetime", Opening(usual))
    ran = policyctl(*command)
    assert ran.code == code
    assert ": the deny window (0 0 29 2 * for 1s, UTC) is open" in ran.out + ran.err
    assert not live_documents(LOCAL)


@pytest.mark.parametrize("watch", [window("deny", manual=True), "{windows: [{kind: allow, at: 0 0 29 2 *, for: 1s}]}"])
def test_other_windows_do_not_stop_a_person(repository: Project, policyctl: Policyctl, watch: str) -> None:
    configure(repository, watch)
    assert policyctl("apply", "--yes").code == 0


def started(*args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "policyctl", "watch", "--poll", "1s", "--interval", "1s", "--port", "0", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def line_with(process: subprocess.Popen[str], text: str) -> str:
    """The next line of output with a text."""
    assert process.stdout is not None
    return next(line for line in process.stdout if text in line)


@pytest.mark.slow
def test_it_sees_new_revisions_and_edits_and_ends_with_a_signal(repository: Project, policyctl: Policyctl) -> None:
    configure(repository, "{apply: on-merge, heal: always}")
    with started() as process:
        try:
            assert "applied: Git moved" in line_with(process, "in_sync")
            assert policyctl("watch", "--once").code == 3  # one at a time
            assert policyctl("policy", "remove", "chat", "--yes").code == 0
            assert "the remote moved: virtual-policy/chat" in line_with(process, "drifted")
            line_with(process, "in_sync")
            repository.policy("draft", "virtual-model/x/a")
            commit(repository.folder, "policies")
            assert "virtual-policy/draft" in line_with(process, "pending")
            line_with(process, "in_sync")
            process.send_signal(signal.SIGTERM)
            assert process.wait(LONGEST) == 0
        finally:
            process.kill()
    assert policyctl("plan", "--detailed-exitcode").code == 0


DEV = LOCAL.with_name("dev.db")


def to(model: str) -> Callable[[dict[str, Any]], object]:
    """An edit by hand of where a policy leads."""
    return lambda document: document["policy"].update(targets=[{"model_name": model, "weight": 1}], strategy={"mode": "single"})


def test_what_was_put_back_by_hand_is_not_overwritten_with_another_commit(repository: Project, policyctl: Policyctl) -> None:
    """In an emergency a person goes back to an earlier version on the remote. Git history alone would take that for a change
    that was not applied yet, but the watch saw the environment in sync since."""
    configure(repository, "{apply: on-merge}")
    repository.policy("chat", "virtual-model/x/a")
    commit(repository.folder, "policies")
    assert "in_sync" in policyctl("watch", "--once").out
    repository.policy("chat", "virtual-model/x/b")
    commit(repository.folder, "policies")
    assert "applied: Git moved: virtual-policy/chat" in policyctl("watch", "--once").out
    edit("chat", to("virtual-model/x/a"), DEV)
    assert "drifted" in policyctl("watch", "--once").out
    repository.policy("other")
    commit(repository.folder, "policies")
    found = policyctl("watch", "--once").out
    assert "Git moved: virtual-policy/other; the remote moved: virtual-policy/chat" in found
    assert "waits for a person: only a part of it may be applied without one" in found
    assert "virtual-model/x/a" in json.dumps(live_documents(DEV)["virtual-policy/chat"])


def test_what_git_moved_is_not_written_by_healing(repository: Project, policyctl: Policyctl) -> None:
    """What may not be applied is not, because a person edits the same policy on the remote: both sides moved."""
    configure(repository, "{heal: always}")
    repository.policy("chat", "virtual-model/x/a")
    commit(repository.folder, "policies")
    assert policyctl("apply", "--yes").code == 0
    assert policyctl("watch", "--once").code == 0
    repository.policy("chat", "virtual-model/x/b")
    commit(repository.folder, "policies")
    assert "pending" in policyctl("watch", "--once").out
    edit("chat", to("virtual-model/x/c"), DEV)
    assert "conflict" in policyctl("watch", "--once").out
    assert "virtual-model/x/c" in json.dumps(live_documents(DEV)["virtual-policy/chat"])


APPROVED = "environments: {local: {remote: local, watch: {apply: on-merge, approved: true}}}\n"


def test_with_approved_only_the_plan_of_a_merged_pull_request_is_applied(work: Work) -> None:
    work.project.write("policyctl.yaml", APPROVED)
    work.settle()
    work.add("web")
    assert work.comment(5).code == 0
    work.forge.head = work.commit()
    assert (
        "no merged pull request waits that shows any of this; no approved plan showed the change of virtual-policy/"
        in work.policyctl("watch", "--once").out
    )
    assert "web" not in work.live
    work.forge.merge(5, work.forge.head)
    assert "applied: Git moved: virtual-policy/web" in work.policyctl("watch", "--once").out
    assert "web" in work.live
    work.add("other")  # which no pull request showed
    work.forge.head = work.commit()
    assert "no approved plan showed the change of " in work.policyctl("watch", "--once").out
    work.forge.head = "d" * 40  # the branch has moved on
    work.add("third")
    work.commit()
    assert "has moved on" in work.policyctl("watch", "--once").out
    assert work.live & {"other", "third"} == set()


def test_an_approval_is_used_once(work: Work) -> None:
    """What was taken back is not applied again because it was approved before."""
    work.project.write("policyctl.yaml", APPROVED)
    work.settle()

    def merged(number: int, **policies: str) -> str:
        for name, model in policies.items():
            work.project.policy(name, model)
        assert work.comment(number).code == 0
        work.forge.head = work.commit()
        work.forge.merge(number, work.forge.head)
        return work.policyctl("watch", "--once").out

    assert "applied: Git moved" in merged(5, web="virtual-model/x/a")
    assert "Used by policyctl watch" in work.forge.comments[5][-1]["body"]
    assert "applied: Git moved" in merged(6, web="virtual-model/x/b")
    work.project.policy("web", "virtual-model/x/a")  # pushed, without a pull request
    work.forge.head = work.commit()
    assert "waits for an approval" in work.policyctl("watch", "--once").out
    assert "virtual-model/x/b" in work.policyctl("policy", "show", "web").out


def test_nothing_is_applied_whose_approval_cannot_be_noted_as_used(work: Work) -> None:
    """It would count once more, wherever the process ends."""
    work.project.write("policyctl.yaml", APPROVED)
    work.settle()
    work.add("web")
    assert work.comment(5).code == 0
    work.forge.head = work.commit()
    work.forge.merge(5, work.forge.head)
    work.forge.read_only = True
    assert "it cannot be noted that an approval is used" in work.policyctl("watch", "--once").out
    assert "web" not in work.live
    work.forge.read_only = False
    work.policyctl("watch", "--once")
    assert "web" in work.live
    assert "Used by policyctl watch" in work.forge.comments[5][-1]["body"]


def test_what_was_applied_by_hand_uses_its_approval_too(work: Work) -> None:
    work.project.write("policyctl.yaml", APPROVED)
    work.settle()
    work.add("web")
    assert "pending" in work.policyctl("watch", "--once").out
    assert work.comment(5).code == 0
    work.forge.head = work.commit()
    work.forge.merge(5, work.forge.head)
    assert work.policyctl("apply", "--yes").code == 0
    assert "in_sync" in work.policyctl("watch", "--once").out
    assert "Applied, as policyctl watch found" in work.forge.comments[5][-1]["body"]


def test_an_environment_that_comes_back_or_has_another_name_needs_a_person(work: Work) -> None:
    work.project.write("policyctl.yaml", APPROVED)
    work.settle()
    assert work.policyctl("watch", "--once").code == 0
    other = "environments: {dev: {remote: local}}\n"
    work.project.write("policyctl.yaml", other)
    work.forge.head = work.commit()
    work.policyctl("watch", "--once")
    for again in ("local", "renamed"):
        work.project.write("policyctl.yaml", f"environments: {{{again}: {{remote: local, watch: {{apply: on-merge}}}}}}\n")
        work.project.policy("web")
        work.forge.head = work.commit()
        assert "nothing logs in" in work.policyctl("watch", "--once").out
    assert "web" not in work.live


def test_a_commit_does_not_decide_that_it_needs_no_approval(work: Work) -> None:
    work.project.write("policyctl.yaml", APPROVED)
    work.settle()
    assert work.policyctl("watch", "--once").code == 0
    work.project.write("policyctl.yaml", APPROVED.replace("approved: true", "approved: false"))
    work.add("web")
    work.forge.head = work.commit()  # pushed, without a pull request
    assert "waits for an approval" in work.policyctl("watch", "--once").out
    assert work.comment(5).code == 0
    work.forge.head = work.commit()
    work.forge.merge(5, work.forge.head)
    assert "applied: Git moved" in work.policyctl("watch", "--once").out
    work.add("other")  # now the settings are approved
    work.forge.head = work.commit()
    assert "applied: Git moved: virtual-policy/other" in work.policyctl("watch", "--once").out


def test_with_approved_nothing_is_asked_of_another_remote_before_that_is_approved(work: Work) -> None:
    """Asking it is logging in: a commit must not lead credentials elsewhere."""
    work.project.write("policyctl.yaml", APPROVED)
    work.settle()
    assert work.policyctl("watch", "--once").code == 0
    elsewhere = APPROVED.replace("remote: local", "remote: sqlite:///other.db")
    work.project.write("policyctl.yaml", elsewhere.replace("approved: true", "approved: false"))
    work.add("web")
    work.forge.head = work.commit()
    ran = work.policyctl("watch", "--once")
    assert (ran.code, "nothing logs in: no merged pull request shows it" in ran.out) == (3, True), ran.out
    assert not list(Path().rglob("other.db"))
    assert work.comment(5).code == 0
    work.forge.head = work.commit()
    work.forge.merge(5, work.forge.head)
    assert "Git moved: virtual-policy/base, virtual-policy/web; waits for an approval" in work.policyctl("watch", "--once").out


@pytest.mark.parametrize("missing", ["GITHUB_TOKEN", "GITHUB_REPOSITORY"])
def test_without_a_way_to_read_approvals_it_waits_and_names_what_is_missing(
    repository: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    repository.write("policyctl.yaml", APPROVED)
    commit(repository.folder)
    if missing == "GITHUB_REPOSITORY":
        monkeypatch.setenv("GITHUB_TOKEN", "token")
    ran = policyctl("watch", "--once")
    assert "pending" in ran.out
    assert missing in ran.out


def test_a_signal_that_comes_while_the_main_thread_holds_a_lock_ends_the_watch() -> None:
    """The lock is that of what it waits for, and `stop` needs it: in a signal handler that would wait forever."""
    lock, noted = Lock(), Event()

    def stop(_: int) -> None:
        assert lock.acquire(timeout=LONGEST)
        lock.release()
        noted.set()

    with first_signal_apart(stop):
        with lock:
            signal.raise_signal(signal.SIGTERM)
        assert noted.wait(LONGEST)
