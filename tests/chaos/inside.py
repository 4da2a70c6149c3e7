"""One run in this process: the client's own stack from the engine down to HTTP/1.1, and the server's own application.

Between them is a network in memory with faults; the clock is injected, so that back-off and timeouts cost nothing.
"""

from __future__ import annotations

import json
import random
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from policyctl.errors import RemoteError
from policyctl.load.settings_file import AuthFile
from policyctl.plan.plan import GOOD, Outcome, Plan, make_plan
from policyctl.plan.settings import Settings
from policyctl.reconcile.apply import apply_changes
from policyctl.reconcile.observe import observe, verify
from policyctl.remote import Backoff
from policyctl.remote.http import HttpClient
from policyctl.remote.login import LoginSession
from policyctl.remote.orchestrate import OrchestrateRemote
from policyctl.remote.redaction import Credentials, Redactor
from policyctl.remote.sqlite import SqliteRemote
from policyctl.report.format import Style
from policyctl.report.plan_text import apply_text
from policyctl.server.login import TokenIssuer
from tests.chaos.application import running
from tests.chaos.faults import INJECTED, Chaos, Fault, Play
from tests.chaos.figures import Figures
from tests.chaos.invariants import Told, Violation, leaks, violations
from tests.chaos.messages import Request
from tests.chaos.network import Clock, Memory, ThreadClock
from tests.chaos.world import SCOPE, World, make_world
from tests.server.serving import Events
from tests.sqlite_rows import put, stored

URL = "http://127.0.0.1:1"
CANARY = "canary-key-0f3b-never-to-be-seen"
TOKENS = "eyJhbGciOiJIUzI1NiI"  # how every token of the server begins
FAST = Path("/dev/shm")  # a disk would be waited for at every commit
RATES = (0.03, 0.1, 0.25, 0.5)


class Died(BaseException):
    """The client is killed: nothing that it would have done is done, nothing is reported."""


@dataclass
class Recovery:
    """How long the policies took that a fault met: from there to the last answer that was about them."""

    clock: Clock
    worst: float = 0.0
    _since: dict[str, float] = field(default_factory=dict)

    def begin(self, request: Request) -> None:
        if request.names_one:
            self._since.setdefault(request.subject, self.clock.now())

    def felt(self, request: Request) -> None:
        since = self._since.get(request.subject)
        if since is not None:
            self.worst = max(self.worst, self.clock.now() - since)


@dataclass
class Run:
    """Everything about one run."""

    seed: int
    figures: Figures
    found: list[Violation] = field(default_factory=list)
    said: list[str] = field(default_factory=list)


def run_inside(seed: int) -> tuple[Figures, list[Violation]]:
    """One seeded run; what it came to, and what must not be (nothing)."""
    rng = random.Random(f"inside {seed}")
    world, unique = make_world(rng), rng.random() < 0.75
    run = Run(seed, Figures(inside=[seed], changes=len(world.changes)))
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=FAST if FAST.is_dir() else None)))
        path = folder / "chaos.db"
        put(world.rows, path, unique_names=unique)
        events, clock = Events(), ThreadClock()
        shift = [0.0]
        keeper = TokenIssuer(CANARY, now=lambda: 1_000_000.0 + shift[0])
        store = stack.enter_context(SqliteRemote(path, unique_names=unique))
        upstream = stack.enter_context(running(store, keeper, events))

        def expire(request: Request) -> Request:
            shift[0] += keeper.seconds + 1  # every token that was given so far has ended
            return request

        chaos = Chaos(seed, upstream, INJECTED, rng.choice(RATES), repeats=unique, expire=expire)
        _live_through(run, world, chaos, clock, path, rng)
        run.said += [json.dumps(events.kept), *(row[1] for row in stored(path).values())]
    run.found += leaks(run.said, (CANARY, TOKENS))
    run.figures.faults.update(chaos.faults)
    run.figures.applied = chaos.commits.total()
    run.figures.broken.update(violation.kind for violation in run.found)
    return run.figures, run.found


