"""Parts of the gateway by themselves: the file of records, keys of connections, the changes that it follows."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

import pytest

from policyctl.errors import PolicyctlError
from policyctl.gateway import run as run_module
from policyctl.gateway.app import CallerKeys, GatewayApp
from policyctl.gateway.observed import EventLog, Lines, Metrics, Observer, Records
from policyctl.gateway.relay import HttpUpstreams
from policyctl.gateway.run import following
from policyctl.gateway.table import NoUpstream, PolicySnapshot, RouteTable, upstream_of
from policyctl.load.environment import GatewayConnection
from tests.patience import LONGEST


def test_records_whose_directory_vanished_are_written_to_nothing_else(tmp_path: Path) -> None:
    """The number of a file that was closed may be the next client's connection."""
    folder = tmp_path / "records"
    folder.mkdir()
    records = Records(folder / "records.jsonl")
    shutil.rmtree(folder)
    records.write({"n": 1})
    with (tmp_path / "other").open("wb") as other:
        records.write({"n": 2})
        assert os.fstat(other.fileno()).st_size == 0
    folder.mkdir()
    records.write({"n": 3})
    assert (folder / "records.jsonl").read_text() == '{"n":3}\n'
    os.close(records.descriptor)


WORKERS = """
import os, pathlib
from policyctl.gateway.observed import Records

records = Records(pathlib.Path("records.jsonl"), 1300)
for worker in range(3):
    if not os.fork():
        for number in range(200):
            records.write([worker, number])
        os._exit(0)
assert [os.wait()[1] for _ in range(3)] == [0, 0, 0]
"""


@pytest.mark.slow
def test_workers_that_rotate_the_same_records_lose_none(tmp_path: Path) -> None:
    """Also workers that begin with the same open file."""
    subprocess.run([sys.executable, "-c", WORKERS], cwd=tmp_path, check=True, timeout=LONGEST)
    files = sorted(tmp_path.iterdir())
    lines = [tuple(json.loads(line)) for file in files for line in file.read_text().splitlines()]
    assert sorted(lines) == [(worker, number) for worker in range(3) for number in range(200)]
    assert len(files) > 2


@pytest.mark.parametrize("whose", ["of another user", "of the same user"])
def test_the_number_of_a_worker_that_ended_may_be_that_of_another_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whose: str
) -> None:
    """Its counters stay, and it has nothing in flight."""

    def others(*_: object) -> NoReturn:
        raise PermissionError

    ended = Metrics(tmp_path)
    ended.add("requests_total", status="200")
    ended.add("requests_in_flight")
    ended.share()
    file = (tmp_path / f"{os.getpid()}.json").rename(tmp_path / f"{os.getppid()}.json")
    if whose == "of another user":
        monkeypatch.setattr(os, "kill", others)
    else:
        os.utime(file, (0, 0))
    text = Metrics(tmp_path).text()
    assert 'requests_total{status="200"} 1' in text
    assert "requests_in_flight 1" not in text


@pytest.mark.parametrize("alive", [True, False])
def test_a_gateway_reports_the_revisions_of_all_workers_that_are_alive(tmp_path: Path, alive: bool) -> None:
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for revision in ("older", "old"):
        other = Observer(Metrics(tmp_path), EventLog(Lines(nowhere)))
        other.note(revision, refused=False)
        other.metrics.share()
    file = (tmp_path / f"{os.getpid()}.json").rename(tmp_path / f"{os.getppid()}.json")
    if not alive:
        os.utime(file, (0, 0))
    table = RouteTable(PolicySnapshot({}))
    app = GatewayApp(table, HttpUpstreams, Observer(Metrics(tmp_path), EventLog(Lines(nowhere))))
    _, _, body = app._content("GET", "/readyz", [])
    os.close(nowhere)
    found = json.loads(body)
    assert (found["revision"], found["revisions"]) == (table.revision, sorted({table.revision, *(["old"] * alive)}))


