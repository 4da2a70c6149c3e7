"""--audit notes every change in a file, before and after its write; history reads it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from policyctl.report import schema_text
from tests.conftest import ANYGEM, Policyctl, Project
from tests.git_repo import commit
from tests.remote.fake_server import standing_in
from tests.remote.fake_tenant import Tenant
from tests.sqlite_rows import LOCAL, live_documents

AUDIT = Path("audit.jsonl")


def lines(path: Path = AUDIT) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def outcomes(path: Path = AUDIT) -> list[tuple[str, str]]:
    return [(line["name"].removeprefix("virtual-policy/"), line["outcome"]) for line in lines(path)]


@pytest.fixture(autouse=True)
def _nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("GITLAB_USER_LOGIN", "CI_JOB_URL"):
        monkeypatch.delenv(name, raising=False)


def test_a_change_is_noted_before_and_after_its_write(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    head = commit(project.folder)
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0
    begun, applied = lines()
    assert (begun["outcome"], applied["outcome"]) == ("begun", "applied")
    differing = {"time", "outcome", "fields"}
    assert [field["path"] for field in begun["fields"]] == ["display_name", "description", "policy"]
    assert "fields" not in applied, "what changes is noted once"
    assert {key: value for key, value in begun.items() if key not in differing} == {
        key: value for key, value in applied.items() if key not in differing
    }
    moment = datetime.fromisoformat(applied["time"])
    assert moment.tzinfo == UTC
    assert applied["format"] == "policyctl/audit"
    assert applied["command"] == "apply"
    assert (applied["environment"], applied["remote"]) == ("local", f"sqlite:///{LOCAL.absolute()}")
    assert (applied["commit"], applied["dirty"], applied["subject"]) == (head, False, "x")
    assert (applied["action"], applied["name"], applied["before"]) == ("add", "virtual-policy/anygem", None)
    assert "@" in applied["who"]
    assert AUDIT.stat().st_mode & 0o777 == 0o600


def test_what_one_entry_leaves_is_what_the_next_finds(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0
    project.write("anygem.yaml", ANYGEM.replace("0.25", "0.4"))
    assert policyctl("plan", "--out", "plan.json").code == 0
    assert policyctl("apply", "plan.json", "--yes", "--audit", AUDIT).code == 0
    assert policyctl("policy", "remove", "--name", "anygem", "--yes", "--audit", AUDIT).code == 0
    added, updated, removed = lines()[1::2]
    assert added["after"] == updated["before"]
    assert updated["after"] == removed["before"]
    assert updated["plan"] == json.loads(Path("plan.json").read_text("utf-8"))["digest"]
    assert removed["after"] is None
    assert [line["command"] for line in (added, updated, removed)] == ["apply", "apply", "policy remove"]
    assert not any("commit" in line or "dirty" in line for line in lines())
    assert all("is not in a git repository" in line["no_commit"] for line in lines())


def test_single_policies_are_noted_too_and_the_variable_names_the_file(
    project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLICYCTL_AUDIT", str(AUDIT))
    path = project.write("anygem.yaml")
    add = ("policy", "add", "--name", "a", "--strategy", "single", "--model", "virtual-model/x/a", "--yes")
    assert policyctl(*add).code == 0
    assert policyctl("policy", "import", "--file", path, "--yes").code == 0
    assert policyctl(*add).code == 0  # changes nothing
    assert outcomes() == [("a", "begun"), ("a", "applied"), ("anygem", "begun"), ("anygem", "applied")]
    assert [line["command"] for line in lines()] == ["policy add"] * 2 + ["policy import"] * 2
    ran = policyctl("history", "a")
    assert (ran.code, ran.out.count("virtual-policy/")) == (0, 1)


def test_what_changes_nothing_on_the_remote_makes_no_file(
    project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("anygem.yaml")
    assert policyctl("apply", "--audit", AUDIT).code == 64  # without a person to ask
    assert policyctl("apply", "--yes").code == 0
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0  # nothing to do
    add = ("policy", "add", "--name", "a", "--strategy", "single", "--model", "virtual-model/x/a")
    for writes_nothing in ("--dry-run", "--save"):
        assert policyctl(*add, writes_nothing, "--audit", AUDIT).code == 64
    monkeypatch.setenv("POLICYCTL_AUDIT", str(AUDIT))  # is for all commands
    assert policyctl(*add, "--dry-run").code == 0
    assert policyctl(*add, "--save").code == 0
    assert not AUDIT.exists()


PEOPLE = {
    "GitHub": (
        {"GITHUB_ACTOR": "ada", "GITHUB_SERVER_URL": "https://h.invalid", "GITHUB_REPOSITORY": "o/r", "GITHUB_RUN_ID": "7"},
        ("ada", "https://h.invalid/o/r/actions/runs/7"),
    ),
    "GitLab": ({"GITLAB_USER_LOGIN": "ada", "CI_JOB_URL": "https://l.invalid/j/1"}, ("ada", "https://l.invalid/j/1")),
}


@pytest.mark.parametrize("service", PEOPLE)
def test_a_ci_service_names_the_person_and_the_run(
    service: str, project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    environ, expected = PEOPLE[service]
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    project.write("anygem.yaml")
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0
    assert (lines()[-1]["who"], lines()[-1]["run"]) == expected
    assert f"in {expected[1]}" in policyctl("history", "--audit", AUDIT).out


def test_a_directory_that_is_not_as_its_commit_is_dirty(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    commit(project.folder)
    project.policy("new")
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0
    assert {line["dirty"] for line in lines()} == {True}
    assert "with uncommitted changes" in policyctl("history", "--audit", AUDIT).out


UNUSABLE = {
    "a directory of nowhere": ("no/such/audit.jsonl", "No such file or directory"),
    "a device": ("/dev/full", "is not a regular file"),
    "a pipe": ("pipe", "is not a regular file"),
    "a directory": (".", "is a directory"),
}


@pytest.mark.parametrize("case", UNUSABLE)
def test_a_file_that_cannot_be_added_to_stops_before_the_first_write(case: str, project: Project, policyctl: Policyctl) -> None:
    file, told = UNUSABLE[case]
    os.mkfifo("pipe")
    project.write("anygem.yaml")
    ran = policyctl("apply", "--yes", "--audit", file)
    assert ran.code == (64 if case == "a directory" else 1)
    assert told in ran.err
    assert live_documents() == {}


# Nothing is compiled there: a file that is cut short would stay, and be read by whatever runs next.
FULL = """
import resource
import sys
sys.dont_write_bytecode = True
import policyctl.reconcile.audit as auditing
from policyctl.cli.main import main

