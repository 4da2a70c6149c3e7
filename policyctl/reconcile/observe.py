"""Reading the remote: every policy in its list, or single ones looked up by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from policyctl.errors import Incomplete, PolicyctlError
from policyctl.load.urls import GIT
from policyctl.policy.live import Live, LivePolicy, LiveRows, observe_rows
from policyctl.policy.names import Kind, kind_of
from policyctl.policy.virtual_model import VirtualModelRow
from policyctl.remote.protocol import Reader

CONTRADICTS = "the remote contradicts itself"


def observe(reader: Reader, on_row: Callable[[], object] = lambda: None, kind: Kind | None = None) -> LiveRows:
    """Everything on the remote, or only what is of one `kind`; `on_row` is called for each row. The result of a git revision is
    not `whole`: it has the policies of one directory, and there may be others."""
    rows = (row for row in reader.rows() if kind is None or isinstance(row, VirtualModelRow) is (kind == "model"))
    observed = observe_rows(_row_count(rows, on_row))
    return observed._replace(whole=not reader.identity.startswith(GIT))


def look_up(reader: Reader, names: Collection[str]) -> LiveRows:
    """The policies of these canonical names, as they are right now."""
    return observe_rows(reader.find(names))


def _row_count(rows: Iterable[Any], on_row: Callable[[], object]) -> Iterator[Any]:
    for row in rows:
        yield row
        on_row()


def find_live(reader: Reader, name: str, environment: str) -> Live:
    """The live policy or virtual model of this canonical name. Raises PolicyctlError when there is none, and as `find_those`
    does."""
    found, kind = _readable(reader, {name}).live, kind_of(name)
    if name not in found:
        raise PolicyctlError(f"no {kind} {name} on {environment}; see policyctl {kind} list")
    return found[name]


def find_those(reader: Reader, names: Collection[str]) -> Mapping[str, LivePolicy]:
    """The live policies of these canonical names. Raises Incomplete for several of one name or an unreadable row."""
    return _readable(reader, names).policies


def _readable(reader: Reader, names: Collection[str]) -> LiveRows:
    observed = look_up(reader, names)
    for twins in observed.twins:
        raise Incomplete(f"{twins.name}: {twins.reason} (ids {', '.join(twins.ids)})")
    for row in observed.unreadable:
        raise Incomplete(f"{row.name} cannot be read: {row.reason} (id {row.id or 'unknown'}); repair it on the remote")
    return observed
