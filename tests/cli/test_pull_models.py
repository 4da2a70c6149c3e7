"""pull where virtual models are managed: a tenant of models and policies becomes a directory whose plan is empty."""

from __future__ import annotations

import contextlib
import io
import json
import re
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyctl.cli.main import run as run_main
from policyctl.policy.document import Document
from policyctl.policy.model_settings import SECRETS
from policyctl.server.api import Variant
from tests.conftest import Policyctl, Project, Ran, files_of
from tests.examples import examples
from tests.patience import LONGEST
from tests.server.serving import serving, serving_here
from tests.sqlite_rows import add_models
from tests.strategies import SECRET, model_rows
from tests.virtual_models import camel_case

MANAGED = "manage: [policies, models]\n"
GPT = "virtual-model/openai/gpt-4o"


def managing(project: Project, *models: Document) -> Project:
    """A directory that manages models, and these live models."""
    project.write("policyctl.yaml", MANAGED)
    add_models(project.folder / ".policyctl" / "local.db", *models)
    return project


def quietly(*arguments: str | Path) -> Ran:
    """Run a command line in this process, for tests of many examples."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = run_main([*map(str, arguments)])
    return Ran(code, out.getvalue(), err.getvalue())


tenants = st.lists(
    st.tuples(model_rows, st.booleans()), min_size=1, max_size=6, unique_by=lambda one: one[0]["name"].split("/")[-1]
)


@pytest.mark.slow
@settings(max_examples=examples(30))
@given(tenants)
def test_any_live_models_become_a_directory_whose_plan_is_empty_but_for_what_was_not_pulled(tenant: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        directory, database = Path(folder, "policies"), Path(folder, "live.db")
        directory.mkdir()
        (directory / "policyctl.yaml").write_text(MANAGED)
        add_models(database, *(camel_case(row) if camel else row for row, camel in tenant))
        where = ("--dir", directory, "--remote", f"sqlite:///{database}")
        ran = quietly("pull", *where)
        assert ran.code in (0, 5), ran.err
        written = files_of(directory)
        assert SECRET not in "".join((*written.values(), *ran[1:]))
        if len(written) == 1:  # none could be pulled
            return
        planned = quietly("plan", "--format", "json", *where)
        changes = json.loads(planned.out)["changes"]
        assert [change["action"] for change in changes] == ["remove"] * ran.out.count("not pulled  "), planned.out
        assert bool(changes) == (ran.code == 5)
        assert quietly("pull", "--overwrite", *where).code == ran.code
        assert files_of(directory) == written


def _tenant(client: httpx.Client) -> None:
    """40 models, half of them with a connection and half with a secret of their own, 60 policies, 20 agents and 5 flows."""

    def add(path: str, body: Document) -> Document:
        answer = client.post(path, json=body)
        assert answer.status_code in (200, 201), answer.text
        found: Document = answer.json()
        return found

    connections = [add("/v1/connections/applications", {"app_id": f"app{number}"})["connection_id"] for number in range(3)]
    for number in range(40):
        own = {"api_key": SECRET} if number % 2 else {}
        settings = {"provider": "openai", "custom_host": f"https://{number}.example/v1", "request_timeout": number, **own}
        more = {} if number % 2 else {"connection_id": connections[number % 3]}
        config = {"config": {"max_tokens": 4096, "stop": ["{{", "no"]}} if number % 5 else {}
        name = f"virtual-model/{'anthropic' if number % 3 else 'openai'}/m{number}"
        add(
            "/v1/models",
            {"name": name, "display_name": name, "provider_config": settings, "tags": ["b", "a"], **config, **more},
        )
    names = [row["name"] for row in client.get("/v1/models").json()]
    for number in range(60):
        targets = [{"model_name": names[(number + place) % 40]} for place in range(3)]
        policy = {"strategy": {"mode": "fallback"}, "targets": targets}
        add("/v1/model_policy", {"name": f"p{number}", "display_name": "P", "description": "", "policy": policy})
    for number in range(20):
        add("/v1/orchestrate/agents", {"name": f"agent{number}", "llm": names[number]})
    for number in range(5):
        flow = {"binding": {"flow": {"model": {"metadata": {"llm_model": names[number]}}}}}
        add("/v1/tools", {"name": f"flow{number}", **flow})


@pytest.mark.slow
@pytest.mark.parametrize("switches", [[], ["--camel-case"], ["--camel-case", "--replace-models"]])
def test_a_served_tenant_becomes_a_directory_with_an_empty_plan_and_nothing_secret(
    switches: list[str], project: Project, policyctl: Policyctl
) -> None:
    with serving(project.folder / "served.db", *switches) as served:
        with httpx.Client(base_url=served.url, timeout=LONGEST) as client:
            _tenant(client)
        project.write(
            "policyctl.yaml",
            f'{MANAGED}scope: ["*"]\nenvironments:\n  prod: {{remote: "{served.url}"}}\n',
        )
        ran = policyctl("pull")
        assert ran.code == 0, ran.out + ran.err
        assert ran.out.endswith("Pulled: 100 files written, 0 unchanged; the plan is empty.\n")
        assert "also have its own api_key, which no file can hold; it is kept\n" in ran.out
        written = files_of(project.policies)
        assert len([name for name in written if name.startswith("models/")]) == 40
        everything = "".join(written.values())
        assert all(text not in everything for text in (SECRET, "***", "provider:", "connection_id", "created_on", *SECRETS))
        assert "app_id: app0\n" in everything
        assert policyctl("plan", "--detailed-exitcode").code == 0
        assert policyctl("validate").code == 0
        assert policyctl("pull", "--overwrite").out.endswith("Pulled: 0 files written, 100 unchanged; the plan is empty.\n")


def test_a_model_has_a_file_of_its_own_below_models(project: Project, policyctl: Policyctl) -> None:
    managing(project, *({"name": f"virtual-model/{name}"} for name in ("openai/gpt-4o", "a-b/c", "a/b-c", "bedrock/x:0")))
    ran = policyctl("pull")
    assert ran.code == 0, ran.err
    names = sorted(name for name in files_of(project.policies) if name != "policyctl.yaml")
    assert {"models/a-b-c.yaml", "models/openai-gpt-4o.yaml"} < {*names}
    hashed = [found[1] for name in names if (found := re.fullmatch(r"(.*)-[0-9a-f]{10}\.yaml", name))]
    assert hashed == ["models/a-b-c", "models/bedrock-x-0"]
    assert policyctl("plan", "--detailed-exitcode").code == 0


def test_a_model_that_differs_from_its_file_is_kept_unless_overwrite(project: Project, policyctl: Policyctl) -> None:
    managing(project, {"name": GPT, "description": "live"}, {"name": "virtual-model/openai/new"})
    file = project.write("gpt.yml", f"spec_version: v1\nkind: model\nname: {GPT}\n")
    ran = policyctl("pull")
    assert ran.code == 5
    assert f"kept  {file} differs from the live {GPT}; use --overwrite to replace it\n" in ran.out
    assert ran.err == "error: 1 live model not pulled; see above. Read the plan before you apply\n"
    assert policyctl("pull", "--overwrite").code == 0
    assert file.read_text() == f"spec_version: v1\nkind: model\nname: {GPT}\ndescription: live\n"
    assert policyctl("plan", "--detailed-exitcode").code == 0


def test_a_connection_that_cannot_be_found_is_not_in_the_file_and_is_kept(project: Project, policyctl: Policyctl) -> None:
    with serving_here(project.folder / "served.db", variant=Variant(replace_models=True)) as served:
        with httpx.Client(base_url=served.url, timeout=LONGEST) as client:
            client.post("/v1/models", json={"name": GPT, "description": "old", "connection_id": "gone"}).raise_for_status()
        project.write("policyctl.yaml", f'{MANAGED}environments:\n  prod: {{remote: "{served.url}"}}\n')
        ran = policyctl("pull")
        assert ran.code == 0, ran.err
        assert (
            f"note  the live model {GPT} also has a connection whose app_id cannot be found, which no file can hold; "
            in ran.out
        )
        file = project.policies / "models" / "openai-gpt-4o.yaml"
        assert "gone" not in file.read_text()
        file.write_text(file.read_text().replace("old", "new"))
        assert policyctl("apply", "--yes").code == 0
        with httpx.Client(base_url=served.url, timeout=LONGEST) as client:
            (row,) = client.get("/v1/models").json()
        assert (row["description"], row["connection_id"]) == ("new", "gone")


def test_models_that_the_directory_does_not_manage_are_counted_and_left(project: Project, policyctl: Policyctl) -> None:
    add_models(project.folder / ".policyctl" / "local.db", {"name": GPT})
    ran = policyctl("pull")
    assert ran.code == 0
    assert ran.out.startswith(
        "note  1 virtual model of the remote not pulled: the directory does not manage models (write manage:"
    )
    assert files_of(project.policies) == {}


@pytest.mark.parametrize("where", ["hidden", "left out", "in the way"])
def test_a_model_whose_file_is_not_read_is_not_written_twice(where: str, project: Project, policyctl: Policyctl) -> None:
    managing(project, {"name": GPT})
    text = f"spec_version: v1\nkind: model\nname: {GPT}\n"
    if where == "hidden":
        project.write(".models/gpt.yaml", text)
    elif where == "left out":
        project.write("policyctl.yaml", f"{MANAGED}include: ['models/*']\n")
        project.write("gpt.yaml", text)
    else:
        (project.policies / "models").write_text("")
    ran = policyctl("pull")
    assert ran.code == 5, ran.out
    reason = "is not a directory; move it away" if where == "in the way" else "is not written: policies/"
    assert f"not pulled  {GPT}: policies/models" in ran.out
    assert reason in ran.out


def test_after_init_pull_writes_models_too_and_validate_counts_them(bare: Path, policyctl: Policyctl) -> None:
    add_models(bare / "live.db", {"name": GPT}, {"name": "virtual-model/openai/b"})
    assert policyctl("init").code == 0
    ran = policyctl("pull", "--remote", "sqlite:///live.db")
    assert "+ policies/models/openai-gpt-4o.yaml\n" in ran.out
    assert policyctl("validate").out.splitlines()[-1] == "Valid: 1 policy, 2 models and 2 tests in 4 files, 2 warnings."
    data = json.loads(policyctl("validate", "policies/models", "--format", "json").out)
    assert (data["policies"], data["models"]) == (0, 2)
    assert policyctl("validate", "policies/models").out.splitlines()[-1] == "Valid: 2 models in 2 files, 2 warnings."
