"""Measure policyctl against the goals for its speed: `python -m tests.bench.bench [--size N] [--rounds N] [--json] [--write]`.

Every figure is that of whole processes, measured from outside; what is compared runs in turns, so that the ratios hold when
the machine's speed drifts. `--write` puts the table into the manual's page `evidence`. This is not a test: nothing fails here
for being slow.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal
from urllib.request import Request, urlopen

from tests.bench.corpus import write_corpus
from tests.bench.fleet import CHANGED, POLICIES, alone, listing, planning
from tests.bench.history import COMMITS, FILES, GOAL, search
from tests.bench.measure import Cost, Measured, Work, against, in_turns, measure
from tests.bench.report import Row, described, machine, write_evidence

ROOT = Path(__file__).parent.parent.parent
PYTHON = sys.executable
POLICYCTL = (str(Path(PYTHON).with_name("policyctl")),)
NOTHING = "`python -c pass`"
LOADER = "loader"
CLIENT = "bare client"
LOAD = """
import gc
from pathlib import Path
import yaml
gc.disable()
for path in sorted(Path("policies").iterdir()):
    yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
"""
SEND = """
import json, sys
from pathlib import Path
import httpx
with httpx.Client(base_url=sys.argv[1], headers={"Content-Type": "application/json"}) as client:
    for method, path, body in json.loads(Path("requests.json").read_bytes()):
        client.request(method, path, content=body).raise_for_status()
"""
START = "from policyctl.cli.main import main; main()"
PRECOMPILED = {name: text for name, text in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


class Place:
    """A directory with `policies/`, what apply made of it, and a service that holds the same policies."""

    def __init__(self, folder: Path, size: int) -> None:
        self.folder = folder
        self.size = size
        folder.mkdir()
        os.chdir(folder)
        write_corpus(Path("policies"), size)
        measure((*POLICYCTL, "apply", "--yes", "--parallelism", "1"))

    def change(self, share: int) -> None:
        """Have one file in `share` say something else."""
        for number in range(0, self.size, share):
            path = Path(f"policies/policy-{number:06}.yaml")
            path.write_text(path.read_text("utf-8").replace("attempts: 1", "attempts: 2", 1), "utf-8")


@contextmanager
def service() -> Iterator[str]:
    """A service on loopback, without policies at first; gives its URL."""
    command = [PYTHON, "-m", "tests.bench.service"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{process.stdout.readline().strip()}"
        finally:
            process.terminate()


def starting(rounds: int) -> list[Row]:
    """Start-up, and three files."""
    with tempfile.TemporaryDirectory() as folder:
        Place(Path(folder, "three"), 3)
        works = [
            Work(NOTHING, (PYTHON, "-c", "pass")),
            Work("`policyctl --help`", (*POLICYCTL, "--help")),
            Work("`policyctl --version`", (*POLICYCTL, "--version")),
            Work("`validate` of 3 files", (*POLICYCTL, "validate")),
        ]
        costs = in_turns(works, rounds)
        return [_row(work.name, costs, NOTHING, most) for work, most in zip(works[1:], (5, 5, 15), strict=True)]


def own(rounds: int) -> list[Row]:
    """This repository's own policies: a configuration, templates, tests. Then without the bytecode of policyctl, as after an
    upgrade and wherever Python may not write it."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(ROOT / "policies", Path(folder, "policies"), ignore=shutil.ignore_patterns(".policyctl"))
        shutil.copytree(ROOT / "policyctl", Path(folder, "source/policyctl"), ignore=shutil.ignore_patterns("__pycache__"))
        os.chdir(folder)
        measure((*POLICYCTL, "apply", "--yes"))
        uncompiled = ("env", "PYTHONDONTWRITEBYTECODE=1", "PYTHONPATH=source", PYTHON, "-c", START)
        asked = [
            ("`validate` of this repository's `policies/`", (*POLICYCTL, "validate"), 6),
            ("`plan` of these, no change", (*POLICYCTL, "plan"), 9),
            ("`validate` of these, without bytecode", (*uncompiled, "validate"), 14),
            ("`plan` of these, without bytecode", (*uncompiled, "plan"), 16),
        ]
        works = [Work(NOTHING, (PYTHON, "-c", "pass")), *(Work(name, command) for name, command, _ in asked)]
        costs = in_turns(works, rounds)
        return [_row(name, costs, NOTHING, most) for name, _, most in asked]


