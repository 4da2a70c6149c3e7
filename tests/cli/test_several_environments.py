"""plan and apply of several environments: one report, one exit code, one digest, and runs that can be resumed."""

from __future__ import annotations

import csv
import fcntl
import io
import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from textwrap import indent
from typing import Any
from xml.etree import ElementTree

import pytest
from deepdiff import DeepDiff
from jsonschema import Draft202012Validator

from policyctl.effect.analysis import compare
from policyctl.load import base_config
from policyctl.load.environment import Config
from policyctl.load.git.repository import _run as run_git
from policyctl.load.git.repository import named_in
from policyctl.plan.fleet import EnvironmentResult, general
from policyctl.report import schema_text
from tests.call_counts import calls
from tests.conftest import Policyctl, Project
from tests.git_repo import commit, git
from tests.patience import LONGEST
from tests.remote.fake_server import Reply, Seen, Silence, standing_in
from tests.remote.fake_tenant import Tenant
from tests.sqlite_rows import live_documents, put, row
from tests.terminal import answer_on_terminal

CONFIG = """
scope: ["virtual-policy/*"]
templates:
  one: {remote: "sqlite:///{{ tenant }}.db", vars: {lite: 0.1}}
fleet:
  - {from: tenants.csv, name: "t-{{ tenant }}", extends: one, labels: [ring], vars: [lite]}
"""
POLICY = """
kind: model
spec_version: v1
name: anygem
policy:
  strategy: {mode: loadbalance}
  targets:
    - {model_name: virtual-model/google/gemini-2.0-flash, weight: "{{ lite }}"}
    - {model_name: virtual-model/google/gemini-2.5-pro, weight: "{{ 1 - lite }}"}
"""


ROWS_OF_ONE = 'fleet: [{from: rows.csv, name: "t-{{ t }}", extends: one}]\n'


@pytest.fixture
def fleet(project: Project) -> Project:
    """Twelve environments; a1 and a11 have another share than the others."""
    rows = [f"a{n},{n % 3},{0.2 if n % 10 == 1 else ''}\n" for n in range(12)]
    project.write("tenants.csv", "tenant,ring,lite\n" + "".join(rows))
    project.write("policyctl.yaml", CONFIG)
    project.write("anygem.yaml", POLICY)
    return project


def data_of(policyctl: Policyctl, *arguments: str) -> dict[str, Any]:
    """What a command prints as JSON, which is as its schema describes."""
    found = json.loads(policyctl(*arguments, "--format", "json").out)
    assert isinstance(found, dict)
    shared = {"policyctl/environment": "environments", "policyctl/effects": "effect"}
    schema = shared.get(found["format"], found["format"].removeprefix("policyctl/"))
    Draft202012Validator(json.loads(schema_text(schema))).validate(found)
    return found


def database(fleet: Project, name: str) -> Path:
    return fleet.policies / f"{name}.db"


def test_equal_plans_are_shown_once_and_differences_side_by_side(fleet: Project, policyctl: Policyctl) -> None:
    ran = policyctl("plan", "--all")
    assert ran.code == 0
    assert "t-a0, t-a2, t-a3 and 7 more: 1 to add, the same in 10 environments\n" in ran.out
    assert "t-a1, t-a11: 1 to add, the same in 2 environments\n" in ran.out
    assert ran.out.count("+ virtual-policy/anygem") == 2
    differs = ran.out.partition("What differs between environments:\n")[2].splitlines()[:3]
    assert [re.split(r" {2,}", line.strip()) for line in differs] == [
        ["t-a0, t-a2 and 8 more", "t-a1, t-a11"],
        ["anygem targets[google/gemini-2.0-flash].weight", "0.1", "0.2"],
        ["anygem targets[google/gemini-2.5-pro].weight", "0.9", "0.8"],
    ]
    assert ran.out.endswith("12 environments: 12 with changes.\n")


SHARED = """
kind: model
spec_version: v1
name: shared
policy: {strategy: {mode: single}, targets: [{model_name: virtual-model/openai/OLD}]}
"""
LIVE_ONLY = """
kind: model
spec_version: v1
name: other
policy:
  strategy: {mode: loadbalance}
  targets: [{model_name: virtual-policy/shared, weight: SHARE}, {model_name: virtual-model/google/g, weight: REST}]
"""


def test_equal_changes_with_another_effect_are_not_shown_as_the_same(project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", "environments: {a: {remote: local}, b: {remote: local}}\n")
    project.write("shared.yaml", SHARED)
    for name, share, rest in (("a", "0.01", "0.99"), ("b", "0.99", "0.01")):
        project.write("other.yaml", LIVE_ONLY.replace("SHARE", share).replace("REST", rest))
        assert policyctl("apply", "--env", name, "--yes").code == 0
    (project.policies / "other.yaml").unlink()
    project.write("policyctl.yaml", "scope: [virtual-policy/shared]\nenvironments: {a: {remote: local}, b: {remote: local}}\n")
    project.write("shared.yaml", SHARED.replace("OLD", "new"))
    ran = policyctl("plan", "--all")
    assert "the same in" not in ran.out
    assert "openai/new 0% → 1%" in ran.out
    assert "openai/new 0% → 99%" in ran.out


HOOKED = """
kind: model
spec_version: v1
name: openai/gpt
app_id: openai_creds
provider_config:
  custom_host: https://gateway.example/LONG/last-of-host
  before_request_hooks: [{note: "LONG", at: "last-of-hook"}]
"""


def test_a_page_with_a_digest_shows_a_new_model_and_a_changed_one_whole(project: Project, policyctl: Policyctl) -> None:
    environments = "environments: {a: {remote: local}, b: {remote: local}}\n"
    project.write("policyctl.yaml", f"manage: [policies, models]\n{environments}")
    project.write("p.yaml", SHARED.replace("openai/OLD", "openai/gpt"))
    for letter in "ab":
        project.write("gpt.yaml", HOOKED.replace("LONG", letter * 900))
        assert policyctl("plan", "--all", "--report", "markdown=page.md").code == 0
        for shown in (Path("page.md").read_text("utf-8"), policyctl("plan", "--env", "a", "-v").out):
            assert f"{letter}/last-of-host" in shown
            assert "last-of-hook" in shown
        assert policyctl("apply", "--all", "--yes").code == 0


def test_after_apply_the_plan_of_each_is_empty_and_an_empty_plan_does_nothing(fleet: Project, policyctl: Policyctl) -> None:
    ran = policyctl("apply", "--all", "--yes")
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "12 environments: 12 applied.")
    empty = policyctl("plan", "--all", "--detailed-exitcode")
    assert (empty.code, empty.out.splitlines()[-1]) == (0, "12 environments: 12 without changes.")
    before = [database(fleet, f"a{n}").read_bytes() for n in range(12)]
    assert policyctl("apply", "--all", "--yes").code == 0
    assert [database(fleet, f"a{n}").read_bytes() for n in range(12)] == before


def test_what_is_not_selected_is_counted_and_left_alone(fleet: Project, policyctl: Policyctl) -> None:
    ran = policyctl("apply", "-l", "ring=1", "--exclude-env", "t-a10", "--yes")
    assert ran.out.splitlines()[-1] == "3 environments: 3 applied, 9 not selected."
    assert [database(fleet, f"a{n}").exists() for n in range(12)] == [n in (1, 4, 7) for n in range(12)]


