"""Several `policyctl worker` apply many environments; one is killed, and one is stopped and goes on much later. Is anything
written twice, do two ever write to one tenant at a time, and how soon is the work of the two done by others?

    python -m tests.server.workers [--environments 400] [--workers 4] [--threads 2] [--policies 5]
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import NamedTuple

from tests.git_repo import git
from tests.patience import LONGEST
from tests.postgres import PostgresServer, running_postgres
from tests.server.tenants import Tenants, serving_tenants

HEARTBEAT = 0.5  # seconds; after four times that a worker's jobs go to others
STOPPED = 50.0  # seconds at most; after a minute it would be too late for the answers that a worker was waiting for

CONFIG = """\
scope: ["virtual-policy/*"]
allow_origins: ["http://127.0.0.1:{port}"]
templates:
  tenant: {{remote: "http://127.0.0.1:{port}/instances/{{{{ tenant }}}}"}}
fleet:
  - {{from: tenants.csv, name: "t-{{{{ tenant }}}}", extends: tenant}}
waves:
  - {{max_failures: 0}}
"""
POLICY = """\
spec_version: v1
kind: model
name: p{number}
policy:
  strategy: {{mode: single}}
  retry: {{attempts: 1, on_status_codes: [503]}}
  targets: [{{model_name: virtual-model/openai/gpt-4o}}]
"""


class Outcome(NamedTuple):
    """What became of a run: its exit code and output, the seconds that it took, and from each fault until all was done."""

    code: int
    output: str
    seconds: float
    after_kill: float
    after_stop: float
    tenants: Tenants

    def mistakes(self, environments: int) -> list[str]:
        """What must not be."""
        found = [f"added twice: {one}" for one in self.tenants.doubled]
        found += [f"two processes at a time: {one}" for one in self.tenants.overlapping]
        if self.code or self.tenants.done() != environments:
            found.append(f"exit code {self.code}, {self.tenants.done()} of {environments} done: {self.output[-2000:]}")
        late = max(self.after_kill, self.after_stop)
        return [*found, f"recovered after {late:.1f} s"] if late > LONGEST else found


def suffer(
    server: PostgresServer, *, environments: int = 400, workers: int = 4, threads: int = 2, policies: int = 5
) -> Outcome:
    """Apply with workers, kill one when a quarter is done, and stop another until the rest is done, or for STOPPED."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        tenants, url = stack.enter_context(serving_tenants(policies))
        write_repository(folder, url, environments, policies)
        variables = {**os.environ, "POLICYCTL_DATABASE": server.url(server.new_database()), "PYTHONHASHSEED": "0"}
        command = [sys.executable, "-m", "policyctl"]

        def start(*arguments: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [*command, *arguments], cwd=folder, env=variables, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            stack.callback(_end, process)
            return process

        crew = [start("worker", "--threads", str(threads), "--heartbeat", str(HEARTBEAT)) for _ in range(workers)]
        tenants.processes = {one.pid: Path() for one in crew}
        for one in crew:
            assert one.stdout is not None
            assert "Working for" in one.stdout.readline()
        began = time.monotonic()
        run = start("apply", "--all", "--yes", "--on", "queue")
        assert tenants.wait(lambda: tenants.done() >= environments // 4 or run.poll() is not None, LONGEST)
        crew[0].kill()
        killed = time.monotonic()
        crew[1].send_signal(signal.SIGSTOP)
        # What is left then is what the stopped worker has in hand: its locks stay with it.
        tenants.wait(lambda: tenants.done() >= environments - threads or run.poll() is not None, STOPPED)
        after_kill = time.monotonic() - killed
        crew[1].send_signal(signal.SIGCONT)
        resumed = time.monotonic()
        output, _ = run.communicate(timeout=LONGEST)
        ended = time.monotonic()
        return Outcome(run.returncode, output, ended - began, after_kill, ended - resumed, tenants)


def write_repository(folder: Path, url: str, environments: int, policies: int) -> None:
    """A committed repository with so many environments and policies."""
    directory = folder / "policies"
    directory.mkdir()
    (directory / "policyctl.yaml").write_text(CONFIG.format(port=url.rpartition(":")[2]))
    (directory / "tenants.csv").write_text("tenant\n" + "".join(f"{number}\n" for number in range(environments)))
    for number in range(policies):
        (directory / f"p{number}.yaml").write_text(POLICY.format(number=number))
    git(folder, "init", "--quiet", "--initial-branch=main")
    git(folder, "add", ".")
    git(folder, "commit", "--quiet", "--message=policies")


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            process.wait(LONGEST)
        except subprocess.TimeoutExpired:
            process.kill()
    if process.stdout is not None:
        process.stdout.close()
    process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in (("environments", 400), ("workers", 4), ("threads", 2), ("policies", 5)):
        parser.add_argument(f"--{name}", type=int, default=default)
    given = vars(parser.parse_args())
    with running_postgres(durable=True) as server:
        outcome = suffer(server, **given)
    mistakes = outcome.mistakes(given["environments"])
    writes = sum(map(len, outcome.tenants.writes.values()))
    print("| environments | workers | writes | all of it | work of the killed one | work of the stopped one | mistakes |")
    print("|---:|---:|---:|---:|---:|---:|---:|")
    cells = (
        f"{given['environments']:,}",
        f"{given['workers']}",
        f"{writes:,}",
        f"{outcome.seconds:.0f} s",
        f"{outcome.after_kill:.1f} s",
        f"{outcome.after_stop:.1f} s",
        f"{len(mistakes)}",
    )
    print(f"| {' | '.join(cells)} |")
    for line in mistakes[:20]:
        print(f"  {line}")
    raise SystemExit(1 if mistakes else 0)


if __name__ == "__main__":
    main()