class Full(auditing.LineFile):
    def __init__(self, path):
        super().__init__(path)
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))

auditing.LineFile = Full
main()
"""


@pytest.mark.slow
def test_nothing_is_written_that_cannot_be_noted(project: Project) -> None:
    """The disk fills up in mid-apply: no remote row is without a line, and the exit code shows that not all is done."""
    for number in range(16):
        project.policy(f"p{number}")
    tenant = Tenant()
    with standing_in(tenant) as server:
        command = ["apply", "--yes", "--parallelism", "2", "--audit", str(AUDIT), "--remote", server.url]
        ran = subprocess.run([sys.executable, "-c", FULL, *command], capture_output=True, text=True, check=False)
    assert ran.returncode == 5
    assert "cannot write to the audit file audit.jsonl: File too large; so this change was not made" in ran.stdout
    noted = {json.loads(line)["name"] for line in AUDIT.read_text("utf-8").splitlines() if line.endswith("}")}
    written = {row["name"] for row in tenant.rows.values()}
    assert written <= noted
    assert 0 < len(written) < 16


INTERRUPTED = """
import os, signal
import policyctl.reconcile.audit as auditing
from policyctl.cli.main import main

class Full(auditing.LineFile):
    struck = False

    def add(self, line):
        if not self.struck:
            self.struck = True
            os.kill(os.getpid(), signal.SIGINT)
        if '"outcome": "begun"' not in line:
            raise OSError(28, "No space left on device")
        super().add(line)