def test_one_name_is_planned_as_it_always_was(fleet: Project, policyctl: Policyctl) -> None:
    ran = policyctl("plan", "--env", "t-a0", "--detailed-exitcode")
    assert ran.code == 2
    assert ran.out.startswith("environment t-a0, remote sqlite:///a0.db\n")


def broken(fleet: Project, *names: str) -> None:
    for name in names:
        database(fleet, name).write_text("this is not a database, and it is longer than a header of one would be " * 9)


def test_failures_of_different_kinds_are_grouped_by_reason_and_the_others_are_done(
    fleet: Project, policyctl: Policyctl
) -> None:
    broken(fleet, "a2", "a3")
    rows = (fleet.policies / "tenants.csv").read_text().replace("a5,2,\n", "a5,2,much\n")
    fleet.write("tenants.csv", rows)
    ran = policyctl("apply", "--all", "--yes")
    assert ran.code == 5
    assert ran.out.splitlines()[-1] == "12 environments: 9 applied, 3 failed."
    failed = [line for line in ran.out.splitlines() if line.startswith("failed")]
    assert len(failed) == 2
    assert failed[0].startswith("failed  2 × ")
    assert failed[0].endswith(": t-a2, t-a3 (exit code 1)")
    assert failed[1].endswith(": t-a5 (exit code 1)")
    assert "anygem.yaml" in failed[1]


def test_when_all_fail_alike_the_exit_code_is_theirs(fleet: Project, policyctl: Policyctl) -> None:
    broken(fleet, *(f"a{n}" for n in range(12)))
    assert policyctl("plan", "--all").code == 1


def test_a_broken_shared_file_stops_everything_before_anything_is_done(fleet: Project, policyctl: Policyctl) -> None:
    fleet.write("other.yaml", "kind: model\nname: [\n")
    ran = policyctl("apply", "--all", "--yes")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err.count("other.yaml") == 1
    assert not any(database(fleet, f"a{n}").exists() for n in range(12))


def test_a_suspended_environment_is_named_and_left_as_it_is(fleet: Project, policyctl: Policyctl) -> None:
    fleet.write("policyctl.yaml", CONFIG + "environments: {t-a4: {suspend: {reason: migration}}}\n")
    ran = policyctl("apply", "--all", "--yes")
    assert "suspended  t-a4: migration\n" in ran.out
    assert ran.out.splitlines()[-1] == "12 environments: 11 applied, 1 suspended."
    assert not database(fleet, "a4").exists()
    alone = policyctl("apply", "--env", "t-a4", "--yes")
    assert alone.code == 3
    assert "t-a4 is suspended, so nothing was written: migration; remove suspend from it first" in alone.err
    assert "t-a4 is suspended, so apply leaves it as it is: migration" in policyctl("plan", "--env", "t-a4").out


def test_one_digest_approves_all_and_no_other_plans(fleet: Project, policyctl: Policyctl) -> None:
    digest = data_of(policyctl, "plan", "--all")["digest"]
    ring = data_of(policyctl, "plan", "-l", "ring=1")["digest"]
    assert policyctl("apply", "--all", "--yes", "--expect-digest", ring).code == 4
    assert policyctl("apply", "--all", "--yes", "--expect-digest", "none").code == 4
    assert not any(database(fleet, f"a{n}").exists() for n in range(12))
    assert policyctl("apply", "--all", "--yes", "--expect-digest", digest).code == 0
    assert policyctl("apply", "--all", "--yes", "--expect-digest", "none").code == 0
    broken(fleet, "a3")
    assert data_of(policyctl, "plan", "--all")["digest"] == "none"


def test_an_environment_that_fails_approves_nothing_of_the_others(fleet: Project, policyctl: Policyctl) -> None:
    broken(fleet, "a3")
    ran = policyctl("apply", "--all", "--yes", "--expect-digest", "none")
    assert ran.code == 4
    assert "nothing was written. Correct what failed, then plan again" in ran.err
    assert not any(database(fleet, f"a{n}").exists() for n in range(12) if n != 3)


def test_a_wave_begins_only_when_the_one_before_ended_well(fleet: Project, policyctl: Policyctl) -> None:
    fleet.write("policyctl.yaml", CONFIG + "waves: [{label: ring=2}, {label: 'ring in (1)', max_failures: 1}]\n")
    broken(fleet, "a4")
    ran = policyctl("apply", "--all", "--yes")
    assert ran.out.splitlines()[-1] == "12 environments: 11 applied, 1 failed."
    fleet.write("anygem.yaml", POLICY.replace("loadbalance}", "fallback}").replace(', weight: "{{ lite }}"', ""))
    fleet.write("anygem.yaml", POLICY.replace("2.5-pro", "2.5-flash"))
    broken(fleet, "a2")
    ran = policyctl("apply", "--all", "--yes")
    assert ran.code == 5
    assert "not begun  t-a0, t-a1, t-a3 and 5 more: wave 1 did not end well, so later waves are held back\n" in ran.out
    assert ran.out.splitlines()[-1] == "12 environments: 3 applied, 1 failed, 8 not begun."


@pytest.mark.parametrize("option", [["--fail-fast"], ["--max-failures", "0"], ["--max-failures", "5%"]])
def test_a_run_is_stopped_after_too_many_failures(option: list[str], fleet: Project, policyctl: Policyctl) -> None:
    broken(fleet, "a0")
    ran = policyctl("apply", "--all", "--yes", "--parallelism", "1", *option)
    assert ran.code == 5
    assert ran.out.splitlines()[-1] == "12 environments: 1 failed, 11 not begun."


def test_the_report_has_a_row_or_a_case_for_each_environment(fleet: Project, policyctl: Policyctl) -> None:
    broken(fleet, "a3")
    fleet.write("policyctl.yaml", CONFIG + "environments: {t-a4: {suspend: {reason: '=migration'}}}\n")
    ran = policyctl("plan", "--all", "--format", "csv", "--report", "junit=junit.xml", "--report", "markdown=fleet.md")
    rows = {row["environment"]: row for row in csv.DictReader(io.StringIO(ran.out))}
    assert (len(rows), rows["t-a0"]["add"], rows["t-a3"]["status"], rows["t-a3"]["exit_code"]) == (12, "1", "failed", "1")
    assert rows["t-a4"]["reason"] == "'=migration"
    suite = ElementTree.parse(fleet.policies.parent / "junit.xml").getroot()
    assert {key: suite.get(key) for key in ("tests", "failures", "skipped")} == {"tests": "12", "failures": "1", "skipped": "1"}
    page = (fleet.policies.parent / "fleet.md").read_text()
    assert "### policyctl: 1 of 12 environments failed; changes in 10 of 12 environments; 1 suspended\n" in page
    added = "<b>add</b> <code>anygem</code> in <code>policies/anygem.yaml</code>"
    assert re.findall("<summary>(.*)</summary>", page) == [
        f"{added} · <code>t-a0</code>, <code>t-a2</code>, <code>t-a5</code> and 5 more (plan 1)",
        f"{added} · <code>t-a1</code>, <code>t-a11</code>",
        "10 environments by name",
    ]
    found = data_of(policyctl, "plan", "--all")
    assert [one["status"] for one in found["environments"]].count("planned") == 10
    assert len(found["plans"]) == 2
    assert found["environments"][1]["plan"] == found["environments"][11]["plan"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["plan", "--all", "--remote", "local"], "--remote is for one environment"),
        (["plan", "--env", "t-a0", "--format", "csv"], "the format csv is for several environments"),
        (["plan", "--env", "t-a0", "--parallelism", "2"], "--parallelism is for several environments"),
        (["plan", "--env", "t-a0", "--fail-fast"], "--fail-fast and --max-failures are for several environments"),
        (["apply", "--all", "--max-failures", "many"], "many is neither a number nor a percentage"),
        (["apply", "--all", "--keep-going", "--fail-fast"], "--keep-going contradicts --fail-fast"),
        (["apply", "--resume", "x", "--yes"], "unknown run x (policyctl runs lists those in "),
        (["apply", "--resume", "x", "--all"], "--resume does what a run left"),
        (["pull", "--env", "b-*"], "--env b-* matches no environment"),
        (["pull", "--all", "--remote", "local"], "--remote is for one environment"),
        (["diff", "--env", "t-*"], "diff works on one environment here"),
    ],
)
def test_what_does_not_fit_is_an_error(arguments: list[str], error: str, fleet: Project, policyctl: Policyctl) -> None:
    ran = policyctl(*arguments)
    assert (ran.code, ran.out) == (64, "")
    assert error in ran.err


