"""A saved plan is input: with a right checksum it still does nothing that a plan made now could not do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from policyctl.plan.plan import Change, add, remove, update
from policyctl.plan.references import ordered
from policyctl.plan.saved_plan import read_plan, write_plan
from policyctl.plan.settings import Override
from policyctl.policy.document import digest
from policyctl.policy.live import LivePolicy
from policyctl.reconcile.observe import observe
from policyctl.remote.open import open_reader
from tests.builders import policy
from tests.conftest import Policyctl, Project
from tests.sqlite_rows import LOCAL, live_documents, put, row

PLAN = Path("plan.json")
URL = f"sqlite:///{LOCAL}"


def live(name: str) -> LivePolicy:
    with open_reader(URL) as reader:
        return observe(reader).policies[f"virtual-policy/{name}"]


def updated(name: str, *targets: str) -> Change:
    change = update(policy(name, *targets), live(name))
    assert change is not None
    return change


def rewrite(*changes: Change) -> None:
    """Give the saved plan these changes, with a digest and a checksum that are right."""
    plan = read_plan(PLAN.read_text("utf-8"), str(PLAN))
    PLAN.write_text(write_plan(plan._replace(changes=ordered(changes))), "utf-8")


def seal(edit: Callable[[dict[str, Any]], None]) -> None:
    """Edit the plan file's JSON and make its digest and checksum anew."""
    data = json.loads(PLAN.read_text("utf-8"))
    del data["checksum"]
    edit(data)
    changes = [[c["action"], c["name"], c.get("id"), c.get("before"), c.get("after")] for c in data["changes"]]
    overrides = sorted(Override(**override).text for override in data["overrides"])
    same = {key: data[key] for key in ("environment", "remote", "config")}
    data["digest"] = digest({**same, "changes": changes, "overrides": overrides})
    PLAN.write_text(json.dumps({**data, "checksum": digest(data)}), "utf-8")


@pytest.fixture
def team(project: Project, policyctl: Policyctl) -> Project:
    """Three policies of one team and two of others on the remote; the saved plan updates one of the team's."""
    for name in ("a-one", "a-two", "a-three", "other-one", "other-two"):
        project.policy(name)
    assert policyctl("apply", "--yes").code == 0
    for name in ("other-one", "other-two"):
        (project.policies / f"{name}.yaml").unlink()
    project.write("policyctl.yaml", "scope: ['a-*']\nprotect: [a-two]\nlimits: {max_change_percent: 100}\n")
    project.policy("a-one", "virtual-model/x/new")
    assert policyctl("plan", "--out", PLAN).code == 0
    return project


EDITS: dict[str, tuple[Callable[[], list[Change]], str]] = {
    "a removal outside the scope": (
        lambda: [remove(live("other-one"))],
        "virtual-policy/other-one is outside the scope of local",
    ),
    "an update outside the scope": (
        lambda: [updated("other-two", "virtual-model/evil/x")],
        "virtual-policy/other-two is outside the scope of local",
    ),
    "an add outside the scope": (
        lambda: [add(policy("other-new"))],
        "virtual-policy/other-new is outside the scope of local",
    ),
    "the removal of a protected policy": (
        lambda: [remove(live("a-two"))],
        "virtual-policy/a-two is protected",
    ),
    "all of the scope removed": (
        lambda: [remove(live("a-one")), remove(live("a-three")), remove(live("a-two"))],
        "all 3 live policies in scope would be removed",
    ),
    "an add that targets what is removed": (
        lambda: [remove(live("a-three")), add(policy("a-new", "virtual-policy/a-three"))],
        "virtual-policy/a-three would be removed, but virtual-policy/a-new still targets it",
    ),
    "a policy that targets itself": (
        lambda: [updated("a-one", "virtual-policy/a-three"), updated("a-three", "virtual-policy/a-one")],
        "virtual-policy/a-one would target itself, by way of other policies or at once",
    ),
}