auditing.LineFile = Full
main()
"""


@pytest.mark.slow
def test_an_interrupted_apply_whose_outcomes_cannot_be_noted_is_still_an_interrupted_one(project: Project) -> None:
    """The exit code shows why it ended, and standard error names each outcome that the file lacks."""
    for name in "abc":
        project.policy(name)
    program = [sys.executable, "-c", INTERRUPTED, "apply", "--yes", "--parallelism", "1", "--audit", str(AUDIT)]
    ran = subprocess.run(program, capture_output=True, text=True, check=False)
    assert ran.returncode == 130
    assert "No space left on device; it lacks the outcome of virtual-policy/a" in ran.stderr
    assert ran.stdout.count("skipped: interrupted") == 3 - len(live_documents())


@pytest.mark.slow
def test_a_kill_between_the_write_and_its_outcome_leaves_a_begun_line(project: Project, policyctl: Policyctl) -> None:
    for name in "abc":
        project.policy(name)
    program = [sys.executable, "-c", KILL_AFTER_WRITE, "apply", "--yes", "--parallelism", "1", "--audit", str(AUDIT)]
    assert subprocess.run(program, capture_output=True, check=False).returncode == -signal.SIGKILL
    assert ("b", "begun") in outcomes()
    assert ("b", "applied") not in outcomes()
    assert set(live_documents()) == {"virtual-policy/a", "virtual-policy/b"}
    ran = policyctl("history", "b", "--audit", AUDIT)
    assert ran.code == 0
    assert "+ virtual-policy/b  not known: the run ended before reporting the outcome" in ran.out
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0
    assert outcomes()[-2:] == [("c", "begun"), ("c", "applied")]


KILL_AFTER_WRITE = """
import os, signal
import policyctl.remote.open
from policyctl.cli.main import main
from policyctl.remote.sqlite import SqliteRemote

class Killed(SqliteRemote):
    def add(self, document, kind):
        answer = super().add(document, kind)
        if document["name"].endswith("/b"):
            os.kill(os.getpid(), signal.SIGKILL)
        return answer

