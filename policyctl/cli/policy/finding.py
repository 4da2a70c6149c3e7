"""One live policy by name."""

from __future__ import annotations

from policyctl.errors import Incomplete, PolicyctlError
from policyctl.model.live import Live
from policyctl.reconcile.observe import look_up
from policyctl.remote.protocol import Reader


def find_live(reader: Reader, name: str, environment: str) -> Live:
    """The live policy of a canonical name. Raises PolicyctlError for none, Incomplete for several or an unreadable one."""
    observed = look_up(reader, {name})
    for twins in observed.twins:
        raise Incomplete(f"the remote has several policies {name} (ids {', '.join(twins.ids)}); remove all but one by id")
    for row in observed.unreadable:
        raise Incomplete(f"{name} cannot be read: {row.reason} (id {row.id or 'unknown'}); repair it on the remote")
    if name not in observed.live:
        raise PolicyctlError(f"there is no policy {name} on {environment}; see policyctl policy list")
    return observed.live[name]
