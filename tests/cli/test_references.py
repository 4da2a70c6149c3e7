"""Policies that target other policies, through the commands: what plan, apply and effect show, refuse and claim of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from policyctl.report import schema_text
from tests.builders import body
from tests.conftest import Policyctl, Project
from tests.git_repo import commit
from tests.problem_lines import shows
from tests.remote.fake_server import standing_in
from tests.remote.fake_tenant import Tenant
from tests.remote.http_helpers import row as http_row
from tests.sqlite_rows import live_documents, put, row

CHAT = """spec_version: v1
kind: model
name: chat
policy:
  strategy: {{mode: fallback, on_status_codes: [{codes}]}}
  targets: [{{model_name: virtual-model/anthropic/claude}}, {{model_name: virtual-model/openai/gpt-4o}}]
"""
SURVIVE = """guards: {survive: {any: provider, down_with: [503]}}
guard_exceptions: [{policy: %s, guard: survive, reason: r}]
"""


def chat(project: Project, codes: str) -> None:
    """A fallback that moves on after these statuses."""
    project.write("chat.yaml", CHAT.format(codes=codes))


@pytest.fixture
def front(project: Project, policyctl: Policyctl) -> Project:
    """`front` targets `chat` and is live with it; then the file of `chat` moves on after less."""
    project.policy("front", "virtual-policy/chat")
    chat(project, "429, 503")
    assert policyctl("apply", "--yes").code == 0
    chat(project, "429")
    return project


def valid(kind: str, text: str) -> Any:
    """JSON that its shipped schema describes."""
    data = json.loads(text)
    jsonschema.Draft202012Validator(json.loads(schema_text(kind))).validate(data)
    return data


def test_every_format_names_what_a_change_affects(front: Project, policyctl: Policyctl) -> None:
    files = {form: Path(f"plan.{form}") for form in ("markdown", "html")}
    ran = policyctl("plan", *(f"--report={form}={path}" for form, path in files.items()))
    worse = "served 100% → 0% while"
    assert f"also affected: virtual-policy/front, through virtual-policy/chat\n      worse: {worse} anthropic/claude" in ran.out
    assert ran.out.endswith("Plan: 0 to add, 1 to update, 0 to remove. 1 also affected.\n")
    assert f"| affected | `front` through `chat` | {worse} `anthropic/claude`" in files["markdown"].read_text("utf-8")
    assert "also affected, through virtual-policy/chat" in files["html"].read_text("utf-8")
    plan = valid("plan", policyctl("plan", "--format", "json").out)
    (one,) = plan["affected"]
    assert (one["name"], one["through"], one["bound"]) == ("virtual-policy/front", ["virtual-policy/chat"], True)
    assert one["effect"]["worse"][0]["after"] == 0
    assert (plan["summary"]["affected"], plan["summary"]["unchanged"]) == (1, 0)


def test_guards_refuse_what_a_change_does_to_those_that_target_it(front: Project, policyctl: Policyctl) -> None:
    """By plan, by apply and by a saved plan; an exception for the affected policy lets it pass."""
    front.write("policyctl.yaml", SURVIVE % "chat")
    ran = policyctl("plan", "--out", "p.json")
    assert (ran.code, "virtual-policy/front (through virtual-policy/chat) serves 0%" in ran.out) == (3, True)
    assert policyctl("plan", "--only", "chat").code == 3
    assert policyctl("apply", "--yes").code == 3
    assert policyctl("apply", "p.json", "--yes").code == 3
    assert live_documents()["virtual-policy/chat"]["policy"]["strategy"]["on_status_codes"] == [429, 503]
    front.write("policyctl.yaml", SURVIVE % '"*"')
    assert policyctl("apply", "--yes").code == 0


def test_a_policy_is_compared_with_what_it_really_reached(front: Project, policyctl: Policyctl) -> None:
    [seen] = valid("effect", policyctl("effect", "front", "--against", "live", "--format", "json").out)["policies"]
    assert (seen["class"], seen["worse"][0]["before"], seen["worse"][0]["after"]) == ("effective", 1, 0)
    assert policyctl("apply", "--yes").code == 0
    assert "metadata only" in policyctl("effect", "front", "--against", "live").out


def test_a_policy_is_compared_with_what_it_reached_at_a_revision(front: Project, policyctl: Policyctl) -> None:
    """Whether it is named, or by its file; also where the policy that it targets was in another file then."""
    chat(front, "429, 503")
    commit(front.folder)
    (front.policies / "chat.yaml").unlink()
    front.write("elsewhere.yaml", CHAT.format(codes="429"))
    for name in ("front", "policies/front.yaml"):
        [seen] = valid("effect", policyctl("effect", name, "--against", "git:HEAD", "--format", "json").out)["policies"]
        assert (seen["class"], seen["worse"][0]["after"]) == ("effective", 0)
    [moved] = valid("effect", policyctl("effect", "chat", "--against", "git:HEAD", "--format", "json").out)["policies"]
    assert moved["worse"] == seen["worse"]


def test_policies_that_only_the_remote_has_count_on_both_sides(project: Project, policyctl: Policyctl) -> None:
    project.policy("front", "virtual-policy/theirs")
    put([row("theirs", id="1"), row("front", id="2")])
    [seen] = valid("effect", policyctl("effect", "front", "--against", "live", "--format", "json").out)["policies"]
    assert (seen["class"], seen["unfollowed"]) == ("equivalent", {})
    put([row("deeper", id="3", policy=None)])
    project.policy("front", "virtual-policy/deeper")
    ran = policyctl("effect", "front", "--against", "live")
    why = "the remote has a row of this name that cannot be read: the row has no policy (id 3)"
    assert f"not known: it leads to virtual-policy/deeper, and what that one does is not known: {why}\n" in ran.out
    assert f"  not followed\n    virtual-policy/deeper: {why}\n" in ran.out
    assert "0%" not in ran.out


def test_a_file_of_the_directory_is_read_with_what_it_targets(front: Project, policyctl: Policyctl) -> None:
    [seen] = valid("effect", policyctl("effect", "policies/front.yaml", "--format", "json").out)["policies"]
    assert (seen["assumed"], seen["unfollowed"]) == (["virtual-policy/chat"], {})
    assert seen["shares"]["models"]["virtual-model/anthropic/claude"] == 1


def test_a_target_that_exists_nowhere_is_an_error_at_plan_and_apply(project: Project, policyctl: Policyctl) -> None:
    chat(project, "429")
    path = project.policy("front", "virtual-model/anthropic/claude", "virtual-policy/chta")
    for command in (("plan",), ("apply", "--yes"), ("plan", "--only", "front")):
        ran = policyctl(*command)
        assert ran.code == 1
        assert shows(
            f'{path}:8:19: there is no policy "virtual-policy/chta" (did you mean virtual-policy/chat?) [P204]', ran.err
        )
    assert live_documents() == {}


@pytest.mark.parametrize("writes", ["plan", "apply --yes"])
def test_a_circle_by_way_of_a_policy_of_others_is_refused(writes: str, project: Project, policyctl: Policyctl) -> None:
    """Requests would go round. Among files it is an error already."""
    theirs = {"strategy": {"mode": "single"}, "targets": [{"model_name": "virtual-policy/chat"}]}
    put([row("chat"), row("theirs", policy=theirs)])
    project.write("policyctl.yaml", "scope: [chat]\n")
    project.policy("chat", "virtual-policy/theirs")
    ran = policyctl(*writes.split())
    assert ran.code == 3
    assert "virtual-policy/chat would target itself, by way of other policies or at once" in ran.out + ran.err
    assert "theirs" not in str(live_documents()["virtual-policy/chat"])
    project.policy("chat", "virtual-model/x/a")
    assert policyctl(*writes.split()).code == 0


def test_a_saved_plan_is_not_applied_where_a_target_went_away(project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", "scope: [front]\n")
    project.policy("front", "virtual-policy/theirs")
    put([row("theirs", id="1")])
    assert policyctl("plan", "--out", "p.json").code == 0
    Path(".policyctl/local.db").unlink()
    ran = policyctl("apply", "p.json", "--yes")
    assert (ran.code, live_documents()) == (3, {})
    assert "virtual-policy/front would target virtual-policy/theirs, which does not exist (plan again)" in ran.out


LIVE_TARGETS: dict[str, list[dict[str, Any]]] = {
    "live": [row("theirs", id="1")],
    "there twice": [row("theirs", id="1"), row("theirs", id="2")],
    "unreadable": [row("theirs", id="1", policy=None)],
}


REASONS = {
    "there twice": "the remote has several policies of this name; remove all but one by id (ids 1, 2)",
    "unreadable": "the remote has a row of this name that cannot be read: the row has no policy (id 1)",
}


@pytest.mark.parametrize("case", REASONS)
def test_what_a_policy_does_by_way_of_rows_that_are_not_clear_is_not_known(
    case: str, project: Project, policyctl: Policyctl
) -> None:
    """No format draws or counts it as anything; a guard refuses it, by plan and by apply."""
    project.write("policyctl.yaml", "scope: [front, new]\n")
    put([row("front", id="3"), *LIVE_TARGETS[case]], unique_names=False)
    project.policy("front", "virtual-policy/theirs")
    project.policy("new", "virtual-model/a/one", "virtual-policy/theirs")
    why = f"it leads to virtual-policy/theirs, and what that one does is not known: {REASONS[case]}"
    files = {form: Path(f"plan.{form}") for form in ("markdown", "html")}
    ran = policyctl("plan", "-v", *(f"--report={form}={path}" for form, path in files.items()))
    pages = {form: path.read_text("utf-8") for form, path in files.items()}
    assert f"riskiest  front: the effect on traffic is not known: {why}\n" in ran.out
    assert ran.out.count(f"      not known: {why}\n") == 2  # of the update, and of the outages of the new policy
    assert why in pages["markdown"].replace("`", "")
    assert why in pages["html"]
    for text in (ran.out, *pages.values()):
        assert not any(claim in text for claim in ("worse:", "better:", "% served", "newly reachable", "→ 0%"))
    plan = valid("plan", policyctl("plan", "--format", "json").out)
    assert [change.get("effect") for change in plan["changes"]] == [{"class": "unknown", "not_known": why}, None]
    project.write("policyctl.yaml", "scope: [front, new]\nguards: {max_calls: 50}\n")
    for command in (("plan",), ("apply", "--yes")):
        ran = policyctl(*command)
        assert ran.code == 3
        assert f"virtual-policy/front cannot be judged by max_calls: {why}" in ran.out


@pytest.mark.parametrize("case", REASONS)
def test_a_single_policy_may_target_rows_that_are_not_clear(case: str, project: Project, policyctl: Policyctl) -> None:
    """As one of the directory may: the policy is there, and only what it does is not known."""
    put([*LIVE_TARGETS[case], row("front", id="2b"), row("broken", id="3", policy=None)], unique_names=False)
    ran = policyctl("policy", "add", "--name", "front", "--strategy", "single", "--model", "virtual-policy/theirs", "--yes")
    assert (ran.code, "broken" in ran.out) == (0, False)
    why = f"it leads to virtual-policy/theirs, and what that one does is not known: {REASONS[case]}"
    assert f"      not known: {why}\n" in ran.out


@pytest.mark.parametrize("case", LIVE_TARGETS)
def test_a_target_that_only_the_remote_has_is_none(case: str, project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", "scope: [front]\n")
    project.policy("front", "virtual-policy/theirs")
    put(LIVE_TARGETS[case], unique_names=False)
    ran = policyctl("plan")
    assert (ran.code, "P204" in ran.err) == (0, False)


def test_a_branch_may_target_policies_of_others_that_git_does_not_have(project: Project, policyctl: Policyctl) -> None:
    """The policies of a revision are those of one directory. Names that the directory speaks for are in it or nowhere."""
    project.write("policyctl.yaml", "scope: ['mine-*']\n")
    project.policy("mine-a")
    commit(project.folder)
    project.policy("mine-b", "virtual-policy/theirs")
    assert policyctl("plan", "--remote", "git:HEAD").code == 0
    project.policy("mine-b", "virtual-policy/mine-x")
    ran = policyctl("plan", "--remote", "git:HEAD")
    assert (ran.code, shows('there is no policy "virtual-policy/mine-x" [P204]', ran.err)) == (1, True)


def test_a_single_policy_must_target_what_is_there(project: Project, policyctl: Policyctl) -> None:
    put([row("chat", id="1")])
    add = ("policy", "add", "--name", "front", "--strategy", "single", "--yes", "--model")
    ran = policyctl(*add, "virtual-policy/chta")
    assert (ran.code, "(did you mean virtual-policy/chat?)" in ran.err) == (1, True)
    assert policyctl(*add, "virtual-policy/chat").code == 0


def test_a_target_that_went_away_is_noted_where_its_policy_stays(front: Project, policyctl: Policyctl) -> None:
    """It is broken already; what else the plan does is not held back by that."""
    (front.policies / "chat.yaml").unlink()
    Path(".policyctl/local.db").unlink()
    targets = [{"model_name": "virtual-policy/chat", "weight": 1}]
    put([row("front", id="1", policy={"strategy": {"mode": "single"}, "targets": targets})])
    ran = policyctl("plan")
    assert ran.code == 0
    assert "virtual-policy/front targets virtual-policy/chat, which does not exist; correct the name" in ran.out


def test_offline_nothing_is_claimed_of_a_policy_that_no_file_has(project: Project, policyctl: Policyctl) -> None:
    project.policy("front", "virtual-model/anthropic/claude", "virtual-policy/theirs")
    text = policyctl("effect", "front").out
    assert "anthropic/claude down: 0% served\n" in text
    assert "virtual-policy/theirs: not known here; requests that reach it do not count as served" in text
    down = policyctl("effect", "front", "--down", "anthropic=503").out
    assert "  served\n    0%\n" in down
    assert "virtual-policy/theirs: not known here" in down
    [seen] = valid("effect", policyctl("effect", "front", "--down", "anthropic=503", "--format", "json").out)["policies"]
    assert (seen["served"], seen["unfollowed"]) == (0, {"virtual-policy/theirs": "not known here"})
    given = policyctl("effect", "front", "--down", "anthropic=503", "--down", "virtual-policy/theirs=200").out
    assert "  served\n    100%\n" in given


def test_a_request_is_not_walked_through_a_policy_that_cannot_be_followed(project: Project, policyctl: Policyctl) -> None:
    project.policy("front", "virtual-model/anthropic/claude", "virtual-policy/theirs")
    assert policyctl("effect", "front", "--trace", "claude=200").code == 0
    ran = policyctl("effect", "front", "--trace", "claude=500")
    assert (ran.code, "add --trace virtual-policy/theirs=ANSWER" in ran.err) == (64, True)
    assert policyctl("effect", "front", "--trace", "claude=500", "--trace", "virtual-policy/theirs=200").code == 0


def test_a_scenario_test_is_served_by_an_unknown_policy_only_where_it_says_so(project: Project, policyctl: Policyctl) -> None:
    project.policy("front", "virtual-policy/theirs")
    suite = "spec_version: v1\nkind: policy_test\npolicy: front\ntests:\n  - {name: t, %sexpect: {served: 1}}\n"
    project.write("front.test.yaml", suite % "")
    assert policyctl("test").code == 1
    project.write("front.test.yaml", suite % "given: {virtual-policy/theirs: 200}, ")
    assert policyctl("test").code == 0


@pytest.fixture
def users(project: Project) -> Project:
    """Three policies that use two models of openai in different ways, one that does not, and a declared model."""
    project.policy("all", "virtual-model/openai/gpt-4o")
    project.policy("half", "virtual-model/openai/gpt-4o", "virtual-model/anthropic/claude", mode="loadbalance")
    project.policy("last", "virtual-model/anthropic/claude", "virtual-policy/half", "virtual-model/openai/gpt-4.1")
    project.policy("none", "virtual-model/anthropic/claude")
    project.write("models.yaml", "spec_version: v1\nkind: model\nname: openai/gpt-5\nprovider_config: {}\n")
    return project


def test_who_uses_a_model_is_a_table_the_most_traffic_first(users: Project, policyctl: Policyctl) -> None:
    ran = policyctl("effect", "--uses", "gpt-4o")
    assert ran.code == 0
    lines = ran.out.splitlines()
    assert lines[0] == "openai/gpt-4o: used by 3 of 4 policies"
    assert lines[2] == "  traffic  without it  policy  uses"
    assert lines[3:6] == [
        "     100%          0%  all     openai/gpt-4o  first choice  policies/all.yaml",
        "      50%         50%  half    openai/gpt-4o  a share of the requests  policies/half.yaml",
        "       0%        100%  last    openai/gpt-4o  only when claude fails, through half  policies/last.yaml",
    ]


def test_who_uses_a_provider_or_a_policy_as_json(users: Project, policyctl: Policyctl) -> None:
    seen = valid("effect", policyctl("effect", "--uses", "openai", "--format", "json").out)
    assert seen["models"] == [f"virtual-model/openai/{name}" for name in ("gpt-4.1", "gpt-4o", "gpt-5")]
    first = seen["users"][0]
    assert (first["policy"], first["target"]) == ("virtual-policy/all", "virtual-model/openai/gpt-4o")
    last = [use for use in seen["users"] if use["policy"] == "virtual-policy/last"]
    assert {use["served_without"] for use in last} == {1}
    assert len(last) == 2
    seen = valid("effect", policyctl("effect", "--uses", "virtual-policy/half", "--format", "json").out)
    assert [(use["policy"], use["when"]) for use in seen["users"]] == [("virtual-policy/last", "when claude fails")]


def test_what_is_there_and_not_used_is_not_an_error(users: Project, policyctl: Policyctl) -> None:
    for pattern, name in (("gpt-5", "openai/gpt-5"), ("last", "virtual-policy/last")):
        ran = policyctl("effect", "--uses", pattern)
        assert (ran.code, ran.out.splitlines()[0]) == (0, f"{name}: used by none of 4 policies")


def test_what_is_nowhere_is_an_error_with_the_nearest_name(users: Project, policyctl: Policyctl) -> None:
    for pattern, guess in (
        ("gpt-4oo", "gpt-4o"),
        ("opnai", "openai"),
        ("virtual-policy/hlaf", "virtual-policy/half"),
        ("", ""),
    ):
        ran = policyctl("effect", "--uses", pattern)
        assert (ran.code, ran.out) == (64, "")
        assert f"no model, provider or policy here matches {pattern}" in ran.err
        assert (f"(did you mean {guess}?)" in ran.err) == bool(guess)
    assert policyctl("effect", "--uses", "openai", "--against", "live").code == 64


def test_uses_by_way_of_policies_that_are_not_known_are_not_denied(project: Project, policyctl: Policyctl) -> None:
    project.policy("front", "virtual-policy/theirs", "virtual-model/openai/gpt-4o")
    note = "virtual-policy/theirs is not known here, so it is not known whether front uses openai through it"
    assert f"note  {note}\n" in policyctl("effect", "--uses", "openai").out
    assert "whether front uses openai through it" in policyctl("effect", "--uses", "openai", "--format", "markdown").out
    seen = valid("effect", policyctl("effect", "--uses", "openai", "--format", "json").out)
    assert seen["unfollowed"] == {"virtual-policy/theirs": ["virtual-policy/front"]}


def test_a_model_is_found_by_either_spelling_in_files_and_on_the_command_line(project: Project, policyctl: Policyctl) -> None:
    project.policy("bare", "openai/gpt-4o", "virtual-policy/theirs")
    project.policy("whole", "virtual-model/openai/gpt-4o")
    for pattern in ("openai/gpt-4o", "virtual-model/openai/gpt-4o"):
        seen = valid("effect", policyctl("effect", "--uses", pattern, "--format", "json").out)
        assert seen["models"] == ["virtual-model/openai/gpt-4o"]
        assert {(use["policy"], use["share"], use["served_without"]) for use in seen["users"]} == {
            ("virtual-policy/bare", 1, None),
            ("virtual-policy/whole", 1, 0),
        }


def test_the_uses_of_a_policy_whose_mode_is_not_known_are_not_denied(project: Project, policyctl: Policyctl) -> None:
    project.policy("all", "virtual-model/openai/gpt-4o")
    path = project.write("odd.yaml", CHAT.format(codes="429").replace("fallback", "semantic").replace("chat", "odd"))
    args = (path, "policies/all.yaml", "--uses")
    why = 'policy has mode "semantic", which policyctl does not know'
    assert f"not known: {why}" in policyctl("effect", *args, "claude").out
    ran = policyctl("effect", path, "policies/all.yaml", "--uses", "virtual-policy/all")
    assert "virtual-policy/all: used by none of 2 policies, as far as is known\n" in ran.out
    assert f"note  it is not known whether odd uses virtual-policy/all: {why}\n" in ran.out
    seen = valid("effect", policyctl("effect", *args, "virtual-policy/all", "--format", "json").out)
    assert (seen["users"], seen["not_known"]) == ([], {"virtual-policy/odd": why})


def test_a_policy_is_not_removed_while_a_row_without_an_id_targets_it(project: Project, policyctl: Policyctl) -> None:
    tenant = Tenant({name: http_row(f"virtual-policy/{name}") for name in ("old", "chat")}, models=["virtual-model/x/a"])
    tenant.rows["front"] = {"name": "virtual-policy/front", "policy": body("virtual-policy/old")}
    with standing_in(tenant) as server:
        config = {"environments": {"prod": {"remote": server.url}}, "scope": ["chat", "old"]}
        project.write("policyctl.yaml", json.dumps(config))
        assert policyctl("pull").code == 0
        (project.policies / "old.yaml").unlink()
        why = "virtual-policy/old would be removed, but virtual-policy/front still targets it"
        for command in (("plan",), ("apply", "--yes"), ("policy", "remove", "--name", "old", "--yes")):
            ran = policyctl(*command)
            assert ran.code == 3
            assert why in ran.out + ran.err
            assert "no policy targets it" not in ran.out
    assert [*tenant.rows] == ["old", "chat", "front"]
