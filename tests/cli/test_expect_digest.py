"""apply --expect-digest: what was approved is what is applied, and the option never makes more happen than without it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ANYGEM, Policyctl, Project
from tests.examples import crossed
from tests.git_repo import commit
from tests.patience import LONGEST
from tests.remote.fake_server import standing_in
from tests.remote.fake_tenant import Tenant

OTHER = f"sha256:{'0' * 64}"
DATABASE = Path(".policyctl/local.db")


@pytest.fixture
def planned(project: Project, policyctl: Policyctl) -> str:
    """The digest of a plan that adds one policy."""
    project.write("anygem.yaml")
    digest: str = json.loads(policyctl("plan", "--format", "json").out)["digest"]
    return digest


def test_the_approved_plan_is_applied(planned: str, policyctl: Policyctl) -> None:
    ran = policyctl("apply", "--yes", "--expect-digest", planned)
    assert ran.code == 0
    assert ran.out.endswith("Applied: 1 added; read back and verified.\n")


def test_the_digest_holds_no_commit_no_time_and_no_unrelated_name(planned: str, project: Project, policyctl: Policyctl) -> None:
    (project.policies / "anygem.yaml").rename(project.policies / "moved.yaml")
    project.policy("unrelated")
    assert policyctl("apply", "--yes", "--only", "unrelated").code == 0
    assert policyctl("apply", "--yes", "--expect-digest", planned).code == 0


def test_another_plan_is_stale_and_both_digests_are_named(planned: str, project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml", ANYGEM.replace("0.25", "0.4").replace("0.75", "0.6"))
    actual = json.loads(policyctl("plan", "--format", "json").out)["digest"]
    ran = policyctl("apply", "--yes", "--expect-digest", planned)
    assert ran.code == 4
    assert "Plan: 1 to add" in ran.out
    assert ran.err == (
        f"error: this is not the plan that was approved: its digest is {actual}, not {planned}; "
        "nothing was written. Have this plan approved by a new pull request, or start this by hand with its digest\n"
    )
    assert not DATABASE.exists()


def test_a_plan_that_was_applied_meanwhile_is_stale_too(planned: str, policyctl: Policyctl) -> None:
    assert policyctl("apply", "--yes").code == 0
    assert policyctl("apply", "--yes", "--expect-digest", planned).code == 4


@pytest.mark.slow
def test_a_mismatch_is_reported_before_any_question(planned: str, project: Project) -> None:
    """At a terminal too, where apply would ask."""
    master, terminal = pty.openpty()
    ran = subprocess.run(
        [sys.executable, "-m", "policyctl", "apply", "--expect-digest", OTHER],
        stdin=terminal,
        capture_output=True,
        text=True,
        check=False,
        timeout=LONGEST,
    )
    os.close(master)
    os.close(terminal)
    assert ran.returncode == 4
    assert "[y/N]" not in ran.stderr + ran.stdout


def test_it_is_not_a_yes(planned: str, policyctl: Policyctl) -> None:
    ran = policyctl("apply", "--expect-digest", planned)
    assert ran.code == 64
    assert "add --yes" in ran.err
    assert not DATABASE.exists()


def test_it_lifts_no_refusal(project: Project, policyctl: Policyctl) -> None:
    for name in "abc":
        project.policy(name)
    assert policyctl("apply", "--yes").code == 0
    (project.policies / "a.yaml").unlink()
    project.write("policyctl.yaml", "protect: [a]")
    digest = json.loads(policyctl("plan", "--format", "json").out)["digest"]
    ran = policyctl("apply", "--yes", "--expect-digest", digest)
    assert (ran.code, "is protected" in ran.out) == (3, True)


@pytest.mark.parametrize(
    "digest", ["", "sha256:", OTHER.upper(), OTHER[:-1], f"{OTHER}0", f"{OTHER}\n", "0" * 64, f"{OTHER}@", f"none@{OTHER}"]
)
def test_what_is_not_a_digest_is_a_usage_error(planned: str, policyctl: Policyctl, digest: str) -> None:
    ran = policyctl("apply", "--yes", f"--expect-digest={digest}")
    assert (ran.code, ran.out) == (64, "")
    assert ran.err.startswith("error: --expect-digest takes sha256: and 64 hexadecimal digits")
    assert not DATABASE.exists()


def test_a_saved_plan_takes_none(planned: str, policyctl: Policyctl) -> None:
    assert policyctl("plan", "--out", "plan.json").code == 0
    ran = policyctl("apply", "plan.json", "--yes", "--expect-digest", planned)
    assert (ran.code, ran.out) == (64, "")
    assert ran.err == "error: --expect-digest is for a plan made now; a saved plan is applied as it is\n"


WAYS = {
    "one digest": ("--env", "prod", "--expect-digest", "{digest}@{access}"),
    "the digest of several": ("--all", "--expect-digest", "{digests}@{access_of_all}"),
    "approved plans": ("--all", "--plans", "plans.json"),
    "a saved plan": ("plan.json",),
}
LED = {
    "remote": "remote: '{evil}', auth: {{type: bearer, token: 'env:KEY'}}",
    "auth": "remote: '{own}', auth: {{type: ibm_iam, api_key: 'env:KEY', url: '{evil}'}}",
    "ca_file": "remote: '{own}', auth: {{type: bearer, token: 'env:KEY'}}, ca_file: ca.pem",
}


@pytest.mark.parametrize(("way", "led"), crossed(WAYS, LED))
def test_nothing_logs_in_in_another_way_than_the_approved_one(
    way: str, led: str, project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A digest alone is compared only once the remote was read, so what was approved can have the way there too."""
    monkeypatch.setenv("KEY", "canary-key")
    project.write("anygem.yaml")
    with standing_in(Tenant()) as own, standing_in(Tenant()) as evil:
        as_approved, pushed = (
            f"environments: {{prod: {{{settings.format(own=own.url, evil=evil.url)}}}}}\n"
            for settings in (LED["remote"].replace("evil", "own"), LED[led])
        )
        project.write("policyctl.yaml", as_approved)
        one = json.loads(policyctl("plan", "--format", "json", "--out", "plan.json").out)
        every = json.loads(policyctl("plan", "--all", "--format", "json", "--report", "json=plans.json").out)
        known = {"digests": every["digest"], "access_of_all": every["access"]}
        command = ["apply", "--yes", *(word.format(**one, **known) for word in WAYS[way])]
        project.write("policyctl.yaml", pushed)
        own.seen.clear()
        ran = policyctl(*command)
        code, why = (4, "remote, auth or ca_file is another one ")
        if (way, led) == ("a saved plan", "remote"):  # which names both remotes
            code, why = (1, "plan.json is a plan for ")
        assert (ran.code, ran.out, own.seen, evil.seen) == (code, "", [], [])
        assert ran.err.startswith(f"error: {why}")
        project.write("policyctl.yaml", as_approved)
        assert policyctl(*command).code == 0


