"""`policyctl watch` as it is deployed: a process with its page, probes, metrics, hook, notifications, and systemd's socket."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import ANYGEM, Policyctl, Project
from tests.patience import LONGEST
from tests.watch.receivers import dripping, receiving

pytestmark = pytest.mark.slow
SECRET = "a secret of the hook"


class Deployed:
    """A watch that runs, and the socket to which it reports each turn of its loop."""

    def __init__(self, process: subprocess.Popen[str], url: str, systemd: socket.socket) -> None:
        self.process, self.url, self.systemd = process, url, systemd

    def get(self, path: str) -> httpx.Response:
        return httpx.get(f"{self.url}{path}", timeout=LONGEST)

    def drain(self) -> None:
        """Read what was reported, as systemd does: the socket holds only a few datagrams."""
        self.systemd.setblocking(False)
        with suppress(BlockingIOError):
            while True:
                self.systemd.recv(100)
        self.systemd.settimeout(LONGEST)

    def until(self, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The status, once it is so. It can only change when the loop turns."""
        while not holds(status := self.get("/status.json").json()):
            self.systemd.recv(100)
        return dict(status)


@contextmanager
def deployed(project: Project, tmp_path: Path, *options: str, **environ: str) -> Iterator[Deployed]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(LONGEST)
        command = [sys.executable, "-m", "policyctl", "watch", "--port", "0", "--poll", "1h", *options]
        given = {**os.environ, "NOTIFY_SOCKET": str(tmp_path / "notify"), "HOOK": SECRET, **environ}
        with subprocess.Popen(command, env=given, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            url = process.stderr.readline().removeprefix("status at ").strip()
            try:
                yield Deployed(process, url, systemd)
            finally:
                process.kill()


@pytest.fixture
def watched(project: Project) -> Project:
    project.write("anygem.yaml", ANYGEM)
    project.write("policyctl.yaml", "environments: {local: {labels: {ring: canary}}}\nwatch: {interval: 1h}\n")
    return project


def test_it_shows_itself_and_ends_when_systemd_asks(watched: Project, tmp_path: Path) -> None:
    with deployed(watched, tmp_path, "--metric-label", "ring") as run:
        assert run.systemd.recv(100) == b"READY=1"
        run.until(lambda status: bool(status["environments"]))
        assert (run.get("/livez").status_code, run.get("/readyz").status_code) == (200, 200)
        metrics = run.get("/metrics").text
        assert 'policyctl_environment_info{environment="local",label_ring="canary",state="' in metrics
        assert 'policyctl_environment_interval_seconds{environment="local"} 3600.0' in metrics
        assert 'policyctl_reconcile_total{action="look"' in metrics
        assert "local" in run.get("/").text
        assert httpx.post(f"{run.url}/hook", content=b"{}", timeout=LONGEST).status_code == 404
        run.drain()
        run.process.send_signal(signal.SIGTERM)
        while run.systemd.recv(100) != b"STOPPING=1":
            pass
        assert run.process.wait(LONGEST) == 0


def test_a_hint_has_the_files_read(watched: Project, tmp_path: Path) -> None:
    with deployed(watched, tmp_path, "--hook-secret", "env:HOOK") as run:
        before = run.until(lambda status: bool(status["environments"]))["source"]["revision"]
        watched.write("second.yaml", ANYGEM.replace("name: anygem", "name: second"))
        token = {"X-Gitlab-Token": SECRET}
        assert httpx.post(f"{run.url}/hook", content=b"{}", headers=token, timeout=LONGEST).status_code == 202
        run.until(lambda status: status["source"]["revision"] != before)


def test_a_notification_that_did_not_arrive_is_sent_by_the_next_watch(watched: Project, tmp_path: Path) -> None:
    with socket.socket() as receiver:
        receiver.bind(("127.0.0.1", 0))  # it refuses connections until it listens
        config = Path(watched.policies / "policyctl.yaml")
        config.write_text(
            f"{config.read_text('utf-8')}notify: [{{name: team, url: env:HOOK_URL, states: [pending, conflict]}}]\n", "utf-8"
        )
        environ = {"HOOK_URL": f"http://127.0.0.1:{receiver.getsockname()[1]}/"}
        with deployed(watched, tmp_path, **environ) as run:
            run.until(lambda status: bool(status["environments"]))
            run.process.send_signal(signal.SIGTERM)
            assert run.process.wait(LONGEST) == 0
        spool = next(watched.policies.parent.rglob("notifications.json"))
        (message,) = json.loads(spool.read_text("utf-8"))["messages"]
        assert message["events"][0]["environment"] == "local"
        receiver.listen()
        receiver.settimeout(LONGEST)
        (tmp_path / "notify").unlink()
        with deployed(watched, tmp_path, **environ):
            connection, _ = receiver.accept()
            with connection:
                assert connection.recv(4) == b"POST"


def test_a_receiver_that_answers_without_end_holds_up_neither_others_nor_the_end(watched: Project, tmp_path: Path) -> None:
    config = Path(watched.policies / "policyctl.yaml")
    states = "states: [pending, conflict]"
    with dripping() as drip, receiving() as hook:
        notify = f"notify: [{{name: aaa, url: '{drip.url}', {states}}}, {{name: bbb, url: '{hook.url}', {states}}}]\n"
        config.write_text(config.read_text("utf-8") + notify, "utf-8")
        with deployed(watched, tmp_path) as run:
            assert drip.until(1)
            assert hook.arrived.wait(LONGEST)
            run.process.send_signal(signal.SIGTERM)
            assert run.process.wait(LONGEST) == 0
        assert len(drip.got) == 1


def test_wrong_options_are_one_line(watched: Project, policyctl: Policyctl) -> None:
    ran = policyctl("watch", "--hook-secret", "hunter2")
    assert (ran.code, "never the secret itself" in ran.err, "hunter2" in ran.err) == (64, True, False)
    assert "have the same name in Prometheus" in policyctl("watch", "--metric-label", "a-b", "--metric-label", "a/b").err