@pytest.mark.parametrize("case", EDITS)
def test_a_change_that_no_plan_could_have_is_refused(case: str, team: Project, policyctl: Policyctl) -> None:
    changes, expected = EDITS[case]
    rewrite(*changes())
    before = LOCAL.read_bytes()
    ran = policyctl("apply", PLAN, "--yes")
    assert ran.code == 3
    assert expected in ran.out
    assert LOCAL.read_bytes() == before


@pytest.mark.parametrize("limits", ["prune: false\n", "protect: [a-two]\n"])
def test_a_removal_needs_a_configuration_that_allows_removals(limits: str, team: Project, policyctl: Policyctl) -> None:
    team.write("policyctl.yaml", f"scope: ['a-*']\nlimits: {{max_change_percent: 100}}\n{limits}")
    assert policyctl("plan", "--out", PLAN).code == 0
    rewrite(remove(live("a-three")))
    ran = policyctl("apply", PLAN, "--yes")
    assert ran.code == (3 if "prune" in limits else 0)
    assert ("nothing may be removed from local: prune is false" in ran.out) == ("prune" in limits)


def test_unknown_models_are_refused_and_those_that_the_directory_declares_are_known(
    team: Project, policyctl: Policyctl
) -> None:
    team.write("models.yaml", "kind: model\nspec_version: v1\nname: virtual-model/x/new\nprovider_config: {}\n")
    rewrite(updated("a-one", "virtual-model/x/nwe"))
    ran = policyctl("apply", PLAN, "--yes")
    assert ran.code == 3
    assert 'the remote knows no model "virtual-model/x/nwe" (did you mean virtual-model/x/new?)' in ran.out
    rewrite(updated("a-one", "virtual-model/x/new"))
    assert policyctl("apply", PLAN, "--yes").code == 0


def test_an_override_in_the_file_lifts_no_rule(team: Project, policyctl: Policyctl) -> None:
    rewrite(remove(live("a-two")))
    override = Override("--allow-remove", "a-two")._asdict()
    seal(lambda data: data.update(overrides=[override]))
    assert policyctl("apply", PLAN, "--yes").code == 3
    assert "virtual-policy/a-two" in live_documents()


SEALED: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "fields that look harmless": (
        lambda data: data["changes"][0].update(fields=[{"path": "description", "before": "x", "after": "fix a typo"}]),
        'the fields that it shows for "virtual-policy/a-one" are not those that change',
    ),
    "no fields": (lambda data: data["changes"][0].pop("fields"), "are not those that change"),
    "another digest of what is replaced": (
        lambda data: data["changes"][0].update(before_digest="sha256:0"),
        'the digest of what "virtual-policy/a-one" is to replace is wrong',
    ),
    "settings that are not its configuration's": (
        lambda data: data["settings"].update(prune=False),
        "its settings are not those of its configuration",
    ),
    "an update that changes nothing": (
        lambda data: data["changes"][0].update(after=data["changes"][0]["before"], fields=[]),
        "changes nothing",
    ),
    "one policy twice": (lambda data: data["changes"].append(data["changes"][0]), "a policy is changed twice"),
}


@pytest.mark.parametrize("case", SEALED)
def test_what_follows_from_the_two_versions_is_found_again(case: str, team: Project, policyctl: Policyctl) -> None:
    edit, expected = SEALED[case]
    seal(edit)
    before = LOCAL.read_bytes()
    ran = policyctl("apply", PLAN, "--yes")
    assert (ran.code, ran.out) == (1, "")
    assert expected in ran.err
    assert LOCAL.read_bytes() == before


def test_changes_in_another_order_are_refused(team: Project, policyctl: Policyctl) -> None:
    rewrite(add(policy("a-new")), updated("a-one", "virtual-policy/a-new"))
    seal(lambda data: data["changes"].reverse())
    ran = policyctl("apply", PLAN, "--yes")
    assert (ran.code, "not in the order in which they are applied" in ran.err) == (1, True)