def test_nothing_logs_in_to_an_environment_that_is_not_among_the_approved_plans(
    project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KEY", "canary-key")
    project.write("anygem.yaml")
    with standing_in(Tenant()) as own, standing_in(Tenant()) as new:
        rows = [
            f"  {name}: {{remote: '{at.url}', auth: {{type: bearer, token: 'env:KEY'}}}}\n"
            for name, at in (("a", own), ("b", new))
        ]
        project.write("policyctl.yaml", f"environments:\n{rows[0]}")
        assert policyctl("plan", "--all", "--report", "json=plans.json").code == 0
        project.write("policyctl.yaml", f"environments:\n{''.join(rows)}")
        own.seen.clear()
        ran = policyctl("apply", "--all", "--yes", "--plans", "plans.json")
        assert (ran.code, own.seen, new.seen) == (4, [], [])
        assert "or not in them, so nothing logged in: b" in ran.err


def test_a_plan_has_the_way_that_it_has_after_the_merge(project: Project, policyctl: Policyctl) -> None:
    """As `ci approved` compares it: the branch is then what is checked out."""
    project.write("anygem.yaml")
    project.write("policyctl.yaml", "environments: {prod: {remote: local}}\n")
    commit(project.folder)
    project.write("policyctl.yaml", "environments: {prod: {remote: local, ca_file: ca.pem}}\n")
    reviewed, merged = (json.loads(policyctl("plan", "--format", "json", *args).out) for args in (("--base", "HEAD"), ()))
    assert reviewed["access"] == merged["access"]
    assert policyctl("apply", "--yes", "--expect-digest", f"{reviewed['digest']}@{reviewed['access']}").code == 0