def _live_through(run: Run, world: World, chaos: Chaos, clock: Clock, path: Path, rng: random.Random) -> None:
    """Apply under faults, look, apply without, look again."""
    before, recovery = stored(path), Recovery(clock)
    told = _apply_badly(run, world, chaos, clock, recovery, rng)
    chaos.calm()
    run.figures.worst_change = recovery.worst
    run.found += violations(world, before, stored(path), told, chaos.commits, chaos.late)
    with client_of(chaos.play, clock, Recovery(clock), rng) as remote:
        outcomes = _apply(run, world, remote, clock, rng.randint(1, 4), lambda: False)
        left = _plan(world, remote)
    everything = {name: Told("already", "") for name in world.changes}
    run.found += violations(world, before, stored(path), everything, chaos.commits)
    if left.changes or left.blocked or left.counts.unchanged != len(world.desired):
        run.found.append(Violation("unfinished", f"{len(left.changes)} changes are left after a second apply"))
    run.found += [Violation("untrue reports", str(outcome)) for outcome in outcomes if outcome.status not in GOOD]


def _apply_badly(run: Run, world: World, chaos: Chaos, clock: Clock, recovery: Recovery, rng: random.Random) -> dict[str, Told]:
    """The apply that everything goes wrong with: in some runs the client dies in it, in others it is asked to stop."""
    fate = rng.choice((None, None, Fault.KILLED, Fault.STOPPED))
    moment = rng.randrange(2, len(world.changes))
    seen = [0]

    def play(request: Request) -> Play:
        faults = chaos.faults.total()
        seen[0] += request.is_write
        if fate is Fault.KILLED and seen[0] >= moment and request.is_write:
            if rng.random() < 0.7:  # between the commit and its answer; else before
                chaos.play(request)
            raise Died
        shown = chaos.play(request)
        if chaos.faults.total() > faults:
            recovery.begin(request)
        return shown

    parallelism = rng.choice((1, 1, 2, 4))
    try:
        with client_of(play, clock, recovery, rng) as remote:
            outcomes = _apply(run, world, remote, clock, parallelism, lambda: fate is Fault.STOPPED and seen[0] >= moment)
    except Died:
        chaos.faults[Fault.KILLED] += 1
        return {}
    except RemoteError as error:  # it could not even read what is live: nothing may have been written
        run.said.append(str(error))
        return {name: Told("skipped", "") for name in world.changes}
    chaos.faults[Fault.STOPPED] += fate is Fault.STOPPED
    return {outcome.change.name: Told(outcome.status, outcome.reason) for outcome in outcomes}


@contextmanager
def client_of(
    play: Callable[[Request], Play], clock: Clock, recovery: Recovery, rng: random.Random, *, models: bool = False
) -> Iterator[OrchestrateRemote]:
    scrub = Redactor()
    patience = Backoff(sleep=clock.sleep, clock=clock.now, chance=rng.random)
    wire = HttpClient(scrub, patience=patience, network=Memory(play, clock, recovery.felt))
    auth = AuthFile(type="ibm_iam", api_key="env:KEY", url=URL)
    session = LoginSession(wire, auth, URL, Credentials(auth, scrub, environ={"KEY": CANARY}), clock.now)
    with OrchestrateRemote(URL, session, scrub, models=models) as remote:
        yield remote


def _plan(world: World, remote: OrchestrateRemote) -> Plan:
    return make_plan(
        environment="chaos",
        remote=remote.identity,
        config="",
        desired=world.policies(),
        observed=observe(remote),
        settings=Settings(scope=SCOPE),
        removes=True,
    )


def _apply(
    run: Run, world: World, remote: OrchestrateRemote, clock: Clock, parallelism: int, stopped: Callable[[], bool]
) -> list[Outcome]:
    """As the command does it: plan, carry out, verify, report."""
    plan = _plan(world, remote)
    outcomes = apply_changes(
        plan.changes,
        remote,
        parallelism=parallelism,
        on_outcome=lambda outcome: None,
        stopped=stopped,
        patience=Backoff(sleep=clock.sleep, clock=clock.now),
    )
    unverified = verify(outcomes, remote, clock.sleep)
    run.said.append(apply_text(outcomes, unverified, Style()))
    return outcomes
