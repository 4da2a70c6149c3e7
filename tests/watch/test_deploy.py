"""The files that run policyctl, each checked by the tool that people would use."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from click import Context

from policyctl.cli.init import DEPLOYS, deployment
from policyctl.cli.main import policyctl as policyctl_commands
from policyctl.gateway.observed import FAMILIES
from policyctl.remote.hosts import HostTally
from policyctl.watch import Board
from policyctl.watch.telemetry import QueueCollector, ReceiverCollector, WatchMetrics
from tests.conftest import Policyctl

BIN = Path(sys.executable).parent
PACKAGE = "policyctl==1.2.3"
KUBERNETES = deployment("kubernetes", Path("policies"), PACKAGE)
UNITS = deployment("systemd", Path("policies"), PACKAGE)


def tool(name: str) -> str:
    """The path of a program; without it, the test is skipped, and fails in CI."""
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI") == "true":
            pytest.fail(f"these tests need {name}")
        pytest.skip(f"there is no {name} on this machine")
    return found


def run(*command: str | Path, cwd: Path) -> str:
    ran = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout + ran.stderr


def written(folder: Path, files: dict[str, str]) -> list[Path]:
    for name, text in files.items():
        (folder / name).write_text(text, "utf-8")
    return [folder / name for name in files]


def metric_names() -> set[str]:
    metrics = WatchMetrics(Board(), tally=HostTally())
    metrics.add(ReceiverCollector())
    metrics.add(QueueCollector())
    names = {*metrics.names()}
    for name, (kind, _) in FAMILIES.items():
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        names |= {f"policyctl_gateway_{name}{suffix}" for suffix in suffixes}
    return names


def expressions() -> list[str]:
    files = deployment("monitoring", Path("policies"), PACKAGE)
    rules = [rule["expr"] for group in yaml.safe_load(files["alerts.yml"])["groups"] for rule in group["rules"]]
    panels = json.loads(files["dashboard.json"])["panels"]
    return rules + [target["expr"] for panel in panels for target in panel.get("targets", ())]


def test_every_metric_of_the_alerts_and_the_dashboard_exists_and_each_of_watch_is_shown() -> None:
    used = {name for text in expressions() for name in re.findall(r"\bpolicyctl_\w+", text)}
    assert used - metric_names() == set()
    unused = {name for name in metric_names() - used if "gateway" not in name and not name.endswith(("_sum", "_count"))}
    assert unused == set()


@pytest.mark.slow
def test_the_alert_rules_fire_when_they_should(tmp_path: Path) -> None:
    promtool = tool("promtool")
    written(tmp_path, deployment("monitoring", Path("policies"), PACKAGE))
    run(promtool, "check", "rules", "alerts.yml", cwd=tmp_path)
    tests = (Path(__file__).parent / "alerts.test.yml").read_text("utf-8")
    written(tmp_path, {"test.yml": f"rule_files: [alerts.yml]\n{tests}"})
    run(promtool, "test", "rules", "test.yml", cwd=tmp_path)
    tested = set(re.findall(r"alertname: (\w+)\n +exp_alerts:\n", tests))
    assert tested == set(re.findall(r"- alert: (\w+)", (tmp_path / "alerts.yml").read_text("utf-8")))


@pytest.mark.slow
def test_every_query_of_the_dashboard_is_one(tmp_path: Path) -> None:
    promtool = tool("promtool")
    rules = [
        {"record": f"query:{place}", "expr": text.replace("$__rate_interval", "1m")} for place, text in enumerate(expressions())
    ]
    written(tmp_path, {"queries.yml": yaml.safe_dump({"groups": [{"name": "queries", "rules": rules}]})})
    run(promtool, "check", "rules", "queries.yml", cwd=tmp_path)


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    panels = json.loads(deployment("monitoring", Path("policies"), PACKAGE)["dashboard.json"])["panels"]
    places = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(places) == len({*places})
    assert max(x for x, _ in places) == 23
    assert len({panel["id"] for panel in panels}) == len(panels)


@pytest.mark.slow
@pytest.mark.parametrize("folder", ["policies", "a b/100%", "."])
def test_the_units_are_valid_and_confined(tmp_path: Path, folder: str) -> None:
    analyze = tool("systemd-analyze")
    units = deployment("systemd", Path(folder), PACKAGE)
    paths = written(tmp_path, {name: text.replace("/opt/policyctl/bin", str(BIN)) for name, text in units.items()})
    assert run(analyze, "verify", "--man=no", *(path for path in paths if path.suffix != ".sh"), cwd=tmp_path) == ""
    for path in paths:
        if path.suffix == ".service":
            run(analyze, "security", "--offline=true", "--threshold=15", path, cwd=tmp_path)


@pytest.mark.slow
def test_the_container_file_is_clean(tmp_path: Path) -> None:
    files = deployment("container", Path("policies"), PACKAGE)
    assert 'ARG POLICYCTL_PACKAGE="policyctl[gateway,otel,postgres,server,watch]==1.2.3"' in files["Containerfile"]
    written(tmp_path, files)
    assert run(BIN / "hadolint", "--failure-threshold", "style", "Containerfile", cwd=tmp_path) == ""


def documents() -> list[tuple[str, dict[str, Any]]]:
    return [(name, document) for name, text in KUBERNETES.items() for document in yaml.safe_load_all(text)]


@pytest.mark.slow
def test_the_manifests_are_valid() -> None:
    for _, document in documents():
        kubernetes_validate.validate(document, "1.30", strict=True)


def test_every_pod_is_confined_and_has_what_it_refers_to() -> None:
    pods = {name: document["spec"]["template"]["spec"] for name, document in documents() if document["kind"] == "Deployment"}
    assert {*pods} == {"watch.yaml", "gateway.yaml", "serve.yaml"}
    for pod in pods.values():
        assert pod["securityContext"]["runAsNonRoot"]
        assert not pod["automountServiceAccountToken"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in [*pod["containers"], *pod.get("initContainers", ())]:
            assert container["securityContext"]["readOnlyRootFilesystem"]
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            assert {*container["resources"]["limits"]} == {"memory"}
            assert {mount["name"] for mount in container["volumeMounts"]} <= volumes
        (main,) = pod["containers"]
        assert {main[f"{probe}Probe"]["httpGet"]["path"] for probe in ("liveness", "startup")} == {"/livez"}
        assert main["readinessProbe"]["httpGet"]["path"] == "/readyz"


def test_services_and_network_policies_select_the_pods_and_their_port() -> None:
    for name in ("watch.yaml", "gateway.yaml", "serve.yaml"):
        by_kind = {document["kind"]: document for other, document in documents() if other == name}
        labels = by_kind["Deployment"]["spec"]["template"]["metadata"]["labels"]
        port = by_kind["Deployment"]["spec"]["template"]["spec"]["containers"][0]["ports"][0]["containerPort"]
        assert by_kind["Service"]["spec"]["selector"] == labels
        assert by_kind["Service"]["spec"]["ports"][0]["port"] == port
        policy = by_kind["NetworkPolicy"]["spec"]
        assert policy["podSelector"]["matchLabels"] == labels
        assert policy["ingress"][0]["ports"] == [{"port": port}]
    watch = next(document for name, document in documents() if name == "watch.yaml" and document["kind"] == "Deployment")
    assert (watch["spec"]["replicas"], watch["spec"]["strategy"]) == (1, {"type": "Recreate"})


def command_lines() -> list[list[str]]:
    starts = [re.findall(r"^ExecStart=/opt/policyctl/bin/policyctl (.*)$", text, re.MULTILINE) for text in UNITS.values()]
    pods = [document["spec"]["template"]["spec"] for _, document in documents() if document["kind"] == "Deployment"]
    every = [line.split() for found in starts for line in found] + [pod["containers"][0]["args"] for pod in pods]
    commands = policyctl_commands.list_commands(Context(policyctl_commands))
    return [line for line in every if line[0] in commands]


@pytest.mark.parametrize("line", command_lines(), ids=" ".join)
def test_every_command_line_has_only_options_that_the_command_has(line: list[str], policyctl: Policyctl) -> None:
    shown = policyctl(line[0], "--help").out
    assert "Usage:" in shown
    assert [option for option in line if option.startswith("--") and option not in shown] == []


@pytest.fixture
def bare(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with nothing in it."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_init_writes_the_files_beside_the_policies(bare: Path, policyctl: Policyctl) -> None:
    every = [f"--deploy={kind}" for kind in DEPLOYS]
    ran = policyctl("init", *every)
    assert ran.code == 0
    names = {path.name for path in Path("deploy").iterdir()}
    assert names == {path.name for path in (Path(__file__).parents[2] / "policyctl" / "deploy").iterdir()}
    assert policyctl("init", *every).out.count("already exists, skipped") >= len(names)


def test_a_policy_directory_that_is_the_repository_stays_valid(bare: Path, policyctl: Policyctl) -> None:
    subprocess.run(["git", "init", "-q"], cwd=bare, check=True)
    policyctl("init", "--dir", ".", "--deploy", "kubernetes")
    assert (bare / ".deploy" / "watch.yaml").is_file()
    assert policyctl("validate", "--dir", ".").code == 0
