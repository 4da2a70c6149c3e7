"""What the remote holds, sorted out."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from policyctl.model.live import Observed, observe_rows
from policyctl.model.policy import Policy
from policyctl.remote.protocol import Reader


def observe(reader: Reader, desired: Sequence[Policy] = ()) -> Observed:
    """Everything on the remote. What is there just as it is desired is not looked at any further."""
    return observe_rows(reader.rows(), {policy.name: policy.text for policy in desired})


def look_up(reader: Reader, names: Collection[str]) -> Observed:
    """The policies of these canonical names, as they are right now."""
    return observe_rows(reader.find(names))
