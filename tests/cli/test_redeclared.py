"""What is shown of live policies rests on what was declared of models then; a declaration that changes is named."""

from __future__ import annotations

import json
import re

import pytest

from tests.conftest import Policyctl, Project
from tests.git_repo import commit, git

MODELS = ("virtual-model/openai/gpt-4o", "virtual-model/google/gemini")
DECLARATION = "spec_version: v1\nkind: model\nname: {}\n{}\n"


def declare(project: Project, gemini: str, gpt: str = "model_type: chat") -> None:
    texts = [DECLARATION.format(name, said) for name, said in zip(MODELS, (gpt, gemini), strict=True)]
    project.write("models.yaml", "---\n".join(texts))


@pytest.fixture
def branch(project: Project, policyctl: Policyctl) -> Project:
    """A branch whose main has a fallback over two chat models, applied."""
    project.policy("assistant", *MODELS)
    declare(project, "model_type: chat")
    commit(project.folder)
    assert policyctl("apply", "--yes").code == 0
    git(project.folder, "checkout", "-q", "-b", "change")
    return project


TYPES = "the declaration of google/gemini changes (model_type chat → embedding); what is shown of before and after rests on it"


@pytest.mark.parametrize("remote", [(), ("--remote", "git:main")])
def test_a_declaration_of_the_branch_does_not_make_a_lost_fallback_look_useless(
    remote: tuple[str, ...], branch: Project, policyctl: Policyctl
) -> None:
    branch.policy("assistant", MODELS[0])
    honest = policyctl("plan", "--base", "main", *remote)
    assert "100% → 0%" in honest.out
    declare(branch, "model_type: embedding")
    ran = policyctl("plan", "--base", "main", *remote)
    assert "100% → 0%" in ran.out
    assert f"{TYPES} for virtual-policy/assistant\n" in ran.out
    assert "gets worse" not in ran.out.replace(honest.out, "")


@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("manages", ["[policies]", "[policies, models]"])
def test_guards_rest_on_declared_types_only_where_they_are_applied(
    manages: str, merged: bool, branch: Project, policyctl: Policyctl
) -> None:
    """Where models are not managed nothing shows whether it is so, also once the declaration is merged."""
    branch.write("policyctl.yaml", f"guards: {{max_traffic_shift: 10}}\nmanage: {manages}\n")
    commit(branch.folder)
    assert policyctl("apply", "--yes").code == 0
    git(branch.folder, "branch", "--force", "main")
    gpt, gemini = MODELS
    drawn = (
        f"strategy: {{mode: loadbalance}}, targets: [{{model_name: {gpt}, weight: 0.5}}, {{model_name: {gemini}, weight: 0.5}}]"
    )
    lines = "policy: {strategy: {mode: fallback}, targets: [{" + drawn + "}, {model_name: " + gpt + "}]}"
    branch.write("assistant.yaml", f"spec_version: v1\nkind: model\nname: assistant\n{lines}\n")
    assert "more than max_traffic_shift 10" in policyctl("plan", "--base", "main").out
    declare(branch, "model_type: embedding")
    if merged:
        git(branch.folder, "commit", "--quiet", "--message=x", "policies/models.yaml")
        git(branch.folder, "branch", "--force", "main")
    ran = policyctl("plan", "--base", "main")
    assert (ran.code, "more than max_traffic_shift 10" in ran.out) == ((0, False) if "models" in manages else (3, True))


@pytest.mark.parametrize("form", ["text", "markdown", "html", "json"])
def test_a_changed_declaration_is_reported_though_no_policy_changes(form: str, branch: Project, policyctl: Policyctl) -> None:
    declare(branch, "model_type: embedding")
    ran = policyctl("plan", "--base", "main", "--format", form)
    assert ran.code == 0, ran.err
    assert "the declaration of " in ran.out
    assert re.search(r"chat\W+→\W+embedding", ran.out)
    if form == "json":
        assert json.loads(ran.out)["notes"][0].startswith(TYPES)


CHANGES = {
    "a timeout": ("model_type: chat\nprovider_config: {request_timeout: 30000}", "request_timeout not declared → 30 s"),
    "both": (
        "model_type: embedding\nprovider_config: {request_timeout: 30000}",
        "model_type chat → embedding, request_timeout",
    ),
    "the type goes": ("provider_config: {request_timeout: 30000}", "request_timeout not declared → 30 s"),
}


@pytest.mark.parametrize("case", CHANGES)
def test_every_fact_that_counts_is_named(case: str, branch: Project, policyctl: Policyctl) -> None:
    text, said = CHANGES[case]
    declare(branch, text)
    assert said in policyctl("plan", "--base", "main").out


def test_the_worst_case_of_before_is_by_the_timeouts_of_before(branch: Project, policyctl: Policyctl) -> None:
    declare(branch, "provider_config: {request_timeout: 30000}", "provider_config: {request_timeout: 10000}")
    commit(branch.folder)
    git(branch.folder, "branch", "-f", "main")
    declare(branch, "provider_config: {request_timeout: 5000}", "provider_config: {request_timeout: 10000}")
    branch.policy("assistant", MODELS[0])
    assert "40" in policyctl("plan", "--base", "main").out
    assert "40" not in policyctl("plan").out


def test_what_no_policy_rests_on_is_not_said(branch: Project, policyctl: Policyctl) -> None:
    branch.write("more.yaml", DECLARATION.format("virtual-model/z/unused", "model_type: embedding"))
    assert "the declaration of " not in policyctl("plan", "--base", "main").out


def test_without_a_base_the_plan_shows_what_it_rests_on(branch: Project, policyctl: Policyctl) -> None:
    branch.policy("assistant", MODELS[0])
    said = "models as this directory declares them now, before and after"
    assert said in policyctl("plan").out
    assert said not in policyctl("plan", "--base", "main").out
    (branch.policies / "models.yaml").unlink()
    assert said not in policyctl("plan").out
