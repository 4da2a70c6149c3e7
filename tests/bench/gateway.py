"""How fast the gateway is, and its peers: `python -m tests.bench.gateway [--portkey DIR] [--litellm DIR] [--write]`.

It needs wrk and nginx. nginx answers for a model with 1 KB, wrk asks with 1 KB, and all of them take turns, so compare figures
of one run only. Portkey and LiteLLM are measured too where they are installed (.github/CONTRIBUTING.md). This is not a test:
nothing fails here for being slow.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.bench import contenders, goals
from tests.bench.contenders import Bases, Contender
from tests.bench.goals import ONE, WORKLOADS, Found, Key, Workload
from tests.bench.report import described, machine, write_evidence
from tests.bench.wrk import Figures, run_wrk

POLICIES = 10_000
CALM = 0.05  # seconds of processor time in 0.25 s that servers without a request may take
CALM_SECONDS = 30
WARM_SECONDS = 4  # until Node has compiled what it runs
Peer = Callable[[Path, Bases, Path], AbstractContextManager[Contender]]


class Peers(NamedTuple):
    """Where those are that the gateway is compared with, if they are to be."""

    portkey: Path | None
    litellm: Path | None


def measure(peers: Peers, seconds: float, rounds: int, policies: int) -> Found:
    """Everything, in turns; what is started for it is ended again."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with compared(peers, folder) as (bases, them, idle):
            figures, others = in_turns(them, seconds, rounds, folder)
            most = {one.name: contenders.memory(one.group, "VmHWM") for one in them if one.group is not None}
            starts = starting(folder, bases, policies, rounds)
        return Found(figures, most, idle, starts, policies, others)


@contextmanager
def compared(peers: Peers, folder: Path) -> Iterator[tuple[Bases, list[Contender], float]]:
    """The models, all that is in front of them, and the memory of the gateway before its first request."""
    with ExitStack() as stack:
        bases = stack.enter_context(contenders.models(folder))
        policies = folder / "policies"
        contenders.write_policies(policies, bases)
        one, group = stack.enter_context(contenders.policyctl(policies, folder / "one.log"))
        two, both = stack.enter_context(contenders.policyctl(policies, folder / "two.log", "--workers", "2"))
        idle = contenders.memory(group, "VmRSS")
        them = [
            contenders.direct(bases),
            contenders.asking(goals.OWN, one, group),
            contenders.asking(goals.MANY, one, group, "many", None),
            contenders.asking(goals.TWO, two, both, "two", None),
        ]
        known: list[tuple[Path | None, Peer]] = [(peers.portkey, contenders.portkey), (peers.litellm, contenders.litellm)]
        them += [stack.enter_context(start(place, bases, folder)) for place, start in known if place]
        yield bases, them, idle


def in_turns(them: Sequence[Contender], seconds: float, rounds: int, folder: Path) -> tuple[dict[Key, list[Figures]], float]:
    """Ask each in every round, in the other order in every second one, and once before. Also the cores that others took."""
    groups = [one.group for one in them if one.group is not None]
    for one in them:
        run_wrk(one.fast, 16, WARM_SECONDS, folder)
    figures: dict[Key, list[Figures]] = {}
    others = []
    for turn in range(rounds):
        for workload in WORKLOADS:
            for one in list(them)[:: -1 if turn % 2 else 1]:
                if one.slow or (workload.is_fast and workload is not ONE):
                    others.append(until_calm(groups))
                    figures.setdefault((one.name, workload), []).append(_ask(one, workload, seconds, folder))
                    print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return figures, statistics.median(others)


def _ask(one: Contender, workload: Workload, seconds: float, folder: Path) -> Figures:
    ask = one.fast if workload.is_fast else one.slow
    assert ask is not None
    before = contenders.processor(one.group) if one.group is not None else 0.0
    found = run_wrk(
        ask, workload.connections, max(seconds, workload.seconds), folder, stream=workload.stream, user=workload.user
    )
    if one.group is None or not found.answers:
        return found
    return found._replace(processor=(contenders.processor(one.group) - before) / found.answers * 1e6)


