"""What the directory declares of models counts in every answer about traffic: effect, plan, its guards, test, policy add."""

from __future__ import annotations

import json

import pytest

from tests.conftest import Policyctl, Project
from tests.problem_lines import shows

GPT, CLAUDE, EMBED = "virtual-model/openai/gpt-4o", "virtual-model/anthropic/claude", "virtual-model/voyage/embed"
MODELS = f"""\
spec_version: v1
kind: model
name: {GPT}
model_type: chat
provider_config: {{request_timeout: 4000}}
---
spec_version: v1
kind: model
name: {CLAUDE}
provider_config: {{request_timeout: 3000}}
---
spec_version: v1
kind: model
name: voyage/embed
model_type: embedding
provider_config: {{request_timeout: 2000}}
"""
NEVER = "voyage/embed never serves: it is declared as embedding, and this policy takes chat requests"
NEVER_DATA = [{"model": EMBED, "type": "embedding", "policy_type": "chat"}]


@pytest.fixture
def declaring(project: Project) -> Project:
    project.write("models.yaml", MODELS)
    project.policy("chat", GPT, EMBED)
    return project


@pytest.mark.parametrize("asked", [["chat"], ["policies/chat.yaml"], []])
def test_effect_gives_one_answer_by_name_and_by_file(asked: list[str], declaring: Project, policyctl: Policyctl) -> None:
    ran = policyctl("effect", *asked, "--format", "json")
    (seen,) = json.loads(ran.out)["policies"]
    assert seen["bounds"]["latency_seconds"]["value"] == 6
    assert [cell["served"] for cell in seen["outages"]["models"][GPT]] == [0]
    assert seen["never_serving"] == NEVER_DATA
    assert NEVER in policyctl("effect", *asked).out
    supposed = policyctl("effect", *asked, "--down", "openai=503", "--format", "json")
    (seen,) = json.loads(supposed.out)["policies"]
    assert (seen["served"], seen["never_serving"]) == (0, NEVER_DATA)
    assert [status["status"] for status in seen["statuses"]] == [400]
    traced = json.loads(policyctl("effect", *(asked or ["chat"]), "--trace", "openai=503", "--format", "json").out)
    assert (traced["status"], traced["answers"], traced["never_serving"]) == (400, [503, 400], NEVER_DATA)


def test_a_file_with_its_own_declarations_needs_no_directory(project: Project, policyctl: Policyctl) -> None:
    project.policy("chat", GPT, EMBED)
    alone = project.folder / "alone.yaml"
    alone.write_text((project.policies / "chat.yaml").read_text("utf-8") + "---\n" + MODELS, "utf-8")
    assert NEVER in policyctl("effect", alone).out
    assert NEVER not in policyctl("effect", "policies/chat.yaml").out


def test_a_file_of_a_broken_directory_is_still_shown(declaring: Project, policyctl: Policyctl) -> None:
    declaring.write("broken.yaml", "a: [")
    ran = policyctl("effect", "policies/chat.yaml")
    assert ran.code == 0
    assert NEVER in ran.out


def test_a_timeout_of_the_command_line_comes_before_a_declared_one(declaring: Project, policyctl: Policyctl) -> None:
    ran = policyctl("effect", "chat", "--timeout", "openai=10", "--format", "json")
    assert json.loads(ran.out)["policies"][0]["bounds"]["latency_seconds"]["value"] == 12


def test_a_scenario_test_of_an_outage_counts_on_no_model_of_another_type(declaring: Project, policyctl: Policyctl) -> None:
    test = (
        "spec_version: v1\nkind: policy_test\npolicy: chat\ntests:\n  - {name: t, given: {openai: 503}, expect: {status: %d}}\n"
    )
    declaring.write("chat.test.yaml", test % 400)
    assert policyctl("test").code == 0
    declaring.write("chat.test.yaml", test % 200)
    assert policyctl("test").code == 1


def test_plan_and_its_guards_count_on_no_model_of_another_type(declaring: Project, policyctl: Policyctl) -> None:
    declaring.policy("chat", GPT, CLAUDE)
    assert policyctl("apply", "--yes").code == 0
    declaring.write("policyctl.yaml", "guards: {survive: {any: provider, down_with: [503]}}\n")
    assert policyctl("plan").code == 0
    declaring.policy("chat", GPT, EMBED)
    ran = policyctl("plan")
    assert ran.code == 3
    assert "virtual-policy/chat serves 0% while openai is down with 503" in ran.out
    assert NEVER in policyctl("plan", "-v").out
    (change,) = json.loads(policyctl("plan", "--format", "json").out)["changes"]
    assert change["effect"]["never_serving"] == NEVER_DATA
    assert change["effect"]["latency"] == {"before": 7, "after": 6}
    against = json.loads(policyctl("effect", "chat", "--against", "live", "--format", "json").out)["policies"][0]
    assert {key: value for key, value in against.items() if key not in ("name", "file", "against", "unfollowed")} == change[
        "effect"
    ]


def test_policy_add_knows_what_the_directory_declares(declaring: Project, policyctl: Policyctl) -> None:
    declaring.write("policyctl.yaml", "guards: {survive: {any: provider, down_with: [503]}}\n")
    add = ("policy", "add", "--name", "x", "--strategy", "fallback", "--model", "openai/gpt-4o", "--dry-run", "--model")
    ran = policyctl(*add, "voyage/embed")
    assert ran.code == 0
    assert "note  plan and apply would refuse this: virtual-policy/x serves 0% while openai is down with 503" in ran.out
    assert "plan and apply would refuse" not in policyctl(*add, "anthropic/claude").out


def test_the_rules_of_the_effect_engine_count_on_no_model_of_another_type(declaring: Project, policyctl: Policyctl) -> None:
    message = "info: no request is served while openai/gpt-4o answers 500 or 503"
    alone = f"{message} [P503]"
    declaring.policy("chat", GPT, CLAUDE)
    ran = policyctl("validate", "--deep", "-v")
    assert message not in ran.out
    assert "P503" not in ran.out
    declaring.policy("chat", GPT, EMBED)
    ran = policyctl("validate", "--deep", "-v")
    assert shows(alone, ran.out)
    assert ran.out.count(message) == 1
    declaring.write("policyctl.yaml", "lint: {ignore: [P453]}\n")
    ran = policyctl("validate", "--deep", "-v")
    assert shows(alone, ran.out)
    assert (ran.out.count(message), ran.out.count("P453")) == (1, 0)
