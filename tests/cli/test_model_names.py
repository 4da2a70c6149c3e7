"""A model is the same one in every place where its name is written, with and without virtual-model/."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

import pytest

from policyctl.policy.virtual_model import VirtualModelRow
from policyctl.remote.sqlite import SqliteRemote
from tests.conftest import Policyctl, Project
from tests.problem_lines import shows
from tests.remote.fake_server import StandIn, standing_in
from tests.remote.fake_tenant import Tenant
from tests.remote.http_helpers import row
from tests.sqlite_rows import LOCAL, add_models

BARE, PREFIXED = "{}", "virtual-model/{}"
GPT, MINI, CLAUDE = "openai/gpt-4o", "openai/gpt-4o-mini", "anthropic/claude"
OSS = "groq/openai/gpt-oss-120b"
BOTH = pytest.mark.parametrize("spelling", [BARE, PREFIXED])

GUARDS = {
    "deny_providers: [openai]": "may reach openai (gpt-4o), which is among deny_providers openai",
    "allow_providers: [anthropic]": "may reach openai (gpt-4o), which is not among allow_providers anthropic",
    "survive: {any: provider, down_with: [503]}": "serves 0% while openai is down with 503",
}


@BOTH
@pytest.mark.parametrize("guard", GUARDS)
def test_a_guard_about_providers_sees_a_model_in_either_spelling(
    guard: str, spelling: str, project: Project, policyctl: Policyctl
) -> None:
    project.write("policyctl.yaml", f"guards: {{{guard}}}\n")
    project.policy("p", spelling.format(GPT), spelling.format(MINI))
    ran = policyctl("plan")
    assert ran.code == 3
    assert GUARDS[guard] in ran.out


@BOTH
def test_the_provider_is_the_first_part_also_where_a_later_one_is_another(
    spelling: str, project: Project, policyctl: Policyctl
) -> None:
    project.write("policyctl.yaml", "guards: {deny_providers: [openai]}\n")
    project.policy("p", spelling.format(OSS))
    assert policyctl("plan").code == 0
    project.write("policyctl.yaml", "guards: {deny_providers: [groq]}\n")
    assert policyctl("plan").code == 3


def test_a_model_spelled_otherwise_is_not_a_new_one(project: Project, policyctl: Policyctl) -> None:
    project.policy("p", GPT)
    assert policyctl("apply", "--yes").code == 0
    project.write("policyctl.yaml", "guards: {deny_new: model, max_traffic_shift: 0}\n")
    project.policy("p", f"virtual-model/{GPT}")
    ran = policyctl("plan")
    assert ran.code == 0
    assert f"policy.targets[{GPT}].model_name: {GPT} → virtual-model/{GPT}" in ran.out
    assert "equivalent: the same behaviour, written differently" in ran.out


SUPPOSED = ["openai", "gpt-4o", GPT, f"virtual-model/{GPT}", "openai/*"]


@BOTH
@pytest.mark.parametrize("asked", SUPPOSED)
def test_what_is_supposed_of_a_model_is_supposed_in_either_spelling(
    asked: str, spelling: str, project: Project, policyctl: Policyctl
) -> None:
    project.policy("p", spelling.format(GPT), spelling.format(CLAUDE))
    for option in ("--down", "--rate"):
        ran = policyctl("effect", "p", option, f"{asked}=503" + (":1" if option == "--rate" else ""), "--format", "json")
        (seen,) = json.loads(ran.out)["policies"]
        assert seen["models"][f"virtual-model/{CLAUDE}"]["serves"] == 1
    ran = policyctl("effect", "p", "--trace", f"{asked}=503", "--format", "json")
    assert json.loads(ran.out)["calls"] == [f"virtual-model/{GPT}", f"virtual-model/{CLAUDE}"]
    latency = policyctl("effect", "p", "--timeout", f"{asked}=5", "--timeout", "anthropic=7", "--format", "json")
    assert json.loads(latency.out)["policies"][0]["bounds"]["latency_seconds"]["value"] == 12


@BOTH
@pytest.mark.parametrize("asked", SUPPOSED)
def test_a_scenario_test_means_a_model_in_either_spelling(
    asked: str, spelling: str, project: Project, policyctl: Policyctl
) -> None:
    project.policy("p", spelling.format(GPT), spelling.format(CLAUDE))
    project.write(
        "p.test.yaml",
        "spec_version: v1\nkind: policy_test\npolicy: p\ntests:\n"
        f"  - {{name: it is down, given: {{'{asked}': 503}}, expect: {{status: 200, served_by: {CLAUDE}}}}}\n"
        f"  - {{name: it serves, given: {{}}, expect: {{served_by: '{asked}', never: [anthropic]}}}}\n",
    )
    assert policyctl("test").code == 0


@pytest.mark.parametrize("declared", [BARE, PREFIXED])
@BOTH
def test_a_declared_model_is_meant_in_either_spelling(
    spelling: str, declared: str, project: Project, policyctl: Policyctl
) -> None:
    project.write(
        "models.yaml",
        f"spec_version: v1\nkind: model\nname: {declared.format(GPT)}\nprovider_config: {{request_timeout: 4000}}\n",
    )
    project.policy("p", spelling.format(GPT), retry="{attempts: 1}")
    assert "P452" not in policyctl("validate", "-v").out
    project.policy("q", spelling.format(MINI))
    assert shows("warning [P452]", policyctl("validate", "-v").out)
    assert shows("the remote knows no model [P204]", policyctl("plan").err)
    (project.policies / "q.yaml").unlink()
    assert policyctl("apply", "--yes").code == 0
    ran = policyctl("policy", "show", "--name", "p")
    assert f"model_name: virtual-model/{GPT}\n" in ran.out, "written as the declared model is called"
    assert policyctl("plan", "--detailed-exitcode").code == 0
    project.policy("p", spelling.format(GPT), retry="{attempts: 2}")
    assert "worst-case latency: 9 s → 15 s" in policyctl("plan").out


def test_one_model_in_both_spellings_is_a_duplicate_target(project: Project, policyctl: Policyctl) -> None:
    project.policy("p", GPT, f"virtual-model/{GPT}")
    assert shows(f"warning: virtual-model/{GPT} is target 1 already [P405]", policyctl("validate").out)


@pytest.fixture
def tenant() -> Tenant:
    """It knows one virtual model, one of the platform's own, and one in both spellings."""
    return Tenant(models=[f"virtual-model/{GPT}", OSS, CLAUDE, f"virtual-model/{CLAUDE}"])


