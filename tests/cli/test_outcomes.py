"""apply --format json and --report: an outcome for each change, for programs."""

from __future__ import annotations

import json
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from policyctl.report import schema_text
from tests.conftest import ANYGEM, Policyctl, Project
from tests.fleets import ENVIRONMENTS, FLEET, ROWS


def checked(text: str) -> dict[str, Any]:
    found = json.loads(text)
    assert isinstance(found, dict)
    Draft202012Validator(json.loads(schema_text(found["format"].removeprefix("policyctl/")))).validate(found)
    return found


def test_each_change_has_an_outcome_and_nothing_else_is_printed(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    project.write("other.yaml", ANYGEM.replace("anygem", "other"))
    digest = json.loads(policyctl("plan", "--format", "json").out)["digest"]
    found = checked(policyctl("apply", "--yes", "--format", "json").out)
    assert (found["digest"], found["complete"]) == (digest, True)
    names = [(one["action"], one["name"], one["status"]) for one in found["outcomes"]]
    assert sorted(names) == [("add", "virtual-policy/anygem", "applied"), ("add", "virtual-policy/other", "applied")]
    assert all(one["id"] for one in found["outcomes"])


def test_a_plan_without_changes_has_no_outcome(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    assert policyctl("apply", "--yes").code == 0
    ran = policyctl("apply", "--format", "json")
    assert (ran.code, checked(ran.out)["outcomes"]) == (0, [])


def test_a_report_is_written_beside_the_text(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    ran = policyctl("apply", "--yes", "--report", "outcomes.json")
    assert ran.out.endswith("Applied: 1 added; read back and verified.\n")
    assert [one["status"] for one in checked((project.folder / "outcomes.json").read_text())["outcomes"]] == ["applied"]


@pytest.mark.parametrize("form", ["text", "json"])
def test_a_plan_that_is_refused_has_no_outcome(form: str, project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", "environments: {local: {suspend: {reason: migration}}}\n")
    project.write("anygem.yaml")
    ran = policyctl("apply", "--yes", "--format", form, "--report", "outcomes.json")
    assert ran.code == 3
    assert "applied" not in ran.out
    assert not (project.folder / "outcomes.json").exists()


def test_several_environments_have_one_report(project: Project, policyctl: Policyctl) -> None:
    project.write("anygem.yaml")
    project.write("tenants.csv", ROWS)
    config = FLEET.replace('"https://api.{{ region }}.example.com/instances/{{ instance }}"', '"sqlite:///{{ tenant }}.db"')
    config = config.replace('    auth: {type: ibm_iam, api_key: "file:/run/secrets/{{ tenant }}"}\n', "").replace(
        'scope: ["gold-*"]', ""
    )
    project.write("policyctl.yaml", config + ENVIRONMENTS)
    ran = policyctl("apply", "--all", "--yes", "--format", "json", "--report", "fleet.json")
    assert ran.code == 0
    assert checked(ran.out) == checked((project.folder / "fleet.json").read_text())
    statuses = {one["name"]: one["status"] for one in checked(ran.out)["environments"]}
    assert statuses == {"prod-acme": "suspended", "prod-bolt": "applied", "dev": "applied"}
