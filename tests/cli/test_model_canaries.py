"""Secrets that live models hold, in every place where one can be: no command shows, stores or repeats one."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from tests.conftest import Policyctl, Ran
from tests.examples import crossed
from tests.remote.fake_server import Reply, Seen, standing_in

CORE = "CANARYOFMODEL"
MODEL = "virtual-model/openai/a"


def secret(place: str) -> str:
    """One of its own for each place: what is masked because it is known from another place would hide that it leaks there."""
    return f"sk&/ '\"-zq{CORE}{list(PLACES).index(place)}qz"


# What holds a secret in each place of a row.
PLACES: dict[str, Callable[[str], dict[str, Any]]] = {
    "api_key": lambda it: {"provider_config": {"api_key": it}},
    "in camelCase": lambda it: {"provider_config": {"awsSecretAccessKey": it}},
    "a mapping": lambda it: {"provider_config": {"vertex_service_account_json": {"private_key": it, "client_email": it}}},
    "an unknown key": lambda it: {"provider_config": {"openaiApiKey": it, "new_token": it}},
    "a URL": lambda it: {"provider_config": {"custom_host": f"https://me:{it[8:]}@h.example/v1"}},
    "a header": lambda it: {"provider_config": {"forward_headers": [f"x-key: {it[8:]}"]}},
    "the metadata": lambda it: {"provider_config": {"metadata": {"deep": [{"password": it}]}}},
    "the config": lambda it: {"config": {"api_key": it, "nested": {"token": it}}},
    "beside the settings": lambda it: {"api_key": it, "auth": {"client_secret": it}},
    "a wrong type": lambda it: {"provider_config": {"api_key": [it]}},
}
# Of the first ones it is known that a write leaves the secret as it is. Over the others nothing is written but a connection.
KNOWN, OTHERS = list(PLACES)[:3], list(PLACES)[3:]
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
OWN = f"sk&/ '\"-zq{CORE}OFAGENTqz"
AGENT = {"id": "a-1", "name": "bot", "llm": "chat", "instructions": OWN, "llm_config": {"model": MODEL, "api_key": OWN}}


class Platform:
    """The tenant: one policy, models and connections. With `echo` it refuses every write with what it was sent and has."""

    lists: ClassVar[dict[str, list[Any]]] = {"model_policy": [], "agents": []}

    def __init__(self, models: dict[str, dict[str, Any]], *, echo: bool) -> None:
        rows = {"virtual-model/openai/spare": {}, **models}
        self.models = {
            f"m-{number}": {"id": f"m-{number}", "name": name, **row} for number, (name, row) in enumerate(rows.items())
        }
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


def write(folder: Path, url: str, models: dict[str, str | None]) -> None:
    """What is desired: the spare model, and these, each with so much beside its name; None: it is to go."""
    policies = folder / "policies"
    policies.mkdir()
    config = {"manage": ["policies", "models"], "environments": {"prod": {"remote": url}}, "scope": ["*"]}
    (policies / "policyctl.yaml").write_text(json.dumps({**config, "limits": {"max_change_percent": 100, "max_removes": 99}}))
    for name, text in {"virtual-model/openai/spare": "", **models}.items():
        if text is not None:
            short = name.removeprefix("virtual-model/openai/")
            head = f"spec_version: v1\nkind: model\nname: openai/{short}\n"
            (policies / f"{short}.yaml").write_text(head + text)


@pytest.mark.parametrize(("places", "desired", "echo"), crossed((KNOWN, OTHERS), FILES, (False, True)))
def test_no_secret_of_a_live_model_leaves_it(
    places: list[str], desired: str, echo: bool, tmp_path: Path, policyctl: Policyctl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is a model for each place where a secret can be; one that may be written is written."""
    models = {f"{MODEL}{number}": PLACES[place](secret(place)) for number, place in enumerate(places)}
    with standing_in(Platform(models, echo=echo)) as remote, surroundings(tmp_path, monkeypatch):
        write(tmp_path, remote.url, dict.fromkeys(models, FILES[desired]))
        for command in COMMANDS:
            ran = policyctl(*command, "-vv")
            assert "Traceback" not in ran.err, ran.err
            assert_silent(ran, command, tmp_path)
        written = {seen.path.rpartition("/")[2] for seen in remote.seen if seen.method != "GET"}
    may = desired == "with a connection" or (places == KNOWN and desired in ("another config", "other settings"))
    assert written == ({f"m-{number}" for number in range(1, len(models) + 1)} if may else set())


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
    with standing_in(Used({MODEL: PLACES[place](secret(place))}, echo=echo)) as remote, surroundings(tmp_path, monkeypatch):
        write(tmp_path, remote.url, {MODEL: "config: {temperature: 0.5}\n"})
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