class Passing:
    """A source whose policies cannot be read at the first look, and whose keys cannot at the second; no file changes after."""

    every = 0.001

    def __init__(self) -> None:
        self.looks = self.loads = 0

    def signature(self) -> object:
        return "changed"

    def load(self) -> RouteTable:
        self.loads += 1
        if self.loads == 1:
            raise PolicyctlError("the database is locked")
        return RouteTable(PolicySnapshot({"virtual-policy/new": {"name": "new", "policy": {}}}))

    def keys(self) -> CallerKeys | None:
        self.looks += 1
        if self.looks == 2:
            raise PolicyctlError("the file of keys is empty")
        return None


def test_a_fault_that_passes_does_not_stay() -> None:
    """The new policies are taken once they can be read, and what was refused is no longer shown."""
    source = Passing()

    async def until_taken() -> tuple[list[str], str | None]:
        app = GatewayApp(RouteTable(PolicySnapshot({})), HttpUpstreams, Observer(Metrics(), EventLog(Lines(nowhere))))
        beside = asyncio.ensure_future(following(source, "old")(app, asyncio.Event()))
        async with asyncio.timeout(LONGEST):
            while source.looks < 6 or not app.table.policies:
                await asyncio.sleep(0.001)
        beside.cancel()
        with suppress(asyncio.CancelledError):
            await beside
        return list(app.table.policies), app.refused

    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        assert asyncio.run(until_taken()) == (["virtual-policy/new"], None)
    finally:
        os.close(nowhere)


