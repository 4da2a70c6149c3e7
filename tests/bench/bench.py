"""Measure policyctl against PyYAML on the same files: `python -m tests.bench.bench [--files N] [--rounds N] [--json]`.

Every row is a whole process, measured from outside (wall time and peak memory by the operating system's own account), and
the rows alternate within one run, so that the ratios hold when the machine's speed drifts. Quote the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from tests.bench.corpus import write_corpus

BASELINE = "PyYAML CSafeLoader"
LOADER = """
import gc, sys
from pathlib import Path
import yaml
gc.disable()
for path in sorted(Path("policies").iterdir()):
    yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
"""


class Cost(NamedTuple):
    """What one process took: seconds of wall time, and the peak of its resident memory in MB."""

    seconds: float
    megabytes: float


class Row(NamedTuple):
    """One thing to measure; `prepare` runs before each measurement and is not measured."""

    name: str
    command: list[str]
    prepare: Callable[[], None] | None = None


def policyctl(*args: str) -> list[str]:
    return [sys.executable, "-m", "policyctl", *args]


def rows() -> list[Row]:
    """What is measured, the baseline first. The working directory holds `policies/` and what apply made of them."""
    return [
        Row(BASELINE, [sys.executable, "-c", LOADER]),
        Row("policyctl validate", policyctl("validate")),
        Row("policyctl plan, all to add", policyctl("plan", "--remote", "sqlite:///none.db")),
        Row("policyctl plan, no change", policyctl("plan", "--detailed-exitcode")),
    ]


def measure(command: list[str]) -> Cost:
    """Run one command to its end, its output thrown away. Raises RuntimeError when it fails."""
    begin = time.perf_counter()
    silent = [(os.POSIX_SPAWN_OPEN, stream, os.devnull, os.O_WRONLY, 0) for stream in (1, 2)]
    pid = os.posix_spawnp(command[0], command, os.environ, file_actions=silent)
    _, status, usage = os.wait4(pid, 0)
    seconds = time.perf_counter() - begin
    if os.waitstatus_to_exitcode(status) != 0:
        raise RuntimeError(f"{' '.join(command)} exited with {os.waitstatus_to_exitcode(status)}")
    return Cost(seconds, usage.ru_maxrss / 1024)


def run(files: int, rounds: int) -> dict[str, Any]:
    """Measure every row `rounds` times, in turn, after one round that does not count."""
    found: dict[str, list[Cost]] = {row.name: [] for row in rows()}
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        write_corpus(Path("policies"), files)
        measure(policyctl("apply", "--yes", "--parallelism", "1"))
        for turn in range(rounds + 1):
            for row in rows():
                if row.prepare:
                    row.prepare()
                cost = measure(row.command)
                if turn:
                    found[row.name].append(cost)
        os.chdir("/")
    machine = {"python": platform.python_version(), "cores": os.cpu_count(), "system": platform.system()}
    return {"files": files, "rounds": rounds, "machine": machine, "rows": [_summary(*item, found) for item in found.items()]}


def _summary(name: str, costs: list[Cost], found: dict[str, list[Cost]]) -> dict[str, Any]:
    base = found[BASELINE]
    ratios = [cost.seconds / other.seconds for cost, other in zip(costs, base, strict=True)]
    return {
        "name": name,
        "seconds": round(statistics.median(cost.seconds for cost in costs), 3),
        "ratio": round(statistics.median(ratios), 2),
        "megabytes": round(max(cost.megabytes for cost in costs), 1),
    }


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table."""
    lines = [
        _title(result),
        "",
        "| work | seconds | × loader | peak memory |",
        "|---|---:|---:|---:|",
    ]
    lines += [f"| {r['name']} | {r['seconds']:.2f} | {r['ratio']:.2f} | {r['megabytes']:.0f} MB |" for r in result["rows"]]
    return "\n".join(lines)


def _title(result: dict[str, Any]) -> str:
    machine = result["machine"]
    about = f"median of {result['rounds']} rounds, {machine['cores']} cores, Python {machine['python']}"
    return f"{result['files']:,} policy files, {about}:"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--files", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    result = run(args.files, args.rounds)
    print(json.dumps(result, indent=2) if args.json else table(result))


if __name__ == "__main__":
    main()
