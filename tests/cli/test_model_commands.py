"""policyctl model: single virtual models on a remote, like the platform's own commands and without their traps."""

from __future__ import annotations

import json
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import jsonschema
import pytest

from policyctl.cli.main import MODEL_COMMANDS
from policyctl.policy.names import kind_of
from policyctl.reconcile.observe import observe
from policyctl.remote.sqlite import SqliteReader
from tests.conftest import Policyctl, Project
from tests.problem_lines import shows
from tests.remote.fake_server import Reply, Seen, standing_in
from tests.server.serving import serving_here
from tests.sqlite_rows import LOCAL, add_models, put, row

GPT = "virtual-model/openai/gpt-4o"
FILE = f"spec_version: v1\nkind: model\nname: {GPT}\napp_id: creds\n"
SECRET = "canary-on-the-command-line"
NOTHING = "virtual-model/nothing"


def live(path: Path = LOCAL) -> dict[str, dict[str, Any]]:
    """The live models in normal form, by name."""
    with SqliteReader(path, models=True) as reader:
        return {name: found.normal for name, found in observe(reader).live.items() if kind_of(name) == "model"}


@pytest.mark.parametrize("command", MODEL_COMMANDS)
def test_every_model_command_has_help_with_an_example(command: str, policyctl: Policyctl) -> None:
    ran = policyctl("model", command, "--help")
    assert ran.code == 0
    assert "Example:" in ran.out
    assert f"  {command} " in policyctl("model", "--help").out


@pytest.mark.parametrize("name", [["openai/gpt-4o"], ["-n", "openai/gpt-4o"], ["--name", GPT]])
def test_add_writes_what_the_options_ask_for_and_then_has_nothing_to_do(
    name: list[str], bare: Path, policyctl: Policyctl
) -> None:
    config = '{"customHost": "https://x.example/v1", "request_timeout": "500"}'
    options = ("-a", "creds", "--provider-config", config, "-d", "GPT", "--display-name", "4o", "--type", "chat_vision")
    ran = policyctl("model", "add", *name, *options, "--yes")
    assert ran.code == 0, ran.err
    assert f"+ {GPT}\n" in ran.out
    assert ran.out.endswith("Applied: 1 model added; read back and verified.\n")
    assert live() == {
        GPT: {
            "name": GPT,
            "display_name": "4o",
            "description": "GPT",
            "model_type": "chat_vision",
            "app_id": "creds",
            "provider_config": {"custom_host": "https://x.example/v1", "request_timeout": 500},
        }
    }
    again = policyctl("model", "add", *name, *options)
    assert again[:2] == (0, "No changes: the live model already matches.\n")


BAD_ADDS: dict[str, tuple[tuple[str, ...], str]] = {
    "a secret": (
        ("openai/x", "--provider-config", json.dumps({"api_key": SECRET})),
        "error: --provider-config: api_key is a secret, which must not be in a file; make a connection",
    ),
    "a secret in camelCase": (
        ("bedrock/x", "--provider-config", json.dumps({"awsSecretAccessKey": SECRET})),
        "error: --provider-config: aws_secret_access_key is a secret",
    ),
    "not JSON": (("openai/x", "--provider-config", f"{{api_key: {SECRET}"), "error: --provider-config: it is not JSON"),
    "not an object": (("openai/x", "--provider-config", f'"{SECRET}"'), "error: --provider-config: it must be a JSON object"),
    "a misspelled key": (
        ("openai/x", "--provider-config", '{"custom_hots": "x"}'),
        'error: --provider-config: unknown key "custom_hots" (did you mean custom_host?)',
    ),
    "no provider": (("gpt-4o",), "error: --name: the name of a virtual model is <provider>/<model>"),
    "a policy": (("virtual-policy/openai/x",), "error: --name: "),
    "no name": ((), "error: which model? name it: policyctl model add NAME"),
    "two names": (("openai/x", "-n", "openai/y"), "error: which model, openai/x or openai/y? name one"),
}


@pytest.mark.parametrize("case", BAD_ADDS)
def test_add_refuses_what_no_file_may_contain_without_showing_a_secret(case: str, bare: Path, policyctl: Policyctl) -> None:
    args, message = BAD_ADDS[case]
    ran = policyctl("model", "add", *args, "--yes")
    assert (ran.code, ran.out) == (64, "")
    assert shows(message, ran.err), ran.err
    assert SECRET not in ran.err
    assert not LOCAL.exists()


