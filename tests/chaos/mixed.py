"""One run in this process, like those of `inside`, with models and policies in one plan.

No policy is ever without its models.
"""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from policyctl.errors import RemoteError
from policyctl.plan.plan import GOOD, Desired, Outcome, Plan, make_plan
from policyctl.plan.settings import Settings
from policyctl.policy.document import policy_from_file
from policyctl.policy.model_schema import read_model
from policyctl.policy.names import canonical, canonical_name
from policyctl.reconcile.apply import apply_changes
from policyctl.reconcile.observe import observe, verify
from policyctl.remote import Backoff
from policyctl.remote.orchestrate import OrchestrateRemote
from policyctl.remote.sqlite import SqliteRemote
from policyctl.report.format import Style
from policyctl.report.plan_text import apply_text
from policyctl.server.login import TokenIssuer
from tests.chaos.application import running
from tests.chaos.faults import INJECTED, Chaos, Fault, Play
from tests.chaos.inside import CANARY, FAST, RATES, TOKENS, Died, Recovery, client_of
from tests.chaos.invariants import Violation, leaks
from tests.chaos.messages import Request
from tests.chaos.network import ThreadClock
from tests.server.serving import Events
from tests.sqlite_rows import put, put_models

HEAD = {"spec_version": "v1", "kind": "model"}
Documents = list[dict[str, Any]]


def draw(rng: random.Random) -> Documents:
    """A directory: models, and policies over some of them."""
    models = [f"virtual-model/{rng.choice(('openai', 'x'))}/m{number}" for number in rng.sample(range(12), rng.randint(3, 9))]
    found: Documents = [
        {**HEAD, "name": name, "provider_config": {"request_timeout": rng.randint(1, 3)}, "tags": rng.sample("abc", 2)}
        for name in models
    ]
    for number in rng.sample(range(12), rng.randint(3, 9)):
        targets = [{"model_name": name} for name in rng.sample(models, rng.randint(1, 3))]
        found.append({**HEAD, "name": f"p{number}", "policy": {"strategy": {"mode": "fallback"}, "targets": targets}})
    return found


def without_models(policies: Documents, models: Documents) -> list[str]:
    """The policies that target a model which is not there, and what is there twice."""
    counted = Counter(row["name"] for row in (*policies, *models))
    used = {target["model_name"]: row["name"] for row in policies for target in row["policy"]["targets"]}
    missing = [f"{user} is without {model}" for model, user in used.items() if model not in counted]
    return [*missing, *(f"{name} is there {number} times" for name, number in counted.items() if number > 1)]


class Mixed:
    """What a run is about: the tenant's file, what is wanted, and what was found to be wrong."""

    def __init__(self, path: Path, wanted: Documents) -> None:
        self.path, self.wanted = path, [desired_of(one) for one in wanted]
        self.clock, self.said, self.found = ThreadClock(), list[str](), list[Violation]()

    def rows(self) -> tuple[Documents, Documents]:
        """The policies and the models that are stored."""
        with SqliteRemote(self.path, models=True) as store:
            rows = list(store.rows())
        return [row for row in rows if "policy" in row], [row for row in rows if "policy" not in row]

    def look(self) -> None:
        self.found += [Violation("losses", what) for what in without_models(*self.rows())]

    def plan(self, remote: OrchestrateRemote) -> Plan:
        return make_plan(
            environment="chaos",
            remote=remote.identity,
            config="",
            desired=self.wanted,
            observed=observe(remote),
            settings=Settings(models=True),
            removes=True,
        )

    def apply(self, remote: OrchestrateRemote, parallelism: int, stopped: Callable[[], bool] = lambda: False) -> list[Outcome]:
        """Plan, carry out, verify, report."""
        outcomes = apply_changes(
            self.plan(remote).changes,
            remote,
            parallelism=parallelism,
            on_outcome=lambda outcome: None,
            stopped=stopped,
            patience=Backoff(sleep=self.clock.sleep, clock=self.clock.now),
        )
        self.said.append(apply_text(outcomes, verify(outcomes, remote, self.clock.sleep), Style()))
        return outcomes


def desired_of(document: dict[str, Any]) -> Desired:
    if "policy" in document:
        return policy_from_file(document, "policies/p.yaml")
    model, found = read_model(document, "policies/m.yaml")
    assert model is not None, found
    return model


def run_mixed(seed: int) -> list[Violation]:
    """One seeded run; what must not be (nothing)."""
    rng = random.Random(f"mixed {seed}")
    before = draw(rng)
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=FAST if FAST.is_dir() else None)))
        run = Mixed(folder / "chaos.db", draw(rng))
        stored = [{key: value for key, value in one.items() if key not in HEAD} for one in before]
        put(
            [{**one, "name": canonical_name(one["name"]), "id": f"id-{one['name']}"} for one in stored if "policy" in one],
            run.path,
        )
        put_models([{**one, "id": f"id-{one['name'].replace('/', '-')}"} for one in stored if "policy" not in one], run.path)
        shift = [0.0]
        keeper = TokenIssuer(CANARY, now=lambda: 1_000_000.0 + shift[0])
        store = stack.enter_context(SqliteRemote(run.path))
        upstream = stack.enter_context(running(store, keeper, Events()))

        def expire(request: Request) -> Request:
            shift[0] += keeper.seconds + 1  # every token that was given so far has ended
            return request

        _live_through(run, Chaos(seed, upstream, INJECTED, rng.choice(RATES), repeats=True, expire=expire), rng)
    run.found += leaks(run.said, (CANARY, TOKENS))
    return run.found


def _live_through(run: Mixed, chaos: Chaos, rng: random.Random) -> None:
    """Apply under faults, look after each write, apply without, look again."""
    fate, moment, seen = rng.choice((None, Fault.KILLED, Fault.STOPPED)), rng.randint(2, 8), [0]

    def play(request: Request) -> Play:
        seen[0] += request.is_write
        if fate is Fault.KILLED and request.is_write and seen[0] >= moment:
            raise Died
        shown = chaos.play(request)
        if request.is_write:
            run.look()
        return shown

    try:
        with client_of(play, run.clock, Recovery(run.clock), rng, models=True) as remote:
            run.apply(remote, rng.choice((1, 2, 4)), lambda: fate is Fault.STOPPED and seen[0] >= moment)
    except Died:
        pass
    except RemoteError as error:
        run.said.append(str(error))
    chaos.calm()
    run.look()
    with client_of(chaos.play, run.clock, Recovery(run.clock), rng, models=True) as remote:
        outcomes, left = run.apply(remote, rng.randint(1, 4)), run.plan(remote)
    run.look()
    run.found += [Violation("untrue reports", str(outcome)) for outcome in outcomes if outcome.status not in GOOD]
    names = {canonical(row["name"]) for rows in run.rows() for row in rows}
    if left.changes or left.blocked or names != {one.name for one in run.wanted}:
        run.found.append(Violation("unfinished", f"{len(left.changes)} changes are left after a second apply"))
