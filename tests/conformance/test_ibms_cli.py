"""IBM's own CLI is the judge: it works against `policyctl serve`, and each of the two tools reads what the other wrote."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from policyctl.policy.document import is_server_key, normal_form
from tests.conformance.orchestrate import LAYOUTS, SECRET, LogIn, Orchestrate
from tests.server.serving import Served, loopback, serving

FLASH, LITE = "virtual-model/google/gemini-2.0-flash", "virtual-model/google/gemini-2.0-flash-lite"

# As a user writes it: the name without the prefix.
ANYGEM = f"""\
spec_version: v1
kind: model
name: anygem
display_name: Any Gem
description: Balances requests between 2 Gemini models
policy:
  strategy:
    mode: loadbalance
    on_status_codes: [503]
  retry:
    attempts: 1
    on_status_codes: [503]
  targets:
    - model_name: {FLASH}
      weight: 0.75
    - model_name: {LITE}
      weight: 0.25
"""
# What `add` makes of its options: the name gets the prefix, and is used for the two texts that were not given.
SPARE = f"""\
spec_version: v1
kind: model
name: spare
policy:
  strategy: {{mode: fallback, on_status_codes: [500, 503]}}
  targets: [{{model_name: {FLASH}}}, {{model_name: {LITE}}}]
"""
# What IBM's CLI cannot write and must still read: a group with a weight, and a cache.
NESTED = f"""\
spec_version: v1
kind: model
name: nested
description: Written by policyctl
policy:
  strategy: {{mode: loadbalance}}
  cache: {{mode: simple}}
  targets:
    - {{model_name: {FLASH}, weight: 0.5}}
    - strategy: {{mode: fallback}}
      weight: 0.5
      targets: [{{model_name: {FLASH}}}, {{model_name: anygem}}]
"""


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Served]:
    """A server that needs a token, and knows two models."""
    with serving(tmp_path / "served.db", "--token-from", "env:SERVE_SECRET", environ={"SERVE_SECRET": SECRET}) as running:
        _add_models(running)
        yield running


def _add_models(served: Served) -> None:
    for name in (FLASH, LITE):
        body = {"name": name, "display_name": name, "description": f"about {name}"}
        assert loopback.post(f"{served.url}/v1/models", json=body, headers=_headers()).status_code == 201


def _headers() -> dict[str, str]:
    return {"Authorization": f"Bearer {SECRET}"}


def _rows(served: Served) -> dict[str, Any]:
    rows = loopback.get(f"{served.url}/v1/model_policy", headers=_headers()).json()
    return {row["name"]: row for row in rows}


def _directory(home: Path, url: str, **files: str) -> Path:
    """A policy directory whose one environment is the server, as the layout's URL names it."""
    directory = home / "policies"
    directory.mkdir(parents=True, exist_ok=True)
    environment = {"remote": url, "auth": {"type": "bearer", "token": "env:CONFORMANCE_TOKEN"}}
    (directory / "policyctl.yaml").write_text(yaml.safe_dump({"environments": {"served": environment}, "scope": ["*"]}))
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text)
    return directory


