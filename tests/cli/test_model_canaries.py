"""Secrets that live models hold, in every place where one can be: no command shows, stores or repeats one."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.conftest import Policyctl, Ran
from tests.examples import crossed
from tests.remote.fake_server import Reply, Seen, standing_in

CORE = "CANARYOFMODEL"
SECRET = f"sk&/ '\"-zq{CORE}qz"
MODEL = "virtual-model/openai/a"
# One secret in each place of a row.
PLACES: dict[str, dict[str, Any]] = {
    "api_key": {"provider_config": {"api_key": SECRET}},
    "in camelCase": {"provider_config": {"awsSecretAccessKey": SECRET}},
    "a mapping": {"provider_config": {"vertex_service_account_json": {"private_key": SECRET, "client_email": SECRET}}},
    "an unknown key": {"provider_config": {"openaiApiKey": SECRET, "new_token": SECRET}},
    "a URL": {"provider_config": {"custom_host": f"https://me:zq{CORE}qz@h.example/v1"}},
    "a header": {"provider_config": {"forward_headers": [f"x-key: zq{CORE}qz"]}},
    "the metadata": {"provider_config": {"metadata": {"deep": [{"password": SECRET}]}}},
    "the config": {"config": {"api_key": SECRET, "nested": {"token": SECRET}}},
    "beside the settings": {"api_key": SECRET, "auth": {"client_secret": SECRET}},
    "a wrong type": {"provider_config": {"api_key": [SECRET]}},
}
FILES = {
    "as it was": "",
    "another config": "config: {temperature: 0.5}\n",
    "with a connection": "app_id: creds\n",
    "other settings": "provider_config: {custom_host: 'https://other.example'}\n",
    "gone": None,
}
COMMANDS = (
    ("validate",),
    ("plan",),
    ("plan", "--out", "plan.json"),
    ("plan", "--format", "json"),
    ("plan", "--format", "markdown"),
    ("plan", "--format", "html"),
    ("effect", "--against", "live"),
    ("policy", "list", "--format", "json"),
    ("apply", "--yes"),
    ("apply", "plan.json", "--yes"),
    ("history", "--diff"),
    ("pull", "--dir", "pulled"),
)


# The commands that look at one policy or model, or change it, in every format.
SINGLE = (
    ("model", "list"),
    ("model", "list", "--format", "json"),
    ("model", "show", MODEL),
    ("model", "show", MODEL, "--format", "json"),
    ("model", "export", MODEL, "-o", "-"),
    ("model", "export", MODEL, "-o", "exported.yaml"),
    ("model", "export", MODEL, "-o", "exported.zip"),
    ("consumers",),
    ("consumers", MODEL),
    ("consumers", MODEL, "--format", "json"),
    ("policy", "show", "chat"),
    ("policy", "show", "chat", "--format", "json"),
    ("policy", "export", "-n", "chat", "-o", "-"),
    ("policy", "export", "-n", "chat", "-o", "chat.zip"),
    ("model", "add", "openai/a", "--provider-config", json.dumps({"custom_host": "https://new.example"}), "--yes"),
    ("model", "import", "-f", "policies/a.yaml", "--yes"),
    ("model", "import", "-f", "policies/a.yaml", "-a", "creds", "--yes"),
    ("model", "remove", "openai/a", "--yes"),
    ("model", "remove", "openai/a", "--yes", "--allow-remove", "openai/a"),
)
CHAT = {
    "name": "virtual-policy/chat",
    "policy": {"strategy": {"mode": "single"}, "targets": [{"model_name": "virtual-model/openai/spare"}]},
}
AGENT = {"id": "a-1", "name": "bot", "llm": "chat", "instructions": SECRET, "llm_config": {"model": MODEL, "api_key": SECRET}}


class Platform:
    """The tenant: one policy, models and connections. With `echo` it refuses every write with what it was sent."""

    lists: ClassVar[dict[str, list[Any]]] = {"model_policy": [], "agents": []}

    def __init__(self, model: dict[str, Any], *, echo: bool) -> None:
        spare = {"id": "m-2", "name": "virtual-model/openai/spare"}
        self.models: dict[str, dict[str, Any]] = {one["id"]: one for one in ({"id": "m-1", "name": MODEL, **model}, spare)}
        self.echo = echo

    def __call__(self, seen: Seen) -> Reply:
        if seen.path.endswith("/connections/applications"):
            entry = {"app_id": "creds", "connection_id": "c-1", "environment": "draft", "security_scheme": "key_value_creds"}
            return Reply(200, [entry, {**entry, "environment": "live"}])
        if (listed := self.lists.get(seen.path.rpartition("/")[2])) is not None:
            return Reply(200, listed)
        if "/models" not in seen.path or seen.path.endswith("/list"):
            return Reply(404)
        if seen.method == "GET":
            names = [value for key, value in seen.query if key == "name"]
            return Reply(200, [row for row in self.models.values() if not names or row["name"] in names])
        return self._write(seen)

    def _write(self, seen: Seen) -> Reply:
        identifier = seen.path.rpartition("/")[2]
        if self.echo:
            return Reply(400, {"detail": f"cannot take {seen.body.decode()} beside {json.dumps(self.models.get(identifier))}"})
        if seen.method == "DELETE":
            del self.models[identifier]
            return Reply(204)
        self.models[identifier] = {**seen.json, "id": identifier}
        return Reply(200, self.models[identifier])


def write(folder: Path, url: str, model: str | None) -> None:
    policies = folder / "policies"
    policies.mkdir()
    config = {"manage": ["policies", "models"], "environments": {"prod": {"remote": url}}, "scope": ["*"]}
    (policies / "policyctl.yaml").write_text(json.dumps({**config, "limits": {"max_change_percent": 100}}))
    head = "spec_version: v1\nkind: model\nname: openai/{}\n"
    (policies / "spare.yaml").write_text(head.format("spare"))
    if model is not None:
        (policies / "a.yaml").write_text(head.format("a") + model)


@pytest.mark.parametrize(("place", "model", "echo"), crossed(PLACES, FILES, (False, True)))
@pytest.mark.alike
def test_no_secret_of_a_live_model_leaves_it(
    place: str, model: str, echo: bool, tmp_path: Path, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    with standing_in(Platform(PLACES[place], echo=echo)) as remote, surroundings(tmp_path, monkeypatch):
        write(tmp_path, remote.url, FILES[model])
        for command in COMMANDS:
            ran = policyctl(*command, "-vv")
            assert "Traceback" not in ran.err, ran.err
            assert_silent(ran, command, tmp_path)


class Used(Platform):
    """A tenant with an agent that uses the model directly and by a policy, and that has secrets of its own."""

    lists: ClassVar[dict[str, list[Any]]] = {
        "model_policy": [{"id": "p-1", **CHAT}],
        "agents": [AGENT],
        "tools": [],
        "knowledge-bases": [],
    }


@pytest.mark.parametrize(("place", "echo"), crossed(PLACES, (False, True)))
@pytest.mark.alike
def test_no_command_about_one_policy_or_model_shows_a_secret(
    place: str, echo: bool, tmp_path: Path, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    with standing_in(Used(PLACES[place], echo=echo)) as remote, surroundings(tmp_path, monkeypatch):
        write(tmp_path, remote.url, "config: {temperature: 0.5}\n")
        for command in SINGLE:
            ran = policyctl(*command, "-v")
            assert (ran.code in (0, 1, 3, 5), "Traceback" in ran.err) == (True, False), (command, ran)
            assert_silent(ran, command, tmp_path)
        assert [seen.path for seen in remote.seen if seen.method == "DELETE"] == ["/v1/models/m-1"]


@contextmanager
def surroundings(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything that a command may write is below the folder."""
    with monkeypatch.context() as patch:
        patch.chdir(folder)
        for name in ("tmp", "cache"):
            (folder / name).mkdir()
        patch.setenv("TMPDIR", str(folder / "tmp"))
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("POLICYCTL_AUDIT", str(folder / "audit.jsonl"))
        assert os.environ["TMPDIR"]
        yield


def assert_silent(ran: Ran, command: tuple[str, ...], folder: Path) -> None:
    assert CORE not in ran.out + ran.err, (command, ran)
    for path in folder.rglob("*"):
        if path.suffix == ".zip":
            with zipfile.ZipFile(path) as packed:
                assert all(CORE.encode() not in packed.read(name) for name in packed.namelist()), (command, path)
        elif path.is_file():
            assert CORE.encode() not in path.read_bytes(), (command, path, path.read_text())
