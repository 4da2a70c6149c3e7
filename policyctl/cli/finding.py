"""Live policies by name, each known for certain to be the one."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from policyctl.errors import Incomplete, PolicyctlError
from policyctl.model.live import Live
from policyctl.reconcile.observe import look_up
from policyctl.remote.protocol import Reader


def find_live(reader: Reader, name: str, environment: str) -> Live:
    """The live policy of a canonical name. Raises PolicyctlError for none, and as `find_those` does."""
    found = find_those(reader, {name})
    if name not in found:
        raise PolicyctlError(f"there is no policy {name} on {environment}; see policyctl policy list")
    return found[name]


def find_those(reader: Reader, names: Collection[str]) -> Mapping[str, Live]:
    """Which of these policies are live, by canonical name. Raises Incomplete for several of one name or an unreadable row."""
    observed = look_up(reader, names)
    for twins in observed.twins:
        raise Incomplete(f"{twins.name}: {twins.reason} (ids {', '.join(twins.ids)})")
    for row in observed.unreadable:
        raise Incomplete(f"{row.name} cannot be read: {row.reason} (id {row.id or 'unknown'}); repair it on the remote")
    return observed.live