def test_a_dry_run_shows_the_change_and_writes_nothing(bare: Path, policyctl: Policyctl) -> None:
    ran = policyctl("model", "add", "openai/x", "--dry-run")
    assert ran.code == 0
    assert "\n+ virtual-model/openai/x\n" in ran.out
    assert "warning: --name: openai needs api_key, and no connection is named that may hold it" in ran.err
    assert not LOCAL.exists()
    assert policyctl("model", "add", "openai/x").code == 64, "there is no terminal to ask on"


def test_what_the_options_leave_out_is_removed_and_a_secret_of_its_own_is_not(bare: Path, policyctl: Policyctl) -> None:
    add_models(LOCAL, {"name": GPT, "tags": ["a"], "provider_config": {"api_key": SECRET, "custom_host": "h"}, "owner": "me"})
    ran = policyctl("model", "add", GPT, "--app-id", "creds", "--dry-run")
    assert "provider_config.api_key" in ran.out or "provider_config:" in ran.out, "a connection takes its place"
    assert SECRET not in ran.out + ran.err
    unmasked = policyctl("model", "import", "--file", str(_file(f"{FILE}tags: [b]\n")), "--yes")
    assert unmasked.code == 0, unmasked.err
    assert live()[GPT]["tags"] == ["b"]
    assert live()[GPT]["app_id"] == "creds"


def _file(text: str, name: str = "gpt.yaml") -> Path:
    path = Path(name)
    path.write_text(text)
    return path


def test_import_adds_then_updates_then_has_nothing_to_do(bare: Path, policyctl: Policyctl) -> None:
    ran = policyctl("model", "import", "-f", _file(FILE), "--yes")
    assert ran.code == 0, ran.err
    assert f"+ {GPT}  gpt.yaml\n" in ran.out
    ran = policyctl("model", "import", "-f", "gpt.yaml", "-a", "other", "--yes")
    assert "app_id: creds → other" in ran.out
    assert live()[GPT]["app_id"] == "other"
    assert policyctl("model", "import", "-f", "gpt.yaml", "-a", "other").out == "No changes: the live model already matches.\n"


BAD_IMPORTS: dict[str, tuple[str, str, int, str]] = {
    "a secret": ("a.yaml", f"{FILE}provider_config:\n  api_key: {SECRET}\n", 1, "a.yaml:6:3: api_key is a secret [P110]"),
    "a typo": ("a.yaml", f"{FILE}provider_config: {{custom_hots: x}}\n", 1, 'a.yaml:5:19: unknown key "custom_hots" [P101]'),
    "two models": ("a.yaml", f"{FILE}---\n{FILE}", 64, "error: --file: a.yaml holds 2 models; one is imported at a time"),
    "no model": ("a.yaml", "kind: agent\nspec_version: v1\n", 64, "error: --file: a.yaml holds no models"),
    "Python": ("a.py", "", 64, "error: --file: a.py must end in .yaml, .yml, .json; Python is not run here, write the model"),
}


@pytest.mark.parametrize("case", BAD_IMPORTS)
def test_import_refuses_a_bad_file_with_its_place(case: str, bare: Path, policyctl: Policyctl) -> None:
    name, text, code, message = BAD_IMPORTS[case]
    ran = policyctl("model", "import", "--file", _file(text, name), "--yes")
    assert ran.code == code
    assert shows(message, ran.err), ran.err
    assert SECRET not in ran.err
    assert not LOCAL.exists()


@pytest.mark.parametrize("name", ["openai/gpt-4o", GPT])
def test_remove_takes_either_spelling(name: str, bare: Path, policyctl: Policyctl) -> None:
    add_models(LOCAL, {"name": GPT})
    ran = policyctl("model", "remove", "-n", name, "--yes")
    assert ran.code == 0, ran.err
    assert f"- {GPT}\n" in ran.out
    assert live() == {}


def test_removing_what_is_not_there_is_an_error(bare: Path, policyctl: Policyctl) -> None:
    add_models(LOCAL, {"name": GPT})
    ran = policyctl("model", "remove", "openai/gpt-4", "--yes")
    assert ran.code == 1
    assert ran.err.startswith("error: no model virtual-model/openai/gpt-4 on local (did you mean ")


def test_a_model_that_a_live_policy_targets_is_not_removed(bare: Path, policyctl: Policyctl) -> None:
    put([row("p")])
    add_models(LOCAL, {"name": "virtual-model/a/one"})
    ran = policyctl("model", "remove", "a/one", "--yes")
    assert ran.code == 3
    assert "virtual-policy/p" in ran.out
    assert [*live()] == ["virtual-model/a/one"]


