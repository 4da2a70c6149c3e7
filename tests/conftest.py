"""What the tests share: a directory to work in, and policyctl as a function."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, settings

from policyctl.cli.main import run as run_main

pytest_plugins = ["tests.chaos.plugin"]

# In CI the same examples in every run, so that a red run means a change; elsewhere new ones each time, to find more.
settings.register_profile(
    "policyctl",
    deadline=None,
    derandomize=os.environ.get("CI") == "true",
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("policyctl")

ANYGEM = """\
spec_version: v1
kind: model
name: anygem
description: Balances requests between 2 Gemini models
display_name: Any Gem
policy:
  strategy:
    mode: loadbalance
  retry:
    attempts: 1
    on_status_codes: [503]
  targets:
    - model_name: virtual-model/google/gemini-2.0-flash
      weight: 0.75   # Weights must be greater than 0 and less than or equal to 1
    - model_name: virtual-model/google/gemini-2.0-flash-lite
      weight: 0.25
"""


class Ran(NamedTuple):
    """What a command line did."""

    code: int
    out: str
    err: str


Policyctl = Callable[..., Ran]


class Project:
    """A directory with `policies/` in it, which is the working directory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.policies = folder / "policies"
        self.policies.mkdir()

    def write(self, name: str, text: str = ANYGEM) -> Path:
        """Write a file below `policies/`; its path as policyctl will print it."""
        path = self.policies / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, "utf-8")
        return path.relative_to(self.folder)

    def policy(self, name: str, *targets: str, mode: str | None = None, **more: str) -> Path:
        """Write a policy over these models, a fallback where there are several; `more` are lines of the policy."""
        mode = mode or ("fallback" if len(targets) > 1 else "single")
        lines = [f"spec_version: v1\nkind: model\nname: {name}\npolicy:\n  strategy: {{mode: {mode}}}\n"]
        lines += [f"  {key}: {value}\n" for key, value in more.items()]
        lines += ["  targets:\n", *(f"    - model_name: {target}\n" for target in targets or ("virtual-model/x/a",))]
        return self.write(f"{name}.yaml", "".join(lines))


@pytest.fixture(autouse=True)
def _clean_surroundings(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No setting of the machine's reaches a test, and what programs that it runs cache stays among the tests."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "caches"))
    for name in list(os.environ):
        if name.startswith(("POLICYCTL_", "GITHUB_")) or name in (
            "CI",
            "NO_COLOR",
            "FORCE_COLOR",
            "CLICOLOR",
            "CLICOLOR_FORCE",
        ):
            monkeypatch.delenv(name)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(tmp_path)


@pytest.fixture
def policyctl(capfd: pytest.CaptureFixture[str]) -> Policyctl:
    """Run a command line in this process, through the same door as the program."""

    def call(*args: str | Path) -> Ran:
        capfd.readouterr()
        code = run_main([str(arg) for arg in args])
        return Ran(code, *capfd.readouterr())

    return call
