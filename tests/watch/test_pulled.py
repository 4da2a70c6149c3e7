"""How the files that `init --deploy` writes get policies from Git, run as they are, wherever they are cut off."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import time
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from policyctl.cli.init import deployment
from policyctl.cli.options import Options
from policyctl.cli.serve import GatewayOptions, PolicySource
from policyctl.gateway.observed import Metrics
from policyctl.gateway.run import begin
from tests.conftest import Policyctl, Project
from tests.examples import crossed
from tests.git_repo import SURROUNDINGS, commit, git
from tests.patience import LONGEST
from tests.remote.fake_server import Reply, Seen, certificates, standing_in

PACKAGE = "policyctl==1.2.3"
SCRIPT = Path(__file__).parents[2] / "policyctl" / "deploy" / "pull.sh"
UNITS = deployment("systemd", Path("policies"), PACKAGE)
MANIFESTS = deployment("kubernetes", Path("policies"), PACKAGE)
PLAIN = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


@pytest.fixture
def repository(project: Project) -> Project:
    project.write("policyctl.yaml", "environments: {prod: {remote: local}}\n")
    for name in ("aaa", "bbb"):
        project.policy(name, "virtual-model/x/a")
    commit(project.folder, "policies")
    return project


def pull(repository: Project, folder: Path, programs: Path | None = None, source: str | None = None) -> int:
    """Run the script once, with the `programs` of a folder before all others. Its exit code."""
    path = f"{programs or folder}:{os.environ['PATH']}"
    given = {**SURROUNDINGS, "REPOSITORY": source or f"file://{repository.folder}", "BRANCH": "main", "PATH": path}
    return subprocess.run(["sh", SCRIPT, folder], env=given, check=False, stderr=subprocess.DEVNULL).returncode


def names(folder: Path) -> list[str]:
    return sorted(path.stem for path in (folder / "current" / "policies").glob("*.yaml"))


def test_a_pull_replaces_all_files_in_one_step_and_keeps_those_of_before_until_the_next(
    repository: Project, tmp_path: Path
) -> None:
    folder = tmp_path / "pulled"
    assert pull(repository, folder) == 0
    first = (folder / "current").resolve()
    git(repository.folder, "mv", "policies/aaa.yaml", "policies/zzz.yaml")
    commit(repository.folder, "policies")
    assert pull(repository, folder) == 0
    assert names(folder) == ["bbb", "policyctl", "zzz"]
    assert (first / "policies" / "aaa.yaml").exists()  # a gateway may be reading it
    assert pull(repository, folder) == 0
    assert sorted(path.name for path in folder.iterdir()) == [(folder / "current").resolve().name, "current", "pulled"]


@pytest.mark.parametrize(("program", "is_first"), crossed(["git", "sync", "mv", "ln"], [True, False]))
def test_a_pull_that_is_cut_off_leaves_a_whole_revision_and_the_next_one_goes_on(
    repository: Project, tmp_path: Path, program: str, *, is_first: bool
) -> None:
    folder, programs = tmp_path / "pulled", tmp_path / "programs"
    before = None
    if not is_first:
        assert pull(repository, folder) == 0
        before = names(folder)
    git(repository.folder, "mv", "policies/aaa.yaml", "policies/zzz.yaml")
    commit(repository.folder, "policies")
    programs.mkdir()
    real = f'PATH={shlex.quote(os.environ["PATH"])} {program} "$@"'
    # Git is ended in the middle of a checkout, which then lacks files; the others before they begin.
    killer = f"{real}; case $1 in clone) rm new/policies/*; kill -9 $PPID ;; esac" if program == "git" else "kill -9 $PPID"
    (programs / program).write_text(f"#!/bin/sh\n{killer}\n", "utf-8")
    (programs / program).chmod(0o755)
    assert pull(repository, folder, programs) != 0
    assert (names(folder) if (folder / "current").exists() else None) == before
    assert pull(repository, folder) == 0
    assert names(folder) == ["bbb", "policyctl", "zzz"]


def test_pulling_again_and_again_goes_on_after_a_failure_and_ends_with_a_signal(repository: Project, tmp_path: Path) -> None:
    later, folder = tmp_path / "later", tmp_path / "pulled"
    given = {**SURROUNDINGS, "REPOSITORY": f"file://{later}", "BRANCH": "main"}
    with subprocess.Popen(["sh", SCRIPT, folder, "0.1"], env=given, stderr=subprocess.PIPE, text=True, cwd="/") as process:
        try:
            assert process.stderr is not None
            next(line for line in process.stderr if "the newest policies could not be pulled" in line)
            assert not (folder / "current").exists()
            later.symlink_to(repository.folder)
            deadline = time.monotonic() + LONGEST
            while not (folder / "pulled").exists() and time.monotonic() < deadline:
                time.sleep(0.05)
            assert names(folder) == ["aaa", "bbb", "policyctl"]
            process.terminate()
            assert process.wait(LONGEST) == 0
        finally:
            process.kill()


def own_options(pulled: Path | None = None) -> GatewayOptions:
    return GatewayOptions("127.0.0.1", 0, None, None, None, 1, None, 1, 1, 1, pulled)


def test_a_gateway_takes_what_was_pulled(repository: Project, tmp_path: Path) -> None:
    folder = tmp_path / "pulled"
    pull(repository, folder)
    options = Options(dir=folder / "current" / "policies")
    source = PolicySource(options, own_options(), pretend=True)
    table, signature = begin(source)
    assert sorted(table.policies) == ["virtual-policy/aaa", "virtual-policy/bbb"]
    (repository.policies / "aaa.yaml").unlink()
    commit(repository.folder, "policies")
    pull(repository, folder)
    assert source.signature() != signature
    assert sorted(source.load().policies) == ["virtual-policy/bbb"]


def test_a_pull_that_fails_is_seen_by_the_time_of_the_last_one(repository: Project, tmp_path: Path) -> None:
    folder = tmp_path / "pulled"
    pull(repository, folder)
    os.utime(folder / "pulled", (1000, 1000))
    assert pull(repository, folder, source=f"file://{tmp_path}/moved") != 0
    assert names(folder) == ["aaa", "bbb", "policyctl"]
    shown = "policyctl_gateway_pulled_timestamp_seconds 1000\n"
    assert shown in Metrics(pulled=folder / "pulled").text()
    pull(repository, folder)
    assert shown not in Metrics(pulled=folder / "pulled").text()
    assert "\npolicyctl_gateway_pulled" not in Metrics().text()
    missing = Metrics(pulled=tmp_path / "never").text()
    assert re.search(r"^policyctl_gateway_pulled_timestamp_seconds 1\d{9}$", missing, re.MULTILINE)


def unit(name: str) -> tuple[list[str], dict[str, str]]:
    """The command line of a unit, and its variables."""
    given = dict[str, str]()
    for line in re.findall(r"^Environment=(.*)$", UNITS[name], re.MULTILINE):
        given |= dict(one.split("=", 1) for one in shlex.split(line))
    (start,) = re.findall(r"^ExecStart=(.*)$", UNITS[name], re.MULTILINE)
    return shlex.split(start), given


def manifest() -> tuple[list[str], dict[str, str]]:
    """The same of the watch on Kubernetes."""
    pods = [one for one in yaml.safe_load_all(MANIFESTS["watch.yaml"]) if one["kind"] == "Deployment"]
    (container,) = pods[0]["spec"]["template"]["spec"]["containers"]
    settings, script = yaml.safe_load_all(MANIFESTS["repository.yaml"])
    assert {"configMapRef": {"name": settings["metadata"]["name"]}} in container["envFrom"]
    assert script["data"]["pull.sh"] == SCRIPT.read_text("utf-8")
    return ["policyctl", *container["args"]], settings["data"]


@pytest.mark.parametrize("where", ["systemd", "kubernetes"])
def test_a_watch_fetches_the_branch_by_itself(
    repository: Project, policyctl: Policyctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """Nothing is checked out, so nothing can be cut off in the middle of it."""
    (_, *line), given = unit("policyctl-watch.service") if where == "systemd" else manifest()
    given |= {"REPOSITORY": str(repository.folder)}
    words = [re.sub(r"\$[{(](\w+)[})]", lambda found: given[found[1]], word) for word in line]
    words = [re.sub(r"^(/var/lib/policyctl|/state)", str(tmp_path / "state"), word) for word in words]
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "state").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    ran = policyctl(*words, "--once")
    assert (ran.code, "prod" in ran.out) == (0, True)
    assert f"revision {git(repository.folder, 'rev-parse', 'HEAD')[:19]} is in use" in ran.err
    assert [*(tmp_path / "elsewhere").iterdir()] == []


@pytest.fixture
def private() -> Iterator[Any]:
    """A host of repositories that refuses every request, and keeps what it was asked."""

    def answer(_: Seen) -> Reply:
        return Reply(401, {}, {"WWW-Authenticate": 'Basic realm="x"'})

    with standing_in(answer, tls=True) as host:
        yield host


@pytest.mark.parametrize("where", ["systemd", "kubernetes"])
def test_a_watch_logs_in_with_the_token(
    private: Any, policyctl: Policyctl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    _, given = unit("policyctl-watch.service") if where == "systemd" else manifest()
    for name, value in given.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("REPOSITORY_TOKEN", "canary-secret")
    monkeypatch.setenv("GIT_SSL_CAINFO", str(certificates() / "ca.pem"))
    ran = policyctl("watch", "--once", "--source", f"{private.url}/policies.git", "--state", tmp_path / "state")
    assert "the source cannot be fetched: " in ran.err
    assert "canary-secret" not in ran.err
    basic = b64encode(b"policyctl:canary-secret").decode()
    assert f"Basic {basic}" in [one.headers.get("authorization") for one in private.seen]
