"""From `init` in an empty repository through every documented command: none of them ends with an error."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from policyctl.cli import ci, environments
from policyctl.cli.main import COMMANDS, MODEL_COMMANDS, POLICY_COMMANDS
from tests.cli.forges import TOKEN, forge_of
from tests.conftest import Policyctl
from tests.git_repo import commit, git

MODEL = "virtual-model/openai/gpt-4o"
# In this order, each with what it needs from those before it; `git commit` is between what needs no revision and what does.
DAY: tuple[tuple[str, ...], ...] = (
    ("help",),
    ("help", "tutorial"),
    ("init", "--ci", "github"),
    ("init",),
    ("validate",),
    ("fmt", "--check"),
    ("validate", "--deep", "-v"),
    ("validate", "--format", "full"),
    ("validate", "--format", "concise"),
    ("validate", "--format", "json"),
    ("validate", "--format", "github"),
    ("validate", "--format", "sarif"),
    ("test",),
    ("test", "--format", "junit"),
    ("plan",),
    ("plan", "--format", "json"),
    ("plan", "--format", "markdown"),
    ("plan", "--only", "example"),
    ("plan", "--out", "plan.json", "--report", "markdown=plan.md", "--report", "html=plan.html"),
    ("ci", "overrides", "--out", "overrides.json"),
    ("ci", "comment", "plan.md", "--plan", "plan.json"),
    ("ci", "approved"),
    ("ci", "drift", "plan.md", "--plan", "plan.json"),
    ("show", "plan.json"),
    ("apply", "plan.json", "--yes", "--audit", "audit.jsonl"),
    ("apply", "--yes", "--audit", "audit.jsonl"),
    ("plan", "--detailed-exitcode"),
    ("ci", "applied"),
    ("history", "--audit", "audit.jsonl"),
    ("history", "example", "--audit", "audit.jsonl", "--format", "json"),
    ("effect",),
    ("effect", "example"),
    ("effect", "policies/example.yaml", "--down", "gemini-2.0-flash=503"),
    ("effect", "example", "--against", "live"),
    ("pull",),
    ("policy", "list"),
    ("policy", "show", "example"),
    ("policy", "show", "--name", "virtual-policy/example", "--format", "json"),
    ("policy", "export", "example", "--output", "-"),
    ("policy", "export", "example", "--output", "example.yaml"),
    ("policy", "import", "--file", "example.yaml", "--yes"),
    ("policy", "add", "second", "--strategy", "single", "--model", MODEL, "--yes"),
    ("policy", "add", "second", "--strategy", "single", "--model", MODEL, "--save", "--yes"),
    ("policy", "remove", "second", "--save", "--yes"),
    ("policy", "remove", "second", "--yes"),
    ("model", "add", "openai/gpt-4o", "--app-id", "openai_creds", "--yes"),
    ("model", "list"),
    ("model", "show", "openai/gpt-4o"),
    ("model", "export", "openai/gpt-4o", "--output", "gpt-4o.yaml"),
    ("model", "import", "--file", "gpt-4o.yaml", "--yes"),
    ("model", "remove", "openai/gpt-4o", "--yes"),
    ("consumers",),
    ("env", "list"),
    ("env", "show", "local"),
    ("runs",),
    ("diff",),
    ("drift",),
    ("doctor",),
    ("completion", "bash"),
    ("rules",),
    ("rules", "P432"),
    ("schema",),
    ("schema", "plan"),
    ("git commit",),
    ("plan", "--base", "main"),
    ("plan", "--remote", "git:main"),
    ("effect", "example", "--against", "git:main"),
    ("apply", "--yes", "--audit", "audit.jsonl"),
    ("watch", "--once", "--port", "0"),
    ("serve",),
    ("gateway",),
)
NEEDS_A_DATABASE = {("worker",)}


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An empty repository, without a commit, whose workflows' variables are set."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=main")
    monkeypatch.chdir(folder)
    with forge_of("github") as forge:
        for name, value in forge.environ.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("GITHUB_TOKEN", TOKEN)
        yield folder


@contextmanager
def serving(command: str) -> Iterator[str]:
    """`policyctl serve` or `gateway`, on a port of its own choosing; the first line of its output. Its log is not looked at."""
    program = [sys.executable, "-m", "policyctl", command, "--port", "0"]
    with subprocess.Popen(program, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline()
        finally:
            process.terminate()


@pytest.mark.slow
def test_every_command_after_init_ends_without_an_error(repository: Path, policyctl: Policyctl) -> None:
    for command in DAY:
        if command == ("git commit",):
            commit(repository)
        elif command in {("serve",), ("gateway",)}:
            with serving(command[0]) as said:
                assert re.search(r"http://127\.0\.0\.1:\d+", said), said
        else:
            ran = policyctl(*command)
            assert ran.code == 0, (command, ran.out, ran.err)
            assert "error" not in ran.err, (command, ran.err)


def test_no_documented_command_is_missing_from_that_day() -> None:
    groups = {"policy": POLICY_COMMANDS, "model": MODEL_COMMANDS, "ci": ci.COMMANDS, "env": environments.ENV_COMMANDS}
    documented: set[tuple[str, ...]] = {(name,) for name in COMMANDS if name not in groups}
    documented |= {(group, name) for group, names in groups.items() for name in names}
    assert documented == {command[: 2 if command[0] in groups else 1] for command in DAY} - {("git commit",)} | NEEDS_A_DATABASE
