"""policyctl env: which environments there are, and where each setting comes from."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

from policyctl.report import schema_text
from tests.conftest import Policyctl, Project
from tests.fleets import ENVIRONMENTS, FLEET, ROWS


@pytest.fixture
def fleet(project: Project) -> Project:
    project.write("tenants.csv", ROWS)
    project.write("policyctl.yaml", FLEET + ENVIRONMENTS)
    return project


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ([], ["prod-acme", "prod-bolt", "dev"]),
        (["--all"], ["prod-acme", "prod-bolt", "dev"]),
        (["--env", "prod-*"], ["prod-acme", "prod-bolt"]),
        (["--env", "prod-acme", "--env", "d*"], ["prod-acme", "dev"]),
        (["--exclude-env", "prod-*"], ["dev"]),
        (["-l", "ring=canary"], ["prod-acme"]),
        (["-l", "ring!=canary"], ["prod-bolt", "dev"]),
        (["-l", "ring in (canary, 1),region=eu-de"], ["prod-bolt"]),
        (["-l", "ring notin (canary)"], ["prod-bolt", "dev"]),
        (["-l", "ring"], ["prod-acme", "prod-bolt"]),
        (["-l", "!ring"], ["dev"]),
        (["-l", "ring", "-l", "region==us-south"], ["prod-acme"]),
    ],
)
def test_a_selection_is_names_globs_and_labels(
    options: list[str], names: list[str], fleet: Project, policyctl: Policyctl
) -> None:
    ran = policyctl("env", "list", *options, "--format", "json")
    assert [one["name"] for one in json.loads(ran.out)["environments"]] == names


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--env", "prod-acne"], "--env prod-acne matches no environment (did you mean prod-acme?)"),
        (["--env", "qa-*"], "--env qa-* matches no environment (policyctl env list shows all)"),
        (["--exclude-env", "qa"], "--exclude-env qa matches no environment (policyctl env list shows all)"),
        (["-l", "rink=1"], "no environment has a label rink (did you mean ring?)"),
        (["-l", "ring=9"], "no environment is selected, so nothing was done; policyctl env list shows all"),
        (["-l", "ring=1,"], "'ring=1,' is not a selector; write key=value"),
        (["-l", "ring in canary"], "'ring in canary' is not part of a selector; write key=value"),
        (["-l", ""], "'' is not a selector"),
        (["--all", "--env", "dev"], "--all is every environment; leave out --env"),
        (["--env-from", "missing.txt"], "--env-from missing.txt cannot be read: No such file or directory"),
    ],
)
def test_a_selection_that_does_nothing_is_an_error(
    options: list[str], error: str, fleet: Project, policyctl: Policyctl
) -> None:
    ran = policyctl("env", "list", *options)
    assert (ran.code, ran.out) == (64, "")
    assert error in ran.err


def test_environments_may_be_listed_in_a_file(fleet: Project, policyctl: Policyctl) -> None:
    fleet.write("../some.txt", "# failed yesterday\nprod-bolt  # 403\n\ndev\n")
    ran = policyctl("env", "list", "--env-from", "some.txt")
    assert ran.out.startswith("prod-bolt  https://")
    assert ran.out.endswith("\n2 environments; 1 not selected.\n")
    fleet.write("../none.txt", "\n# nothing\n")
    assert policyctl("env", "list", "--env-from", "none.txt").code == 64


def test_a_suspended_environment_and_one_that_cannot_be_used_are_named(fleet: Project, policyctl: Policyctl) -> None:
    fleet.write("tenants.csv", ROWS + "cash,a.b,0a1d,1,,\n")
    ran = policyctl("env", "list")
    assert ran.code == 1
    lines = ran.out.splitlines()
    assert lines[0].endswith("region=us-south ring=canary  suspended: migration (until 2999-12-04)")
    assert lines[3] == "prod-cash  cannot be used (policyctl validate shows why)"
    assert "tenants.csv:4" in ran.err
    assert policyctl("env", "list", "--env", "dev").code == 0
    assert "tenants.csv:4" in policyctl("validate").out


def test_every_setting_is_shown_with_where_it_comes_from(fleet: Project, policyctl: Policyctl) -> None:
    data = json.loads(policyctl("env", "show", "prod-acme", "--format", "json").out)
    Draft202012Validator(json.loads(schema_text("environments"))).validate(data)
    found = {one["setting"]: (one["value"], one["from"]) for one in data["settings"]}
    assert found["remote"] == ("https://api.us-south.example.com/instances/0a1b", "templates.instance")
    assert found["auth.api_key"] == ("file:/run/secrets/acme", "templates.instance")
    assert found["labels.ring"] == ("canary", "tenants.csv:2")
    assert found["vars.share"] == (0.3, "tenants.csv:2")
    assert found["vars.lite"] == (0.5, "environments.prod-acme")
    assert found["limits.max_removes"] == (0, "templates.gold")
    assert found["limits.max_change_percent"] == (30, "policyctl.yaml")
    assert found["prune"] == (True, "default")
    assert "remote " in policyctl("env", "show", "dev").out
    assert policyctl("env", "show", "prod").code == 64