policyctl.remote.open.SqliteRemote = Killed
main()
"""


def test_failures_and_what_is_skipped_are_noted_with_the_reason(project: Project, policyctl: Policyctl) -> None:
    project.policy("one")
    assert policyctl("plan", "--out", "plan.json").code == 0
    assert policyctl("apply", "--yes").code == 0
    assert policyctl("apply", "plan.json", "--yes", "--audit", AUDIT).code == 0
    assert outcomes() == [("one", "already")]


def test_history_is_one_row_a_change_the_last_one_last(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    commit(project.folder)
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0
    project.write("anygem.yaml", ANYGEM.replace("0.25", "0.4"))
    project.policy("prod-x")
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0
    ran = policyctl("history", "--audit", AUDIT)
    assert ran.code == 0
    changes = [line.split("  ", 2)[2] for line in ran.out.splitlines() if "virtual-policy/" in line]
    assert changes == [
        "+ virtual-policy/anygem  applied", "~ virtual-policy/anygem  applied", "+ virtual-policy/prod-x  applied",
    ]  # fmt: skip
    assert ran.out.endswith("\n\n3 changes.\n")
    for names, found in (
        (["anygem"], 2),
        (["virtual-policy/anygem"], 2),
        (["prod-*"], 1),
        (["nobody"], 0),
        (["prod-*", "any*"], 3),
    ):
        assert policyctl("history", *names, "--audit", AUDIT).out.splitlines()[-1].startswith(f"{found} change")
    assert policyctl("history", "--env", "other", "--audit", AUDIT).out == "0 changes.\n"


def test_history_as_json_matches_its_schema(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    commit(project.folder)
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0
    assert policyctl("policy", "remove", "--name", "anygem", "--yes", "--audit", AUDIT).code == 0
    data = json.loads(policyctl("history", "--audit", AUDIT, "--format", "json").out)
    jsonschema.Draft202012Validator(json.loads(schema_text("history"))).validate(data)
    assert [(change["action"], change["gap"]) for change in data["changes"]] == [("add", False), ("remove", False)]


def test_history_shows_what_changed(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0
    project.write("anygem.yaml", ANYGEM.replace("0.25", "0.4"))
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0
    assert policyctl("policy", "remove", "--name", "anygem", "--yes", "--audit", AUDIT).code == 0
    text = policyctl("history", "--audit", AUDIT, "--diff").out
    assert "    policy.targets[google/gemini-2.0-flash-lite].weight: 0.25 → 0.4\n" in text
    assert text.count("    policy: {") == 2
    assert "absent" not in text
    assert " → " not in policyctl("history", "--audit", AUDIT).out
    data = json.loads(policyctl("history", "--audit", AUDIT, "--format", "json", "--diff").out)
    jsonschema.Draft202012Validator(json.loads(schema_text("history"))).validate(data)
    assert data["changes"][1]["fields"] == [
        {"path": "policy.targets[google/gemini-2.0-flash-lite].weight", "before": 0.25, "after": 0.4}
    ]
    without = [{key: item for key, item in line.items() if key != "fields"} for line in lines()]  # as older lines are
    AUDIT.write_text("".join(f"{json.dumps(line)}\n" for line in without), "utf-8")
    assert policyctl("history", "--audit", AUDIT, "--diff").out.count("what changed is not in the audit file") == 3


OVERRIDING = (
    ("apply", "--yes", "--max-removes", "1", "--reason", "the old one is gone"),
    ("policy", "remove", "--name", "b", "--yes", "--allow-remove", "b", "--reason", "the old one is gone"),
)


@pytest.mark.parametrize("command", OVERRIDING, ids=lambda command: command[0])
def test_a_line_names_what_was_overridden_and_why(command: tuple[str, ...], project: Project, policyctl: Policyctl) -> None:
    for name in "ab":
        project.policy(name)
    assert policyctl("apply", "--yes").code == 0
    project.write("policyctl.yaml", "limits: {max_removes: 0}\nprotect: [%s]\n" % ("b" if command[0] == "policy" else "x"))
    (project.policies / "b.yaml").unlink()
    assert policyctl(*command, "--audit", AUDIT).code == 0
    option, value = ("--max-removes", "1") if command[0] == "apply" else ("--allow-remove", "b")
    assert [line["overrides"] for line in lines()] == [
        [{"option": option, "value": value, "reason": "the old one is gone"}],
    ] * 2
    assert f"    overriding {option} {value}: the old one is gone\n" in policyctl("history", "--audit", AUDIT).out


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (("apply", "--yes", "--reason", "x"), "--reason is for an override, and none is given"),
        (("policy", "remove", "--name", "a", "--reason", "x"), "--reason is for --allow-remove, which is not given"),
    ],
)
def test_a_reason_for_nothing_is_an_error(command: tuple[str, ...], said: str, project: Project, policyctl: Policyctl) -> None:
    project.policy("a")
    ran = policyctl(*command)
    assert (ran.code, said in ran.err) == (64, True)


@pytest.mark.parametrize("form", ["text", "json"])
def test_what_a_file_contains_is_only_shown(form: str, project: Project, policyctl: Policyctl) -> None:
    """Whoever may add to the file could otherwise write what a terminal or a runner's log obeys."""
    project.write("anygem.yaml")
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0
    lines = [
        {**json.loads(line), "command": "x\u001b]0;y\u0007 ##[error]z \u202e"} for line in AUDIT.read_text("utf-8").splitlines()
    ]
    AUDIT.write_text("".join(f"{json.dumps(line)}\n" for line in lines), "utf-8")
    ran = policyctl("history", "--audit", AUDIT, "--format", form)
    assert ran.code == 0
    assert ran.out.replace("\n", "").isprintable()
    assert "##[" not in ran.out


