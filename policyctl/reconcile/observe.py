"""What the remote holds, sorted out."""

from __future__ import annotations

from collections.abc import Collection

from policyctl.model.live import Observed, observe_rows
from policyctl.remote.protocol import Reader


def observe(reader: Reader) -> Observed:
    """Everything on the remote."""
    return observe_rows(reader.rows())


def look_up(reader: Reader, names: Collection[str]) -> Observed:
    """The policies of these canonical names, as they are right now."""
    return observe_rows(reader.find(names))