def _policyctl(directory: Path, *arguments: str) -> tuple[int, str]:
    command = [sys.executable, "-m", "policyctl", *arguments, "--dir", str(directory)]
    environment = {**os.environ, "CONFORMANCE_TOKEN": SECRET}
    ended = subprocess.run(
        command, cwd=directory.parent, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    return ended.returncode, ended.stdout + ended.stderr


@pytest.mark.parametrize("layout", LAYOUTS)
def test_both_tools_read_what_the_other_wrote(server: Served, tmp_path: Path, log_in: LogIn, layout: str) -> None:
    """IBM's CLI lists, imports, updates and adds; policyctl agrees, then writes; IBM's CLI reads, exports, removes."""
    ibm = log_in(tmp_path / "ibm", server, layout)
    url = LAYOUTS[layout].format(port=server.port)
    (ibm.home / "anygem.yaml").write_text(ANYGEM.replace("0.25", "0.125"))
    _ibm_writes(ibm, server)

    directory = _directory(tmp_path, url, anygem=ANYGEM, spare=SPARE)
    code, output = _policyctl(directory, "plan", "--detailed-exitcode")
    assert code == 0, output
    assert "No changes." in output

    _directory(tmp_path, url, nested=NESTED)
    code, output = _policyctl(directory, "apply", "--yes")
    assert code == 0, output
    _ibm_reads(ibm, server)

    ibm("models", "policy", "remove", "--name", "virtual-policy/spare")
    assert _rows(server).keys() == {"virtual-policy/anygem", "virtual-policy/nested"}
    code, output = _policyctl(directory, "plan", "--detailed-exitcode")
    assert (code, "1 to add, 0 to update, 0 to remove" in output) == (2, True), output


def _ibm_writes(ibm: Orchestrate, server: Served) -> None:
    listed = ibm("models", "list", "-r")
    assert f"{FLASH}: about {FLASH}" in listed
    ibm("models", "policy", "import", "--file", "anygem.yaml")
    added = _rows(server)["virtual-policy/anygem"]
    (ibm.home / "anygem.yaml").write_text(ANYGEM)
    ibm("models", "policy", "import", "--file", "anygem.yaml")
    updated = _rows(server)["virtual-policy/anygem"]
    assert (updated["id"], updated["created_on"]) == (added["id"], added["created_on"])
    assert normal_form(updated) == normal_form(yaml.safe_load(ANYGEM)) != normal_form(added)
    arguments = ["--name", "spare", "--model", FLASH, "--model", LITE, "--strategy", "fallback"]
    ibm("models", "policy", "add", *arguments, "--strategy-on-code", "500", "--strategy-on-code", "503")
    assert normal_form(_rows(server)["virtual-policy/spare"]) == normal_form(yaml.safe_load(SPARE))


def _ibm_reads(ibm: Orchestrate, server: Served) -> None:
    listed = ibm("models", "list", "-r")
    assert "virtual-policy/nested: Written by policyctl" in listed
    ibm("models", "policy", "export", "--name", "virtual-policy/anygem", "--output", "out.zip")
    with zipfile.ZipFile(ibm.home / "out.zip") as archive:
        exported = yaml.safe_load(archive.read("out/models/anygem.yaml"))
        assert len(archive.namelist()) == 3, "the policy and its two models"
    row = _rows(server)["virtual-policy/anygem"]
    assert {key: value for key, value in exported.items() if not is_server_key(key)} == {
        key: value for key, value in row.items() if not is_server_key(key)
    }


def test_ibms_cli_understands_the_faults(tmp_path: Path, log_in: LogIn) -> None:
    """Its own words for a quota, an unknown model, and a name that several policies have."""
    arguments = ["--token-from", "env:SERVE_SECRET", "--max-policies", "2", "--allow-duplicate-names"]
    with serving(tmp_path / "served.db", *arguments, environ={"SERVE_SECRET": SECRET}) as served:
        _add_models(served)
        for _ in range(2):
            body = {**yaml.safe_load(ANYGEM), "name": "virtual-policy/twin"}
            assert loopback.post(f"{served.url}/v1/model_policy", json=body, headers=_headers()).status_code == 201
        ibm = log_in(tmp_path / "ibm", served, "local")
        (ibm.home / "anygem.yaml").write_text(ANYGEM)
        assert "keeps at most 2 policies" in ibm("models", "policy", "import", "--file", "anygem.yaml", code=1)
        (ibm.home / "anygem.yaml").write_text(ANYGEM.replace(LITE, "virtual-model/x/unknown"))
        unknown = ibm("models", "policy", "import", "--file", "anygem.yaml", code=1)
        assert "No model found with the name 'virtual-model/x/unknown'" in unknown
        assert "Multiple" in ibm("models", "policy", "remove", "--name", "virtual-policy/twin", code=1)
        assert len(loopback.get(f"{served.url}/v1/model_policy", headers=_headers()).json()) == 2
