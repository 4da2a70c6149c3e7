"""Fields of live policies that policyctl does not know are named wherever the policy is, and kept."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from policyctl.report import schema_text
from tests.conftest import Policyctl, Project
from tests.sqlite_rows import edit, live_documents, put

A, B = "virtual-model/x/a", "virtual-model/y/b"
NAME = "virtual-policy/safe"
FIELDS = ["policy.cache.max_age", "policy.request_timeout", "policy.targets[x/a].override_params"]
NOTE = f"the live policy {NAME} also has {', '.join(FIELDS)}; they are kept, and effects on traffic ignore them"


@pytest.fixture
def live(project: Project) -> Project:
    """The live policy has what no file can hold; the file has the rest of it."""
    project.policy("safe", A, B, cache="{mode: simple}")
    targets: list[dict[str, Any]] = [{"model_name": A, "override_params": {"temperature": 0, "api_key": "s3cret"}}]
    body = {
        "strategy": {"mode": "fallback"},
        "cache": {"mode": "simple", "max_age": 60},
        "request_timeout": 5000,
        "targets": [*targets, {"model_name": B}],
    }
    put([{"name": NAME, "policy": body, "tenant_id": "t"}])
    return project


def valid(policyctl: Policyctl, schema: str, *args: str) -> Any:
    ran = policyctl(*args, "--format", "json")
    data = json.loads(ran.out)
    jsonschema.Draft202012Validator(json.loads(schema_text(schema))).validate(data)
    assert "s3cret" not in ran.out + ran.err
    return data


@pytest.mark.parametrize("form", ["text", "markdown", "html"])
def test_an_empty_plan_names_them(form: str, live: Project, policyctl: Policyctl) -> None:
    ran = policyctl("plan", "--detailed-exitcode", "--format", form)
    assert ran.code == 0
    assert all(field.partition("[")[0] in ran.out.replace("\\", "") for field in FIELDS)
    assert "s3cret" not in ran.out + ran.err
    if form == "text":
        assert f"note  {NOTE}\n" in ran.out


def test_a_plan_names_them_beside_what_it_reports_of_traffic(live: Project, policyctl: Policyctl) -> None:
    live.write("policyctl.yaml", "guards: {max_failover_seconds: 5}\n")
    live.policy("safe", A, B, cache="{mode: simple}", retry="{attempts: 2}")
    for command in (("plan",), ("apply", "--yes")):
        ran = policyctl(*command)
        assert "most back-off before failover: 0 s → 3 s" in ran.out or "most calls" in ran.out
        assert f"note  {NOTE}\n" in ran.out
    written = live_documents()[NAME]["policy"]
    assert (written["request_timeout"], written["cache"]) == (5000, {"mode": "simple", "max_age": 60})
    assert written["retry"] == {"attempts": 2}


def test_an_update_that_loses_them_says_so(live: Project, policyctl: Policyctl) -> None:
    live.policy("safe", B, "virtual-model/z/c")
    ran = policyctl("plan")
    lost = "policy.cache.max_age, policy.targets[x/a].override_params"
    assert f"the live policy {NAME} also has policy.request_timeout; it is kept, and" in ran.out
    assert f"the live policy {NAME} also has {lost}; they go with what is removed around them, and" in ran.out
    assert valid(policyctl, "plan", "plan")["unknown_fields"] == [
        {"name": NAME, "kept": ["policy.request_timeout"], "lost": lost.split(", ")}
    ]


def test_a_plan_for_machines_names_them(live: Project, policyctl: Policyctl) -> None:
    data = valid(policyctl, "plan", "plan")
    assert data["unknown_fields"] == [{"name": NAME, "kept": FIELDS, "lost": []}]
    assert data["notes"] == [NOTE]
    live.policy("other")
    data = valid(policyctl, "plan", "plan", "--only", "other")
    assert "unknown_fields" not in data, "that policy is not looked at"


def test_a_saved_plan_names_them_when_it_is_applied(live: Project, policyctl: Policyctl) -> None:
    live.policy("safe", A, B, cache="{mode: simple}", retry="{attempts: 2}")
    assert policyctl("plan", "--out", "plan.json").code == 0
    ran = policyctl("apply", "plan.json", "--yes")
    assert ran.code == 0
    assert f"note  {NOTE}\n" in ran.out


def test_effect_against_the_live_policy_names_them(live: Project, policyctl: Policyctl) -> None:
    ran = policyctl("effect", "safe", "--against", "live")
    assert f"  not counted\n    {NOTE}\n" in ran.out
    (seen,) = valid(policyctl, "effect", "effect", "safe", "--against", "live")["policies"]
    assert seen["unknown_fields"] == {"kept": FIELDS, "lost": []}


def test_show_and_list_print_them(live: Project, policyctl: Policyctl) -> None:
    lines = policyctl("policy", "show", "--name", "safe").out.splitlines()
    assert lines[-4:] == [
        "# The live policy also has fields that a policy file cannot hold; an update keeps them:",
        "#   policy.cache.max_age: 60",
        "#   policy.request_timeout: 5000",
        '#   policy.targets[x/a].override_params: {api_key: "(set)", temperature: 0}',
    ]
    assert f"; also has {', '.join(FIELDS)}\n" in policyctl("policy", "list").out
    (seen,) = valid(policyctl, "policies", "policy", "show", "--name", "safe")["policies"]
    assert list(seen["unknown_fields"]) == FIELDS
    assert seen["unknown_fields"][FIELDS[2]] == {"temperature": 0, "api_key": "(set)"}
    (seen,) = valid(policyctl, "policies", "policy", "list")["policies"]
    assert list(seen["unknown_fields"]) == FIELDS


def test_export_writes_them_as_comments_and_says_so(live: Project, policyctl: Policyctl) -> None:
    printed = policyctl("policy", "export", "--name", "safe", "--output", "-")
    assert "#   policy.cache.max_age: 60\n" in printed.out
    ran = policyctl("policy", "export", "--name", "safe", "--output", "safe.yaml")
    assert ran.err == f"note  {NOTE}\nwrote safe.yaml\n"
    assert Path("safe.yaml").read_text("utf-8") == printed.out
    assert policyctl("validate", "safe.yaml").code == 0
    assert policyctl("policy", "export", "--name", "safe", "--output", "safe.zip").code == 0
    with zipfile.ZipFile("safe.zip") as archive:
        assert archive.read(archive.namelist()[0]).decode() == printed.out
    assert "s3cret" not in printed.out


def test_pull_names_them(live: Project, policyctl: Policyctl) -> None:
    assert f"note  {NOTE}\n" in policyctl("pull").out
    (live.policies / "safe.yaml").unlink()
    ran = policyctl("pull")
    assert ran.code == 0
    assert f"note  {NOTE}\n" in ran.out
    assert ran.out.endswith("the plan is empty.\n")


def test_policy_add_names_them(live: Project, policyctl: Policyctl) -> None:
    ran = policyctl("policy", "add", "--name", "safe", "--strategy", "single", "--model", A, "--dry-run")
    assert (
        f"the live policy {NAME} also has policy.request_timeout, policy.targets[x/a].override_params; they are kept" in ran.out
    )


def test_a_remote_whose_every_row_has_one_is_reported_once(project: Project, policyctl: Policyctl) -> None:
    names = [f"p{number:02}" for number in range(20)]
    for name in names:
        project.policy(name, A)
    body = {"strategy": {"mode": "single"}, "owner": "me", "targets": [{"model_name": A}]}
    put({"name": f"virtual-policy/{name}", "policy": body} for name in names)
    ran = policyctl("plan")
    first = ", ".join(f"virtual-policy/{name}" for name in names[:3])
    assert ran.out.count("note") == 1
    assert f"note  the live policies {first} and 17 more also have policy.owner; it is kept, and" in ran.out


def test_what_is_beside_the_policy_is_bookkeeping(project: Project, policyctl: Policyctl) -> None:
    project.policy("safe", A)
    body = {"strategy": {"mode": "single"}, "targets": [{"model_name": A}]}
    put([{"name": NAME, "policy": body, "owner": "me"}])
    assert "note" not in policyctl("plan").out
    assert "owner" not in policyctl("policy", "show", "--name", "safe").out


def test_a_group_is_counted_as_people_count(project: Project, policyctl: Policyctl) -> None:
    """From the first for people, from 0 for machines."""
    file = project.policy("safe", A, mode="fallback")
    file.write_text(
        file.read_text("utf-8") + f"    - {{strategy: {{mode: single}}, targets: [{{model_name: {B}}}]}}\n", "utf-8"
    )
    group = {"strategy": {"mode": "single"}, "request_timeout": 9, "targets": [{"model_name": B}]}
    put([{"name": NAME, "policy": {"strategy": {"mode": "fallback"}, "targets": [{"model_name": A}, group]}}])
    field = "policy.targets[2nd target].request_timeout"
    assert f"also has {field}; it is kept" in policyctl("plan").out
    assert f"#   {field}: 9\n" in policyctl("policy", "show", "--name", "safe").out
    data = valid(policyctl, "plan", "plan")
    assert data["unknown_fields"] == [{"name": NAME, "kept": ["policy.targets[1].request_timeout"], "lost": []}]


CLAIMS = ("equivalent", "stays as it is", "makes traffic worse", "gets worse")
HOST = {"custom_host": "https://elsewhere.example"}


def led_elsewhere(project: Project, before: str = A, after: str = "virtual-policy/lab") -> str:
    """The policy goes to its model through a live policy outside the scope, which has a hook and another host."""
    lab = {"strategy": {"mode": "single"}, "hooks": ["copy"], "targets": [{"model_name": A, "override_params": HOST}]}
    front = {"strategy": {"mode": "single"}, "targets": [{"model_name": before}]}
    put([{"name": "virtual-policy/lab", "policy": lab}, {"name": "virtual-policy/front", "policy": front}])
    project.write("policyctl.yaml", "scope: [front]\n")
    project.policy("front", after)
    return "virtual-policy/lab also has policy.hooks, policy.targets[x/a].override_params; they are kept"


def moved_to_another_host(project: Project) -> str:
    """One model twice, once at another host: the file moves its requests there by weight."""
    targets = [{"model_name": A, "weight": 0.1, "override_params": HOST}, {"model_name": A, "weight": 0.9}]
    put([{"name": "virtual-policy/chat", "policy": {"strategy": {"mode": "loadbalance"}, "targets": targets}}])
    chat = project.policy("chat", A, A, mode="loadbalance")
    text = chat.read_text("utf-8").replace(f"{A}\n", f"{A}\n      weight: 0.95\n", 1)
    chat.write_text(f"{text}      weight: 0.05\n", "utf-8")
    was, becomes = (f"policy.targets[x/a{label}].override_params" for label in (" before", "#2"))
    return f"virtual-policy/chat also has {becomes} (until now {was}); it moves to what was another part"


def left_for_its_model(project: Project) -> str:
    """The policy goes to its model directly, and no longer through the live policy with the hook."""
    return led_elsewhere(project, "virtual-policy/lab", A)


def test_an_equivalent_change_stays_one_where_only_a_policy_that_targets_it_leads_to_such_fields(
    project: Project, policyctl: Policyctl
) -> None:
    chat = {"strategy": {"mode": "single"}, "targets": [{"model_name": A}]}
    front = {"strategy": {"mode": "fallback"}, "targets": [{"model_name": f"virtual-policy/{one}"} for one in ("chat", "lab")]}
    lab = {"strategy": {"mode": "single"}, "hooks": ["copy"], "targets": [{"model_name": B}]}
    put({"name": f"virtual-policy/{name}", "policy": body} for name, body in (("chat", chat), ("front", front), ("lab", lab)))
    project.write("policyctl.yaml", "scope: [chat]\n")
    project.policy("chat", A, mode="loadbalance")
    (change,) = valid(policyctl, "plan", "plan")["changes"]
    assert change["effect"]["class"] == "equivalent"


LEADING = [led_elsewhere, moved_to_another_host, left_for_its_model]


@pytest.mark.parametrize("form", ["text", "markdown", "html", "json"])
@pytest.mark.parametrize("change", LEADING, ids=lambda change: change.__name__)
def test_nothing_is_claimed_of_a_change_from_or_to_fields_that_are_not_known(
    change: Callable[[Project], str], form: str, project: Project, policyctl: Policyctl
) -> None:
    note = change(project)
    out = policyctl("plan", "--format", form).out
    assert not [claim for claim in CLAIMS if claim in out]
    assert "override" in out
    assert "kept" in out or "moves to" in out
    if form == "text":
        assert note in out
        assert "The effect on traffic is not certain: live policies have fields that policyctl does not know" in out
    if form == "json":
        (one,) = valid(policyctl, "plan", "plan")["changes"]
        assert one["effect"]["class"] == "effective"
        assert "nothing_lost" not in one["effect"]


@pytest.mark.parametrize("change", LEADING, ids=lambda change: change.__name__)
def test_effect_against_live_names_the_fields_of_what_a_policy_leads_to(
    change: Callable[[Project], str], project: Project, policyctl: Policyctl
) -> None:
    note = change(project)
    ran = policyctl("effect", "--against", "live")
    assert note in ran.out
    assert not [claim for claim in CLAIMS if claim in ran.out]
    (seen,) = valid(policyctl, "effect", "effect", "--against", "live")["policies"]
    found = [*([seen["unknown_fields"]] if "unknown_fields" in seen else []), *seen.get("unknown_fields_below", [])]
    assert found
    assert "nothing_lost" not in seen


@pytest.mark.parametrize("form", ["text", "markdown", "html", "json"])
def test_a_field_that_moves_is_a_change_in_every_form(form: str, project: Project, policyctl: Policyctl) -> None:
    """Also where the plan is saved and applied."""
    moved_to_another_host(project)
    out = policyctl("plan", "--format", form, "--out", "plan.json").out.replace("\\", "")
    was, becomes = (f"policy.targets[x/a{label}].override_params" for label in (" before", "#2"))
    if form == "json":
        (change,) = json.loads(out)["changes"]
        paths = [(field["path"], "before" in field, "after" in field) for field in change["fields"]]
        assert paths[-2:] == [(was, True, False), (becomes, False, True)]
    else:
        assert out.count(was) == out.count(becomes) == 2, "the change and the note"
    assert policyctl("apply", "plan.json", "--yes").code == 0
    (chat,) = live_documents().values()
    assert {one["weight"]: one.get("override_params") for one in chat["policy"]["targets"]} == {0.95: None, 0.05: HOST}
    assert policyctl("plan", "--detailed-exitcode").code == 0


def test_what_moves_otherwise_than_was_approved_is_not_written(project: Project, policyctl: Policyctl) -> None:
    """What the format knows of the live policy is as it was, and another one of its targets has the field."""
    moved_to_another_host(project)
    digest = json.loads(policyctl("plan", "--format", "json", "--out", "plan.json").out)["digest"]

    def swap(document: dict[str, Any]) -> None:
        one, other = document["policy"]["targets"]
        other["override_params"] = one.pop("override_params")

    edit("chat", swap)
    before = live_documents()
    assert policyctl("apply", "--yes", "--expect-digest", digest).code != 0
    assert policyctl("apply", "plan.json", "--yes").code != 0
    assert live_documents() == before


def test_a_new_description_is_metadata_whatever_fields_there_are(live: Project, policyctl: Policyctl) -> None:
    safe = live.policies / "safe.yaml"
    safe.write_text(safe.read_text("utf-8") + "description: Safer\n", "utf-8")
    assert "Nothing changes for requests" in policyctl("plan").out