def test_a_run_that_failed_in_part_is_resumed_where_it_failed(fleet: Project, policyctl: Policyctl) -> None:
    broken(fleet, "a3")
    ran = policyctl("apply", "--all", "--yes")
    run = ran.err.partition("run ")[2].partition(";")[0]
    assert policyctl("runs").out.endswith("  12 environments  1 left\n")
    assert "t-a3  failed" in policyctl("runs", run).out
    database(fleet, "a3").unlink()
    before = {n: database(fleet, f"a{n}").stat().st_mtime_ns for n in range(12) if n != 3}
    again = policyctl("apply", "--resume", run, "--yes")
    assert again.out.splitlines()[-1] == "1 environment: 1 applied, 11 not selected."
    assert {n: database(fleet, f"a{n}").stat().st_mtime_ns for n in before} == before
    assert data_of(policyctl, "runs", run)["runs"][0]["left"] == []
    assert policyctl("apply", "--resume", run, "--yes").code == 64


def until(condition: Callable[[], bool]) -> None:
    end = time.monotonic() + LONGEST
    while not condition():
        assert time.monotonic() < end
        os.sched_yield()


@pytest.mark.slow
def test_a_signal_ends_a_run_when_what_was_begun_is_finished(fleet: Project, policyctl: Policyctl) -> None:
    """With the signal's exit code; what is left is done by resuming the run."""
    fleet.write("tenants.csv", "tenant,ring,lite\n" + "".join(f"b{n},1,\n" for n in range(150)))
    command = (sys.executable, "-m", "policyctl", "apply", "--all", "--yes", "--format", "json")
    with subprocess.Popen(command, cwd=fleet.policies.parent, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        runs = fleet.policies.parent / ".policyctl" / "runs"
        until(lambda: any(path.read_text().count("\n") > 20 for path in runs.glob("*.jsonl")))
        process.send_signal(signal.SIGTERM)
        out, _ = process.communicate()
    assert process.returncode == 128 + signal.SIGTERM
    results = json.loads(out)["environments"]
    statuses = {one["name"]: one["status"] for one in results}
    assert {"applied", "not begun"} <= set(statuses.values())
    assert all("interrupted" in one["reason"] for one in results if one["status"] == "failed")  # planned, and not written
    run = next(runs.glob("*.jsonl")).stem
    left = data_of(policyctl, "runs", run)["runs"][0]["left"]
    assert left == [name for name, status in statuses.items() if status != "applied"]
    assert policyctl("apply", "--resume", run, "--yes").code == 0
    assert policyctl("plan", "--all", "--detailed-exitcode").code == 0


def run_of(err: str) -> str:
    return next(line for line in err.splitlines() if line.startswith("run ")).split()[1].rstrip(";")


def test_a_run_that_is_still_at_work_is_not_resumed(fleet: Project, policyctl: Policyctl) -> None:
    """Each of the two would take what the other one waits for."""
    broken(fleet, "a3")
    policyctl("apply", "--all", "--yes")
    (record,) = Path(".policyctl/runs").glob("*.jsonl")
    with record.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        ran = policyctl("apply", "--resume", record.stem, "--yes")
    assert (ran.code, "is still at work in another process" in ran.err) == (3, True)


def test_a_resumed_run_is_about_the_policies_that_it_was_about(fleet: Project, policyctl: Policyctl) -> None:
    fleet.write("other.yaml", POLICY.replace("anygem", "other"))
    broken(fleet, "a3")
    run = run_of(policyctl("apply", "--all", "--only", "anygem", "--yes").err)
    database(fleet, "a3").unlink()
    assert policyctl("apply", "--resume", run, "--only", "other", "--yes").code == 64
    assert policyctl("apply", "--resume", run, "--yes").code == 0
    assert [*live_documents(database(fleet, "a3"))] == ["virtual-policy/anygem"]


def approved_run_without_a2(fleet: Project, policyctl: Policyctl) -> str:
    """The id of a run that was killed after it wrote everything, and before it recorded that of one environment."""
    digest = data_of(policyctl, "plan", "--all")["digest"]
    run = run_of(policyctl("apply", "--all", "--yes", "--expect-digest", digest).err)
    record = fleet.policies.parent / ".policyctl" / "runs" / f"{run}.jsonl"
    lines = record.read_text("utf-8").splitlines(keepends=True)
    record.write_text("".join(line for line in lines if '"environment": "t-a2"' not in line), "utf-8")
    return run


def test_what_a_run_wrote_and_did_not_record_is_done_when_it_is_resumed(fleet: Project, policyctl: Policyctl) -> None:
    run = approved_run_without_a2(fleet, policyctl)
    ran = policyctl("apply", "--resume", run, "--yes")
    assert (ran.code, ran.out.splitlines()[-1]) == (0, "1 environment: 1 without changes, 11 not selected.")
    assert data_of(policyctl, "runs", run)["runs"][0]["left"] == []


def test_a_resumed_run_applies_the_plans_that_were_approved(fleet: Project, policyctl: Policyctl) -> None:
    run = approved_run_without_a2(fleet, policyctl)
    database(fleet, "a2").unlink()
    put([row("other")], database(fleet, "a2"))
    ran = policyctl("apply", "--resume", run, "--yes")
    assert ran.code == 4
    assert "its plan is not the one that was shown any more" in ran.out
    database(fleet, "a2").unlink()
    assert policyctl("apply", "--resume", run, "--yes").code == 0
    assert len(live_documents(database(fleet, "a2"))) == 1


EDITS: dict[str, Callable[[Project], object]] = {
    "a policy": lambda fleet: fleet.write("anygem.yaml", POLICY.replace("2.5-pro", "2.5-flash")),
    "a new policy": lambda fleet: fleet.write("other.yaml", POLICY.replace("anygem", "other")),
    "a policy that is gone": lambda fleet: (fleet.policies / "kept.yaml").unlink(),
    "a moved policy": lambda fleet: (fleet.policies / "kept.yaml").rename(fleet.policies / "moved.yaml"),
    "a row": lambda fleet: fleet.write(
        "tenants.csv", (fleet.policies / "tenants.csv").read_text("utf-8").replace("0.2", "0.3")
    ),
    "the settings": lambda fleet: fleet.write("policyctl.yaml", CONFIG + "limits: {max_removes: 9}\n"),
}


@pytest.mark.parametrize("case", EDITS)
@pytest.mark.alike
def test_files_that_were_edited_since_a_run_began_do_not_go_on_with_it(case: str, fleet: Project, policyctl: Policyctl) -> None:
    """Committed or not: else some environments would get the files of then, and the others those of now."""
    fleet.write("kept.yaml", POLICY.replace("anygem", "kept"))
    (fleet.folder / ".gitignore").write_text("*.db*\n.policyctl/\n", "utf-8")
    commit(fleet.folder)
    broken(fleet, "a3")
    run = run_of(policyctl("apply", "--all", "--yes").err)
    database(fleet, "a3").unlink()
    before = {path.name: path.read_bytes() for path in fleet.policies.iterdir()}
    EDITS[case](fleet)
    ran = policyctl("apply", "--resume", run, "--yes")
    assert (ran.code, ran.out) == (64, "")
    assert f"files in policies, or its policyctl.yaml, were edited since run {run} began; undo that" in ran.err
    assert ran.err.count("\n") == 1
    assert not database(fleet, "a3").exists()
    for path in fleet.policies.iterdir():
        path.unlink()
    for name, content in before.items():
        (fleet.policies / name).write_bytes(content)
    fleet.write("notes.txt", "what is not read does not count")
    assert policyctl("apply", "--resume", run, "--yes").code == 0


WHOLE = {"format": "policyctl/run", "version": 1, "command": "apply", "began": "", "revision": "", "environments": ["t-a1"]}


@pytest.mark.parametrize(
    "head", [{"format": "policyctl/run", "version": 1}, WHOLE | {"environments": [1]}, WHOLE | {"began": 1}, []]
)
def test_what_is_not_a_record_is_one_clear_line(head: Any, fleet: Project, policyctl: Policyctl) -> None:
    folder = fleet.policies.parent / ".policyctl" / "runs"
    folder.mkdir(parents=True)
    (folder / "x.jsonl").write_text(json.dumps(head) + "\n")
    for arguments in (["runs"], ["apply", "--resume", "x", "--yes"]):
        ran = policyctl(*arguments)
        assert ran.code == 1
        assert ran.err.endswith("x.jsonl is not the record of a run of this version; delete it\n")


def test_a_record_without_a_commit_is_not_resumed_in_a_repository(fleet: Project, policyctl: Policyctl) -> None:
    broken(fleet, "a3")
    run = run_of(policyctl("apply", "--all", "--yes").err)
    commit(fleet.policies.parent)
    assert "was at no commit, and this is" in policyctl("apply", "--resume", run, "--yes").err


@pytest.mark.slow
def test_a_link_in_the_repository_leads_no_record_out_of_it(
    fleet: Project, policyctl: Policyctl, tmp_path_factory: pytest.TempPathFactory
) -> None:
    outside = tmp_path_factory.mktemp("outside")
    commit(fleet.folder, "policies")
    (fleet.folder / ".policyctl").symlink_to(outside)
    ran = policyctl("apply", "--all", "--yes")
    assert (ran.code, "cannot be written: a link leads out of the repository" in ran.err) == (1, True)
    assert [*outside.iterdir()] == []
    assert not database(fleet, "a").exists()


@pytest.mark.slow
def test_a_killed_run_is_resumed_and_nothing_is_written_twice(fleet: Project, policyctl: Policyctl) -> None:
    """Every environment has the policy once, whatever moment the process was killed at."""
    rows = "".join(f"b{n},1,\n" for n in range(150))
    fleet.write("tenants.csv", "tenant,ring,lite\n" + rows)
    command = (sys.executable, "-m", "policyctl", "apply", "--all", "--yes")
    with subprocess.Popen(command, cwd=fleet.policies.parent, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        runs = fleet.policies.parent / ".policyctl" / "runs"
        until(lambda: any(path.read_text().count("\n") > 40 for path in runs.glob("*.jsonl")))
        process.send_signal(signal.SIGKILL)
    run = next(runs.glob("*.jsonl")).stem
    left = data_of(policyctl, "runs", run)["runs"][0]["left"]
    assert 0 < len(left) < 150
    assert policyctl("apply", "--resume", run, "--yes").code == 0
    for n in range(150):
        assert list(live_documents(database(fleet, f"b{n}"))) == ["virtual-policy/anygem"]
    assert policyctl("plan", "--all", "--detailed-exitcode").code == 0


def test_databases_are_only_read_by_a_plan(fleet: Project, policyctl: Policyctl) -> None:
    assert policyctl("apply", "--all", "--yes").code == 0
    fleet.write("anygem.yaml", POLICY.replace("2.5-pro", "2.5-flash"))
    assert policyctl("plan", "--all", "--detailed-exitcode").code == 2
    with sqlite3.connect(database(fleet, "a0")) as connection:
        assert "2.5-flash" not in str(connection.execute("select * from policy").fetchall())


def test_a_pull_request_shows_what_a_template_and_rows_change_once(fleet: Project, policyctl: Policyctl) -> None:
    """With how many environments it is for; a new row is not followed before its merge, and one that left is left as it is."""
    root = fleet.policies.parent
    (root / ".gitignore").write_text("*.db\n*.lock\n.policyctl/\n")
    git(root, "init", "--quiet", "--initial-branch", "main")
    commit(root)
    assert policyctl("apply", "--all", "--yes").code == 0
    git(root, "checkout", "--quiet", "-b", "topic")
    fleet.write("policyctl.yaml", CONFIG.replace("vars: {lite: 0.1}}", "limits: {max_removes: 0}, vars: {lite: 0.1}}"))
    rows = (fleet.policies / "tenants.csv").read_text().replace("a9,0,\n", "").replace("a8,2,", "a8,1,")
    fleet.write("tenants.csv", rows + "a12,1,\n")
    commit(root)
    ran = policyctl("plan", "--all", "--base", "main")
    assert ran.code == 5
    settings = ran.out.partition("\n\n")[0].splitlines()[1:]
    assert [line.strip() for line in settings] == [
        "templates.one.limits.max_removes (11 environments: all): absent → 0",
        "environments.t-a12.remote: absent → sqlite:///a12.db",
        "environments.t-a12.limits.max_removes: absent → 0",
        'environments.t-a12.labels.ring: absent → "1"',
        'environments.t-a8.labels.ring: "2" → "1"',
        "environments.t-a9.remote: sqlite:///a9.db → absent",
        'environments.t-a9.labels.ring: "0" → absent',
    ]
    assert "no longer in the fleet, and left as they are: t-a9\n" in ran.out
    assert "is new in this branch, so its remote has not been reviewed" in ran.out
    assert not (fleet.policies / "a12.db").exists()


TESTS = """
kind: policy_test
spec_version: v1
policy: anygem
tests:
  - {name: pro is down, given: {gemini-2.5-pro: 503}, expect: {served: "{{ lite }}"}}
  - {name: a fifth survives, given: {gemini-2.5-pro: 503}, expect: {served: 0.2}}
"""


def test_scenario_tests_run_in_every_environment_unless_some_are_chosen(fleet: Project, policyctl: Policyctl) -> None:
    """A test that ends alike everywhere is one result; else it is one for each way in which it ends."""
    fleet.write("anygem.test.yaml", TESTS)
    ran = policyctl("test", "-v")
    assert ran.code == 1
    assert ran.out.splitlines()[-1] == "2 passed, 1 failed"
    assert "anygem.test.yaml PASSED a fifth survives (t-a1, t-a11)\n" in ran.out
    assert "FAILED a fifth survives (t-a0, t-a2, t-a3, t-a4" in ran.out
    assert policyctl("test", "--env", "t-a1").code == 0
    assert policyctl("test", "--env", "t-a1", "--env", "t-a11").out.splitlines()[-1] == "2 passed"
    assert policyctl("test", "-l", "ring=0").code == 1


def test_only_what_a_branch_affects_is_planned_when_that_is_asked_for(fleet: Project, policyctl: Policyctl) -> None:
    root = fleet.policies.parent
    commit(root)
    ran = policyctl("plan", "--affected", "HEAD")
    assert (ran.code, ran.out) == (0, "no environment is affected, so there is nothing to do\n")
    assert policyctl("apply", "--affected", "HEAD", "--yes").code == 0
    rows = (fleet.policies / "tenants.csv").read_text().replace("a4,1,\n", "a4,1,0.7\n").replace("a8,2,", "a8,1,")
    fleet.write("tenants.csv", rows + "a12,1,\n")
    names = [one["name"] for one in data_of(policyctl, "env", "list", "--affected", "HEAD")["environments"]]
    assert names == ["t-a4", "t-a12"]
    fleet.write("anygem.yaml", POLICY.replace('"{{ 1 - lite }}"', "0.9"))
    names = [one["name"] for one in data_of(policyctl, "plan", "--affected", "HEAD")["environments"]]
    assert names == ["t-a1", "t-a4", "t-a11", "t-a12"]
    assert policyctl("plan", "--affected", "nowhere").code == 64


def test_a_variable_chooses_no_environment_where_options_do(
    fleet: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POLICYCTL_ENV", "t-a0")
    assert policyctl("plan", "--all").out.endswith("12 environments: 12 with changes.\n")
    assert policyctl("plan").out.startswith("environment t-a0, remote ")


def test_environments_that_a_branch_gives_another_template_are_named(project: Project, policyctl: Policyctl) -> None:
    config = """
templates:
  one: {remote: "sqlite:///{{ t }}.db"}
  strict: {extends: one, limits: {max_removes: 1}}
  lax: {extends: one, limits: {max_removes: 1}}
fleet:
  - {from: rows.csv, name: "t-{{ t }}", extends: strict}
"""
    wider = "lax: {extends: one, limits: {max_removes: 99}}"
    rows = "t,extends\na,\nb,\nc,\nd,lax\ne,lax\n"
    project.write("policyctl.yaml", config)
    project.write("rows.csv", rows)
    project.write("shared.yaml", SHARED)
    commit(project.folder)
    git(project.folder, "checkout", "--quiet", "-b", "topic")
    project.write("policyctl.yaml", config.replace("lax: {extends: one, limits: {max_removes: 1}}", wider))
    project.write("rows.csv", rows.replace("a,", "a,lax").replace("b,", "b,lax"))
    settings = policyctl("plan", "--all", "--base", "main").out.partition("\n\n")[0].splitlines()[1:]
    assert [line.strip() for line in settings] == [
        "limits.max_removes of t-a, t-b: 1 → 99",
        "templates.lax.limits.max_removes (2 environments: t-d, t-e): 1 → 99",
    ]


@pytest.mark.parametrize("keeps", ["t-a", "t-d"])
def test_what_a_template_changes_shows_in_which_environments(keeps: str, project: Project, policyctl: Policyctl) -> None:
    """One environment keeps what the template had before, by settings of its own."""
    config = """\
templates: {one: {remote: "sqlite:///{{ t }}.db", limits: {max_removes: 0}}}
fleet: [{from: rows.csv, name: "t-{{ t }}", extends: one}]
"""
    project.write("rows.csv", "t\na\nb\nc\nd\n")
    project.write("policyctl.yaml", config)
    project.write("shared.yaml", SHARED)
    commit(project.folder)
    loose = config.replace("max_removes: 0", "max_removes: 99")
    project.write("policyctl.yaml", f"{loose}environments: {{{keeps}: {{limits: {{max_removes: 0}}}}}}\n")
    settings = policyctl("plan", "--all", "--base", "HEAD").out.partition("\n\n")[0].splitlines()[1:]
    row = f"templates.one.limits.max_removes (3 environments: all but {keeps}): 0 → 99"
    assert [line.strip() for line in settings] == [row]


def test_a_plan_of_many_environments_reads_the_configuration_of_the_base_once(
    project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It makes all environments, so reading it for each of them would cost their number squared."""
    project.policy("a")
    project.write(
        "policyctl.yaml",
        "templates: {one: {remote: 'sqlite:///{{ t }}.db'}}\nfleet: [{from: t.csv, name: '{{ t }}', extends: one}]\n",
    )
    project.write("t.csv", "t\n" + "".join(f"x{number}\n" for number in range(30)))
    commit(project.folder)
    read: list[str] = []
    inside = base_config.config_in

    def counted(file: str, content: Callable[[str], bytes | None]) -> Config:
        read.append(file)
        return inside(file, content)

    monkeypatch.setattr(base_config, "config_in", counted)
    assert policyctl("plan", "--all", "--base", "HEAD", "--parallelism", "1").code == 0
    assert len(read) < 5


def test_an_environment_cannot_hide_behind_the_labels_of_another(project: Project, policyctl: Policyctl) -> None:
    """Their paths are not the same, whatever their names have in them."""
    project.policy("a")
    prod = "{remote: local, labels: {remote: 'https://elsewhere.example', auth.token: 'env:TOKEN'}}"
    project.write("policyctl.yaml", f"default: prod\nenvironments:\n  prod: {prod}\n")
    commit(project.folder)
    hidden = "{remote: 'https://elsewhere.example', auth: {token: 'env:TOKEN'}}"
    project.write("policyctl.yaml", f"default: prod\nenvironments:\n  prod: {{remote: local}}\n  prod.labels: {hidden}\n")
    ran = policyctl("plan", "--env", "prod", "--base", "HEAD")
    settings = ran.out.partition("\n\n")[0].splitlines()[1:]
    assert sorted(line.strip() for line in settings) == [
        'environments."prod.labels".auth.token: absent → env:TOKEN',
        'environments."prod.labels".remote: absent → https://elsewhere.example',
        'environments.prod.labels."auth.token": env:TOKEN → absent',
        "environments.prod.labels.remote: https://elsewhere.example → absent",
    ]


def test_a_file_that_is_broken_stops_only_the_environments_that_include_it(project: Project, policyctl: Policyctl) -> None:
    """Each may have a policy of the same name in a folder of its own."""
    rows = [f'  {name}: {{remote: "sqlite:///{name}.db", include: ["{name}/*"]}}\n' for name in "ab"]
    project.write("policyctl.yaml", "environments:\n" + "".join(rows))
    for folder in "abc":
        project.write(f"{folder}/shared.yaml", SHARED)
    project.write("c/draft.yaml", SHARED.replace("targets", "targts"))
    assert policyctl("plan", "--all", "--detailed-exitcode").code == 2
    project.write("b/draft.yaml", SHARED.replace("targets", "targts"))
    ran = policyctl("plan", "--all")
    assert ran.code == 5
    assert ran.out.endswith("2 environments: 1 with changes, 1 failed.\n")


def test_a_pull_request_shows_every_guard_of_a_fleet_that_it_changes(project: Project, policyctl: Policyctl) -> None:
    config = """
templates: {one: {remote: "sqlite:///{{ t }}.db"}}
fleet:
  - {from: rows.csv, name: "t-{{ t }}", extends: one, min: 2, labels: [ring]}
  - {from: rows.csv, name: "u-{{ t }}", extends: one, defaults: {remote: "sqlite:///u-{{ t }}.db"}}
waves: [{label: ring=0}, {max_failures: 1}]
"""
    project.write("policyctl.yaml", config)
    project.write("rows.csv", "t,ring\na,0\nb,1\n")
    project.write("shared.yaml", SHARED)
    commit(project.folder)
    git(project.folder, "checkout", "--quiet", "-b", "topic")
    project.write(
        "policyctl.yaml", config.replace("min: 2, ", "").replace("{label: ring=0}, {max_failures: 1}", "{max_failures: 9}")
    )
    settings = policyctl("plan", "--all", "--base", "main").out.partition("\n\n")[0].splitlines()[1:]
    assert [line.strip() for line in settings] == [
        'waves: [{label: "ring=0"}, {max_failures: 1}] → [{max_failures: 9}]',
        "fleet.rows.csv.min: 2 → absent",
    ]


def test_an_environment_whose_labels_are_not_known_is_not_left_out_by_a_selector(
    project: Project, policyctl: Policyctl
) -> None:
    one = 'templates: {one: {remote: "sqlite:///{{ t }}.db", labels: {tier: "{{ tier }}"}}}\n'
    project.write("policyctl.yaml", one + ROWS_OF_ONE)
    project.write("rows.csv", "t,tier\na,gold\nb,\nc,silver\n")
    project.write("shared.yaml", SHARED)
    ran = policyctl("plan", "-l", "tier=gold")
    assert ran.code == 5
    assert "labels.tier: the variable tier is not set [P311]: t-b" in ran.out
    assert ran.out.endswith("2 environments: 1 with changes, 1 failed, 1 not selected.\n")


def test_a_digest_approves_no_other_way_to_log_in(project: Project, policyctl: Policyctl) -> None:
    config = """
environments:
  a: {remote: "sqlite:///a.db", auth: {type: mcsp, api_key: "env:K", url: "https://iam.example.com"}}
  b: {remote: "sqlite:///b.db"}
"""
    project.write("policyctl.yaml", config)
    project.write("shared.yaml", SHARED)
    digest = data_of(policyctl, "plan", "--all")["digest"]
    project.write("policyctl.yaml", config.replace("iam.example.com", "iam.example.org"))
    assert policyctl("apply", "--all", "--yes", "--expect-digest", digest).code == 4
    assert not database(project, "b").exists()
    project.write("policyctl.yaml", config)
    assert policyctl("apply", "--all", "--yes", "--expect-digest", digest).code == 0


@pytest.mark.parametrize(
    ("reason", "shown"),
    [
        ("b cannot be reached", "… cannot be reached"),
        ("b.example cannot be reached: b", "b.example cannot be reached: …"),
        ("https://b.example/1 cannot be reached", "… cannot be reached"),
        ("a-b and b-a", "a-b and b-a"),
    ],
)
def test_only_the_name_of_an_environment_is_left_out_of_a_reason(reason: str, shown: str) -> None:
    assert general(EnvironmentResult("b", "failed", 1, reason, "https://b.example/1")) == shown


def test_validate_checks_every_environment_unless_some_are_chosen(
    fleet: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 1 if one of those that are checked is not valid; a variable of the shell chooses none."""
    monkeypatch.setenv("POLICYCTL_ENV", "t-a1")
    rows = (fleet.policies / "tenants.csv").read_text().replace("a5,2,\n", "a5,2,much\n").replace("a6,0,\n", "a6,0,much\n")
    fleet.write("tenants.csv", rows)
    everywhere = policyctl("validate")
    assert everywhere.code == 1
    assert "(environment t-a5, t-a6) [" in everywhere.out
    assert (policyctl("validate", "--all").code, policyctl("validate", "--all").out) == (1, everywhere.out)
    ring = policyctl("validate", "-l", "ring=1")
    assert (ring.code, ring.out) == (0, "Valid in 4 environments: 1 policy in 1 file.\n")
    assert data_of(policyctl, "validate", "--env", "t-a1", "--env", "t-a4")["environments"] == ["t-a1", "t-a4"]
    assert policyctl("validate", "--env", "t-*", "--exclude-env", "t-a5").code == 1
    (fleet.policies / "names").write_text("t-a1\nt-a5\n")
    assert "(environment t-a5) [" in policyctl("validate", "--env-from", "policies/names").out
    assert policyctl("validate", "--env", "t-a5").out.splitlines()[-1].startswith("Not valid in t-a5: ")


def test_a_problem_of_many_environments_names_the_first_of_them(fleet: Project, policyctl: Policyctl) -> None:
    fleet.write("tenants.csv", "tenant,ring,lite\ngood,1,\n" + "".join(f"b{n},1,much\n" for n in range(40)))
    assert "t-b8, t-b9 and 30 more) [" in policyctl("validate").out


def test_only_affected_environments_are_validated_when_that_is_asked_for(fleet: Project, policyctl: Policyctl) -> None:
    commit(fleet.policies.parent)
    ran = policyctl("validate", "--affected", "HEAD")
    assert (ran.code, ran.out, ran.err) == (0, "", "no environment is affected, so there is nothing to do\n")
    rows = (fleet.policies / "tenants.csv").read_text().replace("a5,2,\n", "a5,2,0.5\n")
    fleet.write("tenants.csv", rows)
    assert data_of(policyctl, "validate", "--affected", "HEAD")["environments"] == ["t-a5"]


def test_tests_run_in_the_environments_of_a_list_alone(fleet: Project, policyctl: Policyctl) -> None:
    fleet.write("anygem.test.yaml", TESTS)
    (fleet.policies / "names").write_text("t-a1\nt-a11\n")
    assert policyctl("test", "--env-from", "policies/names").out.splitlines()[-1] == "2 passed"


FIXED = POLICY.replace("anygem", "fixed").replace('"{{ lite }}"', "0.5").replace('"{{ 1 - lite }}"', "0.5")
OTHERS = [f"t-a{n}" for n in range(12) if n % 10 != 1]


def test_an_effect_that_is_the_same_in_several_environments_is_shown_once(fleet: Project, policyctl: Policyctl) -> None:
    """And what differs between them side by side."""
    fleet.write("fixed.yaml", FIXED)
    ran = policyctl("effect", "--all")
    assert ran.code == 0
    heads = [line for line in ran.out.splitlines() if line.startswith("t-a")]
    assert heads == [
        "t-a0, t-a1, t-a2 and 9 more, the same in 12 environments",
        "t-a0, t-a2, t-a3 and 7 more, the same in 10 environments",
        "t-a1, t-a11, the same in 2 environments",
    ]
    assert ran.out.count("virtual-policy/fixed") == 1
    table = ran.out.partition("What differs between environments:\n")[2].splitlines()
    assert [cell.strip() for cell in table[1].split("  ") if cell] == [
        "anygem",
        "90% google/gemini-2.5-pro; 10% google/gemini-2.0-flash",
        "80% google/gemini-2.5-pro; 20% google/gemini-2.0-flash",
    ]
    assert ran.out.endswith("12 environments: 12 shown.\n")
    alone = policyctl("effect", "--env", "t-a1", "anygem").out
    assert indent(alone, "  ") in ran.out


@pytest.mark.parametrize(
    "question", [[], ["--down", "google/gemini-2.5-pro=503"], ["--uses", "gemini-2.5-pro"], ["--against", "git:HEAD"]]
)
@pytest.mark.alike
def test_the_effects_of_several_environments_are_those_of_each(
    question: list[str], fleet: Project, policyctl: Policyctl
) -> None:
    commit(fleet.policies.parent)
    fleet.write("anygem.yaml", POLICY.replace("2.5-pro}", "2.5-pro, weight: 1}").replace("flash", "flash-lite", 1))
    fleet.write("policyctl.yaml", CONFIG + "environments: {t-a4: {suspend: {reason: migration}}}\n")
    found = data_of(policyctl, "effect", *question, "-l", "ring=1")
    seen = {name: one["effect"] for one in found["effects"] for name in one["environments"]}
    assert seen == {f"t-a{n}": data_of(policyctl, "effect", *question, "--env", f"t-a{n}") for n in (1, 4, 7, 10)}
    assert found["not_selected"] == 8
    assert len(found["effects"]) == 2


def test_a_drawing_of_several_environments_is_drawn_once_for_each_kind(fleet: Project, policyctl: Policyctl) -> None:
    ran = policyctl("effect", "--graph", "--all", "--format", "markdown")
    assert (ran.code, ran.out.count("```mermaid\n")) == (0, 2)


def test_an_environment_whose_effect_cannot_be_shown_fails_alone(fleet: Project, policyctl: Policyctl) -> None:
    rows = (fleet.policies / "tenants.csv").read_text().replace("a5,2,\n", "a5,2,much\n")
    fleet.write("tenants.csv", rows)
    ran = policyctl("effect", "--all")
    assert ran.code == 5
    assert 'weight must be a number, got "much" [P104] (and 1 more): t-a5 (exit code 1)' in ran.out
    assert ran.out.endswith("12 environments: 11 shown, 1 failed.\n")
    assert policyctl("effect", "nosuch", "-l", "ring=1").code == 64
    assert policyctl("effect", "--env", "t-b*").code == 64


def test_effects_against_what_is_live_are_read_from_each_remote(fleet: Project, policyctl: Policyctl) -> None:
    assert policyctl("apply", "--all", "--yes").code == 0
    fleet.write("anygem.yaml", POLICY.replace('"{{ 1 - lite }}"', "0.9"))
    found = data_of(policyctl, "effect", "--against", "live", "--all")
    moved = {name: one["effect"]["policies"][0]["class"] for one in found["effects"] for name in one["environments"]}
    assert moved == {f"t-a{n}": "effective" if n % 10 == 1 else "metadata" for n in range(12)}


def emptied(fleet: Project) -> None:
    """The directory without its policies, as before a first pull."""
    (fleet.policies / "anygem.yaml").unlink()


def test_several_environments_are_pulled_into_files_that_are_the_same_for_all(fleet: Project, policyctl: Policyctl) -> None:
    fleet.write("fixed.yaml", FIXED)
    assert policyctl("apply", "--all", "--yes").code == 0
    emptied(fleet)
    (fleet.policies / "fixed.yaml").unlink()
    ran = policyctl("pull", "--env", "t-a1", "--env", "t-a11")
    assert ran.code == 0
    assert ran.out == (
        "t-a1, t-a11, the same in 2 environments\n"
        "  + policies/anygem.yaml\n"
        "  + policies/fixed.yaml\n"
        "\n"
        "  Pulled: 2 files written, 0 unchanged; the plan is empty.\n"
        "\n"
        "2 environments: 2 pulled, 10 not selected.\n"
    )
    assert policyctl("plan", "--env", "t-a1", "--env", "t-a11", "--detailed-exitcode").code == 0
    assert policyctl("pull", "--env", "t-a1", "--env", "t-a11").out.splitlines()[1:2] == [
        "  Pulled: 0 files written, 2 unchanged; the plan is empty."
    ]


def test_a_file_that_would_not_be_the_same_for_all_is_not_pulled(fleet: Project, policyctl: Policyctl) -> None:
    """Neither a new one, nor one that another environment has as it is, whatever may be overwritten; the rest is pulled."""
    fleet.write("fixed.yaml", FIXED)
    assert policyctl("apply", "--all", "--yes").code == 0
    emptied(fleet)
    (fleet.policies / "fixed.yaml").unlink()
    why = "policies/anygem.yaml would not be the same for t-a0, t-a2, t-a3 and 7 more; t-a1, t-a11; write a template, or"
    ran = policyctl("pull", "--all")
    assert ran.code == 5
    assert ran.out.count(why) == 1
    assert "1 to remove" in ran.out
    assert "failed  12 × 1 live policy not pulled; see above. Read the plan before you apply" in ran.out
    assert sorted(path.name for path in fleet.policies.glob("*.yaml")) == ["fixed.yaml", "policyctl.yaml"]
    assert policyctl("pull", "--env", "t-a1").code == 0
    pulled = (fleet.policies / "anygem.yaml").read_text()
    ran = policyctl("pull", "--all", "--overwrite")
    assert ran.code == 5
    assert why in ran.out
    assert ran.out.endswith("12 environments: 2 pulled, 10 failed.\n")
    assert (fleet.policies / "anygem.yaml").read_text() == pulled
    assert policyctl("plan", "--env", "t-a1", "--detailed-exitcode").code == 0


def test_an_environment_is_pulled_into_what_it_includes(fleet: Project, policyctl: Policyctl) -> None:
    """Which another one does not see; and one that cannot be read stops none of the others."""
    assert policyctl("apply", "--all", "--yes").code == 0
    emptied(fleet)
    own = "environments: {t-a1: {include: [one/*]}, t-a2: {include: [two/*]}}\n"
    fleet.write("policyctl.yaml", CONFIG + own)
    for folder in ("one", "two"):
        (fleet.policies / folder).mkdir()
        fleet.write(f"{folder}/anygem.yaml", POLICY.replace('"{{ lite }}"', "0.5").replace('"{{ 1 - lite }}"', "0.5"))
    broken(fleet, "a4")
    ran = policyctl("pull", "--env", "t-a1", "--env", "t-a2", "--env", "t-a4", "--overwrite")
    assert ran.code == 5
    assert ran.out.endswith("3 environments: 2 pulled, 1 failed, 9 not selected.\n")
    assert "weight: 0.2\n" in (fleet.policies / "one" / "anygem.yaml").read_text()
    assert "weight: 0.1\n" in (fleet.policies / "two" / "anygem.yaml").read_text()
    fleet.write("one/broken.yaml", FIXED.replace("single", "double").replace("loadbalance", "double"))
    assert policyctl("plan", "--env", "t-a1", "--env", "t-a2").code == 5
    (fleet.policies / "one" / "broken.yaml").unlink()
    assert policyctl("plan", "--env", "t-a1", "--env", "t-a2", "--detailed-exitcode").code == 0


def test_nothing_is_pulled_into_a_directory_that_is_broken_for_all(fleet: Project, policyctl: Policyctl) -> None:
    assert policyctl("apply", "-l", "ring=1", "--yes").code == 0
    emptied(fleet)
    fleet.write("other.yaml", "kind: model\nname: [\n")
    ran = policyctl("pull", "-l", "ring=1")
    assert (ran.code, ran.out) == (1, "")
    assert not (fleet.policies / "anygem.yaml").exists()


def test_apply_names_the_environments_that_differ_from_the_approved_plans(fleet: Project, policyctl: Policyctl) -> None:
    """A file of approved plans is enough; with the digest it must have it. Nothing is written where they differ."""
    apply = ("apply", "--all", "--yes", "--plans", "plans.json")
    assert policyctl("plan", "--all", "--report", "json=plans.json").code == 0
    digest = json.loads(Path("plans.json").read_text())["digest"]
    inventory = (fleet.policies / "tenants.csv").read_text()
    changed = inventory.replace("a3,0,\n", "a3,0,0.5\n").replace("a4,1,\n", "a4,1,much\n").replace("a9,0,\n", "")
    fleet.write("tenants.csv", f"{changed}a12,1,\n")
    fleet.write("policyctl.yaml", CONFIG + "environments: {t-a5: {ca_file: ca.pem}, t-a6: {suspend: {reason: migration}}}\n")
    ran = policyctl(*apply, "--expect-digest", digest)
    assert ran.code == 4
    differ = (
        "these are not the plans that were approved (cannot be planned now: t-a4; another plan: t-a3; reached in another way "
        "(remote, auth or ca_file): t-a5; not among the approved plans: t-a12; suspended or not selected now: t-a6, t-a9): "
    )
    assert differ in ran.err
    assert not any(database(fleet, f"a{n}").exists() for n in range(13))
    assert "would name the environments" in policyctl("apply", "--all", "--yes", "--expect-digest", digest).err
    fleet.write("tenants.csv", inventory)
    fleet.write("policyctl.yaml", CONFIG)
    assert policyctl(*apply, "--expect-digest", f"sha256:{'0' * 64}").code == 4
    assert policyctl(*apply).code == 0
    assert policyctl("plan", "--all", "--detailed-exitcode").code == 0


@pytest.mark.parametrize(
    ("old", "new", "code", "error"),
    [
        ('"digest": "sha256:', '"digest": "sha256:0', 1, "was changed after it was made"),
        ('"name": "t-a3"', '"name": "t-x"', 1, "was changed after it was made"),
        ('"environments"', '"others"', 1, "has no plans of several environments; write it with plan --report json="),
        ("{", "", 1, "has no plans of several environments"),
    ],
)
def test_what_is_not_a_report_of_approved_plans_approves_nothing(
    old: str, new: str, code: int, error: str, fleet: Project, policyctl: Policyctl
) -> None:
    assert policyctl("plan", "--all", "--report", "json=plans.json").code == 0
    Path("plans.json").write_text(Path("plans.json").read_text().replace(old, new, 1))
    ran = policyctl("apply", "--all", "--yes", "--plans", "plans.json")
    assert ran.code == code
    assert error in ran.err
    assert not any(database(fleet, f"a{n}").exists() for n in range(12))


def test_plans_of_which_one_failed_approve_nothing(fleet: Project, policyctl: Policyctl) -> None:
    broken(fleet, "a3")
    assert policyctl("plan", "--all", "--report", "json=plans.json").code == 5
    ran = policyctl("apply", "--all", "--yes", "--plans", "plans.json")
    assert (ran.code, ran.out) == (1, "")
    assert "plans.json approves nothing, because not every environment in it has a plan that may be applied" in ran.err
    assert policyctl("apply", "--env", "t-a0", "--yes", "--plans", "plans.json").code == 64
    assert "cannot be read: No such file" in policyctl("apply", "--all", "--yes", "--plans", "no.json").err


def test_what_several_environments_have_in_common_is_computed_once(fleet: Project, policyctl: Policyctl) -> None:
    """The fields and the effect of a change, for each way in which it changes; and nothing is remembered afterwards."""
    assert policyctl("apply", "--all", "--yes").code == 0
    fleet.write("anygem.yaml", POLICY.replace("2.5-pro", "2.5-flash"))
    for _ in range(2):
        what = compare, DeepDiff.__init__, named_in
        counted = calls(lambda: policyctl("plan", "--all", "--parallelism", "1"), *what, threads=True)
        assert counted == [2, 2, 2]  # the repository is looked for by what reads access and by what reads history
    alone = {name: policyctl("plan", "--env", name).out for name in ("t-a0", "t-a1")}
    together = policyctl("plan", "--all").out
    for text in alone.values():
        changed = text.partition("\n\n")[2].partition("\n\n")[0]
        assert indent(changed, "  ") in together


@pytest.mark.parametrize("command", [("plan",), ("apply", "--yes")])
def test_git_is_not_asked_more_often_for_more_environments(
    command: tuple[str, ...], fleet: Project, policyctl: Policyctl
) -> None:
    """Which commit a base is, what it has, and whether git converts files that are read: none of it depends on these."""
    commit(fleet.folder)
    git(fleet.folder, "checkout", "-q", "-b", "change")
    fleet.write("anygem.yaml", POLICY.replace("2.5-pro", "2.5-flash"))
    few, every = ("--env", "t-a0", "--env", "t-a1"), ("--all",)

    def asked(chosen: tuple[str, ...]) -> list[int]:
        return calls(lambda: policyctl(*command, "--base", "main", *chosen), run_git, threads=True)

    asked(every)  # what objects hold is remembered
    assert asked(few) == asked(every)


class _FirstRefused(Tenant):
    """A tenant whose list of agents cannot be read the first time, so that a removal is refused then."""

    asked = 0

    def __call__(self, seen: Seen) -> Reply | Silence:
        if seen.path.endswith("/agents"):
            self.asked += 1
            if self.asked == 1:
                return Reply(403, {"detail": "forbidden"})
        return super().__call__(seen)


def test_an_environment_that_was_shown_as_refused_is_not_applied(project: Project, policyctl: Policyctl) -> None:
    """Although no rule refuses its plan any more once the question about the others was answered."""
    tenant = _FirstRefused()
    with standing_in(tenant) as server:
        project.write(
            "policyctl.yaml",
            f"scope: ['virtual-policy/*']\nenvironments: {{a: {{remote: '{server.url}'}}, b: {{remote: 'sqlite:///b.db'}}}}\n",
        )
        project.policy("gone")
        project.policy("kept")
        assert policyctl("apply", "--all", "--yes").code == 0
        (project.policies / "gone.yaml").unlink()
        tenant.asked = 0
        code, shown = answer_on_terminal("y", "apply", "--all")
        assert (code, "Apply to 1 environment?" in shown) == (5, True), shown
        assert tenant.asked > 1
        assert tenant.named("virtual-policy/gone"), "it was not asked about"
