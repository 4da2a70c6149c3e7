"""What a saved plan is held against besides the rules for every plan: a plan file is input, whoever wrote it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace

from policyctl.core.change import equal
from policyctl.core.effects import policies_around
from policyctl.core.models import unknown_targets
from policyctl.core.order import leads_back
from policyctl.core.plan import Counts, Plan, blocked_by_rows, unread_rows
from policyctl.core.settings import Settings
from policyctl.model.live import Observed
from policyctl.model.normal import references
from policyctl.model.policy import Policy


def recounted(plan: Plan, files: Mapping[str, Policy], observed: Observed, settings: Settings, *, removes: bool) -> Plan:
    """The plan with its counts, what blocks it, and its files as they are now, not as the plan file has them.

    `files` are the directory's policies by canonical name, as far as they can be read; `removes` as for `make_plan`.
    """
    changed = {change.name for change in plan.changes}
    named = files.keys() | {change.name for change in plan.changes if change.after is not None}
    live = observed.live
    inside = {name for name in live if settings.in_scope(name)}
    unnamed = inside - named - changed
    blocked = blocked_by_rows(named, observed, settings)
    left = changed.union(block.name for block in blocked)
    others = [policy for name, policy in files.items() if name not in left]
    unchanged = {policy.name for policy in others if policy.name in live and equal(policy, live[policy.name])}
    # Guards hold for the directory's own policies. A name more than those only makes them stricter.
    own = (files.keys() | plan.kept | plan.unselected) - changed - unchanged
    counts = Counts(
        unchanged=len(unchanged),
        outside_scope=len(live.keys() - inside - changed),
        unmanaged=0 if removes else len(unnamed),
        unselected=len(others) - len(unchanged) + (len(unnamed) if removes else 0),
        managed=len(inside if removes else inside & named),
        blocked=len(blocked),
        unreadable=unread_rows(named, observed, settings),
    )
    changes = tuple(replace(change, file=files[change.name].file if change.name in files else None) for change in plan.changes)
    kept, unselected = frozenset(unchanged), frozenset(own)
    return replace(plan, changes=changes, counts=counts, blocked=blocked, kept=kept, unselected=unselected)


def trespasses(plan: Plan, settings: Settings, *, removes: bool) -> Iterator[str]:
    """The changes that no plan under these settings could have: outside the scope, or a removal where none is allowed."""
    for change in plan.changes:
        if not settings.in_scope(change.name):
            yield f"{change.name} is outside the scope of {plan.environment}; plan again"
        elif change.action == "remove" and not removes:
            why = "prune is false" if not settings.prune else "no scope is written"
            yield f"{change.name} would be removed, but nothing may be removed from {plan.environment}: {why}; plan again"


def bad_targets(plan: Plan, observed: Observed, known: frozenset[str], models: frozenset[str]) -> Iterator[str]:
    """The targets of what the plan writes that are neither a model nor a policy, and the policies that would target themselves.

    `known` are all policies that will be there. Where no model is known, targets are not looked up.
    """
    _, policies = policies_around(plan, observed)

    def targets_of(name: str) -> frozenset[str]:
        return references(policies[name]) if name in policies else frozenset()

    for change in plan.changes:
        if change.after is None:
            continue
        for complaint in unknown_targets(change.after, models, known) if models else ():
            yield f"{change.name}: {complaint.message}"
        if leads_back(change.name, targets_of):
            yield f"{change.name} would target itself, by way of other policies or at once; plan again"
