"""`policyctl gateway` as a program: what it reads, takes over while it runs, refuses, and how it ends."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from policyctl.cli.apply import GatewayState, Wanted
from tests.conftest import Policyctl, Project
from tests.dropping_proxy import dropping, through
from tests.gateway.live import Running, running
from tests.patience import LONGEST

if TYPE_CHECKING:
    from tests.postgres import PostgresServer

MODEL = """\
spec_version: v1
kind: model
name: openai/{name}
provider_config:
  custom_host: {base}
  api_key: {key}
"""
A, B = "virtual-model/openai/a", "virtual-model/openai/b"


@dataclass
class Started:
    """A gateway in a process of its own."""

    process: subprocess.Popen[bytes]
    client: httpx.Client
    errors: Path

    def chat(self, model: str = "p", **more: Any) -> httpx.Response:
        return self.client.post("/v1/chat/completions", json={"model": model, "messages": [], **more})

    def until(self, true: Callable[[], bool]) -> None:
        """Wait until something is true."""
        end = time.monotonic() + LONGEST
        while not true():
            assert time.monotonic() < end, self.errors.read_text("utf-8")

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.errors.read_text("utf-8").splitlines()]


@contextmanager
def started(folder: Path, *args: str, **environment: str) -> Iterator[Started]:
    """Start the program on a free port, and end it with SIGTERM, which must do."""
    errors = folder / "errors"
    program = [sys.executable, "-m", "policyctl", "gateway", "--port", "0", "--poll", "0.05", *args]
    with (
        errors.open("wb") as log,
        subprocess.Popen(program, stdout=subprocess.PIPE, stderr=log, cwd=folder, env={**os.environ, **environment}) as process,
    ):
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        found = re.search(r"at (http://\S+)/v1$", line)
        assert found, line + errors.read_text("utf-8")
        try:
            with httpx.Client(base_url=found[1], trust_env=False, timeout=LONGEST) as client:
                one = Started(process, client, errors)
                one.until(lambda: _answers(client))
                yield one
        finally:
            process.send_signal(signal.SIGTERM)
            assert process.wait(LONGEST) == 0, errors.read_text("utf-8")


def _answers(client: httpx.Client) -> bool:
    try:
        return client.get("/livez").status_code == 200
    except httpx.ConnectError:
        return False


@pytest.fixture(scope="module")
def upstream() -> Iterator[Running]:
    with running() as live:
        yield live


def write_models(project: Project, upstream: Running, key: str = "env:KEY_OF_MODELS") -> None:
    for name in ("a", "b"):
        project.write(f"{name}.model.yaml", MODEL.format(name=name, base=upstream.upstream.base, key=key))


@pytest.mark.slow
def test_models_beside_the_policies_are_called_with_their_keys(project: Project, upstream: Running) -> None:
    write_models(project, upstream)
    project.policy("p", A, B)
    upstream.upstream.play({"a": [503]})
    with started(project.folder, KEY_OF_MODELS="key-of-the-models") as gateway:
        assert gateway.chat().headers["x-policyctl-served-by"] == B
        assert gateway.client.get("/readyz").json()["without_upstream"] == []
    assert [one.headers["authorization"] for one in upstream.upstream.heard] == ["Bearer key-of-the-models"] * 2
    assert "key-of-the-models" not in gateway.errors.read_text("utf-8")


@pytest.mark.slow
def test_a_connection_has_the_key_that_policyctl_yaml_refers_to(project: Project, upstream: Running) -> None:
    (project.policies / "key").write_text("key-in-a-file\n")
    text = MODEL.format(name="a", base=upstream.upstream.base, key="").replace("  api_key: \n", "app_id: conn\n")
    project.write("a.model.yaml", text)
    (project.policies / "policyctl.yaml").write_text("gateway: {connections: {conn: {api_key: 'file:key'}}}\n")
    project.policy("p", A)
    upstream.upstream.play({})
    with started(project.folder) as gateway:
        assert gateway.chat().status_code == 200
        (project.policies / "key").write_text("the-next-key\n")
        gateway.until(lambda: gateway.chat().status_code == 200 and _last_key(upstream) == "Bearer the-next-key")
    assert upstream.upstream.heard[0].headers["authorization"] == "Bearer key-in-a-file"


@pytest.mark.slow
def test_a_change_while_it_starts_is_taken(project: Project, upstream: Running) -> None:
    """Here the policies were read, and a key is still waited for."""
    key = project.folder / "key"
    os.mkfifo(key)
    (project.policies / "policyctl.yaml").write_text("gateway: {connections: {conn: {api_key: 'file:../key'}}}\n")
    project.write(
        "a.model.yaml", MODEL.format(name="a", base=upstream.upstream.base, key="").replace("  api_key: \n", "app_id: conn\n")
    )
    project.write("b.model.yaml", MODEL.format(name="b", base=upstream.upstream.base, key="env:KEY_OF_MODELS"))
    project.policy("p", A)

    def change() -> None:
        with key.open("w") as waited_for:  # once it is read
            project.policy("p", B)
            (project.folder / "next").write_text("key-in-a-file\n")
            (project.folder / "next").replace(key)
            waited_for.write("key-in-a-file\n")

    upstream.upstream.play({})
    with ThreadPoolExecutor(1) as beside:
        changed = beside.submit(change)
        with started(project.folder, KEY_OF_MODELS="key-of-the-models") as gateway:
            changed.result(LONGEST)
            gateway.until(lambda: gateway.chat().headers["x-policyctl-served-by"] == B)


def _last_key(upstream: Running) -> str:
    return upstream.upstream.heard[-1].headers["authorization"]


@pytest.mark.slow
def test_changed_files_are_taken_over_and_invalid_ones_are_not(project: Project) -> None:
    project.policy("p", A)
    with started(project.folder, "--pretend", "openai/a=503") as gateway:
        before = gateway.chat()
        assert before.status_code == 503
        project.policy("p", A, B)
        gateway.until(lambda: gateway.chat().status_code == 200)
        after = gateway.chat()
        assert before.headers["x-policyctl-version"] != after.headers["x-policyctl-version"]
        project.write("p.yaml", "spec_version: v1\nkind: model\nname: p\npolicy: {}\n")
        gateway.until(lambda: gateway.client.get("/readyz").json()["refused"] is not None)
        assert gateway.chat().headers["x-policyctl-version"] == after.headers["x-policyctl-version"]
        assert "p.yaml" in gateway.client.get("/readyz").json()["refused"]
        assert "policyctl_gateway_refused_sets 1" in gateway.client.get("/metrics").text
        (project.policies / "p.yaml").unlink()
        project.policy("q", B)
        gateway.until(lambda: gateway.client.get("/readyz").json()["refused"] is None)
        assert (gateway.chat("q").status_code, gateway.chat("p").status_code) == (200, 404)


@pytest.mark.slow
def test_what_is_applied_to_a_database_is_run(project: Project, policyctl: Policyctl) -> None:
    project.policy("p", A)
    assert policyctl("apply", "--yes", "--remote", "sqlite:///live.db").code == 0
    with started(project.folder, "--remote", "sqlite:///live.db", "--pretend", "openai/a=503") as gateway:
        assert gateway.chat().status_code == 503
        project.policy("p", A, B)
        assert gateway.chat().status_code == 503
        assert policyctl("apply", "--yes", "--remote", "sqlite:///live.db").code == 0
        gateway.until(lambda: gateway.chat().status_code == 200)


@pytest.mark.slow
def test_an_apply_to_postgresql_ends_once_every_replica_runs_it(project: Project, policyctl: Policyctl, database: str) -> None:
    project.policy("p", A)
    remote, pretend = ("--remote", database), ("--pretend", "openai/a=503")
    assert policyctl("apply", "--yes", *remote).code == 0
    with started(project.folder, *remote, *pretend, "--poll", "1") as one, started(project.folder, *remote, *pretend) as other:
        urls = f"{one.client.base_url},{other.client.base_url}"
        project.policy("p", A, B)
        began = time.monotonic()
        ran = policyctl("apply", "--yes", *remote, "--wait-gateways", urls, "--wait-seconds", f"{LONGEST}")
        assert ran.code == 0, ran.err
        assert [gateway.chat().status_code for gateway in (one, other)] == [200, 200]
        assert time.monotonic() - began < LONGEST
        (project.policies / "p.yaml").unlink()
        project.policy("q", A)
        late = policyctl("apply", "--yes", *remote, "--wait-gateways", f"{urls},http://127.0.0.1:9", "--wait-seconds", "0")
        assert (late.code, "everything is applied, but not every gateway runs" in late.err) == (5, True), late.err
        assert "http://127.0.0.1:9 cannot be asked: 127.0.0.1:9 cannot be reached" in late.err


@pytest.mark.slow
def test_a_database_that_hangs_keeps_no_key_valid_and_no_gateway_alive(
    project: Project, policyctl: Policyctl, postgres: PostgresServer
) -> None:
    """It shows that it cannot see changes."""
    hangs, goes_on = threading.Event(), threading.Event()

    def hang(_: bytes) -> bool:
        if hangs.is_set():
            goes_on.wait(LONGEST)
        return False

    keys = project.folder / "keys"
    keys.write_text("web key-of-the-web-0001\nold key-that-is-withdrawn\n")
    project.policy("p", A)
    with dropping(postgres.port, hang) as proxy:
        remote = ("--remote", through(proxy, postgres.new_database()))
        assert policyctl("apply", "--yes", *remote).code == 0
        with started(project.folder, *remote, "--pretend", "openai/a=200", "--keys-from", f"file:{keys}") as gateway:
            gateway.client.headers["authorization"] = "Bearer key-that-is-withdrawn"
            assert gateway.chat().status_code == 200
            hangs.set()
            keys.write_text("web key-of-the-web-0001\n")
            gateway.until(lambda: gateway.chat().status_code == 401)
            gateway.client.headers["authorization"] = "Bearer key-of-the-web-0001"
            assert gateway.chat().status_code == 200
            gateway.until(lambda: gateway.client.get("/readyz").json()["refused"] is not None)
        goes_on.set()


TWO_ENVIRONMENTS = """\
default: dev
manage: [policies, models]
environments: {dev: {remote: "sqlite:///../dev.db"}, prod: {remote: "sqlite:///../prod.db"}}
"""
HOSTED = "spec_version: v1\nkind: model\nname: openai/a\nprovider_config: {custom_host: 'https://%s.example/v1'}\n"


@pytest.mark.slow
def test_a_saved_plan_waits_for_gateways_on_the_remote_of_its_own_environment(project: Project, policyctl: Policyctl) -> None:
    project.write("policyctl.yaml", TWO_ENVIRONMENTS)
    project.policy("p", A)
    assert policyctl("apply", "--all", "--yes").code == 0
    prod = ("--remote", "sqlite:///prod.db", "--env", "prod", "--pretend", "openai=503")
    with started(project.folder, *prod) as gateway, started(project.folder, *prod, "--poll", "3600") as late:
        project.policy("p", A, B)
        assert policyctl("plan", "--env", "prod", "--out", "plan.json").code == 0
        ran = policyctl("apply", "plan.json", "--yes", "--wait-gateways", gateway.client.base_url)
        assert ran.code == 0, ran.err
        ran = policyctl("apply", "plan.json", "--yes", "--wait-gateways", late.client.base_url, "--wait-seconds", "0")
        assert (ran.code, "not every gateway runs" in ran.err) == (5, True), ran.err


@pytest.mark.slow
def test_an_apply_waits_until_gateways_call_a_model_where_it_is_now(project: Project, policyctl: Policyctl) -> None:
    """Also for one whose own files lead elsewhere; its description alone is nothing that a gateway uses."""
    project.write("policyctl.yaml", TWO_ENVIRONMENTS)
    project.policy("p", A)
    project.write("a.yaml", HOSTED % "one")
    assert policyctl("apply", "--yes").code == 0
    own = project.folder / "own"
    own.mkdir()
    remote = ("--remote", f"sqlite:///{project.folder}/dev.db", "--dir")
    with (
        started(project.folder, *remote, "none") as gateway,
        started(project.folder, *remote, "none", "--poll", "3600") as late,
        started(project.folder, *remote, "own") as other,
    ):
        (own / "a.yaml").write_text(HOSTED % "one", "utf-8")
        project.write("a.yaml", HOSTED % "one" + "description: x\n")
        urls = [str(one.client.base_url) for one in (gateway, late, other)]
        ran = policyctl("apply", "--yes", "--wait-gateways", ",".join(urls))
        assert ran.code == 0, ran.err
        project.write("a.yaml", HOSTED % "two")
        ran = policyctl("apply", "--yes", "--wait-gateways", urls[0])
        assert ran.code == 0, ran.err
        project.write("a.yaml", HOSTED % "three")
        other.until(lambda: other.client.get("/readyz").json()["own_models"] == [A])
        ran = policyctl("apply", "--yes", "--wait-gateways", ",".join(urls), "--wait-seconds", "3")
        assert ran.code == 5, ran.err
        assert f"{urls[0]} " not in ran.err
        assert f"{urls[1]} runs " in ran.err
        assert f"{urls[2]} calls {A} as files in its own directory have it" in ran.err
        (own / "a.yaml").write_text(HOSTED % "three", "utf-8")
        other.until(lambda: other.client.get("/readyz").json()["own_models"] == [])


@pytest.mark.parametrize(
    ("state", "why"),
    [
        (GatewayState(frozenset(["abc"])), ""),
        (GatewayState(frozenset(["old"])), "runs old"),
        (GatewayState(frozenset(["abc", "old"])), "runs abc, old"),
        (
            GatewayState(frozenset(["old"]), "p.yaml is invalid"),
            "runs old, because it refused what is newer: p.yaml is invalid",
        ),
        (GatewayState(problem="cannot be asked"), "cannot be asked"),
        (
            GatewayState(frozenset(["abc"]), own=frozenset(["m", "other"])),
            "calls m as files in its own directory have it; update these",
        ),
        (GatewayState(frozenset(["abc"]), own=frozenset(["other"])), ""),
    ],
)
def test_why_a_gateway_is_waited_for(state: GatewayState, why: str) -> None:
    assert state.why_not(Wanted("abc", frozenset(["m"]))) == why


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (("--wait-gateways", ","), "name at least one gateway"),
        (("--wait-gateways", "gateway-1"), "gateway-1 must be"),
        (("--wait-gateways", "http://127.0.0.1:9", "--all"), "--wait-gateways is for one environment"),
    ],
)
def test_gateways_that_cannot_be_waited_for_are_one_clear_line(
    project: Project, policyctl: Policyctl, arguments: tuple[str, ...], why: str
) -> None:
    project.policy("p", A)
    ran = policyctl("apply", "--yes", *arguments)
    assert (ran.code, why in ran.err) == (64, True), ran.err


@pytest.mark.slow
def test_requests_under_way_are_finished_before_it_ends(project: Project, upstream: Running) -> None:
    begun = threading.Event()

    async def slowly(writer: asyncio.StreamWriter, _: object) -> None:
        begun.set()
        await asyncio.sleep(0.5)
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 2\r\n\r\n{}")
        await writer.drain()

    write_models(project, upstream)
    project.policy("p", A)
    upstream.upstream.play({"a": [slowly]})
    with ThreadPoolExecutor() as pool, started(project.folder, KEY_OF_MODELS="key-of-the-models") as gateway:
        asked = pool.submit(gateway.chat)
        assert begun.wait(LONGEST)
        gateway.process.send_signal(signal.SIGTERM)
        assert asked.result(LONGEST).json() == {}


@pytest.mark.slow
def test_workers_share_a_port_and_their_counters_and_are_replaced(project: Project) -> None:
    project.policy("p", A, B)
    with started(project.folder, "--pretend", "openai/a=503", "--workers", "2", "--records", "records.jsonl") as gateway:
        for _ in range(20):
            with httpx.Client(base_url=gateway.client.base_url, trust_env=False, timeout=LONGEST) as fresh:
                assert fresh.post("/v1/chat/completions", json={"model": "p"}).status_code == 200
        counted = 'requests_total{policy="virtual-policy/p",operation="chat/completions",status="200"} 20'
        gateway.until(lambda: counted in gateway.client.get("/metrics").text)
        gateway.until(lambda: len(_records(project)) == 20)
        children = Path(f"/proc/{gateway.process.pid}/task/{gateway.process.pid}/children").read_text().split()
        assert len(children) == 2
        os.kill(int(children[0]), signal.SIGKILL)
        gateway.until(lambda: [line["event"] for line in gateway.log].count("started") == 3)
        (ended,) = [line for line in gateway.log if line["event"] == "worker ended"]
        assert (ended["pid"], ended["reason"]) == (int(children[0]), "signal 9")
    assert [one["answer"] for one in _records(project)[0]["attempts"]] == [503, 200]


@pytest.mark.slow
def test_workers_end_with_their_supervisor_however_that_ends(project: Project) -> None:
    """Otherwise they would share the port with the next gateway, and answer by the options of the last one."""
    project.policy("p", A)
    program = [sys.executable, "-m", "policyctl", "gateway", "--port", "0", "--workers", "2", "--pretend", "openai/a=503"]
    with subprocess.Popen(program, cwd=project.folder, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        while len(children.read_text().split()) < 2:
            time.sleep(0.01)
        process.kill()
        assert process.stdout.read() == b""  # it ends once the last worker has


def _records(project: Project) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (project.folder / "records.jsonl").read_text("utf-8").splitlines()]


REFUSED = {
    "another address without keys": (("--host", "0.0.0.0"), 3, "--keys-from"),
    "a key as itself": (("--keys-from", "sk-1234567890123456"), 64, "never a key itself"),
    "keys that are short": (("--keys-from", "file:short"), 64, "line 1"),
    "no file of keys": (("--keys-from", "file:none"), 64, "cannot be read"),
    "a pretence about nothing": (("--pretend", "google=503"), 64, "no policy has a model"),
    "a pretence that is not one": (("--pretend", "openai"), 64, "MODEL=ANSWER"),
    "an answer that is not one": (("--pretend", "openai=1000"), 64, "is not an answer"),
    "a rate above 1": (("--pretend", "openai=503:1.5"), 64, "is not a rate"),
    "more than all calls": (("--pretend", "openai=503:0.6,openai=429:0.6"), 64, "more than all"),
    "records in no directory": (("--records", "no/where"), 1, "cannot be written"),
    "records in no directory, of workers": (("--records", "no/where", "--workers", "2"), 1, "cannot be written"),
    "no file of keys for workers": (("--keys-from", "file:none", "--workers", "2"), 64, "cannot be read"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_it_does_not_start_with_what_cannot_be_meant(project: Project, policyctl: Policyctl, case: str) -> None:
    args, code, message = REFUSED[case]
    project.policy("p", A)
    (project.folder / "short").write_text("short\n")
    ran = policyctl("gateway", "--port", "0", *args)
    assert ran.code == code, ran.err
    assert message in ran.err
    assert "sk-1234567890123456" not in ran.err


def test_it_does_not_start_with_invalid_policies_or_none(project: Project, policyctl: Policyctl) -> None:
    assert policyctl("gateway").code == 1
    project.write("p.yaml", "spec_version: v1\nkind: model\nname: p\npolicy: {}\n")
    ran = policyctl("gateway")
    assert ran.code == 1
    assert "p.yaml:4" in ran.err