def test_protect_binds(project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", f"manage: [policies, models]\nprotect: [{GPT}]\n")
    add_models(LOCAL, {"name": GPT})
    assert policyctl("model", "remove", GPT, "--yes").code == 3
    assert policyctl("model", "remove", GPT, "--allow-remove", "openai/other", "--yes").code == 64
    assert policyctl("model", "remove", GPT, "--allow-remove", "openai/gpt-4o", "--yes").code == 0


def test_list_shows_models_alone_and_policy_list_policies_alone(project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", "manage: [policies, models]\n")
    put([row("p")])
    add_models(
        LOCAL,
        {"name": GPT, "tags": ["a", "b"], "connection_id": "creds", "owner": "me"},
        {"name": "virtual-model/openai/own", "provider_config": {"api_key": SECRET}, "model_type": "embedding"},
        {"name": NOTHING},
    )
    lines = policyctl("model", "list").out.splitlines()
    assert lines[2:] == [
        f'{NOTHING}  not a valid model: name: the name of a virtual model is <provider>/<model>, got "{NOTHING}"',
        f"{GPT}  chat, connection creds, tags a, b; also has owner",
        "virtual-model/openai/own  embedding, no connection; also has provider_config.api_key",
        "",
        "3 models.",
    ]
    assert "virtual-model/openai" not in policyctl("policy", "list").out
    assert [one["name"] for one in json.loads(policyctl("policy", "list", "--format", "json").out)["policies"]] == [
        "virtual-policy/p"
    ]


def test_the_json_of_list_and_show_follows_its_schema_and_has_no_secret(bare: Path, policyctl: Policyctl) -> None:
    hook = [{"headers": {"Authorization": SECRET}}]
    add_models(
        LOCAL,
        {"name": GPT, "provider_config": {"api_key": SECRET, "before_request_hooks": hook}, "config": {"api_key": SECRET}},
        {"name": "virtual-model/openai/b", "provider_config": {"customHost": "h", "strangeKey": 1}, "owner": "me"},
    )
    schema = json.loads(files("policyctl.report.schemas").joinpath("models.schema.json").read_text("utf-8"))
    for command in (("list",), ("show", GPT), ("show", "openai/b")):
        ran = policyctl("model", *command, "--format", "json")
        data = json.loads(ran.out)
        jsonschema.validate(data, schema)
        assert SECRET not in ran.out
    assert data["models"][0]["unknown_fields"] == {"owner": "me", "provider_config.strange_key": 1}
    text = policyctl("model", "show", GPT).out
    assert "# not a valid model: provider_config.before_request_hooks[0].headers.Authorization: Authorization may be" in text
    assert SECRET not in text


def test_show_is_a_file_with_what_it_cannot_hold_as_comments(bare: Path, policyctl: Policyctl) -> None:
    add_models(LOCAL, {"name": GPT, "provider_config": {"api_key": SECRET}, "owner": "me"})
    assert policyctl("model", "show", "openai/gpt-4o").out == (
        f"spec_version: v1\nkind: model\nname: {GPT}\n"
        "# The live model also has fields that a model file cannot hold; an update keeps them:\n"
        '#   provider_config.api_key: "(set)"\n#   owner: me\n'
    )
    ran = policyctl("model", "show", "openai/x")
    assert (ran.code, ran.err) == (1, "error: no model virtual-model/openai/x on local; see policyctl model list\n")


def test_export_writes_a_file_that_import_takes(bare: Path, policyctl: Policyctl) -> None:
    add_models(LOCAL, {"name": GPT, "description": "GPT", "connection_id": "creds"})
    printed = policyctl("model", "export", GPT, "-o", "-").out
    assert policyctl("model", "export", GPT, "-o", "gpt.yaml").code == 0
    assert policyctl("model", "export", GPT, "-o", "gpt.zip").code == 0
    archive = ZipFile(BytesIO(Path("gpt.zip").read_bytes()))
    assert archive.namelist() == ["gpt/models/gpt-4o.yaml"]
    assert printed == Path("gpt.yaml").read_text() == archive.read("gpt/models/gpt-4o.yaml").decode()
    assert policyctl("model", "import", "-f", "gpt.yaml").out == "No changes: the live model already matches.\n"
    assert policyctl("model", "export", GPT, "-o", "gpt.json").code == 64


MANAGED = "manage: [policies, models]\n"
NEXT_APPLY: dict[str, tuple[str, str, tuple[str, ...], str]] = {
    "a file differs": (MANAGED, FILE, ("add", GPT), "note  policies/gpt.yaml differs and wins at the next apply"),
    "a file matches": (MANAGED, FILE, ("add", GPT, "-a", "creds"), ""),
    "no file has it": (
        MANAGED,
        FILE,
        ("add", "openai/x", "-a", "creds"),
        "note  no file of policies has it, so the next apply",
    ),
    "a file has the removed one": (
        MANAGED,
        FILE.replace("gpt-4o", "live"),
        ("remove", "openai/live"),
        "note  policies/gpt.yaml still has it, so the next apply adds it again",
    ),
    "no file has the removed one": (MANAGED, FILE, ("remove", "openai/live"), ""),
    "models are not managed": ("", FILE, ("add", GPT), ""),
}


@pytest.mark.parametrize("case", NEXT_APPLY)
def test_the_file_that_wins_at_the_next_apply_is_named(case: str, project: Project, policyctl: Policyctl) -> None:
    config, text, command, note = NEXT_APPLY[case]
    project.write("policyctl.yaml", config or "default: local\nenvironments: {local: {}}\n")
    project.write("gpt.yaml", text)
    add_models(LOCAL, {"name": "virtual-model/openai/live"})
    ran = policyctl("model", *command, "--dry-run")
    assert ran.code == 0, ran.err
    assert note in ran.out
    assert bool(note) == ("next apply" in ran.out)


def test_save_changes_the_directory_instead_of_the_remote(project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", MANAGED)
    path = project.policies / "models" / "openai-gpt-4o.yaml"
    assert policyctl("model", "add", GPT, "-a", "creds", "--save").code == 0
    assert path.read_text() == FILE
    ran = policyctl("model", "add", GPT, "-a", "other", "--save", "--yes")
    assert "app_id: creds → other" in ran.out
    assert path.read_text() == FILE.replace("creds", "other")
    assert policyctl("model", "add", GPT, "-a", "other", "--save").out.startswith("No changes: policies/models/")
    assert policyctl("model", "remove", GPT, "--save", "--yes").code == 0
    assert not path.exists()
    assert not LOCAL.exists()


def test_an_option_of_the_platforms_own_command_that_does_nothing_here_is_explained(bare: Path, policyctl: Policyctl) -> None:
    ran = policyctl("model", "add", "openai/x", "--skip-validation")
    assert ran.code == 64
    assert ran.err.startswith("error: unknown option --skip-validation; leave it out: no model is called to test it (")


def test_a_connection_that_does_not_exist_is_refused_before_anything_is_written(project: Project, policyctl: Policyctl) -> None:
    with serving_here(project.folder / "served.db") as served:
        ran = policyctl("model", "add", GPT, "--app-id", "nowhere", "--remote", served.url, "--yes")
        assert ran.code == 3, ran.err
        assert f"connection nowhere (of {GPT}) does not exist" in ran.out
        assert policyctl("model", "list", "--remote", served.url).out.endswith("0 models.\n")


def hiding(asked: Seen) -> Reply:
    """A tenant that keeps the key of its one model to itself, and has no list of connections."""
    if asked.path.endswith("/models") and asked.method == "GET":
        return Reply(200, [{"id": "1", "name": GPT, "provider_config": {}}])
    return Reply(200, []) if asked.method == "GET" and asked.path.endswith("/model_policy") else Reply(404)


def test_a_model_that_may_have_a_hidden_key_is_updated_only_where_that_is_allowed(bare: Path, policyctl: Policyctl) -> None:
    with standing_in(hiding) as server:
        add = ("model", "add", GPT, "-d", "new", "--remote", f"{server.url}/instances/x")
        refused = policyctl(*add, "--yes")
        assert refused.code == 3
        assert f"--allow-key-loss {GPT}" in refused.out + refused.err
        allowed = policyctl(*add, "--dry-run", "--allow-key-loss", "openai/gpt-4o")
        assert allowed.code == 0, allowed.err
        assert "which is allowed" in allowed.out
        (bare / "policies").mkdir()
        (bare / "policies" / "policyctl.yaml").write_text("allow_key_loss: [openai/*]\n")
        assert policyctl(*add, "--dry-run").code == 0
        assert [one for one in server.asked() if not one.startswith("GET")] == []


def test_the_loss_of_a_key_is_allowed_for_the_named_model_on_a_remote_alone(bare: Path, policyctl: Policyctl) -> None:
    other = policyctl("model", "add", GPT, "--allow-key-loss", "openai/other")
    assert (other.code, "is not the model to write" in other.err) == (64, True)
    saved = policyctl("model", "add", GPT, "--save", "--allow-key-loss", GPT)
    assert (saved.code, "--save changes the directory alone" in saved.err) == (64, True)
