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
        timeout=60,
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


@pytest.mark.parametrize("digest", ["", "sha256:", OTHER.upper(), OTHER[:-1], f"{OTHER}0", f"{OTHER}\n", "0" * 64])
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
