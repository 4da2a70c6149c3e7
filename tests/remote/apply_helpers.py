"""The changes between rows and documents, and applying them to a remote."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from policyctl.plan.plan import Change, Outcome, make_plan
from policyctl.plan.settings import Settings
from policyctl.policy.document import policy_from_file
from policyctl.policy.live import observe_rows
from policyctl.reconcile.apply import apply_changes
from policyctl.remote.orchestrate import OrchestrateRemote
from tests.remote.http_helpers import Clock


def changes_for(live: Sequence[dict[str, Any]], desired: Sequence[dict[str, Any]]) -> tuple[Change, ...]:
    policies = [policy_from_file(one, "x.yaml") for one in desired]
    return make_plan(
        environment="e",
        remote="r",
        config="c",
        desired=policies,
        observed=observe_rows(live),
        settings=Settings(),
        removes=True,
    ).changes


def carry_out(
    changes: Sequence[Change], remote: OrchestrateRemote, clock: Clock | None = None, parallelism: int = 2
) -> list[Outcome]:
    patience = (clock or Clock()).patience()
    return apply_changes(
        changes, remote, parallelism=parallelism, on_outcome=lambda _: None, stopped=lambda: False, patience=patience
    )
