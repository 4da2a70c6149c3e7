"""From a saved plan, the directory and a remote to a review. What can be recomputed is not taken from the file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from policyctl.load.directory import Loaded
from policyctl.plan.outcome import LiveState, live_state
from policyctl.plan.plan import Plan
from policyctl.plan.safety import Review, review
from policyctl.plan.saved_plan import bad_targets, rule_violations, with_recomputed_counts
from policyctl.plan.settings import Settings
from policyctl.policy.document import Document
from policyctl.policy.live import LiveRows
from policyctl.reconcile.apply import stale_changes
from policyctl.reconcile.observe import KnownModels, observe
from policyctl.reconcile.plan import may_remove
from policyctl.remote.protocol import Reader


def review_saved(
    reader: Reader,
    plan: Plan,
    loaded: Loaded,
    settings: Settings,
    on_row: Callable[[], object] = lambda: None,
    base: Callable[[], Mapping[str, Document]] = dict,
) -> Review:
    """Hold a saved plan against the remote as it is now and against every rule that a plan made now would meet.

    `loaded` is what the directory says, as far as it can be read: it names policies, models and timeouts, and decides no
    change. `base` gives the policies of the base revision, the way back to which is a restoration. What is wrong with the plan
    is among the refusals, what moved since it was made is stale.
    """
    observed = observe(reader, on_row)
    removes = may_remove(reader, settings)
    plan = with_recomputed_counts(
        plan, {policy.name: policy for policy in loaded.policies}, observed, settings, removes=removes
    )
    reviewed = review(plan, observed, settings, loaded.declared, base())
    writes = any(change.after is not None for change in plan.changes)
    models = KnownModels(reader, loaded.models)
    names = models.names if writes else frozenset()
    known = reviewed.live | {change.name for change in plan.changes}
    refusals = (
        *rule_violations(plan, settings, removes=removes),
        *reviewed.refusals,
        *bad_targets(plan, observed, known, names),
    )
    changed = {change.name for change in plan.changes}
    rows = [
        f"{block.name}: {block.reason}" for block in plan.blocked if block.name in changed and block.name not in reviewed.live
    ]
    stale = (*stale_changes(plan, observed), *rows, *(() if refusals else _moved_otherwise(plan, reviewed.plan, observed)))
    reviewed = replace(reviewed, plan=replace(reviewed.plan, traffic=plan.traffic), refusals=refusals, stale=stale)
    return models.noted(reviewed) if writes else reviewed


def _moved_otherwise(plan: Plan, now: Plan, observed: LiveRows) -> Iterator[str]:
    """The policies to which the plan does something else, by way of others, than when it was made. Of a plan that is half
    applied this is not to be told: what is done counts as live."""
    if any(live_state(change, observed.live.get(change.name)) is LiveState.ALREADY for change in plan.changes):
        return
    for name in sorted(plan.traffic.keys() | now.traffic.keys()):
        if plan.traffic.get(name) != now.traffic.get(name):
            yield f"{name}: what the plan does to its traffic is not what it was; other policies have moved"
