"""A watch over many tenants, measured: `python -m tests.watch.harness [--environments 2000] [--write]`.

Tenants and watch are processes of their own. Edits by hand must all be noticed and put back, and nothing else. Then the watch
is killed in the middle of putting back and started again, and nothing may be written twice.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.request import Request, urlopen

from policyctl.load.directory import Files
from policyctl.load.discovery import find_files
from policyctl.load.environment import Environment
from tests.bench.corpus import write_corpus
from tests.patience import LONGEST

POLICIES = 50
CONFIG = """
scope: ["virtual-policy/*"]
limits: {{max_change_percent: 100}}
templates:
  one: {{remote: "{url}/instances/{{{{ tenant }}}}", watch: {{interval: {interval}s, heal: always}}}}
fleet: [{{from: tenants.csv, name: "t-{{{{ tenant }}}}", extends: one}}]
"""
EVIDENCE = Path("policyctl/manual/evidence.md")
_TICKS = os.sysconf("SC_CLK_TCK")


class Figures(NamedTuple):
    """What was measured. `delays` are the seconds from each edit until it was shown."""

    environments: int
    interval: float
    seconds: float
    percent: float  # of one core
    milliseconds: float  # of processor time a look
    megabytes: float
    looks: int
    expected: int
    edits: int
    noticed: int
    alarms: int
    delays: list[float]
    killed: int  # edits of which the watch was killed in the middle
    healed: int
    twice: int

    @property
    def rows(self) -> list[tuple[str, str]]:
        return [
            ("environments, policies each, interval", f"{self.environments:,}, {POLICIES}, {self.interval:g} s"),
            ("measured for", f"{self.seconds:.0f} s"),
            ("looks (expected)", f"{self.looks:,} ({self.expected:,})"),
            ("processor time: of one core, a look", f"{self.percent:.1f} %, {self.milliseconds:.1f} ms"),
            ("memory", f"{self.megabytes:.0f} MB"),
            ("edits by hand: made, shown, shown without one", f"{self.edits}, {self.noticed}, {self.alarms}"),
            ("until it was shown: median, longest", f"{statistics.median(self.delays):.0f} s, {max(self.delays):.0f} s"),
            ("killed while putting back: edits, put back, written twice", f"{self.killed}, {self.healed}, {self.twice}"),
        ]


class Remote:
    """The process of the tenants."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"

    def post(self, path: str, body: Any) -> None:
        data = json.dumps(body).encode()
        urlopen(Request(f"{self.url}{path}", data, {"Content-Type": "application/json"})).close()

    def edit(self, tenants: list[str], policies: int = 1, slowness: float = 0.0) -> None:
        self.post("/control/edit", {"tenants": tenants, "policies": policies, "slowness": slowness})

    def journal(self) -> dict[str, Any]:
        with urlopen(f"{self.url}/control/journal") as answer:
            found: dict[str, Any] = json.load(answer)
            return found

    def writes(self) -> Counter[tuple[str, str]]:
        return Counter((tenant, name) for _, tenant, _, name in self.journal()["journal"])