@pytest.fixture
def remote(tenant: Tenant, project: Project) -> Iterator[StandIn]:
    with standing_in(tenant) as server:
        config = {"environments": {"prod": {"remote": server.url}}, "scope": ["*"]}
        project.write("policyctl.yaml", json.dumps(config))
        yield server


def targets(tenant: Tenant, name: str) -> list[str]:
    (found,) = tenant.named(name)
    return [target["model_name"] for target in found["policy"]["targets"]]


@BOTH
def test_what_is_written_has_the_spelling_that_the_remote_knows(
    spelling: str, remote: StandIn, tenant: Tenant, project: Project, policyctl: Policyctl
) -> None:
    project.policy("p", spelling.format(GPT), spelling.format(OSS))
    assert policyctl("apply", "--yes").code == 0
    assert targets(tenant, "p") == [f"virtual-model/{GPT}", OSS]
    assert policyctl("plan", "--detailed-exitcode").code == 0
    assert policyctl("pull").code == 0, "the file says what is live, in other letters"
    assert len(remote.asked("POST")) == 1


def test_a_saved_plan_writes_the_spelling_that_the_remote_knows(
    remote: StandIn, tenant: Tenant, project: Project, policyctl: Policyctl
) -> None:
    project.policy("p", GPT)
    assert policyctl("plan", "--out", "plan.json").code == 0
    assert policyctl("apply", "plan.json", "--yes").code == 0
    assert targets(tenant, "p") == [f"virtual-model/{GPT}"]
    assert policyctl("plan", "--detailed-exitcode").code == 0


