"""What a plan does to traffic: the effect of each update."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from policyctl.core.plan import Plan
from policyctl.effect.compare import Effect, compare
from policyctl.errors import PolicyctlError
from policyctl.model.live import Observed
from policyctl.model.normal import Document, normal_form


def effects_of(plan: Plan, policies: Mapping[str, Document], timeouts: Mapping[str, float] | None = None) -> dict[str, Effect]:
    """The effect of every update of a plan, by canonical name.

    `policies` are all as they will be when the plan is applied (see `planned`): targets that are policies count with what
    those do. `timeouts` are the models' own, in seconds, as far as they are known.
    """
    updates = {change.name: change for change in plan.changes if change.action == "update"}
    effects = {}
    for name, change in updates.items():
        # A live policy may be nested deeper than can be followed; of that one nothing is said.
        with suppress(PolicyctlError):
            effects[name] = compare(change.before, policies[name], policies, timeouts)
    return effects


def planned(plan: Plan, observed: Observed) -> dict[str, Document]:
    """Every policy as it will be when the plan is applied, in normal form and by name; none for a plan without changes."""
    if not plan.changes:
        return {}
    policies = {name: live.normal for name, live in observed.live.items()}
    for change in plan.changes:
        if change.after is not None:
            policies[change.name] = normal_form(change.after)
        else:
            policies.pop(change.name, None)
    return policies