@contextmanager
def remote_of(policies: Path) -> Iterator[Remote]:
    """Tenants that have the policies of a directory."""
    loaded = Files(find_files(policies).files, root=policies).load(Environment("t"))
    command = [sys.executable, "-m", "tests.watch.tenants"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            remote = Remote(int(process.stdout.readline()))
            remote.post("/control/seed", [one.document for one in loaded.policies])
            yield remote
        finally:
            process.kill()


class Watching:
    """A `policyctl watch` and what it has shown: when each environment was first shown as drifted."""

    def __init__(self, folder: Path, parallelism: int) -> None:
        command = [sys.executable, "-m", "policyctl", "watch", "--format", "json", "--port", "0"]
        command += ["--parallelism", str(parallelism)]
        environ = {**os.environ, "PYTHONPATH": os.getcwd()}
        self.errors = open(folder / "errors.txt", "ab")  # noqa: SIM115
        self.process = subprocess.Popen(command, cwd=folder, env=environ, stdout=subprocess.PIPE, stderr=self.errors, text=True)
        self.events: list[tuple[float, dict[str, Any]]] = []
        self.changed = threading.Condition()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self.changed:
                self.events.append((time.time(), json.loads(line)))
                self.changed.notify_all()
        with self.changed:
            self.changed.notify_all()

    def shown(self, state: str) -> dict[str, float]:
        """When each environment was first shown in a state."""
        found: dict[str, float] = {}
        for at, event in self.events:
            if event["state"] == state:
                found.setdefault(event["environment"], at)
        return found

    def until(self, what: Callable[[], bool], seconds: float) -> bool:
        """Wait until something holds; it is asked after each event, and now and then."""
        end = time.monotonic() + seconds
        with self.changed:
            while not what():
                if time.monotonic() > end or self.process.poll() is not None:
                    return what()
                self.changed.wait(0.2)
        return True

    def processor(self) -> float:
        fields = Path(f"/proc/{self.process.pid}/stat").read_text("utf-8").rpartition(")")[2].split()
        return sum(map(int, fields[11:13])) / _TICKS

    def megabytes(self) -> float:
        found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{self.process.pid}/status").read_text("utf-8"))
        assert found is not None
        return int(found[1]) / 1024

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        code = self.process.wait(LONGEST)
        self.reader.join()
        assert self.process.stdout is not None
        self.process.stdout.close()
        self.errors.close()
        return code


def measured(environments: int, interval: float, seconds: float, edits: int, parallelism: int = 8, seed: int = 1) -> Figures:
    """Watch so many tenants, and measure for so many seconds, or until all edits were noticed if that is later."""
    rng = random.Random(seed)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_corpus(folder / "policies", POLICIES)
        with remote_of(folder / "policies") as remote:
            (folder / "policies/policyctl.yaml").write_text(CONFIG.format(url=remote.url, interval=f"{interval:g}"), "utf-8")
            tenants = [f"a{number}" for number in range(environments)]
            (folder / "policies/tenants.csv").write_text("tenant\n" + "".join(f"{one}\n" for one in tenants), "utf-8")
            return _watched(folder, remote, tenants, rng, interval, seconds, edits, parallelism)


def _watched(
    folder: Path,
    remote: Remote,
    tenants: list[str],
    rng: random.Random,
    interval: float,
    seconds: float,
    edits: int,
    parallelism: int,
) -> Figures:
    watching = Watching(folder, parallelism)
    patience = 10 * interval + 120
    # A tenant that was asked may still be compared: if it is edited then, it was never in sync, and it is not known who moved.
    everyone = {f"t-{tenant}" for tenant in tenants}
    assert watching.until(lambda: everyone <= watching.shown("in_sync").keys(), patience), "not all were looked at"
    begun, processor, looks = time.time(), watching.processor(), remote.journal()["looks"]
    edited: dict[str, float] = {}
    for tenant in rng.sample(tenants, edits):
        watching.until(lambda: False, seconds / edits * rng.uniform(0, 0.8))
        edited[f"t-{tenant}"] = time.time()
        remote.edit([tenant])
    watching.until(lambda: edited.keys() <= watching.shown("drifted").keys() and time.time() - begun >= seconds, patience)
    took, used, now = time.time() - begun, watching.processor() - processor, remote.journal()["looks"]
    shown, memory = watching.shown("drifted"), watching.megabytes()
    assert watching.until(lambda: len(remote.journal()["journal"]) >= edits, patience), "not all were put back"
    killed, healed = _killed(folder, remote, watching, rng.sample(tenants, max(4, edits // 2)), parallelism, patience)
    writes = remote.writes()
    first = {one.removeprefix("t-") for one in edited}
    most = Counter({tenant: (tenant in first) + 1 for tenant in tenants})
    twice = sum(times > most[tenant] for (tenant, _), times in writes.items())
    return Figures(
        len(tenants),
        interval,
        took,
        100 * used / took,
        1000 * used / max(1, now - looks),
        memory,
        now - looks,
        round(len(tenants) * took / interval),
        edits,
        len(edited.keys() & shown.keys()),
        len(shown.keys() - edited.keys()),
        [shown[one] - at for one, at in edited.items() if one in shown] or [0.0],
        killed,
        healed,
        twice,
    )


def _killed(
    folder: Path, remote: Remote, watching: Watching, tenants: list[str], parallelism: int, patience: float
) -> tuple[int, int]:
    """Kill a watch in the middle of putting back edits of five policies each, and start it again: how many edits there were,
    and how many of them are put back in the end."""
    before = remote.writes()
    remote.edit(tenants, 5, slowness=0.1)
    total = 5 * len(tenants)

    def put_back() -> int:
        return sum((remote.writes() - before).values())

    assert watching.until(lambda: put_back() >= 2, patience), "nothing was put back"
    watching.end(signal.SIGKILL)
    again = Watching(folder, parallelism)
    again.until(lambda: put_back() >= total, patience)
    again.until(lambda: False, 2)  # in which more would be written
    assert again.end() == 0
    return total, put_back()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--environments", type=int, default=2000)
    parser.add_argument("--interval", type=float, default=60.0)
    parser.add_argument("--seconds", type=float, default=180.0)
    parser.add_argument("--edits", type=int, default=20)
    parser.add_argument("--parallelism", type=int, default=8)
    parser.add_argument("--write", action="store_true", help="write the table into the manual's evidence page")
    args = parser.parse_args()
    found = measured(args.environments, args.interval, args.seconds, args.edits, args.parallelism)
    table = "| what | figure |\n|---|---:|\n" + "".join(f"| {what} | {figure} |\n" for what, figure in found.rows)
    print(table, end="")
    if args.write:
        text, mark = EVIDENCE.read_text("utf-8"), "<!-- watch: written by python -m tests.watch.harness --write -->"
        begin, end = text.index(mark) + len(mark), text.index("<!-- /watch -->")
        EVIDENCE.write_text(f"{text[:begin]}\n\n{table}{text[end:]}", "utf-8")


if __name__ == "__main__":
    main()
