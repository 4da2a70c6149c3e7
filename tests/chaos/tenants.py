"""One run against a tenant that does not behave: whatever it does, what apply reports is so, and exit code 0 is earned."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from policyctl.errors import RemoteError
from policyctl.plan.plan import GOOD, Outcome, Plan, make_plan
from policyctl.plan.settings import Settings
from policyctl.policy.document import canonical_text, is_server_key, normal_form
from policyctl.policy.live import named_rows
from policyctl.policy.names import canonical_name
from policyctl.reconcile.apply import apply_changes
from policyctl.reconcile.observe import observe, verify
from policyctl.remote import Backoff
from policyctl.remote.http import HttpClient
from policyctl.remote.orchestrate import OrchestrateRemote
from policyctl.remote.redaction import Redactor
from tests.chaos.figures import Figures
from tests.chaos.invariants import Violation
from tests.chaos.network import Memory
from tests.chaos.tenant import Clock, Quirk, Tenant, draw_tenant
from tests.chaos.world import SCOPE, World, make_world

URL = "http://127.0.0.1:1"
# What a report of a failure contains where it cannot be known whether the write was carried out.
OPEN = (
    "may still be carried out",
    "cannot be read",
    "contradicts itself",
    "neither as it was nor as planned",
    "several policies",
    "the same id",
    "no time left",
    "never seen on the remote",
)
ONE_NAME = {Quirk.FIRST_NAME, Quirk.LAST_NAME}
SETTINGS = Settings(scope=SCOPE)


@dataclass(frozen=True)
class Applied:
    """What an apply did and said; `plan` is None where it could not even read what is live."""

    plan: Plan | None
    outcomes: list[Outcome]
    unverified: list[str]

    @property
    def code_is_0(self) -> bool:
        """Whether the command would end with exit code 0."""
        good = all(outcome.status in GOOD for outcome in self.outcomes)
        return self.plan is not None and not self.plan.blocked and good and not self.unverified

    def says(self, name: str) -> str:
        """All that it said about one policy."""
        reasons = [outcome.reason for outcome in self.outcomes if outcome.change.name == name]
        return "\n".join([*reasons, *(line for line in self.unverified if name in line)])


def run_tenant(seed: int) -> tuple[Figures, list[Violation]]:
    """One seeded run; what it came to, and what must not be (nothing)."""
    rng = random.Random(f"tenant {seed}")
    world = make_world(rng, least=4, most=24)
    tenant = draw_tenant(rng, [dict(row) for row in world.rows], Clock())
    before = [dict(row) for row in tenant.rows]
    applied = apply_to(tenant, world, rng.randint(1, 4))
    tenant.settle()
    found = [*_violations(world, tenant, before, applied)]
    if applied.code_is_0:
        found += _not_empty(tenant, world)
    figures = Figures(tenants=[seed], changes=len(world.changes))
    figures.quirks.update(tenant.quirks)
    figures.broken.update(violation.kind for violation in found)
    return figures, found


def apply_to(tenant: Tenant, world: World, parallelism: int) -> Applied:
    """As the command does it: plan, carry out, verify."""
    try:
        with reaching(tenant) as remote:
            observed = observe(remote)
            plan = _plan(world, remote)
            outcomes = apply_changes(
                plan.changes,
                remote,
                parallelism=parallelism,
                on_outcome=lambda outcome: None,
                stopped=lambda: False,
                patience=_patience(tenant),
            )
            before = {*observed.live, *(twins.name for twins in observed.twins)}
            return Applied(plan, outcomes, verify(outcomes, remote, tenant.clock.sleep, before, SETTINGS.in_scope))
    except RemoteError as error:
        return Applied(None, [], [str(error)])


def reaching(tenant: Tenant) -> OrchestrateRemote:
    """The tenant as the client's own stack reaches it."""
    scrub = Redactor()
    wire = HttpClient(scrub, patience=_patience(tenant), network=Memory(tenant.play, tenant.clock, lambda request: None))
    return OrchestrateRemote(URL, wire, scrub)


def _patience(tenant: Tenant) -> Backoff:
    return Backoff(sleep=tenant.clock.sleep, clock=tenant.clock.now, chance=lambda: 0.5)


def _plan(world: World, remote: OrchestrateRemote) -> Plan:
    return make_plan(
        environment="chaos",
        remote=remote.identity,
        config="",
        desired=world.policies(),
        observed=observe(remote),
        settings=SETTINGS,
        removes=True,
    )


def _not_empty(tenant: Tenant, world: World) -> Iterator[Violation]:
    """After exit code 0 the plan is empty."""
    with reaching(tenant) as remote:
        left = _plan(world, remote)
    if left.changes or left.blocked:
        names = [*(change.name for change in left.changes), *(block.name for block in left.blocked)]
        yield Violation("untrue reports", f"exit code 0, and {', '.join(names)} is left to do")


def _violations(world: World, tenant: Tenant, before: list[dict[str, Any]], applied: Applied) -> Iterator[Violation]:
    was, now, wanted = named_rows(before), named_rows(tenant.rows), world.wanted()
    # Where neither the list nor a look-up shows what is there, an add can double it; but never with exit code 0.
    blind = Quirk.CUT_BOTH in tenant.quirks or (Quirk.CUT_LIST in tenant.quirks and ONE_NAME & tenant.quirks)
    for name in sorted({*was, *now}):
        old, new = was.get(name, []), now.get(name, [])
        planned = {change.name for change in applied.plan.changes} if applied.plan is not None else set()
        if name not in planned and new != old:
            yield Violation("losses", f"{name} moved though it is in no plan")
        if len(new) > max(1, len(old)) and (applied.code_is_0 or not blind):
            yield Violation("duplicates", f"{name} is there {len(new)} times")
    for outcome in applied.outcomes:
        name = outcome.change.name
        done = _texts(now.get(name, [])) == ([wanted[name]] if name in wanted else [])
        if outcome.status in GOOD and not done and not applied.unverified:
            yield Violation("untrue reports", f"{name} is reported as {outcome.status} and verified, and is not as wanted")
        undone = now.get(name, []) == was.get(name, [])
        if outcome.status == "failed" and not undone and not any(words in applied.says(name) for words in (*OPEN, "there")):
            yield Violation("untrue reports", f"{name} is reported as failed ({outcome.reason}) and was carried out")


def _texts(rows: list[dict[str, Any]]) -> list[str]:
    """The normal forms of rows, one of a row that has no policy."""
    plain = ({key: value for key, value in row.items() if not is_server_key(key)} for row in rows)
    return [canonical_text(normal_form(row)) if row.get("policy") else canonical_name(row["name"]) for row in plain]