class Hanging(Passing):
    """A source that never answers whether policies have changed."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def signature(self) -> object:
        self.released.wait(LONGEST)
        return "old"


def test_keys_are_followed_and_a_gateway_ends_while_its_remote_hangs() -> None:
    """A key that was withdrawn would be taken as long, and a signal would end nothing."""
    source = Hanging()

    async def until_looked() -> None:
        app = GatewayApp(RouteTable(PolicySnapshot({})), HttpUpstreams, Observer(Metrics(), EventLog(Lines(nowhere))))
        beside = asyncio.ensure_future(following(source, "old")(app, asyncio.Event()))
        async with asyncio.timeout(LONGEST):
            while source.looks < 6:
                await asyncio.sleep(0.001)
        beside.cancel()

    nowhere, began = os.open(os.devnull, os.O_WRONLY), time.monotonic()
    try:
        asyncio.run(until_looked())
        assert time.monotonic() - began < LONGEST
    finally:
        source.released.set()
        os.close(nowhere)


class Away(Passing):
    """A source that is waited for at each look, in vain."""

    def signature(self) -> object:
        self.looks += 1
        threading.Event().wait(0.5)
        raise PolicyctlError("the database is away")

    def keys(self) -> CallerKeys | None:
        return None


@pytest.mark.slow
def test_a_remote_that_was_waited_for_is_looked_at_again_soon() -> None:
    """Only the work of a look puts off the next one: once a database is back, its policies are run."""
    source = Away()

    async def until_looked_again() -> None:
        app = GatewayApp(RouteTable(PolicySnapshot({})), HttpUpstreams, Observer(Metrics(), EventLog(Lines(nowhere))))
        beside = asyncio.ensure_future(following(source, "old")(app, asyncio.Event()))
        async with asyncio.timeout(12):  # with a pause for the time that was waited it would be 17
            while source.looks < 4:
                await asyncio.sleep(0.001)
        beside.cancel()

    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        asyncio.run(until_looked_again())
    finally:
        os.close(nowhere)


class Lifespan:
    """A server that starts an application and ends it; `policies` are those that its first request would meet."""

    def __init__(self, app: GatewayApp) -> None:
        self.app = app
        self.over = asyncio.Event()
        self.policies: list[str] = []

    async def run(self) -> None:
        await self.app({"type": "lifespan"}, self._receive, self._send)

    async def _receive(self) -> dict[str, Any]:
        if self.policies:
            await self.over.wait()
        return {}

    async def _send(self, message: Any) -> None:
        if message["type"] == "lifespan.startup.complete":
            self.policies = list(self.app.table.policies)
            self.over.set()


class Changing(Passing):
    """A source that changes while it is read the first time."""

    signatures = 0

    def signature(self) -> object:
        self.signatures += 1
        return min(self.signatures, 2)


STARTS = {"at once": (3600.0, "virtual-policy/first"), "later": (0.0, "virtual-policy/new")}


@pytest.mark.parametrize("kind", [Passing, Changing])
@pytest.mark.parametrize("start", STARTS)
def test_a_worker_that_is_started_later_looks_before_its_first_request(start: str, kind: type[Passing]) -> None:
    """Otherwise it would run old policies, and take keys that were withdrawn, until its first look."""
    source, first = kind(), RouteTable(PolicySnapshot({"virtual-policy/first": {"name": "first", "policy": {}}}))
    source.loads = 1  # the next one succeeds
    source.every, policies = STARTS[start]
    follow = following(source, "old")
    source.every = 3600.0 if kind is Passing else 0.01

    async def until_started() -> list[str]:
        server = Lifespan(GatewayApp(first, HttpUpstreams, Observer(Metrics(), EventLog(Lines(nowhere))), follow=follow))
        async with asyncio.timeout(LONGEST):
            await server.run()
        return server.policies

    nowhere = os.open(os.devnull, os.O_WRONLY)
    try:
        assert asyncio.run(until_started()) == [policies]
    finally:
        with suppress(OSError):
            os.close(nowhere)


def _resolved(_: str, reference: str) -> str:
    return f"secret of {reference}"


CONNECTIONS = {
    "pinned": GatewayConnection("env:K", "https://models.example/v1"),
    "free": GatewayConnection("env:K"),
}
HOSTS: dict[str, tuple[str, str | None, str | None]] = {
    "the connection's": ("pinned", None, "https://models.example/v1"),
    "the same, another path": ("pinned", "https://models.example/v2", "https://models.example/v2"),
    "another": ("pinned", "https://elsewhere.example/v1", None),
    "another port": ("pinned", "https://models.example:444/v1", None),
    "one below": ("pinned", "https://models.example.elsewhere.example/v1", None),
    "of a connection without one": ("free", "https://elsewhere.example/v1", "https://elsewhere.example/v1"),
}


@pytest.mark.parametrize("case", HOSTS)
def test_the_key_of_a_connection_goes_to_the_host_of_the_connection(case: str) -> None:
    """Also where someone changes the address of a model that is live."""
    app_id, host, base = HOSTS[case]
    model: dict[str, Any] = {"name": "virtual-model/openai/a", "app_id": app_id}
    if host is not None:
        model["provider_config"] = {"custom_host": host}
    if base is None:
        with pytest.raises(NoUpstream, match="key goes to that host alone"):
            upstream_of(model, None, CONNECTIONS, _resolved)
        return
    found = upstream_of(model, None, CONNECTIONS, _resolved)
    assert (found.base, found.key) == (base, "secret of env:K")
    assert "secret" not in repr(found)


def test_a_policy_that_leads_back_to_itself_is_not_pretended_to_serve() -> None:
    body = {"strategy": {"mode": "single"}, "targets": [{"model_name": "virtual-policy/p"}]}
    table = RouteTable(PolicySnapshot({"virtual-policy/p": {"name": "virtual-policy/p", "policy": body}}), pretend=True)
    assert table.upstream("virtual-policy/p") is None
    assert "leads back to itself" in table.why_not("virtual-policy/p")


def test_a_worker_that_ended_is_logged_and_waited_for_longer_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    logged: list[dict[str, Any]] = []
    clock = [0.0]

    def sleep(seconds: float) -> None:
        clock[0] += seconds

    app = SimpleNamespace(observer=SimpleNamespace(log=lambda level, event, **fields: logged.append(fields)))
    supervisor = run_module._Supervisor(app, None, 1)  # type: ignore[arg-type]
    monkeypatch.setattr(run_module, "time", SimpleNamespace(monotonic=lambda: clock[0], sleep=sleep))
    waits = []
    for status, lived in ((9, 0.0), (256, 0.0), (256, 0.0), (256, 60.0)):
        began = clock[0]
        supervisor._pause(1, status, lived)
        waits.append(clock[0] - began)
    assert waits == [1.0, 2.0, 4.0, 0.0]
    assert [one["reason"] for one in logged] == ["signal 9", "exit code 1", "exit code 1", "exit code 1"]
