"""Traffic through `policyctl gateway` with two workers, while policies are applied, upstreams fail and workers are killed.

Is every request that was accepted answered, or its connection ended? Does any run a policy that is half old and half new?

    python -m tests.gateway.soak [--seconds 60] [--clients 8]
"""

from __future__ import annotations

import argparse
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import httpx

from tests.gateway.live import ScriptedUpstream, running

PAUSE = 0.01  # seconds between two requests of a client: about half of what two workers answer on two cores
KILL_EVERY = 10.0
FAIL_FOR, FAIL_EVERY = 1.0, 4.0
ENDED_BY_A_KILL = 40  # requests that were under way or waiting at a killed worker

MODEL = """\
spec_version: v1
kind: model
name: openai/{name}
provider_config: {{custom_host: "{base}", api_key: "env:KEY_OF_MODELS"}}
"""
POLICY = """\
spec_version: v1
kind: model
name: p
policy:
  strategy: {{mode: fallback, on_status_codes: [503]}}
  retry: {{attempts: {attempts}, on_status_codes: [503]}}
  targets: [{{model_name: virtual-model/openai/{first}}}, {{model_name: virtual-model/openai/b}}]
"""


@dataclass
class Tally:
    """What clients saw: answers, connections that ended, and what must not be; which first targets each version led to."""

    answered: int = 0
    ended: int = 0
    kills: int = 0
    applies: int = 0
    wrong: Counter[str] = field(default_factory=Counter)
    served: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def note(self, response: httpx.Response) -> None:
        with self.lock:
            if response.status_code != 200 or not response.json().get("id"):
                self.wrong[f"{response.status_code} {response.text[:200]}"] += 1
                return
            self.answered += 1
            self.served[response.headers["x-policyctl-version"]].add(response.headers["x-policyctl-served-by"])

    @property
    def mistakes(self) -> list[str]:
        """What must not be."""
        found = [f"{times} × {what}" for what, times in self.wrong.items()]
        mixed = [version for version, models in self.served.items() if len({*models} - {"virtual-model/openai/b"}) > 1]
        found += [f"version {version} led to {', '.join(sorted(self.served[version]))}" for version in mixed]
        if self.ended > ENDED_BY_A_KILL * self.kills:
            found.append(f"{self.ended} connections ended by {self.kills} kills")
        return found


def soak(folder: Path, *, seconds: float, clients: int) -> Tally:
    """Send requests for so many seconds."""
    tally, over = Tally(), threading.Event()
    with ExitStack() as stack:
        live = stack.enter_context(running())
        write(folder, live.upstream.base, 0)
        for name in ("a1", "a2", "b"):
            (folder / "policies" / f"{name}.yaml").write_text(MODEL.format(name=name, base=live.upstream.base))
        apply(folder)
        process, url = _gateway(stack, folder)
        threads = [threading.Thread(target=_send, args=(url, tally, over)) for _ in range(clients)]
        for thread in threads:
            thread.start()
        end, next_kill = time.monotonic() + seconds, time.monotonic() + min(KILL_EVERY, seconds / 3)
        while time.monotonic() < end:
            tally.applies += 1
            write(folder, live.upstream.base, tally.applies)
            apply(folder)
            _fail(live.upstream)
            if time.monotonic() >= next_kill:
                next_kill += KILL_EVERY
                os.kill(_workers(process.pid)[0], signal.SIGKILL)
                tally.kills += 1
            over.wait(0.6)  # applies a second, with what one takes
        over.set()
        for thread in threads:
            thread.join()
        process.send_signal(signal.SIGTERM)
        if code := process.wait(60):
            tally.wrong[f"the gateway ended with {code}"] += 1
    return tally


def write(folder: Path, base: str, number: int) -> None:
    """The policy with another first target in each version."""
    directory = folder / "policies"
    directory.mkdir(exist_ok=True)
    (directory / "p.yaml").write_text(POLICY.format(first=f"a{1 + number % 2}", attempts=number % 3))


def apply(folder: Path) -> None:
    """Apply the files to the database that the gateway runs."""
    command = [sys.executable, "-m", "policyctl", "apply", "--yes", "--quiet", "--remote", "sqlite:///live.db"]
    ran = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr


def _gateway(stack: ExitStack, folder: Path) -> tuple[subprocess.Popen[str], str]:
    log = stack.enter_context((folder / "log").open("w"))
    command = [sys.executable, "-m", "policyctl", "gateway", "--port", "0", "--workers", "2", "--poll", "0.2"]
    started = subprocess.Popen(
        [*command, "--remote", "sqlite:///live.db"],
        cwd=folder,
        env={**os.environ, "KEY_OF_MODELS": "a-key"},
        stdout=subprocess.PIPE,
        stderr=log,
        text=True,
    )
    process = stack.enter_context(started)
    stack.callback(process.kill)
    assert process.stdout is not None
    found = re.search(r"at (http://\S+)/v1", process.stdout.readline())
    assert found, (folder / "log").read_text()
    return process, found[1]


def _send(url: str, tally: Tally, over: threading.Event) -> None:
    """One client: it opens another connection after one that ended."""
    while not over.is_set():
        with httpx.Client(base_url=url, trust_env=False, timeout=30) as client:
            try:
                while not over.wait(PAUSE):
                    tally.note(client.post("/v1/chat/completions", json={"model": "p", "messages": []}))
            except (httpx.NetworkError, httpx.RemoteProtocolError):
                with tally.lock:
                    tally.ended += 1
            except (httpx.TimeoutException, ValueError) as error:
                with tally.lock:
                    tally.wrong[f"{type(error).__name__} instead of an answer"] += 1


def _fail(upstream: ScriptedUpstream) -> None:
    """The first targets fail for a part of the time."""
    fails = time.monotonic() % FAIL_EVERY < FAIL_FOR
    upstream.script = {"a1": [503], "a2": [503]} if fails else {}
    upstream.heard.clear()


def _workers(process: int) -> list[int]:
    return [int(number) for number in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=8)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        tally = soak(Path(folder), seconds=given.seconds, clients=given.clients)
    print("| time | applies | workers killed | requests answered | connections ended by a kill | versions seen | mistakes |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    counts = (tally.applies, tally.kills, tally.answered, tally.ended, len(tally.served), len(tally.mistakes))
    print(f"| {given.seconds:,.0f} s | " + " | ".join(f"{number:,}" for number in counts) + " |")
    for line in tally.mistakes[:20]:
        print(f"  {line}")
    raise SystemExit(1 if tally.mistakes else 0)


if __name__ == "__main__":
    main()
