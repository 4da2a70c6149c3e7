"""Virtual models on the command line, against `policyctl serve` on a real socket."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import Policyctl, Project
from tests.remote.fake_server import Reply, Seen, StandIn, standing_in
from tests.server.serving import ServedHere, loopback, serving_here

GPT = "virtual-model/openai/gpt-4o"


@pytest.fixture
def served(tmp_path: Path) -> Iterator[ServedHere]:
    with serving_here(tmp_path / "tenant.db") as server:
        yield server


def manage(project: Project, url: str, kinds: str = "[policies, models]") -> None:
    project.write("policyctl.yaml", f"manage: {kinds}\nenvironments: {{dev: {{remote: '{url}'}}}}\n")


def declare(project: Project, name: str, *lines: str) -> Path:
    head = ["spec_version: v1", "kind: model", f"name: {name}", *lines]
    return project.write(f"{name.replace('/', '-')}.yaml", "\n".join(head) + "\n")


def connect(url: str, app_id: str, *environments: str, scheme: str = "key_value_creds") -> None:
    """Make a connection that is configured for these environments."""
    base = f"{url}/api/v1/orchestrate/connections/applications"
    loopback.post(base, json={"app_id": app_id}).raise_for_status()
    for name in environments:
        body = {"environment": name, "preference": "team", "security_scheme": scheme}
        loopback.post(f"{base}/{app_id}/configurations", json=body).raise_for_status()


def test_a_plan_is_refused_until_a_model_can_use_its_connection(
    project: Project, policyctl: Policyctl, served: ServedHere
) -> None:
    manage(project, served.url)
    declare(project, "openai/gpt-4o", "app_id: creds")
    ran = policyctl("plan")
    assert ran.code == 3
    assert f"refused  connection creds (of {GPT}) does not exist" in ran.out
    assert policyctl("apply", "--yes").code == 3
    assert loopback.get(f"{served.url}/v1/models").json() == []
    connect(served.url, "creds", "draft")
    ran = policyctl("apply", "--yes")
    assert ran.code == 0, ran.out
    assert "is not configured for live" in ran.out
    assert "Applied: 1 model added; read back and verified." in ran.out
    assert policyctl("plan", "--detailed-exitcode").code == 0


def test_the_history_of_models_shows_their_settings_and_no_secret(
    project: Project, policyctl: Policyctl, served: ServedHere
) -> None:
    manage(project, served.url)
    project.policy("chat", GPT)
    row = {"name": "virtual-model/a21/old", "provider_config": {"api_key": "a key of its own", "custom_host": "https://h"}}
    loopback.post(f"{served.url}/v1/models", json=row).raise_for_status()
    declare(project, "openai/gpt-4o", "config: {temperature: 0.2}")
    project.write(
        "policyctl.yaml", f"manage: [policies, models]\nscope: ['*']\nenvironments: {{dev: {{remote: '{served.url}'}}}}\n"
    )
    assert policyctl("apply", "--yes", "--audit", "log.jsonl").code == 0
    declare(project, "openai/gpt-4o", "config: {temperature: 0.3}")
    ran = policyctl("apply", "--yes", "--audit", "log.jsonl")
    assert (ran.code, "Applied: 1 model updated; read back and verified." in ran.out) == (0, True)
    shown = policyctl("history", "--audit", "log.jsonl", "--diff")
    assert shown.code == 0
    for line in (
        "    config.temperature: 0.2",
        "    config.temperature: 0.2 → 0.3",
        "    provider_config.api_key: (set)",
        "    provider_config.custom_host: https://h",
    ):
        assert line in shown.out.splitlines(), line
    assert "a key of its own" not in shown.out + Path("log.jsonl").read_text("utf-8")


@pytest.mark.slow
def test_an_update_that_this_remote_cannot_clear_says_what_to_do(
    project: Project, policyctl: Policyctl, served: ServedHere
) -> None:
    manage(project, served.url)
    connect(served.url, "creds", "draft", "live")
    declare(project, "openai/gpt-4o", "app_id: creds", "config: {temperature: 0.2}")
    assert policyctl("apply", "--yes").code == 0
    declare(project, "openai/gpt-4o")
    ran = policyctl("apply", "--yes")
    assert ran.code != 0
    assert (
        f"{GPT} was not applied: app_id; an update does not clear app_id on this remote, so write it in the file again, or "
        "remove the model and add it again"
    ) in ran.out


def test_every_plan_notes_models_with_settings_that_are_not_managed(project: Project, policyctl: Policyctl) -> None:
    project.policy("chat", GPT)
    declare(project, "openai/gpt-4o", "model_type: chat")
    project.write("policyctl.yaml", "environments: {dev: {}}\n")
    note = "1 model is declared with settings and not managed; write"
    assert note not in policyctl("plan", "-v").out, "a declaration alone has nothing to apply"
    declare(project, "openai/gpt-4o", "provider_config: {custom_host: https://h}")
    for form in ("text", "markdown", "html", "json"):
        assert note in policyctl("plan", "--format", form).out, form
    assert policyctl("apply", "--yes").code == 0
    assert note in policyctl("plan").out, "a plan without changes"
    project.write("policyctl.yaml", "manage: [policies, models]\nenvironments: {dev: {}}\n")
    assert note not in policyctl("plan", "-v").out


class Tenant:
    """A tenant that keeps models, tests those that it has, and counts the tests."""

    def __init__(self, report: Reply) -> None:
        self.report = report
        self.rows: dict[str, dict[str, Any]] = {}

    def __call__(self, asked: Seen) -> Reply:
        if asked.path.endswith("/models/validate"):
            return self.report
        if asked.path.endswith("/models") and asked.method == "POST":
            self.rows[asked.json["name"]] = {"id": str(len(self.rows)), **asked.json}
            return Reply(201, {"id": str(len(self.rows) - 1)})
        if asked.path.endswith("/models"):
            return Reply(200, list(self.rows.values()))
        return Reply(200, []) if asked.path.endswith("/model_policy") else Reply(404)


def asked_to_test(server: StandIn) -> list[str]:
    return [one.json["model"] for one in server.seen if one.path.endswith("/models/validate")]


PASSED, FAILED = (
    {"test_name": "chat", "status": "passed", "message": "ok"},
    {"test_name": "tools", "status": "failed", "message": "401"},
)
SKIPPED = {"test_name": "vision", "status": "skipped", "message": ""}
REPORTS: dict[str, tuple[Reply, str]] = {
    "passed": (Reply(200, {"overall_status": "passed", "tests": [PASSED]}), "passed (1 of 1)"),
    "failed": (Reply(200, {"overall_status": "failed", "tests": [PASSED, FAILED]}), "failed (tools: 401)"),
    "no test": (Reply(200, {"overall_status": "skipped", "tests": []}), "skipped (no test was made)"),
    "all skipped": (Reply(200, {"overall_status": "passed", "tests": [SKIPPED, None]}), "skipped (no test was made)"),
    "one skipped": (Reply(200, {"overall_status": "passed", "tests": [PASSED, SKIPPED]}), "passed (1 of 2)"),
    "by its short name": (
        Reply(200, {"model": "openai/gpt-4o", "overall_status": "passed", "tests": [PASSED]}),
        "passed (1 of 1)",
    ),
    "another model": (
        Reply(200, {"model": "virtual-model/x/other", "overall_status": "passed", "tests": [PASSED]}),
        "not known (the report is about virtual-model/x/other)",
    ),
    "another answer": (Reply(200, [1]), "not known (the report has neither a status nor tests)"),
    "a failed call": (Reply(500, {"detail": "boom"}), "not known (the test itself failed: 127.0.0.1"),
}


@pytest.mark.parametrize("case", REPORTS)
@pytest.mark.alike
def test_written_models_are_tested_on_request_and_the_report_changes_no_exit_code(
    case: str, project: Project, policyctl: Policyctl
) -> None:
    reply, said = REPORTS[case]
    with standing_in(Tenant(reply)) as server:
        manage(project, server.url)
        declare(project, "openai/gpt-4o")
        declare(project, "openai/embed", "model_type: embedding")
        ran = policyctl("apply", "--yes", "--validate-models")
        assert asked_to_test(server) == [GPT], "once, and not the embedding model"
    assert ran.code == 0, ran.out
    assert f"tested  {GPT}: {said}" in ran.out
    assert "tested  virtual-model/openai/embed: skipped (the platform does not test embedding models)" in ran.out


def test_no_model_is_tested_unless_asked_for(project: Project, policyctl: Policyctl) -> None:
    with standing_in(Tenant(Reply(500))) as server:
        manage(project, server.url)
        declare(project, "openai/gpt-4o")
        assert policyctl("apply", "--yes").code == 0
        assert asked_to_test(server) == []
        assert "--validate-models does nothing" in policyctl("apply", "--yes", "--validate-models").err


def test_a_json_plan_gives_the_kind_of_each_change(project: Project, policyctl: Policyctl) -> None:
    project.policy("chat", GPT)
    declare(project, "openai/gpt-4o")
    project.write("policyctl.yaml", "manage: [policies, models]\nenvironments: {dev: {}}\n")
    changes = json.loads(policyctl("plan", "--format", "json").out)["changes"]
    assert [(one["kind"], one["name"]) for one in changes] == [("model", GPT), ("policy", "virtual-policy/chat")]


class Careless(Tenant):
    """A tenant that writes what a new model is made of into the others too."""

    def __call__(self, asked: Seen) -> Reply:
        if asked.path.endswith("/models") and asked.method == "POST":
            for row in self.rows.values():
                row["config"] = asked.json["config"]
        return super().__call__(asked)


def test_a_model_that_a_write_of_another_one_changes_is_noticed(project: Project, policyctl: Policyctl) -> None:
    with standing_in(Careless(Reply(404))) as server:
        manage(project, server.url)
        declare(project, "openai/kept", "config: {temperature: 0.2}")
        assert policyctl("apply", "--yes").code == 0
        declare(project, "openai/new", "config: {temperature: 0.3}")
        ran = policyctl("apply", "--yes")
        assert ran.code == 5
        assert "virtual-model/openai/kept changed without being in the plan: another client or the remote itself" in ran.out