def many(place: Place, rounds: int, url: str) -> list[Row]:
    """Validating and planning a directory."""
    validate, plan, http = ("validate",), ("plan",), ("plan", "--remote", url)
    measure((*POLICYCTL, "apply", "--yes", "--remote", url))
    of = f"of {place.size:,}"
    asked = [
        (f"`validate` {of} files", validate, 1.3),
        (f"`plan` {of}, no change, from sqlite", plan, 1.6),
        (f"`plan` {of}, no change, from HTTP", http, 1.6),
    ]
    loader = Work(LOADER, (PYTHON, "-c", LOAD))
    costs = in_turns([loader, *(Work(name, (*POLICYCTL, *args)) for name, args, _ in asked)], rounds)
    rows = [_row(name, costs, LOADER, most, processor=True) for name, _, most in asked]
    peak = max(row.megabytes or 0 for row in rows)
    rows.append(_changed(place, rounds))
    rows.append(Row("peak memory of those", "≤ 150 MB", f"{peak:.0f} MB", peak <= 150, megabytes=peak))
    return rows


def _changed(place: Place, rounds: int) -> Row:
    """A plan with 1 % changed, in turns with one over the same files as a remote that has them."""
    place.change(100)
    shutil.copyfile(".policyctl/local.db", "before.db")
    measure((*POLICYCTL, "apply", "--yes", "--max-change-percent", "100"))
    none, some = "no change", "1 % changed"
    before = ("plan", "--remote", "sqlite:///before.db", "--max-change-percent", "100")
    works = [
        Work(none, (*POLICYCTL, "plan")),
        Work(some, (*POLICYCTL, *before)),
    ]
    costs = in_turns(works, rounds)
    more = sorted(cost.seconds - base.seconds for cost, base in zip(costs[some], costs[none], strict=True))[rounds // 2]
    found = against(costs[some], costs[none])
    name = f"`plan` of {place.size:,} with 1 % changed, with effects"
    goal = "≤ 0.5 s more than with no change"
    return Row(name, goal, f"{more:.2f} s more", more <= 0.5, found.seconds, found.megabytes)


def applying(place: Place, rounds: int, url: str) -> Row:
    """Adds over HTTP, against a bare client that sends the very same requests."""
    _ask(url, "DELETE", "/v1/model_policy")
    apply = (*POLICYCTL, "apply", "--yes", "--remote", url)
    measure(apply)
    requests = _ask(url, "GET", "/requests")
    Path("requests.json").write_bytes(requests)

    def empty() -> object:
        return _ask(url, "DELETE", "/v1/model_policy")

    name = f"`apply` of {place.size:,} adds over HTTP"
    costs = in_turns([Work(CLIENT, (PYTHON, "-c", SEND, url), empty), Work(name, apply, empty)], rounds)
    found = against(costs[name], costs[CLIENT])
    rate = 1 / found.ratio
    goal = "≥ 60 % of the rate of a bare `httpx.Client`"
    return Row(
        name, goal, f"{rate:.0%} (of {len(json.loads(requests)):,} requests)", rate >= 0.6, found.seconds, found.megabytes
    )


def growing(small: Place, large: Place, rounds: int) -> list[Row]:
    """Ten times as many policies: the time for each of them."""
    rows = []
    for command in ("validate", "plan"):
        works = []
        for place in (small, large):

            def enter(place: Place = place) -> None:
                os.chdir(place.folder)

            works.append(Work(str(place.size), (*POLICYCTL, command), enter))
        costs = in_turns(works, rounds)
        found = against(costs[str(large.size)], costs[str(small.size)])
        growth = found.ratio * small.size / large.size
        name = f"growth: `{command}` of {large.size:,}"
        goal = f"time for each policy ≤ 1.3 × that at {small.size:,}"
        rows.append(Row(name, goal, f"{growth:.2f} ×", growth <= 1.3, found.seconds, found.megabytes))
    return rows


def environments(tenants: int, url: str) -> list[Row]:
    """A plan of many environments, all on one service, once each: they are long enough."""
    with tempfile.TemporaryDirectory() as folder:
        write_corpus(Path(folder, "policies"), POLICIES)
        os.chdir(folder)
        _ask(url, "DELETE", "/v1/model_policy")
        measure((*POLICYCTL, "apply", "--yes", "--remote", url))
    less = max(tenants // 100, 1)
    few, all_, changed = (
        planning(url, *how) for how in ((less, POLICYCTL), (tenants, POLICYCTL), (tenants, POLICYCTL, CHANGED))
    )
    growth = all_.processor / tenants / (few.processor / less)
    loop = f"a loop of the shell: {1000 * alone(url, POLICYCTL).processor:.0f} ms"
    plans = f"`plan --all` of {tenants:,} environments with {POLICIES} policies each"
    listed, name = listing(tenants + 1, POLICYCTL), f"`env list` of {tenants + 1:,} environments"
    return [
        _within(1.5, "s", name, listed),
        _within(8, "ms", f"{plans}, no change ({loop})", all_, tenants),
        _within(8, "ms", f"{plans}, the same {CHANGED} changes in each", changed, tenants),
        _memory(Row(plans, "", "", met=True, megabytes=max(all_.megabytes, changed.megabytes)), 250),
        Row(f"growth: {plans}, no change", f"time for each ≤ that of {less:,}", f"{growth:.2f} ×", growth <= 1),
    ]


def _within(most: float, unit: Literal["s", "ms"], name: str, cost: Cost, each: int = 1) -> Row:
    """Whether a work takes at most so much processor time, or so much for `each` of its parts."""
    taken = cost.processor / each * (1000 if unit == "ms" else 1)
    goal = f"≤ {most:g} {unit} of processor time{' each' if each > 1 else ''}"
    return Row(name, goal, f"{taken:.2f} {unit}", taken <= most, cost.seconds, cost.megabytes)


def effects(rounds: int) -> Row:
    """The effect engine over 1,000 changed policies: processor time within one process."""
    command = [PYTHON, "-m", "tests.bench.effects", "--thousand"]
    taken = sorted(float(subprocess.check_output(command, cwd=ROOT, text=True)) for _ in range(rounds))
    seconds = taken[rounds // 2]
    return Row("effects of 1,000 changed policies", "≤ 1 s", f"{seconds:.2f} s", seconds <= 1, seconds)


def history() -> Row:
    """Who moved, with a search of all of a long history."""
    return _within(GOAL, "s", f"`drift` over {COMMITS:,} commits × {FILES} files", search(POLICYCTL[0]))


def _ask(url: str, method: str, path: str) -> bytes:
    with urlopen(Request(f"{url}{path}", method=method)) as answer:
        content: bytes = answer.read()
        return content


def _row(name: str, costs: dict[str, list[Cost]], base: str, most: float, *, processor: bool = False) -> Row:
    """Whether a work takes at most so many times what another takes: by the clock, or by `processor` time."""
    found: Measured = against(costs[name], costs[base])
    measured = f"{found.ratio:.2f} × (processor {found.processor_ratio:.2f} ×)"
    goal = f"≤ {most:g} × {base}" + (", processor time" if processor else "")
    met = (found.processor_ratio if processor else found.ratio) <= most
    return Row(name, goal, measured, met, found.seconds, found.megabytes)


def _memory(row: Row, most: int) -> Row:
    """The peak memory of what was measured, as a row of its own."""
    peak = row.megabytes or 0
    return Row(f"peak memory: {row.work}", f"≤ {most} MB", f"{peak:.0f} MB", peak <= most, megabytes=peak)


def run(size: int, rounds: int, *, grow: bool) -> dict[str, Any]:
    """Everything; the directories are made here and deleted again."""
    with tempfile.TemporaryDirectory() as top, service() as url:
        os.environ.clear()
        os.environ.update(PRECOMPILED)
        rows = starting(2 * rounds + 1)  # these are short, and shaken by whatever else runs
        rows += own(2 * rounds + 1)
        place = Place(Path(top, "many"), size)
        rows += many(place, rounds, url)
        rows.append(applied := applying(place, min(rounds, 3), url))
        rows.append(_memory(applied, 150))
        rows += environments(max(size // 5, 1), url)
        rows.append(effects(rounds))
        rows.append(history())
        if grow:
            rows += growing(place, Place(Path(top, "more"), size * 10), min(rounds, 3))
            rows.append(_memory(rows[-1], 400))
        os.chdir("/")
    return {"size": size, "rounds": rounds, "machine": machine(), "rows": [row._asdict() for row in rows]}


def table(result: dict[str, Any]) -> str:
    """The result as a Markdown table, with the machine described."""
    lines = [
        f"Medians of {result['rounds']} rounds on {described(result['machine'])}:",
        "",
        "| work | goal | measured | met | seconds | peak memory |",
        "|---|---|---|---|---:|---:|",
    ]
    for row in (Row(**values) for values in result["rows"]):
        seconds = "" if row.seconds is None else f"{row.seconds:.3f}" if row.seconds < 1 else f"{row.seconds:.1f}"
        memory = "" if row.megabytes is None else f"{row.megabytes:.0f} MB"
        lines.append(f"| {row.work} | {row.goal} | {row.measured} | {row.verdict} | {seconds} | {memory} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=10_000, help="policies in the large directory")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--no-growth", dest="grow", action="store_false", help="leave out ten times the size")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--write", action="store_true", help="put the table into the manual's page evidence")
    args = parser.parse_args()
    result = run(args.size, args.rounds, grow=args.grow)
    if args.write:
        write_evidence("bench", table(result))
    print(json.dumps(result, indent=2) if args.json else table(result))


if __name__ == "__main__":
    main()
