"""Run the harness by hand: `python -m tests.chaos.harness [--inside N] [--outside N] [--tenants N] [--seed S] [--write]`.

Prints the seeds of runs that ended badly as they come, then the figures. `--write` puts them into the manual's
page `evidence`.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor

from tests.chaos.figures import Figures
from tests.chaos.inside import run_inside
from tests.chaos.invariants import Violation
from tests.chaos.outside import run_outside
from tests.chaos.tenants import run_tenant
from tests.chaos.window import Window, measure, table
from tests.readme_blocks import EVIDENCE

MARKED = re.compile(r"(<!-- chaos: written by python -m tests\.chaos\.harness --write -->\n).*?(<!-- /chaos -->)", re.DOTALL)
Run = Callable[[int], tuple[Figures, list[Violation]]]


def run_all(run: Run, seeds: Iterable[int], processes: int) -> Figures:
    """Run every seed; what they came to."""
    total, seeds = Figures(), list(seeds)
    with ProcessPoolExecutor(processes) as pool:
        for seed, (figures, found) in zip(seeds, pool.map(run, seeds), strict=True):
            total.add(figures)
            for violation in found:
                print(f"{run.__name__}, seed {seed}: {violation.kind}: {violation.what}", flush=True)
    return total


def section(figures: Figures, windows: list[Window]) -> str:
    """What is written between the page's marks."""
    return f"\n{figures.table()}\n\n{table(windows)}\n\n"


def with_section(text: str, content: str) -> str:
    """The page's text with another content between the marks."""
    replaced, number = MARKED.subn(lambda found: found[1] + content + found[2], text)
    assert number == 1, "the page has no marks for the figures"
    return replaced


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inside", type=int, default=480, metavar="N", help="runs in this process")
    parser.add_argument("--outside", type=int, default=24, metavar="N", help="runs of real processes")
    parser.add_argument("--tenants", type=int, default=2000, metavar="N", help="runs against tenants that do not behave")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="the first seed")
    parser.add_argument("--processes", type=int, default=os.cpu_count(), metavar="N")
    parser.add_argument("--write", action="store_true", help="put the figures into the manual's page evidence")
    args = parser.parse_args()
    figures = run_all(run_inside, range(args.seed, args.seed + args.inside), args.processes)
    figures.add(run_all(run_outside, range(args.seed, args.seed + args.outside), args.processes))
    figures.add(run_all(run_tenant, range(args.seed, args.seed + args.tenants), args.processes))
    windows = measure()
    print(figures.text())
    print(table(windows))
    if args.write:
        EVIDENCE.write_text(with_section(EVIDENCE.read_text("utf-8"), section(figures, windows)), "utf-8")
    return 1 if figures.broken.total() else 0


if __name__ == "__main__":
    sys.exit(main())