def test_a_change_that_was_not_noted_is_seen(project: Project, policyctl: Policyctl) -> None:
    for weight, audit in (("0.25", True), ("0.4", False), ("0.5", True)):
        project.write("anygem.yaml", ANYGEM.replace("0.25", weight))
        assert policyctl("apply", "--yes", *(("--audit", AUDIT) if audit else ())).code == 0
    ran = policyctl("history", "--audit", AUDIT)
    assert ran.out.count("before this, it was changed without an entry here") == 1


TORN = {
    "torn at its end": (lambda text: text[:-20], 0, 1),
    "torn in the middle": (lambda text: text.replace(text.splitlines()[0], text[:50], 1), 1, 1),
    "of a newer version": (lambda text: text.replace('"version": 1', '"version": 2', 1), 1, 1),
    "of something else": (lambda text: '{"a": 1}\n[]\n\n' + text, 1, 2),
    "without a field": (lambda text: text.replace('"who"', '"whom"', 1), 1, 1),
    "of overrides that are none": (lambda text: text.replace('"fields": [', '"overrides": [3], "fields": [', 1), 1, 1),
    "of fields without a path": (lambda text: text.replace('"fields": [', '"fields": [{}, ', 1), 1, 1),
    "of a wrong type": (lambda text: text.replace('"action": "add"', '"action": ["\\u001b"]', 1), 1, 1),
    "of more than a line may have": (lambda text: "x" * 3_000_000 + "\n" + text, 1, 1),
    "of more than that at the end": (lambda text: text + "x" * 3_000_000, 0, 1),
    "nothing but zeros at the end": (lambda text: text + "\0" * 100, 0, 1),
}


@pytest.mark.parametrize("case", TORN)
def test_a_line_that_cannot_be_read_is_reported_and_the_others_are_shown(
    case: str, project: Project, policyctl: Policyctl
) -> None:
    edit, code, told = TORN[case]
    project.write("anygem.yaml")
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0
    AUDIT.write_text(edit(AUDIT.read_text("utf-8")), "utf-8")
    ran = policyctl("history", "--audit", AUDIT)
    assert ran.code == code
    assert sum("line skipped" in line for line in ran.err.splitlines()) == told
    assert "virtual-policy/anygem" in ran.out
    assert "\x1b" not in ran.out + ran.err


def test_a_line_after_a_torn_one_is_whole(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    AUDIT.write_text('{"format": "policyctl/au', "utf-8")
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0
    assert [json.loads(line)["outcome"] for line in AUDIT.read_text("utf-8").splitlines()[1:]] == ["begun", "applied"]


@pytest.mark.slow
def test_applies_at_once_tear_no_line(project: Project) -> None:
    many = 40
    for number in range(many):
        project.policy(f"p{number}")
    command = [sys.executable, "-m", "policyctl", "apply", "--yes", "--parallelism", "8", "--audit", str(AUDIT)]
    running = [subprocess.Popen([*command, "--remote", f"sqlite:///{n}.db"], stdout=-3, stderr=-3) for n in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert len(lines()) == 3 * many * 2
    assert len({line["id"] for line in lines()}) == 3


def test_history_without_a_file_shows_what_to_do(project: Project, policyctl: Policyctl) -> None:
    assert policyctl("history") == (64, "", policyctl("history").err)
    assert "name it with --audit or POLICYCTL_AUDIT" in policyctl("history").err
    ran = policyctl("history", "--audit", "none.jsonl")
    assert (ran.code, ran.err) == (1, "error: the audit file none.jsonl cannot be read: No such file or directory\n")
    ran = policyctl("history", "--audit", "/dev/zero")
    told = "error: the audit file /dev/zero cannot be read: it is a device\n"
    assert (ran.code, ran.err) == (1, told)


def test_a_file_that_is_there_keeps_its_mode(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    AUDIT.touch()
    AUDIT.chmod(0o640)
    assert policyctl("apply", "--yes", "--audit", AUDIT).code == 0
    assert AUDIT.stat().st_mode & 0o777 == 0o640
