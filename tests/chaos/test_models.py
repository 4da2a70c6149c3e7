"""Models and policies in one plan, and its apply killed at any write: no policy is ever without its models."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.directory import Directory
from tests.chaos.faults import Play
from tests.chaos.messages import Request, Upstream
from tests.chaos.mixed import draw, without_models
from tests.chaos.proxy import proxying, server_at
from tests.server.serving import Served, loopback, serving

RUNS = 6
SCOPE = ("*",)


@dataclass
class Killer:
    """Forwards requests, looks at the tenant after each write, and kills a process at its `number`th write."""

    upstream: Upstream
    url: str
    number: int
    between: bool
    process: subprocess.Popen[str] | None = None
    broken: list[str] = field(default_factory=list)
    _seen: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def play(self, request: Request) -> Play:
        if request.method == "GET":
            return Play(((0.0, self.upstream(request).raw),))
        with self._lock:
            self._seen += 1
            mine = self._seen == self.number
            if mine and not self.between:
                self._kill()
            given = self.upstream(request)
            self.broken += without_models(rows(self.url, "model_policy"), rows(self.url, "models"))
            if mine and self.between:
                self._kill()
        return Play(((0.0, given.raw),))

    def _kill(self) -> None:
        assert self.process is not None
        os.kill(self.process.pid, signal.SIGKILL)


def rows(url: str, kind: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = loopback.get(f"{url}/v1/{kind}").json()
    return found


def write(directory: Directory, url: str, documents: list[dict[str, Any]]) -> None:
    for file in (directory.folder / "policies").glob("*"):
        file.unlink()
    directory.write(url, documents, SCOPE)
    config = directory.folder / "policies/policyctl.yaml"
    config.write_text(json.dumps({**json.loads(config.read_text("utf-8")), "manage": ["policies", "models"]}), "utf-8")


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(tmp_path / "served.db", "--camel-case", "--allow-dangling") as running:
        yield running


@pytest.mark.parametrize("seed", range(RUNS))
def test_whenever_an_apply_is_killed_every_policy_has_its_models_and_a_second_one_finishes(
    seed: int, served: Served, tmp_path: Path
) -> None:
    """The server would allow a removed model that is still targeted; only the order of the changes prevents it."""
    rng = random.Random(f"models {seed}")
    directory = Directory(tmp_path / "project")
    write(directory, served.url, draw(rng))
    assert directory.run("apply", "--yes").code == 0
    killer = Killer(server_at(served.port), served.url, rng.randint(1, 8), rng.random() < 0.5)
    with proxying(killer.play) as proxy:
        write(directory, proxy.url, wanted := draw(rng))
        arguments = ("apply", "--yes", "--parallelism", str(rng.randint(1, 4)), "--allow-unseen-consumers")
        killed = directory.run(*arguments, meanwhile=lambda process: setattr(killer, "process", process))
        assert killed.code in (-signal.SIGKILL, 0), killed.err
        proxy.settle()
        again = directory.run(*arguments)
        assert (again.code, killer.broken) == (0, []), again.err + again.out
        assert directory.run("plan", "--detailed-exitcode").code == 0
    names = {f"virtual-policy/{one['name']}" if "policy" in one else one["name"] for one in wanted}
    assert {row["name"] for kind in ("models", "model_policy") for row in rows(served.url, kind)} == names
