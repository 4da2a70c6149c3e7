"""IBM's CLI manages models, connections, the model selection and agents on a `policyctl serve` that is like a live tenant."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conformance.orchestrate import SECRET, LogIn, Orchestrate
from tests.conftest import Policyctl, Project
from tests.server.serving import Served, loopback, serving

FILES = json.loads(Path(__file__).with_name("recordings.json").read_text("utf-8"))["files"]
GPT, CLAUDE, CONNECTED = (
    "virtual-model/openai/gpt-4o",
    "virtual-model/anthropic/claude-sonnet-4",
    "virtual-model/openai/with-conn",
)
HEADERS = {"Authorization": f"Bearer {SECRET}"}
KEY = "not-a-key"  # in the files, and in the credentials below


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(
        tmp_path / "served.db", "--token-from", "env:SERVE_SECRET", "--camel-case", environ={"SERVE_SECRET": SECRET}
    ) as running:
        yield running


@pytest.fixture
def ibm(tmp_path: Path, log_in: LogIn, served: Served) -> Orchestrate:
    """A user in the layout in which connections are beside everything else, with the recorded files."""
    user = log_in(tmp_path / "ibm", served, "saas")
    for name, text in FILES.items():
        (user.home / name).write_text(text)
    return user


def models(served: Served) -> dict[str, Any]:
    rows = loopback.get(f"{served.url}/v1/models", headers=HEADERS).json()
    return {row["name"]: row for row in rows}


def test_models_are_imported_updated_exported_and_removed(served: Served, ibm: Orchestrate, tmp_path: Path) -> None:
    """A model keeps its id; its key is never seen again; one that a policy targets stays."""
    ibm("models", "import", "--file", "gpt.yaml")
    added = models(served)[GPT]
    assert (added["provider_config"]["api_key"], added["provider_config"]["requestTimeout"]) == ("***", 500)
    ibm("models", "add", "--name", "anthropic/claude-sonnet-4", "--provider-config", json.dumps({"api_key": KEY}))
    ibm("models", "import", "--file", "emb.json")
    listed = ibm("models", "list", "-r")
    assert f"{GPT}: a model" in listed
    assert CLAUDE in listed
    assert "slate" not in listed, "an embedding model is not a chat model"

    ibm("models", "export", "--name", GPT, "--output", "out.zip")
    with zipfile.ZipFile(ibm.home / "out.zip") as archive:
        exported = yaml.safe_load(archive.read("out/models/gpt-4o.yaml"))
    assert exported["provider_config"]["api_key"] == "***"
    (ibm.home / "again.yaml").write_text(yaml.safe_dump({**exported, "description": "changed"}))
    ibm("models", "import", "--file", "again.yaml", "--skip-validation")
    updated = models(served)[GPT]
    ours = ("description", "updated_at", "etag")
    assert {key: updated[key] for key in updated if key not in ours} == {key: added[key] for key in added if key not in ours}
    assert updated["description"] == "changed"

    ibm("models", "policy", "import", "--file", "pol.yaml")
    assert "1 policy targets the model" in ibm("models", "remove", "--name", GPT, code=1)
    ibm("models", "policy", "remove", "--name", "virtual-policy/anygem")
    ibm("models", "remove", "--name", GPT)
    assert GPT not in models(served)
    assert KEY.encode() not in (tmp_path / "served.db").read_bytes()


def test_a_model_gets_its_key_from_a_connection(served: Served, ibm: Orchestrate, tmp_path: Path) -> None:
    app = ("--app-id", "openai_creds")
    ibm("connections", "add", *app)
    ibm("connections", "configure", *app, "--env", "draft", "--type", "team", "--kind", "key_value")
    for key in (KEY, "not-a-key-either"):  # the first entry is a POST, the next one a PATCH
        ibm("connections", "set-credentials", *app, "--env", "draft", "--entries", f"api_key={key}")
    assert "openai_creds" in ibm("connections", "list")
    ibm("models", "import", "--file", "conn.yaml", *app, "--skip-validation")
    page = loopback.get(f"{served.url}/v1/connections/applications?include_details=true", headers=HEADERS).json()
    (row,) = page["applications"]
    assert (row["environment"], row["security_scheme"], row["credentials_entered"]) == ("draft", "key_value_creds", True)
    assert models(served)[CONNECTED]["connection_id"] == row["connection_id"]
    ibm("models", "export", "--name", CONNECTED, "--output", "conn.zip")
    with zipfile.ZipFile(ibm.home / "conn.zip") as archive:
        exported = yaml.safe_load(archive.read("conn/models/with-conn.yaml"))
    assert exported["app_id"] == "openai_creds"
    assert KEY.encode() not in (tmp_path / "served.db").read_bytes()


def test_the_model_selection_and_agents(served: Served, ibm: Orchestrate) -> None:
    """An agent without a model gets the tenant's default, which the list of models shows."""
    for name in (GPT, CLAUDE):
        body = {"name": name, "display_name": name, "description": name, "tags": []}
        assert loopback.post(f"{served.url}/v1/models", json=body, headers=HEADERS).status_code == 201
    ibm("models", "config", "default", "--name", GPT)
    warned = ibm("models", "config", "denylist", "add", "--name", CLAUDE, "--name", "none")
    assert "this server does not know the model none" in warned
    ibm("models", "config", "export", "--output", "selection.yaml")
    exported = yaml.safe_load((ibm.home / "selection.yaml").read_text())
    assert (exported["default_llm"], exported["llm_denylist"]) == (GPT, [CLAUDE, "none"])
    ibm("agents", "import", "--file", "a2.yaml")
    ibm("agents", "import", "--file", "a1.yaml")
    agents = loopback.get(f"{served.url}/v1/agents", headers=HEADERS).json()
    assert {agent["name"]: agent["llm"] for agent in agents} == {"a1": "anygem", "a2": GPT}
    ibm("models", "config", "reset")
    assert '"default_llm": null' in ibm("models", "config", "list")


