"""A checkout full of programs with names that Python, pip or a shell looks for: no step of the workflows runs one of them."""

from __future__ import annotations

import json
import os
import venv
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from policyctl.cli.init import SERVICES, ServiceName, workflows
from tests.cli.forges import forge_of
from tests.git_repo import commit, git
from tests.workflow_runner import Runner

POLICY = (
    "spec_version: v1\nkind: model\nname: a\npolicy: {strategy: {mode: single}, targets: [{model_name: virtual-model/a/one}]}\n"
)
MODULES = (
    *("argparse", "ast", "backend", "click", "copy", "encodings", "ensurepip", "httpx", "importlib", "json", "logging", "os"),
    *("pip", "policyctl", "pydantic", "re", "runpy", "setup", "shutil", "site", "sitecustomize", "subprocess", "sysconfig"),
    *("tempfile", "types", "usercustomize", "venv", "yaml"),
)
COMMANDS = ("bash", "env", "git", "pip", "policyctl", "python", "python3", "sh")


def set_traps(checkout: Path, sprung: Path, package: str) -> None:
    """What leaves a trace in `sprung` as soon as it is run, imported, built, or read as a configuration."""
    program = f"open({str(sprung)!r}, 'a').write(__file__ + '\\n')\n"
    for name in MODULES:
        (checkout / f"{name}.py").write_text(program, "utf-8")
    for name in COMMANDS:
        (checkout / name).write_text(f"#!/bin/sh\necho $0 >> '{sprung}'\n", "utf-8")
        (checkout / name).chmod(0o755)
    for name in (".bash_profile", ".bashrc", ".profile", ".envrc"):
        (checkout / name).write_text(f"echo {name} >> '{sprung}'\n", "utf-8")
    (checkout / ".pip").mkdir()
    for name in ("pip.conf", "pip.ini", ".pip/pip.conf"):
        (checkout / name).write_text(f"[install]\nreport = {sprung}\n", "utf-8")
    (checkout / "setup.cfg").write_text("[metadata]\nname = policyctl\nversion = attr: setup.x\n", "utf-8")
    backend = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
    (checkout / "pyproject.toml").write_text(backend, "utf-8")
    same = checkout / os.path.normpath(package)  # pip takes a directory of that very name for the package
    same.mkdir(parents=True)
    (same / "pyproject.toml").write_text(backend, "utf-8")
    (same / "backend.py").write_text(program, "utf-8")


def wheel(folder: Path) -> str:
    """A package that pip can install without anything else, as POLICYCTL_PACKAGE names it."""
    path = folder / "policyctl-1-py3-none-any.whl"
    files = {
        "trusted.py": "def main(): print('trusted')\n",
        "policyctl-1.dist-info/METADATA": "Metadata-Version: 2.1\nName: policyctl\nVersion: 1\n",
        "policyctl-1.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        "policyctl-1.dist-info/entry_points.txt": "[console_scripts]\npolicyctl = trusted:main\n",
        "policyctl-1.dist-info/RECORD": "",
    }
    with zipfile.ZipFile(path, "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return f"policyctl @ {path.as_uri()}"


@pytest.mark.parametrize("service", SERVICES)
def test_no_step_runs_code_of_the_checkout(service: ServiceName, tmp_path: Path) -> None:
    checkout, sprung, package = tmp_path / "checkout", tmp_path / "sprung", wheel(tmp_path)
    for path, text in workflows(service, Path("policies"), package).items():
        (checkout / path).parent.mkdir(parents=True, exist_ok=True)
        (checkout / path).write_text(text, "utf-8")
    (checkout / "policies").mkdir()
    (checkout / "policies" / "a.yaml").write_text(POLICY, "utf-8")
    base = commit(checkout)
    git(checkout, "checkout", "-q", "-b", "change")
    set_traps(checkout, sprung, package)
    (checkout / "policies" / "a.yaml").write_text(POLICY.replace("one", "two"), "utf-8")
    commit(checkout)
    git(checkout, "checkout", "-q", "-B", "merged", base)
    git(checkout, "merge", "-q", "--no-ff", "--message=x", "change")
    with forge_of(service) as forge:
        runner = Runner(checkout, forge)
        bin_folder = runner.temporary / "policyctl" / "bin"
        if service == "gitlab":  # whose image has pip
            bin_folder = tmp_path / "image" / "bin"
            venv.create(bin_folder.parent, with_pip=True)
            installed = replace(runner, programs=str(bin_folder)).install("plan", package)
        else:
            installed = runner.install("plan", package)
            assert (tmp_path / "path").read_text("utf-8") == f"{bin_folder}\n"
        assert installed.code == 0, installed.said
        assert "trusted" in (bin_folder / "policyctl").read_text("utf-8")
        steps = runner.github("plan") if service == "github" else runner.gitlab("plan", base)
    assert {step.code for step in steps} == {0}, steps
    assert "1 to update" in forge.bodies[0]
    assert not sprung.exists(), sprung.read_text("utf-8")


def jobs() -> dict[str, dict[str, Any]]:
    """The jobs of the workflows for GitHub, by the workflow's name."""
    files = workflows("github", Path("policies"), "x").items()
    return {path.stem.removeprefix("policyctl-"): next(iter(yaml.safe_load(text)["jobs"].values())) for path, text in files}


def test_every_workflow_installs_in_the_same_way() -> None:
    made = [step for job in jobs().values() for step in job["steps"] if step.get("name") == "Install policyctl"]
    assert len(made) == 3
    assert all(step == made[0] for step in made)


# The steps whose environment holds a secret, and which.
SECRETS = {
    "plan": {
        "Read what may be overridden": {"GITHUB_TOKEN"},
        "Plan": {"WXO_API_KEY"},
        "Comment": {"GITHUB_TOKEN"},
    },
    "apply": {
        "Apply what was approved": {"GITHUB_TOKEN", "WXO_API_KEY"},
        "Prove that nothing is left to do": {"WXO_API_KEY"},
        "Note what was applied": {"GITHUB_TOKEN"},
    },
    "drift": {"Plan": {"WXO_API_KEY"}, "Keep the issue": {"GITHUB_TOKEN"}},
}


def test_a_secret_is_in_the_environment_of_the_steps_that_need_it_and_no_others() -> None:
    def secrets(environ: dict[str, str]) -> set[str]:
        return {name for name, value in environ.items() if "secrets." in value or "github.token" in value}

    for name, job in jobs().items():
        assert not secrets(job["env"])
        found = {step["name"]: secrets(step.get("env", {})) for step in job["steps"] if "run" in step}
        assert {step: some for step, some in found.items() if some} == SECRETS[name]
        assert "secrets." not in json.dumps([{**step, "env": {}} for step in job["steps"]])