def test_what_is_live_and_in_the_file_alike_is_left_as_it_is(
    remote: StandIn, tenant: Tenant, project: Project, policyctl: Policyctl
) -> None:
    tenant.put(row("virtual-policy/p", GPT))
    assert policyctl("pull").code == 0
    assert policyctl("plan", "--detailed-exitcode").code == 0
    project.policy("p", f"virtual-model/{GPT}")
    assert policyctl("plan", "--detailed-exitcode").code == 2, "a respelling is what the platform reads, so it is a change"


def test_a_target_that_is_a_policy_is_never_spelled_as_a_model(
    remote: StandIn, tenant: Tenant, project: Project, policyctl: Policyctl
) -> None:
    """Even where a model has that name too."""
    project.policy("inner", f"virtual-model/{GPT}")
    project.write("openai.yaml", (project.policies / "inner.yaml").read_text().replace("name: inner", f"name: {GPT}"))
    project.policy("outer", GPT, "virtual-policy/inner")
    assert policyctl("apply", "--yes").code == 0
    assert targets(tenant, "outer") == [GPT, "virtual-policy/inner"]
    assert policyctl("plan", "--detailed-exitcode").code == 0


THEIRS = {
    "one policy": [row(OSS, f"virtual-model/{GPT}")],
    "two policies": [row(OSS, f"virtual-model/{GPT}"), {**row(f"virtual-policy/{OSS}", GPT), "id": "2"}],
    "a row that cannot be read": [{"id": "1", "name": OSS}],
}


@pytest.mark.parametrize("theirs", THEIRS)
def test_a_model_is_never_spelled_as_a_policy(
    theirs: str, remote: StandIn, tenant: Tenant, project: Project, policyctl: Policyctl
) -> None:
    """The remote knows the model only by a name that another writer gave to a policy."""
    project.write("policyctl.yaml", json.dumps({"environments": {"prod": {"remote": remote.url}}, "scope": ["p"]}))
    tenant.put(*THEIRS[theirs])
    project.policy("p", f"virtual-model/{OSS}")
    assert policyctl("apply", "--yes").code == 0
    assert targets(tenant, "p") == [f"virtual-model/{OSS}"]
    assert policyctl("plan", "--detailed-exitcode").code == 0
    tenant.named("p")[0]["policy"]["targets"][0]["model_name"] = OSS
    ran = policyctl("plan", "--detailed-exitcode")
    assert ran.code == 2, "now it is the other writer's policy"
    assert f"virtual-model/{OSS}" in ran.out
    if theirs == "one policy":
        assert f"{OSS} 0% → 100%" in ran.out
        assert policyctl("pull").code == 5, "the file says otherwise"
    assert (
        policyctl("policy", "add", "--name", "p", "--strategy", "single", "--model", f"virtual-model/{OSS}", "--yes").code == 0
    )
    assert targets(tenant, "p") == [f"virtual-model/{OSS}"]


@pytest.mark.parametrize(
    ("model", "written"),
    [
        (GPT, f"virtual-model/{GPT}"),
        (f"virtual-model/{GPT}", f"virtual-model/{GPT}"),
        (CLAUDE, f"virtual-model/{CLAUDE}"),
        (OSS, OSS),
    ],
)
def test_policy_add_takes_a_model_as_the_platforms_documentation_writes_it(
    model: str, written: str, remote: StandIn, tenant: Tenant, project: Project, policyctl: Policyctl
) -> None:
    """Without a prefix it is the virtual model where there is one."""
    project.policy("x", model)
    ran = policyctl("policy", "add", "--name", "x", "--strategy", "single", "--model", model, "--yes")
    assert (ran.code, ran.err.count("warning")) == (0, 0), ran.err
    assert targets(tenant, "x") == [written]


