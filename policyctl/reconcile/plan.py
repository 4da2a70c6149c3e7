"""From a directory and a remote to a reviewed plan."""

from __future__ import annotations

from collections.abc import Sequence

from policyctl.core.guards import Review, review
from policyctl.core.plan import Selection, make_plan
from policyctl.core.settings import Settings
from policyctl.load.config import Environment
from policyctl.model.policy import Policy
from policyctl.reconcile.observe import observe
from policyctl.remote.protocol import Reader


def plan_directory(
    reader: Reader,
    desired: Sequence[Policy],
    environment: Environment,
    settings: Settings,
    selection: Selection,
) -> Review:
    """Read the remote and compare. `settings` are the environment's, with what the command line overrides."""
    observed = observe(reader)
    plan = make_plan(
        environment=environment.name,
        remote=reader.identity,
        config=environment.digest,
        desired=desired,
        observed=observed,
        settings=settings,
        # Elsewhere than on the embedded remote, only a written scope says what a directory may remove.
        removes=settings.prune and (reader.embedded or settings.scope is not None),
        selection=selection,
    )
    return review(plan, observed, settings)
