"""One run of real processes: `policyctl apply` against `policyctl serve`, a proxy between, signals at chosen moments."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from policyctl.plan.plan import GOOD
from tests.chaos.directory import Directory, Ran
from tests.chaos.faults import REAL, Chaos, Fault, Play
from tests.chaos.figures import Figures
from tests.chaos.inside import CANARY, TOKENS
from tests.chaos.invariants import Told, Violation, leaks, violations
from tests.chaos.messages import Request
from tests.chaos.proxy import Proxy, proxying, server_at
from tests.chaos.world import SCOPE, World, make_world
from tests.server.serving import serving
from tests.sqlite_rows import put, stored

KILL, INT, TERM = signal.SIGKILL, signal.SIGINT, signal.SIGTERM
# What happens to the client, and when: before its request is sent on, or between the commit and the answer.
FATES = ((KILL, "between"), (KILL, "before"), (INT, "between"), (TERM, "between"), (INT, "before"), None)


@dataclass
class Moment:
    """Sends a process a signal when its `number`th write comes by."""

    fate: tuple[signal.Signals, str] | None
    number: int
    chaos: Chaos
    process: subprocess.Popen[str] | None = None
    struck: float | None = None  # when, by the real clock
    _seen: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def play(self, request: Request) -> Play:
        with self._lock:
            self._seen += request.is_write
            mine = self.fate is not None and request.is_write and self._seen == self.number
        if mine and self.fate is not None and self.fate[1] == "before":
            self._strike(self.fate[0])
        shown = self.chaos.play(request)
        if mine and self.fate is not None and self.fate[1] == "between":
            self._strike(self.fate[0])
        return shown

    def _strike(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.struck = time.perf_counter()
        os.kill(self.process.pid, number)
        self.chaos.faults[Fault.KILLED if number is KILL else Fault.STOPPED] += 1


def run_outside(seed: int) -> tuple[Figures, list[Violation]]:
    """One seeded run; what it came to, and what must not be (nothing)."""
    rng = random.Random(f"outside {seed}")
    world = make_world(rng, most=200)
    figures, found = Figures(outside=[seed], changes=len(world.changes)), list[Violation]()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        database = folder / "served.db"
        put(world.rows, database)
        served = stack.enter_context(serving(database, "--token-from", "env:SECRET", environ={"SECRET": CANARY}))
        chaos = Chaos(seed, server_at(served.port), REAL, rate=0.05, expire=_ended)
        moment = Moment(FATES[seed % len(FATES)], rng.randrange(2, len(world.changes) - 10), chaos)
        proxy = stack.enter_context(proxying(moment.play))
        directory = Directory(folder / "project", CANARY)
        directory.write(proxy.url, world.desired, SCOPE)
        found += _live_through(world, directory, moment, proxy, database, figures)
        found += leaks([*directory.left_behind(), served.log.read_bytes(), database.read_bytes()], (CANARY, TOKENS))
    figures.faults.update(chaos.faults)
    figures.applied = chaos.commits.total()
    figures.broken.update(violation.kind for violation in found)
    return figures, found


def _live_through(
    world: World, directory: Directory, moment: Moment, proxy: Proxy, database: Path, figures: Figures
) -> list[Violation]:
    """Apply under faults, look, apply without, look again."""
    before, chaos = stored(database), moment.chaos
    # A fault that strikes a list of consumers would refuse the removals, and nothing would be written.
    options = ("--yes", "--allow-unseen-consumers")
    ran = directory.run("apply", *options, meanwhile=lambda process: setattr(moment, "process", process))
    proxy.settle()
    chaos.calm()
    told = ran.told if ran.code != 1 else {name: Told("skipped", "") for name in world.changes}
    found = [*violations(world, before, stored(database), told, chaos.commits, chaos.late)]
    found += _code(ran, moment)
    again = directory.run("apply", "--yes")
    if moment.struck is not None:
        figures.worst_restart = time.perf_counter() - moment.struck
    everything = {name: Told("already", "") for name in world.changes}
    found += violations(world, before, stored(database), everything, chaos.commits)
    plan = directory.run("plan", "--detailed-exitcode")
    if again.code or plan.code:
        found.append(Violation("unfinished", f"a second apply ends with {again.code}, then plan with {plan.code}: {again.err}"))
    return found


def _code(ran: Ran, moment: Moment) -> list[Violation]:
    """The exit code must be that of what happened."""
    if moment.struck is not None and moment.fate is not None:
        number = moment.fate[0]
        expected = {-KILL} if number is KILL else {128 + number}
    elif all(one.status in GOOD for one in ran.told.values()) and "not verified" not in ran.out and ran.told:
        expected = {0}
    else:
        expected = {5} if ran.told else {1}
    text = f"exit code {ran.code}, not {expected}: {ran.err[-500:]}"
    return [] if ran.code in expected and "Traceback" not in ran.err else [Violation("untrue reports", text)]


def _ended(request: Request) -> Request:
    """With a token that has ended; one that logs in has none."""
    known = request.header(b"authorization") is not None
    return request.with_header(b"authorization", b"Bearer has.ended.x") if known else request