def test_policy_add_refuses_a_model_that_the_remote_has_in_neither_spelling(
    remote: StandIn, tenant: Tenant, policyctl: Policyctl
) -> None:
    ran = policyctl("policy", "add", "--name", "x", "--strategy", "single", "--model", "openai/gpt-4oo", "--yes")
    assert ran.code == 1
    assert f'the remote knows no model "openai/gpt-4oo" (did you mean virtual-model/{GPT}?)' in ran.err


NEW = "openai/gpt-5-next"
DECLARED = f"virtual-model/{NEW} is declared in files, not known to the remote; virtual-policy/p would target it"


@pytest.mark.parametrize("form", ["text", "markdown", "html", "json"])
@BOTH
def test_a_model_that_only_a_file_declares_is_named_on_every_plan_that_targets_it(
    spelling: str, form: str, remote: StandIn, project: Project, policyctl: Policyctl
) -> None:
    project.write("models.yaml", f"spec_version: v1\nkind: model\nname: {NEW}\nprovider_config: {{}}\n")
    project.policy("p", spelling.format(NEW), f"virtual-model/{GPT}")
    ran = policyctl("plan", "--format", form)
    assert ran.code == 0
    said = re.sub(r"<.*?>|`", "", ran.out)
    assert DECLARED in said
    assert said.count("not known to the remote") == 1, "the other model is known"


def test_a_model_that_only_a_file_declares_is_named_when_it_is_applied(
    remote: StandIn, tenant: Tenant, project: Project, policyctl: Policyctl
) -> None:
    """From a saved plan, by policy add and by apply; no longer once the remote has it."""
    project.write("models.yaml", f"spec_version: v1\nkind: model\nname: {NEW}\nprovider_config: {{}}\n")
    project.policy("p", NEW)
    add = ("policy", "add", "--name", "p", "--strategy", "single", "--model", NEW, "--dry-run")
    assert policyctl("plan", "--out", "plan.json").code == 0
    assert DECLARED in policyctl(*add).out
    tenant.models = [*(tenant.models or []), f"virtual-model/{NEW}"]
    for command in (("plan",), add):
        assert "not known to the remote" not in policyctl(*command).out
    tenant.models.pop()
    ran = policyctl("apply", "plan.json", "--yes")
    assert ran.code == 0
    assert DECLARED in ran.out
    assert "not known to the remote" not in policyctl("plan").out, "there is nothing to write"


def test_nothing_is_reported_of_a_remotes_models_where_it_lists_none(
    remote: StandIn, tenant: Tenant, project: Project, policyctl: Policyctl
) -> None:
    tenant.models = None
    project.write("models.yaml", f"spec_version: v1\nkind: model\nname: {NEW}\nprovider_config: {{}}\n")
    project.policy("p", NEW)
    assert "not known to the remote" not in policyctl("plan").out


@pytest.mark.parametrize("name", ["virtual-policy/openai/m", "virtual-model/virtual-policy/openai/m", "virtual-model/openai/m"])
@pytest.mark.parametrize(
    ("scope", "protect", "removed"), [("*", "z", 1), ("virtual-policy/*", "z", 0), ("*", "virtual-policy/*", 1)]
)
def test_globs_for_policies_are_not_for_a_live_model_of_whatever_name(
    name: str, scope: str, protect: str, removed: int, project: Project, policyctl: Policyctl
) -> None:
    project.write("policyctl.yaml", f"manage: [policies, models]\nscope: ['{scope}']\nprotect: ['{protect}']\n")
    project.policy("virtual-policy/p", "openai/a")
    add_models(project.folder / LOCAL, {"name": name}, {"name": "openai/a"})
    if scope == "*":
        project.write("a.yaml", "spec_version: v1\nkind: model\nname: openai/a\n")
    assert policyctl("apply", "--max-removes", "5", "--max-change-percent", "100", "--yes").code == 0
    with SqliteRemote(project.folder / LOCAL, models=True) as remote:
        left = [one["name"] for one in remote.rows() if isinstance(one, VirtualModelRow)]
    assert sorted(left) == sorted(["openai/a", *([] if removed else [name])])