def until_calm(groups: Sequence[int], limit: float = CALM_SECONDS) -> float:
    """Wait until none of them works on what it was asked before: some go on for seconds when their clients have left.

    The cores that all other programs took at the end of it.
    """
    end = time.monotonic() + limit
    while True:
        began, busy, own = time.monotonic(), contenders.busy(), sum(map(contenders.processor, groups))
        time.sleep(0.25)
        taken = sum(map(contenders.processor, groups)) - own
        if taken <= CALM or time.monotonic() > end:
            return max(0.0, contenders.busy() - busy - taken) / (time.monotonic() - began)


def starting(folder: Path, bases: Bases, policies: int, rounds: int) -> Mapping[str, float]:
    """Seconds from the start of the gateway until it answers, with so many policies in files and in a database."""
    large, database = folder / "large", f"sqlite:///{folder}/large.db"
    contenders.write_policies(large, bases, policies)
    apply = [sys.executable, "-m", "policyctl", "apply", "--yes", "--quiet", "--dir", str(large), "--remote", database]
    subprocess.run([*apply, "--max-change-percent", "100"], check=True)
    found: dict[str, list[float]] = {}
    for _ in range(rounds):
        for name, args in (("files", ()), ("SQLite", ("--remote", database))):
            began = time.monotonic()
            with contenders.policyctl(large, folder / "large.log", *args):
                found.setdefault(name, []).append(time.monotonic() - began)
    return {name: statistics.median(times) for name, times in found.items()}


def report(found: Found, rounds: int, seconds: float) -> str:
    """The two tables, with the machine described."""
    begin = f"Medians of {rounds} {'rounds' if rounds > 1 else 'round'} of {seconds:g} s each on {described(machine())}."
    busy = f"Other programs took {found.others:.2f} cores meanwhile."
    return f"{begin} {busy}\n\n{goals.goal_table(found)}\n\n{goals.figure_table(found)}"


def needed(given: Peers) -> str | None:
    """What is missing, in a line."""
    if missing := [name for name in ("wrk", "nginx") if shutil.which(name) is None]:
        return f"{' and '.join(missing)} {'is' if len(missing) == 1 else 'are'} missing; install with apt: wrk nginx-light"
    if given.portkey and not (given.portkey / "node_modules/@portkey-ai/gateway/build/start-server.js").is_file():
        return f"{given.portkey} does not have Portkey; .github/CONTRIBUTING.md shows how to install it there with npm"
    if given.litellm and not (given.litellm / "bin/litellm").is_file():
        return f"{given.litellm} is not a virtual environment with LiteLLM; .github/CONTRIBUTING.md shows how to make one"
    return None


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--portkey", type=Path, metavar="DIR", help="where npm has installed @portkey-ai/gateway")
    parser.add_argument("--litellm", type=Path, metavar="DIR", help="a virtual environment with litellm[proxy]")
    parser.add_argument("--seconds", type=float, default=4, help="of each measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--policies", type=int, default=POLICIES, help="policies that the gateway is started with")
    parser.add_argument("--write", action="store_true", help="put the tables into the manual's page evidence")
    given = parser.parse_args()
    peers = Peers(*(place and place.absolute() for place in (given.portkey, given.litellm)))
    if missing := needed(peers):
        raise SystemExit(missing)
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # what is started here gets it too
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: sys.exit("\nended by a signal, with all that was started"))
    try:
        text = report(measure(peers, given.seconds, given.rounds, given.policies), given.rounds, given.seconds)
    except (RuntimeError, ValueError, subprocess.CalledProcessError) as error:  # something did not start, or has ended
        raise SystemExit(f"\n{error}") from None
    if given.write:
        write_evidence("gateway", text)
    print(text)


if __name__ == "__main__":
    main()