def test_counts_are_those_of_the_remote_whatever_the_file_has(team: Project, policyctl: Policyctl) -> None:
    def boast(data: dict[str, Any]) -> None:
        data["counts"] = {"unchanged": 7, "outside_scope": 0, "unmanaged": 9, "unselected": 8, "managed": 10_000}

    seal(boast)
    ran = policyctl("apply", PLAN, "--yes")
    assert ran.code == 0
    assert "Plan: 0 to add, 1 to update, 0 to remove. 2 unchanged, 2 outside the scope." in ran.out


@pytest.mark.parametrize("prune", ["true", "false"])
def test_the_percentage_is_one_of_what_is_live_not_of_what_the_file_claims(
    prune: str, project: Project, policyctl: Policyctl
) -> None:
    names = [f"p{number:02}" for number in range(12)]
    for name in names:
        project.policy(name)
    assert policyctl("apply", "--yes").code == 0
    put(row(f"unmanaged-{number:02}", id=str(number)) for number in range(40))
    project.write("policyctl.yaml", f"scope: ['*']\nprune: {prune}\nlimits: {{max_removes: 100}}\n")
    assert policyctl("plan", "--max-change-percent", "100", "--out", PLAN).code == 0
    rewrite(*(updated(name, "virtual-model/x/new") for name in names[:8]))
    seal(lambda data: data["counts"].update(managed=10_000))
    ran = policyctl("apply", PLAN, "--yes")
    # Where nothing may be removed the directory speaks for its own twelve, not for the forty beside them.
    assert ran.code == (0 if prune == "true" else 3)
    assert ("8 of 12 live policies would change" in ran.out) == (prune == "false")


def test_an_honest_plan_does_not_empty_a_scope_that_shrank_meanwhile(project: Project, policyctl: Policyctl) -> None:
    for name in "abc":
        project.policy(name)
    assert policyctl("apply", "--yes").code == 0
    for name in "bc":
        (project.policies / f"{name}.yaml").unlink()
    assert policyctl("plan", "--out", PLAN).code == 0
    assert policyctl("policy", "remove", "--name", "a", "--yes").code == 0
    ran = policyctl("apply", PLAN, "--yes")
    assert ran.code == 3
    assert "all 2 live policies in scope would be removed" in ran.out
    assert live_documents().keys() == {"virtual-policy/b", "virtual-policy/c"}


def test_a_half_applied_plan_is_finished_whatever_share_of_the_rest_is_left(project: Project, policyctl: Policyctl) -> None:
    names = [f"p{number:02}" for number in range(10)]
    for name in names:
        project.policy(name)
    assert policyctl("apply", "--yes").code == 0
    for name in names[:3]:
        (project.policies / f"{name}.yaml").unlink()
    assert policyctl("plan", "--out", PLAN).code == 0  # three of ten: exactly the limit
    project.policy(names[0])  # the half that was done
    assert policyctl("apply", "--yes", "--exclude", names[3]).code == 0
    assert len(live_documents()) == 8
    assert policyctl("apply", PLAN, "--yes").code == 0
    assert live_documents().keys() == {f"virtual-policy/{name}" for name in names[3:]}


def test_a_row_that_cannot_be_read_stops_an_add_of_its_name(team: Project, policyctl: Policyctl) -> None:
    rewrite(add(policy("a-new")))
    put([{"name": "virtual-policy/a-new", "policy": None, "id": "half", "canonical": "virtual-policy/a-new"}])
    ran = policyctl("apply", PLAN, "--yes")
    assert ran.code == 4
    assert "virtual-policy/a-new: the row has no policy; repair it on the remote" in ran.out


def test_the_file_that_is_shown_is_the_directory_s(team: Project, policyctl: Policyctl) -> None:
    seal(lambda data: data["changes"][0].update(file="policies/reviewed.yaml"))
    ran = policyctl("apply", PLAN, "--yes")
    assert (ran.code, "policies/a-one.yaml" in ran.out, "reviewed.yaml" in ran.out) == (0, True, False)
