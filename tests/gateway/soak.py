"""Traffic through `policyctl gateway` with two workers, while policies are applied, an upstream dies and workers are killed.

Is every request that was accepted answered, or its connection ended? Does any run a policy that is half old and half new?

    python -m tests.gateway.soak [--seconds 60] [--clients 24]
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.forks import forking
from tests.gateway.dying_upstream import DyingUpstream, Loop, in_a_loop
from tests.gateway.soak_traffic import PLACES, Kill, Tally, clients, repeats_of
from tests.patience import LONGEST

KILL_EVERY = 10.0
# An upstream answers, then fails, answers again, then is dead; the seconds of each.
COURSE = (("answers", 1.5), ("fails", 1.0), ("answers", 1.5), ("dead", 1.5))

CONFIG = "manage: [policies, models]\n"
MODEL = """\
spec_version: v1
kind: model
name: openai/v{version}-{place}
provider_config: {{custom_host: "http://127.0.0.1:{port}/v{version}"}}
"""
POLICY = """\
spec_version: v1
kind: model
name: p
policy:
  strategy: {{mode: fallback, on_status_codes: [500, 503]}}
  retry: {{attempts: {repeats}, on_status_codes: [503]}}
  targets: [{targets}]
"""


class Soak:
    """One soak in a directory: its upstreams, of which the second never fails, and what is noted."""

    def __init__(self, folder: Path, loop: Loop, program: Path) -> None:
        self.folder = folder
        self.loop = loop
        self.program = program
        self.tally = Tally()
        self.dying, self.sound = DyingUpstream(), DyingUpstream()
        for upstream in (self.dying, self.sound):
            loop.call(upstream.live())

    def apply(self) -> None:
        """Apply the next version to the database that the gateway runs: a policy, and models that no other version has."""
        version = len(self.tally.applied)
        directory = self.folder / "policies"
        directory.mkdir(exist_ok=True)
        (directory / "policyctl.yaml").write_text(CONFIG)
        ports = (self.dying.port, self.dying.port, self.sound.port)
        models = [MODEL.format(version=version, place=place, port=port) for place, port in zip(PLACES, ports, strict=True)]
        (directory / "models.yaml").write_text("---\n".join(models))
        targets = ", ".join(f"{{model_name: virtual-model/openai/v{version}-{place}}}" for place in PLACES)
        (directory / "p.yaml").write_text(POLICY.format(repeats=repeats_of(version), targets=targets))
        command = [str(self.program), "apply", "--yes", "--quiet", "--remote", "sqlite:///live.db"]
        ran = subprocess.run(command, cwd=self.folder, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        self.tally.applied.append(time.monotonic())

    def fail(self, seconds: float) -> None:
        """Let the first upstream be what it is to be after so many seconds."""
        within = seconds % sum(length for _, length in COURSE)
        state = next(state for number, (state, _) in enumerate(COURSE) if within < sum(one for _, one in COURSE[: number + 1]))
        self.dying.status = 503 if state == "fails" else 200
        if (state == "dead") == self.dying.is_alive:
            self.loop.call(self.dying.die() if state == "dead" else self.dying.live())
            self.tally.deaths += state == "dead"

    def close(self) -> None:
        """End the upstreams."""
        for upstream in (self.dying, self.sound):
            if upstream.is_alive:
                self.loop.call(upstream.die())

    def kill(self, supervisor: int) -> None:
        """Kill a worker. The time is noted before it ends and after."""
        workers = [int(one) for one in Path(f"/proc/{supervisor}/task/{supervisor}/children").read_text().split()]
        if workers:
            self.tally.kills.append(Kill(time.monotonic()))
            os.kill(workers[0], signal.SIGKILL)
            while Path(f"/proc/{workers[0]}").exists():  # until its supervisor has noticed
                time.sleep(0.001)
            self.tally.kills[-1].ended = time.monotonic()


def soak(folder: Path, *, seconds: float, clients_at_once: int, gateway: Sequence[str] = ("-m", "policyctl")) -> Tally:
    """Send requests for so many seconds to a gateway that Python runs with these arguments."""
    with ExitStack() as stack:
        run = Soak(folder, stack.enter_context(in_a_loop()), stack.enter_context(forking()))
        stack.callback(run.close)
        run.apply()
        process, url = stack.enter_context(_running(folder, gateway))
        calls = [run.dying.calls, run.sound.calls]
        with clients(url, clients_at_once, run.tally, calls):
            began = next_apply = time.monotonic()
            next_kill = began + min(KILL_EVERY, seconds / 3)
            while (now := time.monotonic()) < began + seconds:
                run.fail(now - began)
                if now >= next_apply:
                    next_apply = now + 1
                    run.apply()
                if now >= next_kill:
                    next_kill = now + KILL_EVERY
                    run.kill(process.pid)
                time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        if code := process.wait(LONGEST):
            run.tally.count("", f"the gateway ended with {code}")
        for line in map(json.loads, (folder / "log").read_text().splitlines()):
            if line["event"] in ("bug", "library", "refused"):
                run.tally.count("", f"the gateway logged {line}")
    return run.tally


@contextmanager
def _running(folder: Path, gateway: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """The gateway, and its URL."""
    command = [sys.executable, *gateway, "gateway", "--port", "0", "--workers", "2", "--poll", "0.2", "--dir", "nothing"]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            [*command, "--remote", "sqlite:///live.db"], cwd=folder, stdout=subprocess.PIPE, stderr=log, text=True
        ) as process,
    ):
        try:
            assert process.stdout is not None
            found = re.search(r"at (http://\S+)/v1", process.stdout.readline())
            assert found, (folder / "log").read_text()
            yield process, found[1]
        finally:
            process.terminate()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=24)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = soak(Path(folder), seconds=given.seconds, clients_at_once=given.clients)
    columns: dict[str, str | int] = {
        "time": f"{given.seconds:,.0f} s",
        "applies": len(tally.applied) - 1,
        "deaths of an upstream": tally.deaths,
        "workers killed": len(tally.kills),
        "answers": tally.answers["answer whole"],
        "streams": tally.answers["stream whole"],
        "answers that broke off (500)": tally.answers["500"],
        "streams that broke off": tally.answers["stream error"] + tally.answers["stream broken"],
        "connections ended by a kill": tally.ended,
        "versions run": len(tally.versions),
        "mistakes": len(tally.mistakes),
    }
    print("| " + " | ".join(columns) + " |")
    print("|" + "---:|" * len(columns))
    print("| " + " | ".join(f"{value:,}" if isinstance(value, int) else value for value in columns.values()) + " |")
    for line in tally.mistakes[:20]:
        print(f"  {line}")
    raise SystemExit(1 if tally.mistakes else 0)


if __name__ == "__main__":
    main()