def test_ibms_cli_and_policyctl_change_the_same_models_in_turns(
    served: Served, ibm: Orchestrate, project: Project, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each sees what the other wrote: after each command of theirs the plan is just the way back, and after an apply empty."""
    monkeypatch.setenv("SERVE_SECRET", SECRET)
    login = {"type": "bearer", "token": "env:SERVE_SECRET"}
    config = {"manage": ["policies", "models"], "environments": {"dev": {"remote": served.url, "auth": login}}, "scope": ["*"]}
    project.write("policyctl.yaml", json.dumps({**config, "limits": {"max_change_percent": 100}}))
    for app_id in ("creds", "others"):
        ibm("connections", "add", "--app-id", app_id)
        ibm("connections", "configure", "--app-id", app_id, "--env", "draft", "--type", "team", "--kind", "key_value")

    def mine(**keys: Any) -> None:
        document = {"spec_version": "v1", "kind": "model", "name": "openai/shared", "app_id": "creds", **keys}
        project.write("shared.json", json.dumps(document))

    def theirs(description: str, app_id: str, **keys: Any) -> None:
        document = {"spec_version": "v1", "kind": "model", "name": "virtual-model/openai/shared", "description": description}
        (ibm.home / "shared.yaml").write_text(yaml.safe_dump({**document, **keys}))
        ibm("models", "import", "--file", "shared.yaml", "--app-id", app_id, "--skip-validation")

    def changes() -> dict[str, list[str]]:
        ran = policyctl("plan", "--format", "json")
        found = json.loads(ran.out)["changes"]
        return {f"{one['action']} {one['name']}": sorted(field["path"] for field in one.get("fields", ())) for one in found}

    def applied() -> None:
        ran = policyctl("apply", "--yes", "--allow-unseen-consumers")
        assert ran.code == 0, ran.err + ran.out
        assert changes() == {}

    mine(description="ours", provider_config={"request_timeout": 500})
    applied()
    assert "virtual-model/openai/shared: ours" in ibm("models", "list", "-r")

    theirs("ours", "creds", provider_config={"request_timeout": 500})
    assert changes() == {}, "the same model, as their command line writes it"
    theirs("theirs", "others", provider_config={"request_timeout": 700}, tags=["x"])
    assert changes() == {
        "update virtual-model/openai/shared": ["app_id", "description", "provider_config.request_timeout", "tags"]
    }
    applied()
    ibm("models", "add", "--name", "openai/extra", "--app-id", "creds")
    assert [*changes()] == ["remove virtual-model/openai/extra"]
    applied()
    assert "openai/extra" not in ibm("models", "list", "-r")
    ibm("models", "remove", "--name", "virtual-model/openai/shared")
    assert [*changes()] == ["add virtual-model/openai/shared"]
    applied()
    assert "virtual-model/openai/shared: ours" in ibm("models", "list", "-r")
