"""What every format of a plan is made of."""

from __future__ import annotations

from dataclasses import dataclass

from policyctl.core.guards import Review
from policyctl.core.plan import Blocked

SETTINGS_TOLD = "Safety settings change in policyctl.yaml; until they are merged the old ones hold:"


@dataclass(frozen=True, slots=True)
class Subject:
    """A plan to show: reviewed, its remote as the user wrote it, and whether all of it is wanted.

    `directory` is that of the policies, from the repository's top; `artifacts` the page of the CI run that has what was
    saved, if there is one.
    """

    review: Review
    remote: str
    verbose: bool = False
    directory: str = "policies"
    artifacts: str | None = None


def why_blocked(block: Blocked) -> str:
    """Why a policy is blocked, with the ids of the rows that block it."""
    return f"{block.reason} (ids {', '.join(block.ids)})" if block.ids else block.reason
