"""Who uses what: in every plan that changes something, before every removal, and by policyctl consumers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from policyctl.cli.selection import parse_overrides, read_overrides, write_overrides
from policyctl.report import schema_text
from tests.conftest import Policyctl, Project, Ran
from tests.remote.fake_server import Reply, Seen, StandIn, standing_in
from tests.server.serving import loopback, serving_here

GPT, GEMINI = "virtual-model/openai/gpt-4o", "virtual-model/google/gemini"
USERS: list[tuple[str, dict[str, Any]]] = [
    ("agents", {"id": "a1", "name": "billing-bot", "llm": "anygem", "environments": [{"name": "draft"}, {"name": "live"}]}),
    ("agents", {"id": "a2", "name": "front", "llm": "watsonx/built-in", "collaborators": ["a1"]}),
    (
        "tools",
        {"name": "intake", "binding": {"flow": {"model": {"nodes": {"ask": {"spec": {"llm": "virtual-policy/flowing"}}}}}}},
    ),
    ("knowledge-bases", {"name": "docs", "conversational_search_tool": {"generation": {"model_id": "virtual-policy/kb"}}}),
    ("policies/bindings", {"name": "guard", "model_ids": ["virtual-policy/guarded"]}),
]
SELECTION = {"default_llm": "virtual-policy/default", "llm_denylist": ["virtual-policy/denied"]}
POLICIES = ("anygem", "flowing", "kb", "default", "guarded", "denied", "free")


class Tenant:
    """A served tenant whose policies are applied, reached by way of a server that can fail for one list."""

    def __init__(self, policyctl: Policyctl, project: Project, front: StandIn, behind: str) -> None:
        self.policyctl, self.project, self.front, self.behind = policyctl, project, front, behind
        self.failing: dict[str, int] = {}

    def __call__(self, *args: str) -> Ran:
        return self.policyctl(*args, "--remote", self.front.url)

    def remove(self, *names: str) -> None:
        """Delete the files of these policies."""
        for name in names:
            (self.project.policies / f"{name}.yaml").unlink()

    def asked(self) -> set[str]:
        """The last parts of the paths of what was asked."""
        return {seen.path.rpartition("/")[2] for seen in self.front.seen}

    def answer(self, seen: Seen) -> Reply:
        last = seen.path.rpartition("/")[2]
        if seen.method == "GET" and last in self.failing:
            return Reply(self.failing[last], {"detail": "not now"})
        asked = loopback.request(
            seen.method,
            self.behind + seen.target,
            content=seen.body,
            headers={key: value for key, value in seen.headers.items() if key in ("content-type", "if-match")},
        )
        return Reply(asked.status_code, asked.content, {"Content-Type": "application/json"})


@contextmanager
def tenant_of(project: Project, policyctl: Policyctl, *, used: bool) -> Iterator[Tenant]:
    project.write("policyctl.yaml", 'scope: ["virtual-*"]\nlimits: {max_removes: 20, max_change_percent: 100}\n')
    for name in POLICIES:
        project.policy(name, GPT)
    with serving_here(project.folder / "served.db") as behind, standing_in(lambda _: Reply(500)) as front:
        tenant = Tenant(policyctl, project, front, behind.url)
        front.handler = tenant.answer
        for path, document in USERS if used else ():
            assert loopback.post(f"{behind.url}/v1/orchestrate/{path}", json=document).is_success
        if used:
            assert loopback.put(f"{behind.url}/v1/orchestrate/model-selection", json=SELECTION).is_success
        assert tenant("apply", "--yes").code == 0
        front.seen.clear()
        yield tenant


@pytest.fixture
def tenant(project: Project, policyctl: Policyctl) -> Iterator[Tenant]:
    with tenant_of(project, policyctl, used=True) as made:
        yield made


def data_of(ran: Ran, schema: str) -> Any:
    data = json.loads(ran.out)
    jsonschema.Draft202012Validator(json.loads(schema_text(schema))).validate(data)
    return data


def test_a_plan_without_changes_reads_no_consumers(tenant: Tenant) -> None:
    assert tenant("plan").code == 0
    assert tenant.asked() == {"model_policy"}


def test_a_policy_uses_what_it_targets_before_the_plan_and_after_it(tenant: Tenant) -> None:
    tenant.project.policy("new", GPT)
    tenant.project.policy("free", "virtual-policy/new")
    ran = tenant("plan")
    assert "+ virtual-policy/new" in ran.out
    assert "used by 1 policy (free)" in ran.out


def test_a_new_policy_that_takes_the_name_of_a_model_notes_who_names_it(tenant: Tenant) -> None:
    """Whatever else the plan does. Until now they called the model."""
    named = {"name": "asker", "llm": "openai/gpt-4o"}
    assert loopback.post(f"{tenant.behind}/v1/orchestrate/agents", json=named).is_success
    tenant.project.policy("anygem", GEMINI)
    taking = tenant.project.policies / tenant.project.policy("taking", GEMINI).name
    taking.write_text(taking.read_text("utf-8").replace("name: taking", "name: openai/gpt-4o"), "utf-8")
    ran = tenant("plan")
    note = "what is new is named by 1 agent (asker) already, whose requests go there from now on: virtual-policy/openai/gpt-4o"
    assert f"note  {note}\n" in ran.out
    tenant.project.policy("front", "virtual-policy/openai/gpt-4o")
    tenant.project.write("agents/draft.yaml", "spec_version: v1\nkind: native\nname: draft\nllm: front\n")
    assert f"note  {note}\n" in tenant("plan").out


def test_a_change_shows_who_uses_it_in_every_format(tenant: Tenant) -> None:
    tenant.project.policy("anygem", GPT, GEMINI)
    tenant.project.write("agents/draft.yaml", "spec_version: v1\nkind: native\nname: draft\nllm: anygem\n")
    phrase = "used by 2 agents (billing-bot, draft), through others by 1 agent (front)"
    reports = {form: tenant.project.folder / f"plan.{form}" for form in ("markdown", "html", "json")}
    ran = tenant("plan", "-v", *(f"--report={form}={path}" for form, path in reports.items()))
    assert (ran.code, ran.out.count(phrase)) == (0, 1)
    assert "the released version of the agent billing-bot was not inspected" in ran.out
    assert "reading who uses what took" in ran.err
    for form in ("markdown", "html"):
        assert phrase in reports[form].read_text("utf-8").replace("`", ""), form
    data = data_of(ran._replace(out=reports["json"].read_text("utf-8")), "plan")
    assert data["consumers_unread"] == []
    [change] = data["changes"]
    assert [(one["name"], one.get("file"), one["through"]) for one in change["consumers"]] == [
        ("billing-bot", None, []),
        ("draft", "policies/agents/draft.yaml:4", []),
        ("front", None, ["billing-bot"]),
    ]


@pytest.mark.parametrize(
    ("name", "who"),
    [
        ("anygem", "1 agent (billing-bot)"),
        ("flowing", "1 flow (intake)"),
        ("kb", "1 knowledge base (docs)"),
        ("default", "the tenant's default model"),
    ],
)
@pytest.mark.alike
def test_what_is_used_directly_is_removed_only_when_allowed_by_name(tenant: Tenant, name: str, who: str) -> None:
    tenant.remove(name, "free")
    for command in (["plan"], ["apply", "--yes"]):
        ran = tenant(*command)
        assert ran.code == 3
        assert f"virtual-policy/{name} would be removed, but it is used by {who}" in ran.out
        assert ran.out.count("would be removed, but") == 1
    assert tenant("apply", "--yes", "--allow-remove", "free").code == 3, "another policy than the one in use"
    allowed = tenant("apply", "--yes", "--allow-remove", name)
    assert (allowed.code, f"--allow-remove {name}" in allowed.out) == (0, True)
    assert tenant("plan", "--detailed-exitcode").code == 0


def test_a_removal_by_name_follows_the_same_rules(tenant: Tenant) -> None:
    ran = tenant("policy", "remove", "anygem", "--yes")
    assert (ran.code, "virtual-policy/anygem would be removed, but it is used by 1 agent" in ran.out) == (3, True)
    assert tenant("policy", "remove", "anygem", "--yes", "--allow-remove", "anygem").code == 0
    tenant.failing["agents"] = 403
    assert tenant("policy", "remove", "free", "--yes").code == 3
    allowed = tenant("policy", "remove", "free", "--yes", "--allow-unseen-consumers", "--reason", "no rights")
    assert (allowed.code, "--allow-unseen-consumers: no rights" in allowed.out) == (0, True)


def test_a_model_is_protected_and_allowed_by_its_whole_name(project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", "manage: [policies, models]\n")
    project.policy("chat", GPT)
    for name in ("gpt-4o", "spare"):
        project.write(f"{name}.yaml", f"spec_version: v1\nkind: model\nname: openai/{name}\napp_id: c\n")
    assert policyctl("apply", "--yes").code == 0
    (project.policies / "spare.yaml").unlink()
    project.write("agent.yaml", "spec_version: v1\nkind: native\nname: bot\nllm: virtual-model/openai/spare\n")
    ran = policyctl("plan")
    assert (ran.code, "used by 1 agent (bot)" in ran.out) == (3, True)
    assert policyctl("apply", "--yes", "--allow-remove", "virtual-model/openai/spare").code == 0


def test_unseen_consumers_can_be_allowed_in_a_comment(tmp_path: Path) -> None:
    given = parse_overrides("--allow-unseen-consumers because this login reads no agents", "ana")
    assert [one.text for one in given] == ["--allow-unseen-consumers"]
    write_overrides(tmp_path / "overrides.json", given)
    assert read_overrides(tmp_path / "overrides.json") == (given, ())


def test_a_new_name_does_not_let_the_old_one_go(tenant: Tenant) -> None:
    tenant.remove("anygem")
    tenant.project.policy("renamed", GPT)
    ran = tenant("plan")
    assert (ran.code, "virtual-policy/anygem would be removed, but" in ran.out) == (3, True)


def test_a_control_and_the_denylist_are_noted_and_prevent_nothing(tenant: Tenant) -> None:
    tenant.remove("guarded", "denied")
    ran = tenant("plan")
    assert ran.code == 0
    assert all(words in ran.out for words in ("used by 1 control (guard)", "on the denylist"))


def test_a_file_that_uses_a_policy_keeps_it(tenant: Tenant) -> None:
    tenant.project.write("agents/draft.json", json.dumps({"kind": "native", "name": "draft", "llm": "virtual-policy/free"}))
    tenant.remove("free")
    ran = tenant("plan")
    assert (ran.code, "virtual-policy/free would be removed, but it is used by 1 agent (draft)" in ran.out) == (3, True)


def test_a_source_that_cannot_be_read_refuses_removals_and_is_shown(tenant: Tenant) -> None:
    tenant.failing["tools"] = 403
    tenant.remove("free")
    ran = tenant("plan")
    assert ran.code == 3
    assert "it is not known who uses virtual-policy/free, since this could not be read: tools" in ran.out
    assert tenant("plan", "--allow-remove", "free").code == 3, "a removal by name does not cover consumers that were not read"
    data = data_of(tenant("plan", "--format", "json"), "plan")
    assert [one["source"] for one in data["consumers_unread"]] == ["tools"]
    overridden = data_of(tenant("plan", "--format", "json", "--allow-unseen-consumers", "--reason", "no rights"), "plan")
    assert overridden["overrides"] == [{"option": "--allow-unseen-consumers", "value": "", "reason": "no rights"}]
    assert (overridden["refusals"], overridden["digest"] == data["digest"]) == ([], False)
    assert tenant("apply", "--yes", "--allow-unseen-consumers").code == 0


def test_a_source_that_cannot_be_read_stops_no_update(tenant: Tenant) -> None:
    tenant.failing["agents"] = 403
    tenant.project.policy("anygem", GPT, GEMINI)
    ran = tenant("plan")
    assert (ran.code, "it is not known who uses what changes: agents could not be read" in ran.out) == (0, True)
    assert "used by" not in ran.out


def test_without_reading_nothing_is_claimed_and_nothing_removed(tenant: Tenant) -> None:
    tenant.project.policy("anygem", GPT, GEMINI)
    ran = tenant("plan", "--no-consumers")
    assert (ran.code, "used by" in ran.out) == (0, False)
    assert "consumers" not in data_of(tenant("plan", "--no-consumers", "--format", "json"), "plan")["changes"][0]
    tenant.remove("free")
    assert tenant("plan", "--no-consumers").code == 3
    assert tenant("plan", "--no-consumers", "--allow-unseen-consumers").code == 0
    assert "agents" not in tenant.asked()


def test_a_saved_plan_is_checked_against_who_uses_what_now(project: Project, policyctl: Policyctl) -> None:
    with tenant_of(project, policyctl, used=False) as tenant:
        tenant.remove("anygem")
        assert tenant("plan", "--out", "plan.json").code == 0
        assert loopback.post(f"{tenant.behind}/v1/orchestrate/agents", json=USERS[0][1]).is_success
        assert tenant("apply", "plan.json", "--yes").code == 3
        assert tenant("apply", "plan.json", "--yes", "--allow-remove", "anygem").code == 0
        again = tenant("apply", "plan.json", "--yes")
        assert (again.code, "would be removed, but" in again.out) == (0, False), "what is gone is not removed"


def test_an_override_that_does_nothing_is_noted(tenant: Tenant) -> None:
    tenant.project.policy("anygem", GPT, GEMINI)
    assert "--allow-unseen-consumers does nothing: nothing is removed" in tenant("plan", "--allow-unseen-consumers").out
    tenant.remove("free")
    assert "--allow-unseen-consumers does nothing: everything could be read" in tenant("plan", "--allow-unseen-consumers").out


def test_consumers_of_one_name_in_either_spelling(tenant: Tenant) -> None:
    for name in ("anygem", "virtual-policy/anygem"):
        ran = tenant("consumers", name)
        assert ran.code == 0
        assert "    agent billing-bot: llm\n    agent front, through billing-bot: collaborators\n" in ran.out
    model = data_of(tenant("consumers", "openai/gpt-4o", "--format", "json"), "consumers")
    [used] = model["used"]
    assert (used["name"], used["kind"]) == (GPT, "model")
    ways = {one["name"]: one["through"] for one in used["consumers"]}
    assert {**ways, "billing-bot": ["virtual-policy/anygem"], "front": ["billing-bot", "virtual-policy/anygem"]} == ways
    ran = tenant("consumers", "anygen")
    assert (ran.code, "did you mean virtual-policy/anygem?" in ran.err) == (1, True)


def test_all_consumers_with_what_does_not_exist_and_what_is_not_used(tenant: Tenant) -> None:
    tenant.project.write("agents.yaml", "spec_version: v1\nkind: agent\nname: lost\nllm: virtual-policy/gone\n")
    data = data_of(tenant("consumers", "--format", "json"), "consumers")
    found = {one["name"]: (one["exists"], [use["name"] for use in one["consumers"]]) for one in data["used"]}
    assert found["virtual-policy/free"] == (True, [])
    assert found["virtual-policy/gone"] == (False, ["lost"])
    assert found["virtual-policy/guarded"] == (True, ["guard"])
    text = tenant("consumers").out
    assert "virtual-policy/free\n    not used\n" in text
    assert "virtual-policy/gone  not on the remote\n    agent lost (policies/agents.yaml:4): llm\n" in text


def test_consumers_that_could_not_be_read_are_not_known(tenant: Tenant) -> None:
    tenant.failing["knowledge-bases"] = 403
    ran = tenant("consumers", "free")
    assert ran.code == 5
    assert "not known  knowledge bases could not be read" in ran.out
    assert "no use found in what could be read" in ran.out


def test_files_count_on_an_embedded_remote_and_on_a_revision_too(project: Project, policyctl: Policyctl) -> None:
    project.policy("chat", GPT)
    project.write("flows/intake.yaml", "kind: flow\nspec: {name: intake}\nnodes:\n  ask: {spec: {llm: virtual-policy/chat}}\n")
    assert "used by 1 flow (intake)" in policyctl("plan").out
    assert "flow intake (policies/flows/intake.yaml:4): nodes.ask.spec.llm" in policyctl("consumers").out


def test_an_embedded_remote_without_consumers_is_planned_as_ever(project: Project, policyctl: Policyctl) -> None:
    path: Path = project.policies / "a.yaml"
    project.policy("a", GPT)
    project.policy("b", GPT)
    assert policyctl("apply", "--yes").code == 0
    path.unlink()
    data = data_of(policyctl("plan", "--format", "json"), "plan")
    assert (data["refusals"], "consumers_unread" in data) == ([], False)
